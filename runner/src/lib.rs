//! The container runner: processes shut in a root.
//!
//! May touch: the kernel and the container records. Knows nothing of Containerfiles, registries, terminals' looks.

pub mod container;
pub mod network;
pub mod process;
pub mod rootfs;
pub mod sandbox;
pub mod volumes;
