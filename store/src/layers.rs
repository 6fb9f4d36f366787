//! Layers: file changes, kept unpacked in overlay form with the recipe of their tar.

use std::io::Read;
use std::os::fd::OwnedFd;

use crate::digest::{BlobId, DiffId};
use crate::scratch::Scratch;
use crate::{Store, StoreError};

/// The layers of a store.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'s> {
    pub(crate) store: &'s Store,
}

/// A layer that the store holds.
#[derive(Clone, Debug)]
pub struct Layer {
    pub diff_id: DiffId,
    /// Of the uncompressed tar.
    pub tar_size_bytes: u64,
    /// Files, directories, links and whiteouts.
    pub entry_count: u64,
}

/// A layer that came in packed.
#[derive(Clone, Debug)]
pub struct Imported {
    pub layer: Layer,
    /// The packed bytes' own name and size, when they were kept (`keep_blob`).
    pub blob: Option<(BlobId, u64)>,
    pub compression: crate::archive::compress::Compression,
}

/// What an incoming layer must hash to; what is `None` is not checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    pub diff_id: Option<DiffId>,
    pub blob: Option<BlobId>,
    pub blob_size_bytes: Option<u64>,
}

/// The trees of a stack, opened, bottom to top; what an overlay is mounted from.
#[derive(Debug)]
pub struct Stack {
    pub trees: Vec<OwnedFd>,
}

/// How a scratch is sealed.
#[derive(Clone, Copy, Debug, Default)]
pub struct SealOptions {
    /// Later modification times become this one (seconds since 1970; `SOURCE_DATE_EPOCH`).
    pub clamp_mtime_seconds: Option<i64>,
}

impl Layers<'_> {
    /// Whether the layer is here, whole and trustworthy (written since boot or synced).
    pub fn contains(&self, diff_id: DiffId) -> Result<bool, StoreError> {
        todo!("{diff_id}")
    }

    /// What is known of a layer.
    pub fn find(&self, diff_id: DiffId) -> Result<Option<Layer>, StoreError> {
        todo!("{diff_id}")
    }

    /// Unpacks a layer tar of any compression, hashing it packed and unpacked on the way.
    ///
    /// Nothing is visible unless all of `expected` holds. A layer that is here already is read to
    /// its end and checked, and changes nothing. With `keep_blob` compressed bytes are kept as a blob.
    pub fn import(
        &self,
        packed: &mut (dyn Read + Send),
        expected: Expected,
        keep_blob: bool,
    ) -> Result<Imported, StoreError> {
        let _ = (packed, expected, keep_blob);
        todo!()
    }

    /// Makes the upper directory of `scratch` a layer: one walk writes the recipe and hashes the
    /// tar, then the directory itself is renamed to be the layer's tree. The scratch must not be mounted.
    pub fn seal(&self, scratch: Scratch, options: SealOptions) -> Result<Layer, StoreError> {
        let _ = (scratch, options);
        todo!()
    }

    /// Streams the exact uncompressed tar of a layer.
    pub fn tar(&self, diff_id: DiffId) -> Result<Box<dyn Read + Send + '_>, StoreError> {
        todo!("{diff_id}")
    }

    /// Opens the trees of a stack, bottom to top. An empty stack is one empty tree.
    pub fn open_stack(&self, layers: &[DiffId]) -> Result<Stack, StoreError> {
        todo!("{layers:?}")
    }

    /// Makes a fresh writable top.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        todo!()
    }
}
impl Layers<'_> {
    pub(crate) fn hold(&self, diff_id: DiffId) -> Result<bool, StoreError> {
        todo!("{diff_id}")
    }
}
