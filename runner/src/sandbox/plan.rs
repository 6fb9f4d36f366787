//! A Plan is data: everything that a sandbox will be, checked before any of it is done.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use store::ImagePath;

/// Everything that a sandbox will be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names the cgroup; 64 hex digits or any file name.
    pub id: String,
    pub process: Process,
    pub hostname: String,
    pub network: Network,
    /// The root is mounted read-only; `/dev`, `/dev/shm`, mounts stay writable.
    pub root_read_only: bool,
    /// Mounts beyond the standard ones, in order.
    pub mounts: Vec<Mount>,
    /// Small files made by us and bound over the image's (`/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`).
    pub files: Vec<GeneratedFile>,
    pub limits: Limits,
    pub seccomp: Seccomp,
    /// `/dev/shm`; 64 MiB is docker's default.
    pub shm_size_bytes: u64,
    /// Empty lists mean "nothing masked" (`--security=insecure`, `--privileged`).
    pub masked_paths: Vec<String>,
    pub read_only_paths: Vec<String>,
    /// Namespaced kernel settings, `net.ipv4.ip_unprivileged_port_start` → `0`.
    pub sysctls: Vec<(String, String)>,
}

/// What is executed, and as whom.
#[derive(Clone, Debug)]
pub struct Process {
    pub argv: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// Made if it is missing.
    pub cwd: ImagePath,
    pub user: User,
    pub umask: u32,
    /// Bounding = permitted = effective; inheritable and ambient are empty. Names as `CAP_CHOWN`.
    pub capabilities: Vec<String>,
    /// Granted by the user to a process that is not root: also ambient.
    pub ambient: Vec<String>,
    pub no_new_privileges: bool,
    /// `(nofile, soft, hard)`; what the host does not allow is clamped.
    pub rlimits: Vec<(String, u64, u64)>,
}

/// Numeric identity inside the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups; the sandbox adds `gid` itself.
    pub groups: Vec<u32>,
    /// From passwd, for `HOME`; `/` when unknown.
    pub home: String,
}

/// Where the process's network comes from.
#[derive(Clone, Debug)]
pub enum Network {
    /// A new namespace with only a loopback interface, up.
    None,
    /// The caller's own.
    Host,
    /// A namespace that was made before (`runner::network`).
    Join(Arc<OwnedFd>),
}

/// A mount at `target`, which is resolved inside the root; a missing target is made.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the kernel's, each of which may be set alone")]
pub struct Mount {
    pub target: ImagePath,
    pub source: MountSource,
    pub read_only: bool,
    pub no_exec: bool,
    pub no_suid: bool,
    pub no_dev: bool,
}

/// What is mounted.
#[derive(Clone, Debug)]
pub enum MountSource {
    /// A file or directory, by an `O_PATH` descriptor or a detached mount, with what is mounted below.
    Bind(Arc<OwnedFd>),
    Tmpfs {
        size_bytes: Option<u64>,
        mode: u32,
    },
}

/// A small file of ours at `target`.
#[derive(Clone, Debug)]
pub struct GeneratedFile {
    pub target: ImagePath,
    pub content: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Limits of the sandbox's cgroups; `None` is unlimited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// Memory and swap together; `Some(-1)` is unlimited swap.
    pub memory_swap_bytes: Option<i64>,
    pub memory_reservation_bytes: Option<u64>,
    /// Whole processors: 1.5 is one and a half.
    pub cpus: Option<f64>,
    pub cpu_shares: Option<u64>,
    pub cpu_quota_microseconds: Option<i64>,
    pub cpu_period_microseconds: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// `None` is unlimited; the callers' default is 2048.
    pub pids: Option<u64>,
}

/// Which system calls are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// Our default profile, for the capabilities that the process has.
    #[default]
    Default,
    Unconfined,
}
