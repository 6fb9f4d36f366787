//! The flags of `build`, what it prints where, and the errors that point into the Containerfile.

use std::fs;
use std::path::Path;

use crate::shell::{Rbuild, needs};

#[test]
fn the_image_id_is_the_last_line_on_stdout_and_all_else_is_on_stderr() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for flags in [&[] as &[&str], &["--progress", "plain"], &["--progress=quiet"], &["-q"]] {
        let built = rbuild.build_with(flags, "FROM busybox\nRUN echo out; echo err >&2\n", &[]).expect_ok();
        let id = built.last_line();
        assert_eq!(built.stdout, format!("{id}\n"), "{flags:?}");
        assert_eq!(id.len(), "sha256:".len() + 64, "{id}");
        assert!(id.starts_with("sha256:"), "{id}");
    }
    rbuild
        .build_with(&["-q", "--no-cache"], "FROM busybox\nRUN echo out\n", &[])
        .expect_ok()
        .expect_stderr_without("out");
    let plain =
        rbuild.build_with(&["--progress", "plain", "--no-cache"], "FROM busybox\nRUN echo $((6*7))\n", &[]);
    plain.expect_ok().expect_stderr("42");
}

#[test]
fn json_progress_is_one_object_a_line() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let built = rbuild.build_with(&["--progress", "json"], "FROM busybox\nRUN echo shown\n", &[]).expect_ok();
    let lines: Vec<serde_json::Value> =
        built.stderr.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert!(lines.iter().all(serde_json::Value::is_object), "{built}");
    assert!(built.stderr.contains("shown"), "{built}");
}

#[test]
fn build_is_what_happens_when_no_command_is_named() {
    if !needs::root() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("FROM scratch\nCOPY a /\n", &[("a", "A")]);
    let context = context.to_str().unwrap();
    let id = rbuild.run(&["build", context]).expect_ok().last_line();
    for words in [&[context] as &[&str], &["-q", context], &["-f", "Containerfile", "-t", "named", context]] {
        let mut command = rbuild.command(words);
        command.current_dir(context);
        assert_eq!(crate::shell::run(command, b"").expect_ok().last_line(), id, "{words:?}");
    }
}

#[test]
fn the_file_is_containerfile_then_dockerfile_or_what_is_named() {
    if !needs::root() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context(
        "FROM scratch\nLABEL from=containerfile\n",
        &[
            ("Dockerfile", "FROM scratch\nLABEL from=dockerfile\n"),
            ("sub/Other", "FROM scratch\nLABEL from=other\n"),
        ],
    );
    let folder = context.to_str().unwrap();
    let label = |words: &[&str], input: &str| {
        let id = rbuild.run_with_input(words, input.as_bytes()).expect_ok().last_line();
        rbuild.saved(&id).start()["Labels"]["from"].as_str().unwrap().to_owned()
    };
    assert_eq!(label(&["build", folder], ""), "containerfile");
    let other = context.join("sub/Other");
    assert_eq!(label(&["build", "-f", other.to_str().unwrap(), folder], ""), "other");
    assert_eq!(label(&["build", "-f", "-", folder], "FROM scratch\nLABEL from=stdin\n"), "stdin");
    fs::remove_file(context.join("Containerfile")).unwrap();
    assert_eq!(label(&["build", folder], ""), "dockerfile");
    fs::remove_file(context.join("Dockerfile")).unwrap();
    rbuild.run(&["build", folder]).expect_error(&["Containerfile"]);
}

#[test]
fn names_and_the_id_file() {
    if !needs::root() {
        return;
    }
    let rbuild = Rbuild::new();
    let file = rbuild.path("id");
    let flags = ["-t", "one", "--tag", "example.org/two:v3", "--iidfile", &file];
    let id = rbuild.build_with(&flags, "FROM scratch\nLABEL a=1\n", &[]).expect_ok().last_line();
    assert_eq!(fs::read_to_string(&file).unwrap(), id);
    for name in ["one", "one:latest", "example.org/two:v3", &id] {
        assert_eq!(rbuild.saved(name).start()["Labels"]["a"], "1", "{name}");
    }
}

#[test]
fn files_can_be_the_output() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let containerfile = "FROM busybox AS made\nRUN mkdir -p /o/s && echo x > /o/f && ln -s f /o/s/l && chmod 640 /o/f\n\
                         FROM scratch\nCOPY --from=made /o /\n";
    let folder = rbuild.path("out");
    rbuild.build_with(&["-o", &format!("type=local,dest={folder}")], containerfile, &[]).expect_ok();
    assert_eq!(fs::read_to_string(Path::new(&folder).join("f")).unwrap(), "x\n");
    assert_eq!(fs::read_link(Path::new(&folder).join("s/l")).unwrap(), Path::new("f"));

    let tar = rbuild.path("out.tar");
    rbuild.build_with(&["--output", &format!("type=tar,dest={tar}")], containerfile, &[]).expect_ok();
    let listed = crate::shell::host("tar", &["-tf", &tar]).expect_ok().stdout;
    let mut names: Vec<&str> =
        listed.lines().map(|name| name.trim_start_matches("./").trim_end_matches('/')).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    assert_eq!(names, ["f", "s", "s/l"]);
}

#[test]
fn an_unknown_base_or_target_is_named() {
    if !needs::root() {
        return;
    }
    let rbuild = Rbuild::new();
    rbuild.build("FROM no-such-image:v1\nRUN true\n", &[]).expect_error(&["no-such-image:v1"]);
    let target = ["--target", "no-such-stage"];
    rbuild.build_with(&target, "FROM scratch AS real\nLABEL a=1\n", &[]).expect_error(&["no-such-stage"]);
    rbuild.build("FROM scratch\nCOPY --from=nothing / /\n", &[]).expect_error(&["nothing"]);
}

#[test]
fn a_syntax_error_shows_the_place() {
    if !needs::root() {
        return;
    }
    let rbuild = Rbuild::new();
    for (containerfile, line, text, said) in [
        ("FROM scratch\nCOPPY a /\n", 2, "COPPY a /", "COPY"),
        ("FROM scratch\nCOPY --chwon=1 a /\n", 2, "COPY --chwon=1 a /", "--chown"),
        ("FROM scratch\n\n# note\nEXPOSE\n", 4, "EXPOSE", "EXPOSE"),
        ("FROM scratch\nENV a\n", 2, "ENV a", "ENV"),
        ("FROM scratch\nCOPY <<END /x\nnever ended\n", 2, "COPY <<END /x", "END"),
        ("COPY a /\n", 1, "COPY a /", "FROM"),
        ("FROM scratch\nENV a=\"open\n", 2, "ENV a=\"open", "quote"),
        ("FROM scratch\nENV a=${b\n", 2, "ENV a=${b", "}"),
        ("FROM scratch AS a/b\n", 1, "FROM scratch AS a/b", "a/b"),
        ("FROM scratch\nHEALTHCHECK --interval=soon CMD x\n", 2, "HEALTHCHECK --interval=soon CMD x", "soon"),
    ] {
        let built = rbuild.build(containerfile, &[("a", "")]);
        let built = built.expect_error(&[&format!("Containerfile:{line}"), text, "^", said]);
        assert_eq!(built.stdout, "", "{built}");
    }
}
