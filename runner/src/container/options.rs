//! What the user asked of a container, in our words.
//!
//! May touch: nothing. Knows nothing of command lines.

use std::collections::BTreeMap;
use std::net::IpAddr;

use store::ImagePath;

use crate::network::Mode;
use crate::sandbox::plan::{Limits, Seccomp};
use crate::volumes::Volume;

/// Everything that can be said about a container besides its image.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the user's own")]
pub struct RunOptions {
    /// Made up when there is none.
    pub name: Option<String>,
    /// Nothing stays when the process has ended.
    pub remove: bool,
    /// Instead of the image's `CMD`.
    pub command: Vec<String>,
    /// Instead of the image's `ENTRYPOINT`; the image's `CMD` does not count then.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=VALUE`, over the image's.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    /// `user`, `uid`, `user:group`, over the image's.
    pub user: Option<String>,
    pub hostname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub volumes: Vec<Volume>,
    pub tmpfs: Vec<Tmpfs>,
    pub network: Mode,
    /// Instead of the host's nameservers.
    pub dns: Vec<IpAddr>,
    /// Names and addresses for `/etc/hosts`.
    pub add_hosts: Vec<(String, HostAddress)>,
    pub limits: Limits,
    pub shm_size_bytes: u64,
    /// `(nofile, soft, hard)`.
    pub rlimits: Vec<(String, u64, u64)>,
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub read_only: bool,
    /// Over the image's.
    pub stop_signal: Option<String>,
    /// A terminal of its own.
    pub terminal: bool,
}

/// docker's default for `/dev/shm`.
pub const SHM_SIZE_BYTES: u64 = 64 << 20;
/// podman's default for the number of processes.
pub const PIDS: u64 = 2048;

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            name: None,
            remove: false,
            command: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            working_dir: None,
            user: None,
            hostname: None,
            labels: BTreeMap::new(),
            volumes: Vec::new(),
            tmpfs: Vec::new(),
            network: Mode::None,
            dns: Vec::new(),
            add_hosts: Vec::new(),
            limits: Limits { pids: Some(PIDS), ..Limits::default() },
            shm_size_bytes: SHM_SIZE_BYTES,
            rlimits: Vec::new(),
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            no_new_privileges: false,
            seccomp: Seccomp::Default,
            read_only: false,
            stop_signal: None,
            terminal: false,
        }
    }
}

/// A file system in memory at `target`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a mount's flags")]
pub struct Tmpfs {
    pub target: ImagePath,
    pub size_bytes: Option<u64>,
    pub mode: u32,
    pub read_only: bool,
    pub no_exec: bool,
    pub no_suid: bool,
    pub no_dev: bool,
}

/// Where a name in `/etc/hosts` leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAddress {
    Address(IpAddr),
    /// `host-gateway`: the host, as the container reaches it.
    Gateway,
}
