//! Scratch: the writable top of a stack, sealed into a layer or dropped.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A writable top; dropping it deletes it.
#[derive(Debug)]
pub struct Scratch {
    /// `scratch/<lease>-<n>`.
    pub path: PathBuf,
    pub upper: OwnedFd,
    pub work: OwnedFd,
}
