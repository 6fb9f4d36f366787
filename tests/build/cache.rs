//! The build cache: what is done again and what is not, and builds that come out the same.
//!
//! `/proc/sys/kernel/random/uuid` gives another text at each reading, so a file made from it tells whether a RUN
//! was done again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::shell::{Rbuild, Saved, needs, run};

/// What is changed between two builds, and how.
type Change = (&'static str, fn(&Path));

/// Two marks: one made before a COPY, one after it.
const MARKED: &str = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /before\nCOPY d /d\n\
                      RUN cat /proc/sys/kernel/random/uuid > /after\n";

fn marks(saved: &Saved) -> (String, String) {
    (saved.text("before"), saved.text("after"))
}

/// Builds twice, with a change to the context in between; returns both images' marks.
fn twice(containerfile: &str, flags: &[&str], change: impl Fn(&Path)) -> [(String, String); 2] {
    let rbuild = Rbuild::with_busybox();
    let context =
        rbuild.context(containerfile, &[("d/a", "A"), ("d/b", "B"), (".dockerignore", "d/ignored\n")]);
    let folder = context.to_str().unwrap();
    let first = rbuild.run(&["build", folder]).expect_ok().last_line();
    change(&context);
    let mut words = vec!["build"];
    words.extend(flags);
    words.push(folder);
    let second = rbuild.run(&words).expect_ok().last_line();
    [first, second].map(|id| marks(&rbuild.saved(&id)))
}

#[test]
fn a_second_build_takes_everything_from_the_cache() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let context = rbuild.context(MARKED, &[("d/a", "A")]);
    let build = || rbuild.run(&["build", "--progress", "plain", context.to_str().unwrap()]).expect_ok();
    let (first, second) = (build(), build());
    assert_eq!(first.cached_steps(), 0, "nothing can be cached in {first}");
    assert_eq!(second.cached_steps(), 3, "two RUN and a COPY in {second}");
    assert_eq!(first.last_line(), second.last_line());

    let elsewhere = rbuild.build(MARKED, &[("d/a", "A")]).expect_ok();
    assert_eq!(elsewhere.last_line(), first.last_line(), "the context's folder and times do not count");
}

