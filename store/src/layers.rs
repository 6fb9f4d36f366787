//! Layers: file changes, kept unpacked in overlay form with the recipe of their tar.
//!
//! ```text
//! layers/<diff id hex>/
//! ├── tree/         the files, never changed again
//! ├── recipe        tree + recipe = the exact uncompressed tar
//! ├── displaced/    content that the tar holds and the tree does not (rare)
//! └── gaps          what only a lower layer can say (rare)
//!
//! import   stream ─unpack→ staging/<lease>-<n> ─hashes right─┐
//! seal     scratch/<lease>-<n>/upper ─walk→ staging/… ───────┴─rename→ layers/<hex> ─→ index row
//! ```
//! A layer is there when its row is, and when it was written in this boot or synced since: a power cut
//! can leave a folder without its files' content, and such a layer is made again. A folder that is
//! `tree`-locked (flock, shared) is in use, and no collector takes it.
//!
//! May touch: `layers/`, `staging/`, and the table `layers`. Knows nothing of images and builds.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::archive::compress::{Compression, Packing, compress};
use crate::archive::recipe::RecipeReader;
use crate::blobs::{BlobWriter, Unpublished};
use crate::digest::{BlobId, DiffId, HashingReader};
use crate::folder::Folder;
use crate::index::files::FileRow;
use crate::index::layers::LayerRow;
use crate::index::{self, Commit};
use crate::scratch::Scratch;
use crate::{Store, StoreError};

mod import;
mod repair;
mod seal;
mod share;
mod stack;

pub(crate) use repair::repaired_stack;
pub use stack::Stack;

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
    pub compression: Compression,
}

/// The packed form of a layer, kept as a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    pub blob: BlobId,
    pub size_bytes: u64,
    pub compression: Compression,
}

