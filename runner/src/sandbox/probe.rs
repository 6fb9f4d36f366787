//! What this machine can do, asked once and shown by `rbuild doctor`.
//!
//! Each question is asked of the kernel itself by trying the thing on descriptors that vanish with us; a
//! version number is only shown, never believed.
//!
//! May touch: the kernel, by asking; leaves nothing. Knows nothing of how answers are printed.

use std::convert::Infallible;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::FsOpenFlags;
use serde::Serialize;

use super::cgroup::{Controller, Layout};
use super::sys;
use super::user_ns;

/// One thing that the machine has or lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub present: bool,
    /// What was found.
    pub detail: String,
    /// What would mend it, when it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// Nothing can be run without it.
    pub essential: bool,
}

impl Finding {
    fn new(name: &'static str, essential: bool, answer: Result<String, String>) -> Self {
        let (present, detail, mend) = match answer {
            Ok(detail) => (true, detail, None),
            Err(mend) => (false, String::new(), Some(mend)),
        };
        Self { name, present, detail, mend, essential }
    }
}

/// Asks everything. `store` is where images would be kept, `path` the folders that tools are found in.
pub fn machine(store: &Path, path: &str) -> Vec<Finding> {
    let is_root = rustix::process::geteuid().is_root();
    let mut findings = vec![
        Finding::new("kernel", true, kernel()),
        Finding::new("openat2", true, openat2()),
        Finding::new("overlay", true, overlay()),
        Finding::new("overlay layers", false, Ok(way_of_layers().into())),
        Finding::new("seccomp", true, seccomp()),
        Finding::new("user namespaces", !is_root, in_user_namespace(&mut || Ok(()))),
        Finding::new("overlay in a user namespace", !is_root, overlay_in_user_namespace()),
    ];
    if !is_root {
        let uid = rustix::process::getuid().as_raw();
        let ranges = user_ns::missing_ranges(uid).map_or_else(|| Ok("found".into()), Err);
        findings.push(Finding::new("id ranges", false, ranges));
        findings.push(Finding::new("newuidmap", false, tool("newuidmap", "uidmap", path)));
    }
    findings.extend(cgroups());
    let network =
        if is_root { [("nft", "nftables"), ("ip", "iproute2")].as_slice() } else { &[("pasta", "passt")] };
    for &(name, package) in network {
        findings.push(Finding::new(name, false, tool(name, package, path)));
    }
    findings.push(Finding::new("/dev/net/tun", false, tun()));
    findings.push(Finding::new("store", true, store_filesystem(store)));
    findings
}

fn kernel() -> Result<String, String> {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse::<u32>().ok());
    let version = (numbers.next().flatten().unwrap_or(0), numbers.next().flatten().unwrap_or(0));
    if version >= (5, 15) {
        Ok(release)
    } else {
        Err(format!("install Linux 5.15 or newer; this is {release}"))
    }
}

fn openat2() -> Result<String, String> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(_) => Ok("works".into()),
        Err(errno) => Err(format!("let openat2(2) through: it gives {errno} (an old seccomp filter?)")),
    }
}

fn overlay() -> Result<String, String> {
    match rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Ok("works".into()),
        Err(Errno::NODEV) => Err("load the module: modprobe overlay".into()),
        // Who is not root asks again inside a user namespace.
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok("asked in a user namespace".into()),
        Err(errno) => Err(format!("allow fsopen(2) on overlay: it gives {errno}")),
    }
}

/// Which of its ways `rootfs` takes here; all of them stack as many layers.
fn way_of_layers() -> &'static str {
    let set_fd = || {
        let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let folder = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        rustix::mount::fsconfig_set_fd(context.as_fd(), c"lowerdir+", folder.as_fd())
    };
    let set_string = || {
        let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), c"lowerdir+", c"/")
    };
    // A kernel that knows no descriptors takes any string now, and refuses it later.
    let knows_descriptors = || set_fd() != Err(Errno::OPNOTSUPP);
    let mut by_name = || if knows_descriptors() { set_string() } else { Err(Errno::OPNOTSUPP) };
    let is_root = rustix::process::geteuid().is_root();
    let works = |way: &mut dyn FnMut() -> Result<(), Errno>| {
        if is_root { way().is_ok() } else { in_user_namespace(way).is_ok() }
    };
    if works(&mut || set_fd()) {
        "by descriptor"
    } else if works(&mut by_name) {
        "by name"
    } else {
        "in one option"
    }
}

fn seccomp() -> Result<String, String> {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "errno") {
        Ok("filters".into())
    } else {
        Err("use a kernel with CONFIG_SECCOMP_FILTER".into())
    }
}

