//! `rbuild tag`: one more name for an image.

mod shell;

use shell::{Rbuild, needs};

#[test]
fn a_name_is_added_and_moves() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let names = |name: &str| rbuild.run(&["inspect", "--format", "RepoTags", name]).expect_ok().stdout;
    let id = rbuild.run(&["images", "-q"]).expect_ok().last_line();
    rbuild.run(&["tag", "busybox", "localhost:5000/a/b:c"]).expect_ok().expect_stdout("");
    rbuild.run(&["tag", &id[..4], "docker.io/library/other"]).expect_ok();
    let expected = "[\"busybox:latest\",\"localhost:5000/a/b:c\",\"other:latest\"]\n";
    assert_eq!(names("other"), expected);
    rbuild.run(&["tag", "busybox", "other"]).expect_ok();
    assert_eq!(names("busybox"), expected, "the same name twice is one name");

    let tar = shell::base::busybox_base();
    rbuild.run(&["import", "--change", "LABEL a=b", tar.to_str().unwrap(), "second"]).expect_ok();
    rbuild.run(&["tag", "second", "other"]).expect_ok().expect_stderr("moved other:latest from sha256:");
    assert_eq!(names("other"), "[\"second:latest\",\"other:latest\"]\n");
    assert_eq!(names("busybox"), "[\"busybox:latest\",\"localhost:5000/a/b:c\"]\n");
}

#[test]
fn a_build_says_which_names_it_moves() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let build = |label: &str| {
        rbuild.build_with(&["-t", "app"], &format!("FROM busybox\nLABEL a={label}\n"), &[]).expect_ok()
    };
    let first = build("1").expect_stderr_without("moved").last_line();
    build("1").expect_stderr_without("moved");
    build("2").expect_stderr(&format!("moved app:latest from {first}, which has no name now"));
    let context = rbuild.context("FROM busybox\nLABEL a=3\n", &[]);
    rbuild.run(&["build", "-q", "-t", "app", context.to_str().unwrap_or_default()]).expect_ok();
}

#[test]
fn what_is_no_name_is_refused() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let digest = format!("a@sha256:{}", "0".repeat(64));
    for bad in ["A", "a:", "../a", "a b", "", &digest, &"0".repeat(64), "a/b/../c"] {
        rbuild.run(&["tag", "busybox", bad]).expect_error(&[]);
    }
    rbuild.run(&["tag", "busybox", "good", "BAD"]).expect_error(&["BAD"]);
    rbuild.run(&["inspect", "good"]).expect_error(&["good"]);
    rbuild.run(&["tag", "nowhere", "a"]).expect_error(&["nowhere"]);
}
