//! The container runner: processes shut in a root.
//!
//! May touch: the kernel and the container records. Knows nothing of Containerfiles, registries, terminals' looks.

pub mod container;
mod disk;
pub mod network;
pub mod process;
pub mod rootfs;
pub mod sandbox;
pub mod view;
pub mod volumes;

/// Takes away what a dead process left in the kernel: the cgroups and links named after its lease,
/// and what runs in them.
///
/// What can't be taken away now (no privilege for it) is no reason to refuse other work.
pub fn clear(lease: &str) {
    drop(sandbox::cgroup::clear(lease));
    drop(network::Network::clear("rb"));
}
