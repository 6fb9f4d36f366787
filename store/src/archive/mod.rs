//! Tree ↔ tar, streaming.
//!
//! ```text
//! import   packed bytes ─compress→ tar ─read→ entries ─unpack→ tree/
//!                                        └── all that is not file content ──→ recipe
//! tar      recipe + tree/ ─→ the same tar, bit for bit
//! seal     upper/ ─pack→ tar (hashed, thrown away) + recipe;  upper/ itself becomes tree/
//! ```
//!
//! Everything streams. What a hostile archive can make us hold or write is bounded by `Limits`.
//!
//! May touch: the stream and the directory given. Knows nothing of the store's layout.

use std::io;
use std::path::PathBuf;

use rustix::fs::OFlags;

pub mod compress;
pub(crate) mod expected;
pub(crate) mod observed;
pub(crate) mod pack;
pub use pack::pack_tree;
pub(crate) mod read;
pub(crate) mod recipe;
pub(crate) mod unpack;
pub(crate) mod whiteout;

/// Why a layer's tar can't be read or a tree can't be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("the archive is malformed at byte {at}: {what}")]
    Malformed { at: u64, what: &'static str },
    #[error("the archive ends in the middle of {what}")]
    Truncated { what: &'static str },
    #[error("the archive goes past a limit: {what} (at most {limit})")]
    TooMuch { what: &'static str, limit: u64 },
    #[error("entry `{path}` points outside the layer")]
    EscapingEntry { path: String },
    #[error("entry `{path}` cannot be taken: {why}")]
    BadEntry { path: String, why: &'static str },
    #[error("cannot {doing} entry `{path}`")]
    Entry { doing: &'static str, path: String, source: io::Error },
    #[error("the recipe {path} is damaged: {what}")]
    BadRecipe { path: PathBuf, what: &'static str },
}

/// What an archive may ask for at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) entries: u64,
    pub(crate) path_bytes: u64,
    /// Of one extended header.
    pub(crate) extended_bytes: u64,
    /// Extended headers before one entry.
    pub(crate) extended_count: u64,
    pub(crate) xattr_bytes: u64,
    pub(crate) sparse_regions: u64,
    /// Of all files together, holes included.
    pub(crate) unpacked_bytes: u64,
}

pub(crate) const LIMITS: Limits = Limits {
    entries: 10_000_000,
    path_bytes: 4095,
    extended_bytes: 1 << 20,
    extended_count: 16,
    xattr_bytes: 256 << 10,
    sparse_regions: 1 << 20,
    unpacked_bytes: 1 << 40,
};

/// For reading a directory of a tree: never through a link.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

impl Time {
    pub(crate) fn timestamps(self) -> rustix::fs::Timestamps {
        let time = rustix::fs::Timespec { tv_sec: self.seconds, tv_nsec: i64::from(self.nanoseconds) };
        rustix::fs::Timestamps { last_access: time, last_modification: time }
    }
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
