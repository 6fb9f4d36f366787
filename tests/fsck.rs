//! `rbuild fsck`: a good store is good, damage is named with its images, and mended where it can be.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;
use shell::{Rbuild, needs};

/// The one layer's tree that has `name`.
fn tree_with(rbuild: &Rbuild, name: &str) -> PathBuf {
    let layers = fs::read_dir(rbuild.root().join("layers")).unwrap();
    let mut trees = layers.map(|entry| entry.unwrap().path().join("tree"));
    trees.find(|tree| tree.join(name).exists()).unwrap()
}

#[test]
fn damage_is_named_with_its_images_and_mended_where_it_can_be() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    rbuild.build_with(&["-t", "app"], "FROM busybox\nRUN mkdir /d && echo one > /d/a\n", &[]).expect_ok();
    rbuild.run_in("app", &["true"]).expect_ok();
    for words in [&["fsck"][..], &["fsck", "--quick"], &["fsck", "--repair"]] {
        let clean = rbuild.run(words).expect_ok().stdout;
        assert!(clean.lines().count() == 1 && clean.contains("layers: 2, "), "{clean}");
        assert!(clean.contains("damage: 0, repaired: 0, notes: 0, garbage: 0"), "{clean}");
    }

    // Metadata is in the recipe, so it comes back.
    let victim = tree_with(&rbuild, "d/a").join("d/a");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o666)).unwrap();
    for words in [&["fsck"][..], &["fsck", "--quick"]] {
        let found = rbuild.run(words).expect_code(1).stdout;
        assert!(found.starts_with("damage: layer sha256:"), "{found}");
        assert!(found.contains("/d/a: its mode is 0666, not 0644 (images: app:latest)"), "{found}");
    }
    let mended = rbuild.run(&["fsck", "--repair"]).expect_ok().stdout;
    assert!(mended.starts_with("repaired: layer") && mended.contains("repaired: 1"), "{mended}");
    assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o644);
    rbuild.run(&["fsck"]).expect_ok();

    // Content that is nowhere else is lost, and no command passes it on.
    fs::write(&victim, "two\n").unwrap();
    let told = rbuild.run(&["fsck", "--format", "json"]).expect_code(1).stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["findings"][0]["severity"], "damage");
    assert_eq!(told["findings"][0]["images"][0], "app:latest");
    assert!(told["checkedBytes"].as_u64().unwrap() > 1000, "{told}");
    let lost = rbuild.run(&["fsck", "--repair"]).expect_code(1).stdout;
    assert!(lost.contains("lost: layer") && lost.contains("app:latest"), "{lost}");
    for format in ["docker-archive", "oci-archive"] {
        let path = rbuild.path(format);
        rbuild.run(&["save", "--format", format, "-o", &path, "app"]).expect_error(&["damaged"]);
        assert!(!fs::exists(&path).unwrap(), "{format}: a damaged archive was left");
    }
    fs::write(&victim, "one\n").unwrap();
    rbuild.run(&["fsck", "--repair"]).expect_ok();
    assert_eq!(rbuild.saved("app").text("d/a"), "one\n");
}
