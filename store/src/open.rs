//! The store as one value: the folder, its index and its small stores.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::blobs::Blobs;
use crate::cache::Cache;
use crate::images::Images;
use crate::index::Index;
use crate::layers::Layers;

/// An open store. Threads may share it; other processes may have it open too.
#[derive(Debug)]
pub struct Store {
    pub(crate) root: PathBuf,
    pub(crate) dir: OwnedFd,
    pub(crate) index: Index,
}

/// Why a store can't be opened or a change to it can't be finished.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
}

impl Store {
    /// Opens the store at `root`, made if it is not there, and clears what dead processes left.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        todo!("{}", root.display())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes named by hash.
    pub fn blobs(&self) -> Blobs<'_> {
        Blobs { store: self }
    }

    /// File changes named by the hash of their tar.
    pub fn layers(&self) -> Layers<'_> {
        Layers { store: self }
    }

    /// Configs over layers, and their names.
    pub fn images(&self) -> Images<'_> {
        Images { store: self }
    }

    /// What build steps came to before.
    pub fn cache(&self) -> Cache<'_> {
        Cache { store: self }
    }

    /// Makes all that was written so far survive a power cut: one `syncfs`, then the rows that say so.
    ///
    /// Called once per command, before the name is written (`images().set_name` calls it itself).
    pub fn make_durable(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// Names this process's work: scratch folders, cgroups and links start with it.
    pub fn lease_name(&self) -> Result<String, StoreError> {
        todo!()
    }

    /// The folder of cache mounts, opened.
    pub fn cache_mounts(&self) -> std::io::Result<OwnedFd> {
        todo!()
    }
}
