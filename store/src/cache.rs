//! What build steps came to before: key → layer, with the key's components kept for explaining.

use crate::digest::{DiffId, Digest};
use crate::{Store, StoreError};

/// The build cache of a store.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'s> {
    pub(crate) store: &'s Store,
}

/// One remembered step.
#[derive(Clone, Debug)]
pub struct CacheRow {
    pub key: Digest,
    /// The layer it sealed; `None` for a step that changed no file.
    pub layer: Option<DiffId>,
    /// The key's components as JSON, as the builder wrote them.
    pub components: String,
    /// Where the step stood: `<Containerfile>:<stage>:<instruction number>`; groups rows for explaining.
    pub place: String,
    pub seconds: f64,
}

impl Cache<'_> {
    /// Finds a step whose layer is still here and trustworthy.
    pub fn find(&self, key: Digest) -> Result<Option<CacheRow>, StoreError> {
        todo!("{key}")
    }

    /// Remembers a step (not durable by itself: a lost row is a miss).
    pub fn record(&self, row: &CacheRow) -> Result<(), StoreError> {
        todo!("{row:?}")
    }

    /// The remembered stat data and hashes of a context folder, as the builder wrote them.
    pub fn context_memory(&self, context: &str) -> Result<Option<Vec<u8>>, StoreError> {
        todo!("{context}")
    }

    pub fn set_context_memory(&self, context: &str, memory: &[u8]) -> Result<(), StoreError> {
        todo!("{context} {}", memory.len())
    }
}
