//! Blobs: bytes named by hash; hashed while written, checked while read.
//!
//! ```text
//! staging/<lease>-<n>/blob  ─fsync, rename, fsync of the folder→  blobs/sha256/<hex>  ─→  index row + pin
//! ```
//!
//! A blob is there when its row is; a file without a row is a leftover and is written over. A new
//! blob is pinned to this process's lease until an image points at it or the process ends.
//!
//! May touch: `blobs/`, and the tables `blobs` and `pins`. Knows nothing of what the bytes mean.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::archive::compress::Compression;
use crate::digest::{BlobId, DiffId, Hasher};
use crate::folder::Folder;
use crate::index::blobs::BlobRow;
use crate::index::{self, Commit};
use crate::{Store, StoreError};

/// The most that [`Blobs::read`] reads: manifests and configs are smaller.
const DOCUMENT_LIMIT_BYTES: u64 = 4 << 20;

/// The blobs of a store.
#[derive(Clone, Copy, Debug)]
pub struct Blobs<'s> {
    pub(crate) store: &'s Store,
}

/// A blob on its way in; dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter<'s> {
    store: &'s Store,
    folder: Folder,
    file: File,
    hasher: Hasher,
}

/// A blob that is nobody's: named and readable, never published, gone with this value.
#[derive(Debug)]
pub struct Unpublished {
    pub id: BlobId,
    pub size_bytes: u64,
    file: File,
    /// Holds the file.
    _folder: Folder,
}

impl Unpublished {
    /// Reads it from its start; one reader at a time.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        Ok(Box::new(file))
    }
}

impl Blobs<'_> {
    /// Keeps `bytes`, durably; keeping what is here changes nothing.
    pub fn add(&self, bytes: &[u8]) -> Result<BlobId, StoreError> {
        let id = BlobId(crate::Digest::of(bytes));
        if self.keep(id, None)? {
            return Ok(id);
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(StoreError::io("write", writer.path()))?;
        Ok(writer.finish(Some(id))?.0)
    }

    pub fn contains(&self, id: BlobId) -> Result<bool, StoreError> {
        Ok(self.size_bytes(id)?.is_some())
    }

    pub fn size_bytes(&self, id: BlobId) -> Result<Option<u64>, StoreError> {
        let row = self.store.index.read("look up a blob", |c| index::blobs::find(c, id))?;
        Ok(row.map(|row| row.size_bytes))
    }

    /// Reads a small blob whole (4 MiB at most), checked.
    pub fn read(&self, id: BlobId) -> Result<Vec<u8>, StoreError> {
        let size_bytes = self.size_bytes(id)?.ok_or(StoreError::MissingBlob(id))?;
        if size_bytes > DOCUMENT_LIMIT_BYTES {
            return Err(StoreError::BlobTooLarge { id, size_bytes, limit_bytes: DOCUMENT_LIMIT_BYTES });
        }
        let mut bytes = Vec::new();
        let file = self.open_file(id)?;
        file.take(DOCUMENT_LIMIT_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("read", self.path_of(id)))?;
        let actual = crate::Digest::of(&bytes);
        if actual != id.0 {
            return Err(StoreError::WrongContent { what: "blob", expected: id.0, actual });
        }
        Ok(bytes)
    }

    /// Streams a blob; the last read fails when the bytes do not hash to `id`.
    pub fn open(&self, id: BlobId) -> Result<Box<dyn Read + Send>, StoreError> {
        if !self.contains(id)? {
            return Err(StoreError::MissingBlob(id));
        }
        Ok(Box::new(CheckedReader { inner: self.open_file(id)?, hasher: Some(Hasher::new()), id }))
    }

    /// How a blob is packed, by its first bytes.
    pub fn compression(&self, id: BlobId) -> Result<Compression, StoreError> {
        let mut head = Vec::new();
        let file = self.open_file(id)?;
        file.take(8).read_to_end(&mut head).map_err(StoreError::io("read", self.path_of(id)))?;
        Ok(Compression::detect(&head))
    }

    /// Starts a blob whose bytes come piece by piece.
    pub fn writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        let store = self.store;
        let lease = store.lease()?;
        let staging = || store.root.join("staging");
        let folder =
            Folder::make(&lease, "staging").map_err(StoreError::io("make a folder in", staging()))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder.dir, "blob", flags, Mode::RUSR | Mode::WUSR)
            .map_err(StoreError::io("make a file in", staging()))?;
        Ok(BlobWriter { store, folder, file: File::from(file), hasher: Hasher::new() })
    }

    /// The packed forms of a layer that were kept: what a push sends without packing again.
    pub fn of_layer(&self, diff_id: DiffId) -> Result<Vec<(BlobId, u64, Option<String>)>, StoreError> {
        let rows =
            self.store.index.read("look up a layer's blobs", |c| index::blobs::of_layer(c, diff_id))?;
        Ok(rows.into_iter().map(|row| (row.id, row.size_bytes, row.media_type)).collect())
    }

    /// Notes what a blob is: its media type and, for a packed layer, what it unpacks to.
    pub fn describe(
        &self,
        id: BlobId,
        media_type: Option<&str>,
        diff_id: Option<DiffId>,
    ) -> Result<(), StoreError> {
        let size_bytes = self.size_bytes(id)?.ok_or(StoreError::MissingBlob(id))?;
        let row = BlobRow { id, size_bytes, media_type: media_type.map(str::to_owned), diff_id };
        self.store.index.write("describe a blob", Commit::Soon, |t| index::blobs::insert(t, &row))
    }

    /// Pins a blob that is here; false when it is not.
    pub(crate) fn keep(self, id: BlobId, diff_id: Option<DiffId>) -> Result<bool, StoreError> {
        let Some(size_bytes) = self.size_bytes(id)? else { return Ok(false) };
        let lease = self.store.lease()?;
        self.store.note_pins();
        self.store.index.write("keep a blob", Commit::Soon, |transaction| {
            // A collector may have been here between the two looks.
            if index::blobs::find(transaction, id)?.is_none() {
                return Ok(false);
            }
            index::blobs::pin(transaction, &lease.name, id)?;
            index::blobs::insert(transaction, &BlobRow { id, size_bytes, media_type: None, diff_id })?;
            Ok(true)
        })
    }

    pub(crate) fn path_of(self, id: BlobId) -> PathBuf {
        self.store.root.join(place_of(id))
    }

    fn open_file(self, id: BlobId) -> Result<File, StoreError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: OwnedFd = rustix::fs::openat(&self.store.dir, place_of(id), flags, Mode::empty())
            .map_err(StoreError::io("open", self.path_of(id)))?;
        Ok(File::from(file))
    }
}

