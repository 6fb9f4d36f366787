//! rbuild on a kernel of Debian's (6.1) with cgroup v2 only, booted in QEMU: limits, old overlays, no root.
//!
//! `.ci/vm` boots it; what is done inside stands in `testdata/vm/checks.sh`, which says `ok NAME` or `FAILED NAME`.

mod shell;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use shell::needs;

const CHECKS: [&str; 16] = [
    "doctor_knows_the_machine",
    "import_and_run",
    "a_container_sees_its_own_cgroup_only",
    "memory_is_limited",
    "processes_are_limited",
    "a_fork_bomb_stays_within_its_limit",
    "processor_time_is_limited",
    "every_limit_arrives_in_its_file",
    "a_step_of_a_build_is_limited",
    "no_cgroup_is_left",
    "a_whole_job",
    "an_image_of_40_layers",
    "an_image_of_130_layers",
    "a_user_without_root_builds_and_runs",
    "a_user_without_a_cgroup_is_told",
    "a_user_with_a_delegated_cgroup_is_limited",
];

#[test]
fn everything_holds_on_linux_6_1_with_cgroup_v2() {
    let tools = ["qemu-system-x86_64", "cpio", "depmod", "mkfs.ext4", "newuidmap", "apt-get"];
    if !needs::busybox() || !tools.iter().all(|tool| needs::tool(tool)) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut vm = Command::new(root.join(".ci/vm"));
    vm.args(["-t", "300", "-p", "newuidmap", "-p", "newgidmap"]);
    vm.arg(root.join("testdata/vm/checks.sh")).arg(env!("CARGO_BIN_EXE_rbuild"));
    // Debian's folders for the tools of root, which `.ci/vm` calls by name.
    vm.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()));
    let outcome = shell::run(vm, b"");

    let held: BTreeSet<&str> =
        outcome.stdout.lines().filter_map(|line| line.strip_prefix("ok ")).map(str::trim).collect();
    let said = format!("{}\n{}", outcome.stdout, outcome.stderr);
    assert_eq!(held, BTreeSet::from(CHECKS), "the guest said:\n{said}");
    outcome.expect_ok();
}
