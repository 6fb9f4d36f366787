//! What a test needs of the machine: `if !needs::root() { return; }`.
//!
//! What is missing is printed and the test ends; with `RBUILD_TEST_ALL=1`, as in CI, it fails instead.
//!
//! May touch: the environment, the program folders. Knows nothing of rbuild.

use std::path::{Path, PathBuf};

/// The test must run as root.
#[must_use]
pub(crate) fn root() -> bool {
    met(rustix::process::geteuid().is_root(), "root")
}

/// The test needs a program.
#[must_use]
pub(crate) fn tool(name: &str) -> bool {
    met(place_of(name).is_some(), &format!("the program `{name}`"))
}

/// The test needs a static busybox (Debian's `busybox-static`) and root.
#[must_use]
pub(crate) fn busybox() -> bool {
    root() && met(super::base::static_busybox().is_some(), "a static busybox (package busybox-static)")
}

/// The test needs Debian's mirror.
#[must_use]
pub(crate) fn debian_mirror() -> bool {
    use std::net::ToSocketAddrs;
    let found = ("deb.debian.org", 80).to_socket_addrs().is_ok_and(|mut found| found.next().is_some());
    let through_proxy = std::env::var_os("http_proxy").is_some();
    met(found || through_proxy, "deb.debian.org")
}

/// Any other need; `false` when it is not met and the test may be left out.
#[must_use]
#[expect(clippy::print_stderr, reason = "the test's own report")]
pub(crate) fn met(met: bool, need: &str) -> bool {
    let all = std::env::var_os("RBUILD_TEST_ALL").is_some_and(|value| value == "1");
    assert!(met || !all, "this machine lacks {need}, and RBUILD_TEST_ALL=1 leaves nothing out");
    if !met {
        eprintln!("left out: this machine lacks {need}");
    }
    met
}

/// Where a program lies.
pub(crate) fn place_of(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(system);
    folders.map(|folder| folder.join(name)).find(|place| is_program(place))
}

fn is_program(place: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    place.metadata().is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
}