/// Asks `question` as the root of a new user and mount namespace, in a process of its own.
fn in_user_namespace(question: &mut dyn FnMut() -> Result<(), Errno>) -> Result<String, String> {
    let mut child = || -> Infallible {
        let entered = sys::unshare(sys::CLONE_NEW_USERS | sys::CLONE_NEW_MOUNTS);
        let answer = entered.and_then(|()| question());
        sys::exit_now(answer.map_or_else(|errno| errno.raw_os_error() & 0xff, |()| 0))
    };
    let mend = |errno: Errno| {
        let switches = "sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 \
                        kernel.apparmor_restrict_unprivileged_userns=0";
        format!("allow it: {switches} (those that exist); it gives {errno}")
    };
    let (_, helper) = sys::clone_process(0, None, &mut child).map_err(mend)?;
    match sys::wait(helper.as_fd()).map_err(mend)?.status {
        0 => Ok("works".into()),
        number => Err(mend(Errno::from_raw_os_error(number))),
    }
}

fn overlay_in_user_namespace() -> Result<String, String> {
    in_user_namespace(&mut || {
        let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_flag(context.as_fd(), c"userxattr")
    })
}

fn cgroups() -> Vec<Finding> {
    let layout = match Layout::probe() {
        Ok(layout) => layout,
        Err(source) => {
            return vec![Finding::new("cgroups", false, Err(format!("mount /proc: {source}")))];
        }
    };
    let kind = match (layout.is_unified(), layout.unified()) {
        (true, _) => Ok("v2".to_owned()),
        (false, Some(_)) => Ok("v1 and v2 side by side".to_owned()),
        (false, None) if Controller::ALL.iter().any(|each| layout.separate(*each).is_some()) => {
            Ok("v1".to_owned())
        }
        (false, None) => Err("mount it: mount -t cgroup2 none /sys/fs/cgroup".to_owned()),
    };
    let mut findings = vec![Finding::new("cgroups", false, kind)];
    for (controller, name) in [
        (Controller::Memory, "limits of memory"),
        (Controller::Cpu, "limits of processors"),
        (Controller::Cpuset, "choice of processors"),
        (Controller::Pids, "limits of processes"),
    ] {
        findings.push(Finding::new(name, false, controller_answer(layout, controller)));
    }
    findings
}

/// Whether a controller is there and lets us make cgroups.
fn controller_answer(layout: &Layout, controller: Controller) -> Result<String, String> {
    let unified = layout.unified().filter(|_| layout.unified_has(controller));
    let Some(folder) = layout.separate(controller).or(unified) else {
        return Err(format!(
            "delegate `{}`: systemd-run --user --scope -p Delegate=yes rbuild …",
            controller.name()
        ));
    };
    match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Ok(folder.display().to_string().trim_end_matches('/').to_owned()),
        Err(_) => {
            Err(format!("delegate {}: systemd-run --user --scope -p Delegate=yes rbuild …", folder.display()))
        }
    }
}

fn tool(name: &str, package: &str, path: &str) -> Result<String, String> {
    let found = path.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file());
    found.map(|file| file.display().to_string()).ok_or_else(|| format!("install the package {package}"))
}

fn tun() -> Result<String, String> {
    match rustix::fs::open(c"/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok("opens".into()),
        Err(Errno::NOENT) => Err("modprobe tun".into()),
        Err(errno) => Err(format!("chmod 666 /dev/net/tun (it gives {errno})")),
    }
}

/// The file system that the store is on, or would be.
fn store_filesystem(store: &Path) -> Result<String, String> {
    let mut folder: PathBuf = store.to_owned();
    while !folder.exists() && folder.pop() {}
    let stat = rustix::fs::statfs(&folder)
        .map_err(|errno| format!("make {} readable ({errno})", folder.display()))?;
    let name = match stat.f_type {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x2fc1_2fc1 => "zfs",
        0x6969 => return Err("keep it on a local disk (--root): NFS takes no overlay on top".into()),
        0x794c_7630 => return Err("keep it elsewhere (--root): an overlay takes no overlay on top".into()),
        0x6573_5546 => "FUSE",
        _ => "an unknown file system",
    };
    Ok(format!("{} on {name}", store.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_what_mends_it() {
        let findings = machine(Path::new("/no/such/folder/yet"), "/no/such/folder");
        for finding in &findings {
            assert_eq!(finding.present, finding.mend.is_none(), "{finding:?}");
        }
        let of = |name| findings.iter().find(|finding| finding.name == name).unwrap();
        assert!(of("kernel").present && of("openat2").present && of("store").present);
        if rustix::process::geteuid().is_root() {
            assert_eq!(of("nft").mend.as_deref(), Some("install the package nftables"));
        }
    }
}
