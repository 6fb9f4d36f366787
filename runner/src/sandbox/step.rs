//! A step: one thing that the child does between `clone3` and `execve`.
//!
//! The parent makes the list (`setup`), where it may allocate and fail with a reason. The child walks it
//! (`init`) with system calls only. What can't be done comes back as a place in the list and an error
//! number, and the parent still knows what stood there.
//!
//! May touch: its arguments. Knows nothing of how a step is done.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::mount::MountAttrFlags;
use rustix::process::Resource;
use rustix::thread::CapabilitySet;

use super::sys::{Instruction, Words};

/// A path below the root, with all that is needed to make what is missing of it.
#[derive(Debug)]
pub(crate) struct Target {
    /// Relative to the root.
    pub(crate) path: CString,
    /// `(a, a) (a/b, b) (a/b/c, c)`: each prefix and its last component.
    pub(crate) prefixes: Vec<(CString, CString)>,
}

/// What is made where a target is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Folder,
    File,
    /// It must be there, and no component may be a symbolic link.
    Refuse,
}

/// A new file system made inside the namespaces.
#[derive(Debug)]
pub(crate) struct Filesystem {
    pub(crate) kind: &'static CStr,
    pub(crate) options: Vec<(&'static CStr, CString)>,
    pub(crate) read_only: bool,
    pub(crate) attributes: MountAttrFlags,
}

/// See the order in `sandbox`.
#[derive(Debug)]
pub(crate) enum Step {
    NewSession,
    NewKeyring,
    EnterCgroup {
        tasks: OwnedFd,
        name: String,
    },
    NewCgroupNamespace,
    JoinNetwork(Arc<OwnedFd>),
    LoopbackUp,
    SetHostname(String),
    MountsPrivate,
    AttachRoot,
    MountProc,
    MountNew {
        filesystem: Filesystem,
        target: CString,
    },
    /// `optional`: a target that is not there is passed over.
    Attach {
        mount: OwnedFd,
        target: Target,
        missing: Missing,
    },
    Folder {
        path: CString,
        mode: u32,
    },
    Device {
        path: CString,
        major: u32,
        minor: u32,
    },
    BindDevice {
        mount: OwnedFd,
        path: CString,
    },
    Link {
        path: CString,
        to: &'static CStr,
    },
    Console {
        slave: Arc<OwnedFd>,
        uid: u32,
        gid: Option<u32>,
    },
    File {
        content: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
        target: Target,
    },
    Sysctl {
        path: CString,
        value: Vec<u8>,
    },
    ReadOnlyPath(CString),
    MaskPath(CString),
    MakeFolder {
        target: Target,
        uid: u32,
        gid: u32,
    },
    RootReadOnly,
    EnterRoot,
    EnterFolder(CString),
    Limit {
        resource: Resource,
        soft: u64,
        hard: u64,
    },
    Stdio([Option<OwnedFd>; 3]),
    Terminal(Arc<OwnedFd>),
    LimitBoundingSet(CapabilitySet),
    KeepCapabilities,
    SetGroups(Vec<rustix::process::Gid>),
    SetGroup(u32),
    SetUser(u32),
    /// Takes back the effective set that `setuid` cleared, to be allowed the steps that follow.
    RaiseCapabilities,
    Umask(u32),
    ResetSignals,
    DieWithParent,
    NoNewPrivileges,
    Filter(Arc<[Instruction]>),
    SetCapabilities {
        sets: CapabilitySet,
        ambient: CapabilitySet,
    },
    CloseOnExec,
    Exec {
        candidates: Vec<CString>,
        words: Words,
        environment: Words,
    },
}

impl Step {
    /// The call and the thing, for an error.
    pub(crate) fn describe(&self) -> String {
        let text = |path: &CStr| format!("/{}", path.to_string_lossy());
        match self {
            Self::NewSession => "setsid".into(),
            Self::NewKeyring => "keyctl(join a new session keyring)".into(),
            Self::EnterCgroup { name, .. } => format!("enter the cgroup {name}"),
            Self::NewCgroupNamespace => "unshare(cgroup)".into(),
            Self::JoinNetwork(_) => "setns(network)".into(),
            Self::LoopbackUp => "ioctl(SIOCSIFFLAGS, lo)".into(),
            Self::SetHostname(name) => format!("sethostname({name})"),
            Self::MountsPrivate => "mount(/, private)".into(),
            Self::AttachRoot => "move_mount(root)".into(),
            Self::MountProc => "mount proc on /proc".into(),
            Self::MountNew { filesystem, target } => {
                format!("mount {} on {}", filesystem.kind.to_string_lossy(), text(target))
            }
            Self::Attach { target, .. } => format!("move_mount({})", text(&target.path)),
            Self::Folder { path, .. } => format!("mkdir({})", text(path)),
            Self::Device { path, .. } => format!("mknod({})", text(path)),
            Self::BindDevice { path, .. } => format!("bind the host's device on {}", text(path)),
            Self::Link { path, .. } => format!("symlink({})", text(path)),
            Self::Console { .. } => "bind the terminal on /dev/console".into(),
            Self::File { target, .. } => format!("bind our file on {}", text(&target.path)),
            Self::Sysctl { path, value } => {
                format!("write `{}` to /proc/{}", String::from_utf8_lossy(value), path.to_string_lossy())
            }
            Self::ReadOnlyPath(path) => format!("mount_setattr({}, rdonly)", text(path)),
            Self::MaskPath(path) => format!("mask {}", text(path)),
            Self::MakeFolder { target, .. } => format!("mkdir({})", text(&target.path)),
            Self::RootReadOnly => "mount_setattr(/, rdonly)".into(),
            Self::EnterRoot => "pivot_root".into(),
            Self::EnterFolder(path) => format!("chdir({})", text(path)),
            Self::Limit { resource, .. } => format!("setrlimit({resource:?})"),
            Self::Stdio(_) => "dup2(stdin, stdout, stderr)".into(),
            Self::Terminal(_) => "ioctl(TIOCSCTTY)".into(),
            Self::LimitBoundingSet(_) => "prctl(PR_CAPBSET_DROP)".into(),
            Self::KeepCapabilities => "prctl(PR_SET_KEEPCAPS)".into(),
            Self::SetGroups(_) => "setgroups".into(),
            Self::SetGroup(gid) => format!("setresgid({gid})"),
            Self::SetUser(uid) => format!("setresuid({uid})"),
            Self::RaiseCapabilities | Self::SetCapabilities { .. } => "capset".into(),
            Self::Umask(_) => "umask".into(),
            Self::ResetSignals => "rt_sigaction".into(),
            Self::DieWithParent => "prctl(PR_SET_PDEATHSIG)".into(),
            Self::NoNewPrivileges => "prctl(PR_SET_NO_NEW_PRIVS)".into(),
            Self::Filter(_) => "seccomp(SECCOMP_SET_MODE_FILTER)".into(),
            Self::CloseOnExec => "close_range".into(),
            Self::Exec { .. } => "execve".into(),
        }
    }
}