#[test]
fn a_change_misses_from_its_step_on() {
    if !needs::busybox() {
        return;
    }
    let misses: [Change; 5] = [
        ("another text of the same length", |context| fs::write(context.join("d/a"), "X").unwrap()),
        ("another mode", |context| {
            fs::set_permissions(context.join("d/a"), fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("another name", |context| fs::rename(context.join("d/a"), context.join("d/c")).unwrap()),
        ("one more file", |context| fs::write(context.join("d/more"), "").unwrap()),
        ("one file less", |context| fs::remove_file(context.join("d/b")).unwrap()),
    ];
    for (what, change) in misses {
        let [first, second] = twice(MARKED, &[], change);
        assert_eq!(first.0, second.0, "{what}: the step before the COPY is cached");
        assert_ne!(first.1, second.1, "{what}: the step after the COPY is done again");
    }
    let hits: [Change; 3] = [
        ("a new time", |context| {
            let file = fs::File::options().write(true).open(context.join("d/a")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
        ("the same text written again", |context| fs::write(context.join("d/a"), "A").unwrap()),
        ("a file that is ignored", |context| fs::write(context.join("d/ignored"), "new").unwrap()),
    ];
    for (what, change) in hits {
        let [first, second] = twice(MARKED, &[], change);
        assert_eq!(first, second, "{what}: all is cached");
    }
}

#[test]
fn a_run_depends_on_what_it_can_see() {
    if !needs::busybox() {
        return;
    }
    let uuid = "RUN cat /proc/sys/kernel/random/uuid > /tmp/after\n";
    for (first, second, same) in [
        ("ENV A=1\n", "ENV A=1\n", true),
        ("ENV A=1\n", "ENV A=2\n", false),
        ("ARG A=1\n", "ARG A=2\n", false),
        ("LABEL a=1\n", "LABEL a=2\n", true),
        ("USER root\n", "USER daemon\n", false),
        ("WORKDIR /etc\n", "WORKDIR /bin\n", false),
        ("SHELL [\"/bin/sh\", \"-c\"]\n", "SHELL [\"/bin/ash\", \"-c\"]\n", false),
        ("", "# only a comment\n", true),
    ] {
        let rbuild = Rbuild::with_busybox();
        let build = |part: &str| {
            let text = format!("FROM busybox\n{part}{uuid}");
            rbuild.built(&text, &[]).text("tmp/after")
        };
        assert_eq!(build(first) == build(second), same, "`{first}` then `{second}`");
    }
}

#[test]
fn a_base_of_the_same_name_and_other_content_misses() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let build =
        || rbuild.built("FROM base\nRUN cat /proc/sys/kernel/random/uuid > /after\n", &[]).text("after");
    rbuild.build_with(&["-t", "base"], "FROM busybox\nCOPY a /\n", &[("a", "1")]).expect_ok();
    let first = build();
    assert_eq!(first, build());
    rbuild.build_with(&["-t", "base"], "FROM busybox\nCOPY a /\n", &[("a", "2")]).expect_ok();
    assert_ne!(first, build());
}

#[test]
fn no_cache_does_everything_again() {
    if !needs::busybox() {
        return;
    }
    let [first, second] = twice(MARKED, &["--no-cache"], |_| ());
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[test]
fn a_failed_step_leaves_the_steps_before_it_in_the_cache() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let start = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /u\nRUN cp /u /shown\n";
    rbuild.build(&format!("{start}RUN exit 3\n"), &[]).expect_error(&["3"]);
    let built = rbuild.build(&format!("{start}RUN true\n"), &[]).expect_ok();
    assert_eq!(built.cached_steps(), 2, "{built}");
}

#[test]
fn two_builds_of_the_same_input_give_the_same_image() {
    if !needs::busybox() {
        return;
    }
    let (here, there) = (Rbuild::with_busybox(), Rbuild::new());
    let base = here.path("base.tar");
    here.run(&["save", "-o", &base, "busybox"]).expect_ok();
    there.run(&["load", "-i", &base]).expect_ok();

    let containerfile = "FROM busybox\nWORKDIR /w\nCOPY d /d\nRUN mkdir /m && echo x > /m/x && ln /m/x /m/y && rm /etc/group\n\
                         ADD a.tar /t/\nRUN ln -s x /m/z && touch /d/a\nENV A=1\nCMD [\"/bin/true\"]\n";
    let build = |rbuild: &Rbuild| {
        let context = rbuild.context(containerfile, &[("d/a", "A"), ("d/s/b", "B")]);
        let (tar, folder) = (context.join("a.tar"), context.join("d"));
        let words =
            ["--mtime=@1600000000", "-cf", tar.to_str().unwrap(), "-C", folder.to_str().unwrap(), "s"];
        crate::shell::host("tar", &words).expect_ok();
        let mut command = rbuild.command(&["build", context.to_str().unwrap()]);
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        run(command, b"").expect_ok().last_line()
    };
    let first = build(&here);
    // Files of the second build get later times.
    while std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
        == modified(&here.path("base.tar"))
    {
        std::thread::yield_now();
    }
    let second = build(&there);
    let (one, other) = (here.saved(&first), there.saved(&second));
    assert_eq!(one.diff_ids(), other.diff_ids(), "layers");
    assert_eq!(one.config, other.config, "configs");
    assert_eq!(first, second, "image IDs");
    assert_eq!(one.config["created"], "2023-11-14T22:13:20Z");
    assert!(
        one.layers[1..].iter().flat_map(|layer| layer.values()).all(|node| node.modified <= 1_700_000_000)
    );
}

fn modified(path: &str) -> u64 {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
