//! A root file system: a stack and a scratch, mounted as one overlay and owned by a descriptor.
//!
//! The mount is *detached*: it lies in no mount namespace, so no path of the host shows it, a killed
//! process takes it along, and there is nothing to clean up. The sandbox attaches it as its root; the
//! builder's COPY reads and writes through the same descriptor.

use std::os::fd::OwnedFd;

use store::{Scratch, Stack, Store};

/// How a stack is mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountOptions {
    /// Adds the bottom layer of mount points (`/proc /sys /dev /etc/{hosts,hostname,resolv.conf}`,
    /// all empty), so that a sandbox finds them without writing to the scratch.
    pub mount_points: bool,
}

/// A mounted stack; dropping it unmounts.
#[derive(Debug)]
pub struct Rootfs {
    pub mount: OwnedFd,
}

/// Why a stack could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("cannot mount overlay: {call}")]
    Mount { call: String, source: std::io::Error },
}

/// Mounts `stack` under `scratch` (read-only without one) as a `volatile` overlay.
pub fn mount(
    store: &Store,
    stack: &Stack,
    scratch: Option<&Scratch>,
    options: MountOptions,
) -> Result<Rootfs, RootfsError> {
    let _ = (store, stack, scratch, options);
    todo!()
}
