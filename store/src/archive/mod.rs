//! Tree ↔ tar, streaming.
pub mod compress;

/// Why a layer's tar can't be read or a tree can't be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {}

pub mod pack;
pub use pack::pack_tree;
