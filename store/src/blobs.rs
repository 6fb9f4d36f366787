//! Blobs: bytes named by hash; hashed while written, checked while read.

use std::io::Read;

use crate::digest::BlobId;
use crate::{Store, StoreError};

/// The blobs of a store.
#[derive(Clone, Copy, Debug)]
pub struct Blobs<'s> {
    pub(crate) store: &'s Store,
}

impl Blobs<'_> {
    /// Keeps `bytes`, durably; keeping what is here changes nothing.
    pub fn add(&self, bytes: &[u8]) -> Result<BlobId, StoreError> {
        todo!("{}", bytes.len())
    }

    pub fn contains(&self, id: BlobId) -> Result<bool, StoreError> {
        todo!("{id}")
    }

    pub fn size_bytes(&self, id: BlobId) -> Result<Option<u64>, StoreError> {
        todo!("{id}")
    }

    /// Reads a small blob whole (4 MiB at most), checked.
    pub fn read(&self, id: BlobId) -> Result<Vec<u8>, StoreError> {
        todo!("{id}")
    }

    /// Streams a blob; the last read fails when the bytes do not hash to `id`.
    pub fn open(&self, id: BlobId) -> Result<Box<dyn Read + Send>, StoreError> {
        todo!("{id}")
    }
}
