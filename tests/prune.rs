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
