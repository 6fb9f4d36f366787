//! `rbuild untag`: a name goes, the image stays.

mod shell;

use shell::{Rbuild, needs};

#[test]
fn the_image_stays_without_its_names() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let id = rbuild.run(&["images", "-q"]).expect_ok().last_line();
    rbuild.run(&["tag", "busybox", "a:1"]).expect_ok();
    rbuild
        .run(&["untag", "a:1", "docker.io/busybox"])
        .expect_ok()
        .expect_stdout("Untagged: a:1\nUntagged: busybox:latest\n");
    rbuild.run(&["inspect", "--format", "RepoTags", &id]).expect_ok().expect_stdout("[]\n");
    rbuild.run(&["untag", "a:1"]).expect_error(&["a:1"]);
    rbuild.run(&["tag", &id, "a:1", "b:1"]).expect_ok();
    rbuild.run(&["untag", "a:1", "c:1"]).expect_error(&["c:1"]).expect_stdout("");
    rbuild.run(&["inspect", "a:1"]).expect_ok();
    rbuild.run(&["untag", &id]).expect_ok().expect_stdout("Untagged: a:1\nUntagged: b:1\n");
    rbuild.run(&["untag", "A"]).expect_error(&["lower case"]);
}
