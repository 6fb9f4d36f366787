//! `rbuild ps`: which containers there are.

mod shell;

use shell::{Rbuild, needs};

#[test]
fn a_container_that_ended_is_listed_with_all() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let run = ["run", "--name", "over", "--network", "none", "busybox", "sh", "-c", "exit 3"];
    rbuild.run(&run).expect_code(3);
    assert_eq!(rbuild.run(&["ps", "-q"]).expect_ok().stdout, "", "only running ones without -a");
    let listed = rbuild.run(&["ps", "-a"]).expect_ok().stdout;
    let mut lines = listed.lines();
    assert!(lines.next().unwrap_or_default().starts_with("CONTAINER ID"), "{listed}");
    let line = lines.next().unwrap_or_default();
    assert!(line.contains("busybox") && line.contains("over") && line.contains("Exited (3)"), "{listed}");
    assert_eq!(lines.next(), None, "{listed}");
    let id = rbuild.run(&["ps", "-a", "-q", "--no-trunc"]).expect_ok().stdout;
    assert_eq!(id.trim().len(), 64, "{id}");
    rbuild.run(&["rm", "over"]).expect_ok();
}