/// What an incoming layer must hash to; what is `None` is not checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    pub diff_id: Option<DiffId>,
    pub blob: Option<BlobId>,
    pub blob_size_bytes: Option<u64>,
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
        Ok(self.find(diff_id)?.is_some())
    }

    /// What is known of a layer.
    pub fn find(&self, diff_id: DiffId) -> Result<Option<Layer>, StoreError> {
        Ok(self.row(diff_id)?.map(|row| row.layer))
    }

    /// Finds a layer and keeps every collector from it until this store is closed.
    pub(crate) fn hold(self, diff_id: DiffId) -> Result<bool, StoreError> {
        if self.row(diff_id)?.is_none() {
            return Ok(false);
        }
        if self.store.held().contains_key(&diff_id) {
            return Ok(true);
        }
        let Some(tree) = self.open_tree(diff_id)? else { return Ok(false) };
        self.store.held().insert(diff_id, tree);
        Ok(true)
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
        import::import(*self, packed, expected, keep_blob)
    }

    /// Makes the upper directory of `scratch` a layer: one walk writes the recipe and hashes the
    /// tar, then the directory itself is renamed to be the layer's tree. The scratch must not be mounted.
    pub fn seal(&self, scratch: Scratch, options: SealOptions) -> Result<Layer, StoreError> {
        seal::seal(*self, scratch, options)
    }

    /// Streams the exact uncompressed tar of a layer; the last read fails when it is damaged.
    pub fn tar(&self, diff_id: DiffId) -> Result<Box<dyn Read + Send + '_>, StoreError> {
        let row = self.row(diff_id)?.ok_or(StoreError::MissingLayer(diff_id))?;
        let path = self.path_of(diff_id);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let layer = rustix::fs::openat(&self.store.dir, place_of(diff_id), flags, Mode::empty())
            .map_err(StoreError::io("open", &path))?;
        let recipe = RecipeReader::open(layer, &path).map_err(StoreError::io("open the recipe of", &path))?;
        let inner = HashingReader::new(recipe);
        Ok(Box::new(CheckedTar { inner: Some(inner), left: row.layer.tar_size_bytes, diff_id }))
    }

    /// Opens the trees of a stack, bottom to top. An empty stack is one empty tree.
    pub fn open_stack(&self, layers: &[DiffId]) -> Result<Stack, StoreError> {
        stack::open(*self, layers)
    }

    /// Makes a fresh writable top.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Scratch::make(self.store)
    }

    /// The packed form of a layer: the one it came in, or one that is made now and remembered.
    pub fn packed(&self, diff_id: DiffId) -> Result<Packed, StoreError> {
        if let Some(kept) = self.kept(diff_id, None)? {
            return Ok(kept);
        }
        let blobs = self.store.blobs();
        let mut writer = blobs.writer()?;
        self.pack(diff_id, Packing::GZIP, &mut writer)?;
        let (blob, size_bytes) = writer.finish_as(None, Some(diff_id))?;
        Ok(Packed { blob, size_bytes, compression: Compression::Gzip })
    }

    /// The packed form that was kept of a layer: of `form`, or of any that images have a name for.
    ///
    /// Of several it is the same one in every store that holds them, whichever came first.
    pub fn kept(&self, diff_id: DiffId, form: Option<Compression>) -> Result<Option<Packed>, StoreError> {
        let mut kept = Vec::new();
        for (blob, size_bytes, _) in self.store.blobs().of_layer(diff_id)? {
            let compression = self.store.blobs().compression(blob)?;
            let fits = form.map_or(matches!(compression, Compression::Gzip | Compression::Zstd), |form| {
                form == compression
            });
            if fits {
                kept.push(Packed { blob, size_bytes, compression });
            }
        }
        kept.sort_by_key(|packed| (packed.compression != Compression::Gzip, packed.size_bytes, packed.blob));
        for packed in kept {
            if self.store.blobs().keep(packed.blob, None)? {
                return Ok(Some(packed));
            }
        }
        Ok(None)
    }

    /// Packs a layer anew, for once: nothing is kept.
    pub fn repacked(&self, diff_id: DiffId, packing: Packing) -> Result<Unpublished, StoreError> {
        let blobs = self.store.blobs();
        let mut writer = blobs.writer()?;
        self.pack(diff_id, packing, &mut writer)?;
        Ok(writer.finish_unpublished())
    }

    fn pack(self, diff_id: DiffId, packing: Packing, writer: &mut BlobWriter<'_>) -> Result<(), StoreError> {
        let mut tar = self.tar(diff_id)?;
        compress(&mut tar, writer, packing).map_err(StoreError::io("pack", self.path_of(diff_id)))
    }

    /// Puts what `packed` unpacks to in the place of a damaged layer, durably; it must be that very layer.
    ///
    /// A layer that somebody uses stays as it is.
    pub(crate) fn rebuild(self, packed: &mut (dyn Read + Send), diff_id: DiffId) -> Result<(), StoreError> {
        import::rebuild(self, packed, diff_id)
    }

    /// The row of a layer that can be trusted.
    fn row(self, diff_id: DiffId) -> Result<Option<LayerRow>, StoreError> {
        let found = self.store.index.read("look up a layer", |c| index::layers::find(c, diff_id))?;
        match found {
            Some(row) if row.synced || row.boot_id == self.store.boot_id()? => Ok(Some(row)),
            _ => Ok(None),
        }
    }

    /// Opens and locks the tree of a layer; `None` when a collector is taking it.
    pub(crate) fn open_tree(self, diff_id: DiffId) -> Result<Option<OwnedFd>, StoreError> {
        let place = format!("{}/tree", place_of(diff_id));
        let failed = || StoreError::io("open", self.store.root.join(&place));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tree = match rustix::fs::openat(&self.store.dir, &place, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(failed())?,
        };
        match rustix::fs::flock(&tree, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other.map_err(failed())?,
        }
        // A collector may have moved it away between the two calls.
        let ours = rustix::fs::fstat(&tree).map_err(failed())?;
        match rustix::fs::statat(&self.store.dir, &place, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if there.st_ino == ours.st_ino => Ok(Some(tree)),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::io("open", self.store.root.join(&place))(errno)),
        }
    }

    /// Makes a finished folder the layer `row` speaks of; a twin that was faster wins.
    ///
    /// Renames and row are one write transaction, so publishers and collectors go one after the other.
    /// What lies in the way without a row that can be trusted (from a dead process or a power cut), or
    /// locked by a collector, is moved away.
    fn publish(self, folder: &Folder, row: &LayerRow, files: &[FileRow]) -> Result<(), StoreError> {
        let diff_id = row.layer.diff_id;
        let place = place_of(diff_id);
        let failed = || StoreError::io("publish", self.path_of(diff_id));
        let dir = &self.store.dir;
        let boot_id = self.store.boot_id()?;
        let put = || -> Result<OwnedFd, Errno> {
            // Locked before anybody sees it: no collector comes between.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let tree = rustix::fs::openat(&folder.dir, "layer/tree", flags, Mode::empty())?;
            rustix::fs::flock(&tree, FlockOperation::NonBlockingLockShared)?;
            match rustix::fs::renameat(dir, &place, &folder.dir, "untrusted") {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            rustix::fs::renameat(&folder.dir, "layer", dir, &place)?;
            Ok(tree)
        };
        let published = self.store.index.write("record a layer", Commit::Soon, |transaction| {
            let known = index::layers::find(transaction, diff_id)?;
            if known.is_some_and(|known| known.synced || known.boot_id == boot_id)
                && let Ok(Some(tree)) = self.open_tree(diff_id)
            {
                return Ok(Ok(tree));
            }
            let put = put();
            if put.is_ok() {
                index::layers::insert(transaction, row)?;
                index::files::insert(transaction, diff_id, files)?;
            }
            Ok(put)
        })?;
        let tree = published.map_err(failed())?;
        self.store.held().insert(diff_id, tree);
        Ok(())
    }

    /// Puts a finished folder in the place of the layer `row` speaks of; `folder` takes what was there.
    fn replace(self, folder: &Folder, row: &LayerRow) -> Result<(), StoreError> {
        let diff_id = row.layer.diff_id;
        let place = place_of(diff_id);
        let failed = || StoreError::io("replace", self.path_of(diff_id));
        let dir = &self.store.dir;
        self.store.held().remove(&diff_id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Held until the new one is in its place, as a collector does.
        let lock = rustix::fs::openat(dir, format!("{place}/tree"), flags, Mode::empty()).ok();
        if let Some(lock) = &lock {
            match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(StoreError::LayerInUse(diff_id)),
                other => other.map_err(failed())?,
            }
        }
        let put = || -> Result<(), Errno> {
            match rustix::fs::renameat(dir, &place, &folder.dir, "damaged") {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            rustix::fs::renameat(&folder.dir, "layer", dir, &place)
        };
        let replaced = self.store.index.write("record a layer", Commit::Durable, |transaction| {
            let put = put();
            if put.is_ok() {
                index::layers::insert(transaction, row)?;
            }
            Ok(put)
        })?;
        replaced.map_err(failed())
    }

    pub(crate) fn path_of(self, diff_id: DiffId) -> PathBuf {
        self.store.root.join(place_of(diff_id))
    }
}

/// Below the store's root.
pub(crate) fn place_of(diff_id: DiffId) -> String {
    format!("layers/{}", diff_id.0.hex())
}

/// Passes a tar on and fails at its end when it is not what its name says.
struct CheckedTar {
    inner: Option<HashingReader<RecipeReader>>,
    left: u64,
    diff_id: DiffId,
}

impl Read for CheckedTar {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(inner) = &mut self.inner else { return Ok(0) };
        let count = inner.read(buffer)?;
        let expected = self.left.checked_sub(count as u64);
        if let Some(left) = expected
            && (count > 0 || buffer.is_empty())
        {
            self.left = left;
            return Ok(count);
        }
        let finished = self.inner.take().map(HashingReader::finish);
        match finished {
            Some((actual, _)) if actual == self.diff_id.0 => Ok(count),
            Some((actual, _)) => {
                let expected = self.diff_id.0;
                let error = StoreError::WrongContent { what: "layer", expected, actual };
                Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error))
            }
            None => Ok(0),
        }
    }
}