/// Below the store's root.
pub(crate) fn place_of(id: BlobId) -> String {
    format!("blobs/sha256/{}", id.0.hex())
}

impl BlobWriter<'_> {
    /// Makes the blob durable and visible. Fails, leaving nothing, when it is not `expected`.
    pub fn finish(self, expected: Option<BlobId>) -> Result<(BlobId, u64), StoreError> {
        self.finish_as(expected, None)
    }

    /// Like [`BlobWriter::finish`], for the packed form of a layer.
    pub fn finish_as(
        self,
        expected: Option<BlobId>,
        diff_id: Option<DiffId>,
    ) -> Result<(BlobId, u64), StoreError> {
        let store = self.store;
        let (staged, size_bytes) = (self.path(), self.hasher.count_bytes());
        let id = BlobId(self.hasher.finish());
        if let Some(expected) = expected.filter(|expected| *expected != id) {
            return Err(StoreError::WrongContent { what: "blob", expected: expected.0, actual: id.0 });
        }
        if store.blobs().keep(id, diff_id)? {
            return Ok((id, size_bytes));
        }
        self.file.sync_data().map_err(StoreError::io("sync", &staged))?;
        rustix::fs::renameat(&self.folder.dir, "blob", &store.dir, place_of(id))
            .map_err(StoreError::io("publish", &staged))?;
        sync_folder(store).map_err(StoreError::io("sync", store.root.join("blobs/sha256")))?;
        let lease = store.lease()?;
        store.note_pins();
        store.index.write("record a blob", Commit::Soon, |transaction| {
            index::blobs::pin(transaction, &lease.name, id)?;
            index::blobs::insert(transaction, &BlobRow { id, size_bytes, media_type: None, diff_id })
        })?;
        Ok((id, size_bytes))
    }

    /// Ends the blob without keeping it: for bytes that are read once and not needed again.
    pub fn finish_unpublished(self) -> Unpublished {
        let size_bytes = self.hasher.count_bytes();
        let id = BlobId(self.hasher.finish());
        Unpublished { id, size_bytes, file: self.file, _folder: self.folder }
    }

    /// Puts the bytes in the place of a damaged blob's, durably; its row stays.
    pub(crate) fn finish_in_place(self, id: BlobId) -> Result<(), StoreError> {
        let (store, staged) = (self.store, self.path());
        let actual = self.hasher.finish();
        if actual != id.0 {
            return Err(StoreError::WrongContent { what: "blob", expected: id.0, actual });
        }
        self.file.sync_data().map_err(StoreError::io("sync", &staged))?;
        rustix::fs::renameat(&self.folder.dir, "blob", &store.dir, place_of(id))
            .map_err(StoreError::io("publish", &staged))?;
        sync_folder(store).map_err(StoreError::io("sync", store.root.join("blobs/sha256")))
    }

    fn path(&self) -> PathBuf {
        self.store.root.join(&self.folder.place).join("blob")
    }
}

fn sync_folder(store: &Store) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::fsync(rustix::fs::openat(&store.dir, "blobs/sha256", flags, Mode::empty())?) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Passes a blob on and fails at its end when it is not what its name says.
struct CheckedReader {
    inner: File,
    hasher: Option<Hasher>,
    id: BlobId,
}

impl Read for CheckedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
            return Ok(count);
        }
        match self.hasher.take().map(Hasher::finish) {
            Some(actual) if actual != self.id.0 => {
                let error = StoreError::WrongContent { what: "blob", expected: self.id.0, actual };
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
            _ => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn a_blob_is_kept_once_and_read_back() {
        let (dir, store) = store();
        let id = store.blobs().add(b"hello").unwrap();
        assert_eq!(store.blobs().add(b"hello").unwrap(), id);
        assert_eq!(store.blobs().size_bytes(id).unwrap(), Some(5));
        let mut text = String::new();
        store.blobs().open(id).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn a_changed_bit_is_found_when_read() {
        let (_dir, store) = store();
        let id = store.blobs().add(b"hello").unwrap();
        std::fs::write(store.blobs().path_of(id), b"hellp").unwrap();
        assert!(matches!(store.blobs().read(id), Err(StoreError::WrongContent { .. })));
        let error = io::copy(&mut store.blobs().open(id).unwrap(), &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn other_bytes_than_expected_leave_nothing() {
        let (dir, store) = store();
        let expected = BlobId(crate::Digest::of(b"this"));
        let blobs = store.blobs();
        let mut writer = blobs.writer().unwrap();
        writer.write_all(b"that").unwrap();
        assert!(matches!(writer.finish(Some(expected)), Err(StoreError::WrongContent { .. })));
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    }
}
