//! `rbuild rmi`: names go, and images with their last name.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::fs;

use shell::{Rbuild, needs};

fn layers(rbuild: &Rbuild) -> usize {
    fs::read_dir(rbuild.root().join("layers")).unwrap().count()
}

#[test]
fn by_name_the_image_goes_with_its_last_name() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let id = rbuild.run(&["images", "-q", "--no-trunc"]).expect_ok().last_line();
    rbuild.run(&["tag", "busybox", "a"]).expect_ok();
    rbuild.run(&["rmi", "a"]).expect_ok().expect_stdout("Untagged: a:latest\n");
    assert_eq!(layers(&rbuild), 1);
    rbuild
        .run(&["rmi", "busybox"])
        .expect_ok()
        .expect_stdout(&format!("Untagged: busybox:latest\nDeleted: {id}\n"));
    assert_eq!(layers(&rbuild), 0);
    rbuild.run(&["rmi", "busybox"]).expect_error(&["busybox"]).expect_code(1);
    rbuild.run(&["rmi", "--ignore", "busybox"]).expect_ok();
}

#[test]
fn by_id_several_names_need_force() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let id = rbuild.run(&["images", "-q"]).expect_ok().last_line();
    rbuild.run(&["tag", "busybox", "a"]).expect_ok();
    rbuild.run(&["rmi", &id]).expect_error(&["several names", "--force"]);
    let forced = rbuild.run(&["rmi", "-f", &id]).expect_ok();
    assert_eq!(forced.stdout.lines().count(), 3, "{forced}");
    assert_eq!(layers(&rbuild), 0);
}

#[test]
fn layers_that_others_need_stay_and_what_fails_does_not_stop_the_rest() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let flags = ["-t", "upper", "--no-cache"];
    rbuild.build_with(&flags, "FROM busybox\nCOPY a /a\n", &[("a", "text")]).expect_ok();
    let before = rbuild.saved("upper").layers.len();
    let removed = rbuild.run(&["rmi", "nowhere", "busybox"]).expect_code(1);
    assert!(removed.stdout.contains("Untagged: busybox:latest"), "{removed}");
    assert_eq!(rbuild.saved("upper").layers.len(), before);
    rbuild.run(&["rmi", "upper"]).expect_ok();
    rbuild.run(&["prune", "-f", "--build-cache"]).expect_ok();
    assert_eq!(layers(&rbuild), 0);
}

#[test]
fn an_image_that_a_container_uses_stays() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let id = rbuild.run(&["images", "-q"]).expect_ok().last_line();
    rbuild.run(&["run", "--name", "user", "--network", "none", "busybox", "true"]).expect_ok();
    rbuild.run(&["rmi", "busybox"]).expect_error(&["user"]);
    let names = rbuild.run(&["rmi", "-f", "busybox"]).expect_ok().expect_stderr("user");
    assert_eq!(names.stdout, "Untagged: busybox:latest\n");
    rbuild.run(&["prune", "-a", "-f"]).expect_ok();
    rbuild.run(&["inspect", &id]).expect_ok();
    rbuild.run(&["rm", "user"]).expect_ok();
    rbuild.run(&["rmi", &id]).expect_ok();
    assert_eq!(layers(&rbuild), 0);
}
