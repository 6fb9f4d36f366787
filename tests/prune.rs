//! `rbuild prune`: what nothing needs goes, and is told before.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::fs;

use shell::{Rbuild, needs};

fn layers(rbuild: &Rbuild) -> usize {
    fs::read_dir(rbuild.root().join("layers")).unwrap().count()
}

#[test]
fn nameless_images_go_first_then_the_cache_then_all() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let build = |text: &str| {
        rbuild.build_with(&["-t", "app"], "FROM busybox\nCOPY a /a\n", &[("a", text)]).expect_ok().last_line()
    };
    let first = build("one");
    build("two");
    assert_eq!(layers(&rbuild), 3);
    rbuild.run(&["prune"]).expect_error(&["--force", "--dry-run"]);

    let foreseen = rbuild.run(&["prune", "--dry-run"]).expect_ok();
    assert!(foreseen.stdout.starts_with(&format!("Deleted: {first}\n")), "{foreseen}");
    assert!(foreseen.stdout.contains("layers: 0"), "the cache keeps the layer: {foreseen}");
    rbuild.run(&["inspect", &first]).expect_ok();
    let done = rbuild.run(&["prune", "-f"]).expect_ok();
    assert_eq!(done.stdout.replace("Reclaimed", "Would reclaim"), foreseen.stdout);
    assert_eq!(layers(&rbuild), 3);
    rbuild.run(&["inspect", &first]).expect_error(&[]);

    let foreseen = rbuild.run(&["prune", "--dry-run", "--build-cache"]).expect_ok().stdout;
    assert!(foreseen.contains("layers: 1"), "{foreseen}");
    let done = rbuild.run(&["prune", "-f", "--build-cache"]).expect_ok().stdout;
    assert_eq!(done.replace("Reclaimed", "Would reclaim"), foreseen);
    assert_eq!(layers(&rbuild), 2);
    assert_eq!(rbuild.saved("app").text("a"), "two");

    let all = rbuild.run(&["prune", "-a", "-f"]).expect_ok().stdout;
    assert!(all.contains("Untagged: app:latest") && all.contains("Untagged: busybox:latest"), "{all}");
    assert_eq!(layers(&rbuild), 0);
}

#[test]
fn filters_choose_containers_and_volumes_go_when_unused() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let run = |name: &str, volume: &str| {
        let words =
            ["run", "--name", name, "--network", "none", "--label", name, "-v", volume, "busybox", "true"];
        rbuild.run(&words).expect_ok();
    };
    run("first", "one:/data");
    run("second", "two:/data");
    let volumes = || {
        let mut names: Vec<String> = fs::read_dir(rbuild.root().join("volumes"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    rbuild.run(&["prune", "-f", "--volumes"]).expect_ok();
    assert_eq!(volumes(), ["one", "two"], "containers that have ended use them");

    let only = ["prune", "-f", "--containers", "--filter", "label=first"];
    let gone = rbuild.run(&only).expect_ok().stdout;
    assert!(gone.contains("container: first") && !gone.contains("second"), "{gone}");
    let foreseen = rbuild.run(&["prune", "--dry-run", "--containers", "--volumes"]).expect_ok().stdout;
    assert_eq!(volumes(), ["one", "two"]);
    for line in ["Deleted container: second\n", "Deleted volume: one\n", "Deleted volume: two\n"] {
        assert!(foreseen.contains(line), "{line}: {foreseen}");
    }
    let done = rbuild.run(&["prune", "-f", "--volumes"]).expect_ok().stdout;
    assert!(done.contains("Deleted volume: one\n"), "{done}");
    assert_eq!(volumes(), ["two"]);
    let done = rbuild.run(&["prune", "-f", "--containers", "--volumes"]).expect_ok().stdout;
    assert!(done.contains("Deleted volume: two\n"), "{done}");
    assert!(volumes().is_empty());
    rbuild.run(&["prune", "-f", "--volumes", "--filter", "until=1h"]).expect_error(&["--volumes"]);
}

#[test]
fn a_volume_that_a_living_container_has_stays() {
    use std::process::Stdio;
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let words = [
        "run",
        "--rm",
        "-i",
        "--network",
        "none",
        "-v",
        "held:/data",
        "busybox",
        "sh",
        "-c",
        "touch /data/x; read line",
    ];
    let mut child = rbuild.command(&words).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let data = rbuild.root().join("volumes/held/data/x");
    let end = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while !data.exists() {
        assert!(std::time::Instant::now() < end, "the container did not start");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    rbuild.run(&["prune", "-a", "-f", "--volumes", "--containers"]).expect_ok();
    assert!(data.exists());
    drop(child.stdin.take());
    child.wait().unwrap();
    rbuild.run(&["prune", "-f", "--volumes"]).expect_ok();
    assert!(!rbuild.root().join("volumes/held").exists());
}

#[test]
fn filters_choose_images() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for kind in ["a", "b"] {
        rbuild.build_with(&["-t", kind], &format!("FROM busybox\nLABEL kind={kind}\n"), &[]).expect_ok();
    }
    let gone = rbuild.run(&["prune", "-a", "-f", "--filter", "label=kind=a"]).expect_ok().stdout;
    assert!(gone.contains("Untagged: a:latest") && !gone.contains("busybox"), "{gone}");
    let gone = rbuild.run(&["prune", "-a", "-f", "--filter", "label!=kind"]).expect_ok().stdout;
    assert!(gone.contains("Untagged: busybox:latest") && !gone.contains("Untagged: b:"), "{gone}");
    let gone = rbuild.run(&["prune", "-a", "-f", "--filter", "until=24h"]).expect_ok().stdout;
    assert!(!gone.contains("Untagged"), "{gone}");
    rbuild.run(&["inspect", "b"]).expect_ok();
    rbuild.run(&["prune", "-a", "-f", "--filter", "reference=b"]).expect_error(&["reference=b", "until="]);
}

#[test]
fn on_a_terminal_it_asks_and_takes_only_yes() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    // `script` gives the command a terminal and types our input there.
    let answer = |typed: &str| {
        let binary = env!("CARGO_BIN_EXE_rbuild");
        let line = format!("{binary} --root {} prune -a", rbuild.root().display());
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &line, "/dev/null"]);
        shell::run(command, typed.as_bytes())
    };
    let refused = answer("n\n").expect_code(1);
    assert!(refused.stdout.contains("[y/N]") && refused.stdout.contains("without a container"), "{refused}");
    rbuild.run(&["inspect", "busybox"]).expect_ok();
    let done = answer("y\n").expect_ok();
    assert!(done.stdout.contains("Untagged: busybox:latest"), "{done}");
    rbuild.run(&["inspect", "busybox"]).expect_error(&["busybox"]);
}
