//! What build steps came to before: key → layer, with the key's components kept for explaining.
//!
//! Rows are hints, never promises: a lost row is a miss, and a row whose layer is gone is no row.
//! A layer that was found stays until this store is closed, even when a collector runs meanwhile.
//!
//! May touch: the tables `cache` and `context_memory`. Knows nothing of what a key is made of.

use crate::digest::{DiffId, Digest};
use crate::index::{self, Commit};
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
    /// When the step was done, seconds since 1970.
    pub created_seconds: i64,
}

impl Cache<'_> {
    /// Finds a step whose layer is still here and trustworthy.
    pub fn find(&self, key: Digest) -> Result<Option<CacheRow>, StoreError> {
        let found = self.store.index.read("look up a build step", |c| index::cache::find(c, key))?;
        let Some(row) = found else { return Ok(None) };
        if let Some(layer) = row.layer
            && !self.store.layers().hold(layer)?
        {
            return Ok(None);
        }
        Ok(Some(row))
    }

    /// What steps at `place` came to before, newest first; for explaining a miss.
    pub fn at_place(&self, place: &str) -> Result<Vec<CacheRow>, StoreError> {
        self.store.index.read("look up a build step", |c| index::cache::at_place(c, place))
    }

    /// Remembers a step (not durable by itself: a lost row is a miss).
    pub fn record(&self, row: &CacheRow) -> Result<(), StoreError> {
        self.store.index.write("remember a build step", Commit::Soon, |t| index::cache::insert(t, row))
    }

    /// Notes that steps were used again, so that a collector takes others first.
    pub fn mark_used(&self, keys: &[Digest]) -> Result<(), StoreError> {
        self.store.index.write("note used build steps", Commit::Soon, |transaction| {
            keys.iter().try_for_each(|key| index::cache::mark_used(transaction, *key))
        })
    }

    /// The remembered stat data and hashes of a context folder, as the builder wrote them.
    pub fn context_memory(&self, context: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.index.read("look up a context", |c| index::cache::memory(c, context))
    }

    pub fn set_context_memory(&self, context: &str, memory: &[u8]) -> Result<(), StoreError> {
        self.store
            .index
            .write("remember a context", Commit::Soon, |t| index::cache::set_memory(t, context, memory))
    }
}
