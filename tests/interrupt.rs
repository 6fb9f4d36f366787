//! Ctrl-C in the middle of a build: every step that runs is gone, and nothing is left.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod shell;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use shell::{Rbuild, needs};

/// A word that no other process has on its command line.
fn marker() -> String {
    format!("77{}", std::process::id())
}

/// How many processes sleep for `marker` seconds.
fn sleepers(marker: &str) -> usize {
    let is_ours = |line: Vec<u8>| line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes());
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
    processes.filter_map(|path| fs::read(path).ok()).filter(|line| is_ours(line.clone())).count()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} does not come");
        std::thread::yield_now();
    }
}

#[test]
fn an_interrupted_build_ends_at_once_and_leaves_nothing() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let marker = marker();
    let stage = |name: &str| format!("FROM busybox AS {name}\nRUN exec sleep {marker}\n");
    let text = [&stage("one"), &stage("two"), "FROM busybox\nCOPY --from=one /a /\nCOPY --from=two /b /\n"];
    let context = rbuild.context(&text.map(ToString::to_string).concat(), &[]);
    let words = ["build", "--network", "none", "--jobs", "2", context.to_str().unwrap()];
    let mut child = rbuild.command(&words).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the second step", || sleepers(&marker) == 2);

    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(sleepers(&marker), 0, "no step outlives the build");
    for folder in ["scratch", "staging", "leases"] {
        assert_eq!(fs::read_dir(rbuild.root().join(folder)).unwrap().count(), 0, "{folder} is empty");
    }
}
