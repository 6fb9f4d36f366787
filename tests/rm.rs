//! `rbuild rm`: containers go, with all that they wrote.

mod shell;

use shell::{Rbuild, needs};

#[test]
fn a_removed_container_leaves_nothing_and_an_unknown_one_is_named() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let run = ["run", "--name", "kept", "--network", "none", "busybox", "sh", "-c", "echo x > /x"];
    rbuild.run(&run).expect_ok();
    rbuild.run(&["rm", "nobody"]).expect_error(&["nobody"]);
    rbuild.run(&["rm", "kept"]).expect_ok();
    assert_eq!(rbuild.run(&["ps", "-a", "-q"]).expect_ok().stdout, "");
    let left = std::fs::read_dir(rbuild.root().join("containers")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the container's folder goes with it");
}
