//! Import: one pass over a packed layer, two threads.
//!
//! ```text
//! reading thread    read → hash as it came (→ blob) → unpack ─┐ 256 KiB buffers, eight at most,
//! writing thread    hash unpacked ← entries → files ←─────────┘ given back when used
//! ```
//! Neither thread outlives a failure of the other: both ends of the channel close.
//!
//! May touch: `staging/`, and what `layers` and `blobs` lend. Knows nothing of where bytes come from.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::fd::AsFd;

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{Mode, OFlags};

use super::share::share;
use super::{Expected, Imported, Layer, Layers};
use crate::archive::ArchiveError;
use crate::archive::compress::{Compression, decompress};
use crate::archive::unpack::{Unpacked, unpack};
use crate::blobs::BlobWriter;
use crate::digest::{BlobId, DiffId, Digest, Hasher};
use crate::folder::Folder;
use crate::index::layers::LayerRow;
use crate::write_back::WriteBack;
use crate::{Store, StoreError};

const BUFFER_BYTES: usize = 256 << 10;
const BUFFERS: usize = 8;

pub(super) fn import(
    layers: Layers<'_>,
    packed: &mut (dyn Read + Send),
    expected: Expected,
    keep_blob: bool,
) -> Result<Imported, StoreError> {
    let store = layers.store;
    let known = match expected.diff_id {
        Some(diff_id) if layers.hold(diff_id)? => layers.find(diff_id)?,
        _ => None,
    };
    let folder = if known.is_none() { Some(Staged::make(store)?) } else { None };
    let blobs = store.blobs();
    let blob = if keep_blob && !has_blob(store, expected)? { Some(blobs.writer()?) } else { None };

    let mut source = Source { inner: packed, hasher: Hasher::new(), blob };
    let (compression, came) = stream(&mut source, folder.as_ref(), store)?;
    let arrived = check(&source.hasher, &came, compression, expected)?;

    let layer = match (known, folder) {
        (Some(layer), _) => layer,
        (None, folder) => {
            let unpacked = came.unpacked.expect("an unknown layer was unpacked");
            let folder = folder.expect("an unknown layer was staged");
            let shared = share(store, &folder.folder, folder.layer.as_fd())?;
            let row = LayerRow {
                layer: Layer {
                    diff_id: arrived.diff_id,
                    tar_size_bytes: came.count_bytes,
                    entry_count: unpacked.entry_count,
                },
                disk_size_bytes: unpacked.disk_size_bytes,
                gaps: unpacked.gap_flags,
                cloned_bytes: shared.saved_bytes,
                synced: false,
                boot_id: store.boot_id()?.to_owned(),
            };
            layers.publish(&folder.folder, &row, &shared.files)?;
            row.layer
        }
    };
    let blob = match compression {
        Compression::None => None,
        _ if !keep_blob => None,
        _ => Some(match source.blob {
            Some(writer) => writer.finish_as(Some(arrived.blob), Some(layer.diff_id))?,
            None => {
                blobs.keep(arrived.blob, Some(layer.diff_id))?;
                (arrived.blob, arrived.blob_size_bytes)
            }
        }),
    };
    Ok(Imported { layer, blob, compression })
}

/// Unpacks a layer once more, and publishes it over the one that is there.
pub(super) fn rebuild(
    layers: Layers<'_>,
    packed: &mut (dyn Read + Send),
    diff_id: DiffId,
) -> Result<(), StoreError> {
    let store = layers.store;
    let staged = Staged::make(store)?;
    let mut source = Source { inner: packed, hasher: Hasher::new(), blob: None };
    let (compression, came) = stream(&mut source, Some(&staged), store)?;
    let expected = Expected { diff_id: Some(diff_id), ..Expected::default() };
    check(&source.hasher, &came, compression, expected)?;
    let unpacked = came.unpacked.expect("it was staged");
    // On disk before it takes the place of what may be on disk.
    rustix::fs::syncfs(&store.dir).map_err(StoreError::io("sync", &store.root))?;
    let row = LayerRow {
        layer: Layer { diff_id, tar_size_bytes: came.count_bytes, entry_count: unpacked.entry_count },
        disk_size_bytes: unpacked.disk_size_bytes,
        gaps: unpacked.gap_flags,
        // What the damaged one shared is not looked for again.
        cloned_bytes: 0,
        synced: true,
        boot_id: store.boot_id()?.to_owned(),
    };
    layers.replace(&staged.folder, &row)
}

fn has_blob(store: &Store, expected: Expected) -> Result<bool, StoreError> {
    match expected.blob {
        Some(id) => store.blobs().keep(id, None),
        None => Ok(false),
    }
}

/// A layer's folder while it is made: `staging/<lease>-<n>/layer`.
pub(super) struct Staged {
    pub(super) folder: Folder,
    pub(super) layer: std::os::fd::OwnedFd,
}

impl Staged {
    pub(super) fn make(store: &Store) -> Result<Self, StoreError> {
        let lease = store.lease()?;
        let make = || -> io::Result<Self> {
            let folder = Folder::make(&lease, "staging")?;
            let layer = folder.make_inside("layer", Mode::RWXU)?;
            rustix::fs::mkdirat(&layer, "tree", Mode::RWXU)?;
            let tree = rustix::fs::openat(&layer, "tree", crate::archive::DIRECTORY, Mode::empty())?;
            rustix::fs::fchmod(&tree, Mode::from_raw_mode(0o755))?;
            Ok(Self { folder, layer })
        };
        make().map_err(StoreError::io("make a folder in", store.root.join("staging")))
    }

    pub(super) fn recipe_file(&self, store: &Store) -> Result<BufWriter<File>, StoreError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.layer, "recipe", flags, Mode::RUSR | Mode::WUSR)
            .map_err(StoreError::io("make a recipe in", store.root.join(&self.folder.place)))?;
        Ok(BufWriter::with_capacity(64 << 10, File::from(file)))
    }
}

/// What came out of the uncompressed stream.
struct Came {
    /// None when reading and writing hash the same bytes (no compression).
    digest: Option<Digest>,
    count_bytes: u64,
    unpacked: Option<Unpacked>,
}

struct Arrived {
    diff_id: DiffId,
    blob: BlobId,
    blob_size_bytes: u64,
}

/// Runs both threads; this one writes.
fn stream(
    source: &mut Source<'_, '_>,
    staged: Option<&Staged>,
    store: &Store,
) -> Result<(Compression, Came), StoreError> {
    let (full, chunks) = crossbeam_channel::bounded(BUFFERS);
    let (empty, spare) = crossbeam_channel::bounded(BUFFERS);
    let (told, tell) = crossbeam_channel::bounded(1);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || read_all(source, &full, &spare, &told));
        let came = match tell.recv() {
            Ok(compression) => {
                let write_back = staged.map(|_| WriteBack::new(store));
                let chunks = Chunks::new(chunks, empty, compression != Compression::None, write_back);
                write_all(chunks, staged, store).map(|came| (compression, came))
            }
            // The reading thread says below what went wrong.
            Err(_) => Err(StoreError::Archive(ArchiveError::Truncated { what: "its first bytes" })),
        };
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (read, came) {
            // What the source says comes first: the writer saw only that it stopped.
            (Err(ReadError::Source(source)), _) => Err(StoreError::Archive(ArchiveError::Read(source))),
            (_, came) => came,
        }
    })
}

enum ReadError {
    Source(io::Error),
    /// The writer gave up and says why itself.
    WriterGone,
}

/// The reading thread.
fn read_all(
    source: &mut Source<'_, '_>,
    full: &Sender<io::Result<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
    told: &Sender<Compression>,
) -> Result<(), ReadError> {
    {
        let mut plain = decompress(&mut *source).map_err(ReadError::Source)?;
        told.send(plain.compression).map_err(|_| ReadError::WriterGone)?;
        loop {
            let mut chunk = spare.try_recv().unwrap_or_default();
            chunk.clear();
            chunk.reserve(BUFFER_BYTES);
            match (&mut plain).take(BUFFER_BYTES as u64).read_to_end(&mut chunk) {
                Ok(0) => break,
                Ok(_) => full.send(Ok(chunk)).map_err(|_| ReadError::WriterGone)?,
                Err(error) => {
                    // Without this the writer would take the cut for the archive's end.
                    drop(full.send(Err(io::Error::from(error.kind()))));
                    return Err(ReadError::Source(error));
                }
            }
        }
    }
    // A decoder may stop before the stream does: its end belongs to the hash.
    io::copy(source, &mut io::sink()).map(drop).map_err(ReadError::Source)
}

fn write_all(mut chunks: Chunks<'_>, staged: Option<&Staged>, store: &Store) -> Result<Came, StoreError> {
    let unpacked = match staged {
        Some(staged) => {
            let recipe = staged.recipe_file(store)?;
            Some(unpack(&mut chunks, staged.layer.as_fd(), store.overlay, recipe)?)
        }
        None => {
            chunks.drain().map_err(ArchiveError::Read)?;
            None
        }
    };
    let count_bytes = chunks.count_bytes;
    chunks.write_back.map_or(Ok(()), WriteBack::finish)?;
    Ok(Came { digest: chunks.hasher.map(Hasher::finish), count_bytes, unpacked })
}

fn check(
    read: &Hasher,
    came: &Came,
    compression: Compression,
    expected: Expected,
) -> Result<Arrived, StoreError> {
    let blob_size_bytes = read.count_bytes();
    let blob = read.clone().finish();
    if let Some(id) = expected.blob {
        if let Some(expected_bytes) = expected.blob_size_bytes.filter(|size| *size != blob_size_bytes) {
            let actual_bytes = blob_size_bytes;
            return Err(StoreError::WrongSize {
                what: "layer",
                expected: id.0,
                expected_bytes,
                actual_bytes,
            });
        }
        if id.0 != blob {
            return Err(StoreError::WrongContent { what: "layer", expected: id.0, actual: blob });
        }
    }
    debug_assert_eq!(came.digest.is_none(), compression == Compression::None);
    let diff_id = came.digest.unwrap_or(blob);
    match expected.diff_id {
        Some(id) if id.0 != diff_id => {
            Err(StoreError::WrongContent { what: "layer", expected: id.0, actual: diff_id })
        }
        _ => Ok(Arrived { diff_id: DiffId(diff_id), blob: BlobId(blob), blob_size_bytes }),
    }
}

/// The stream as it comes: hashed, and kept where that is asked for.
struct Source<'r, 's> {
    inner: &'r mut (dyn Read + Send),
    hasher: Hasher,
    blob: Option<BlobWriter<'s>>,
}

impl Read for Source<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if let Some(blob) = &mut self.blob {
            blob.write_all(&buffer[..count])?;
        }
        Ok(count)
    }
}

/// The uncompressed stream on the writing side.
struct Chunks<'s> {
    full: Receiver<io::Result<Vec<u8>>>,
    spare: Sender<Vec<u8>>,
    now: Vec<u8>,
    at: usize,
    hasher: Option<Hasher>,
    count_bytes: u64,
    /// Where what comes is written and not only read.
    write_back: Option<WriteBack<'s>>,
}

impl<'s> Chunks<'s> {
    fn new(
        full: Receiver<io::Result<Vec<u8>>>,
        spare: Sender<Vec<u8>>,
        hashes: bool,
        write_back: Option<WriteBack<'s>>,
    ) -> Self {
        let hasher = hashes.then(Hasher::new);
        Self { full, spare, now: Vec::new(), at: 0, hasher, count_bytes: 0, write_back }
    }

    fn drain(&mut self) -> io::Result<()> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }
}

impl BufRead for Chunks<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.now.len()
            && let Ok(next) = self.full.recv()
        {
            let used = std::mem::replace(&mut self.now, next?);
            self.at = 0;
            // A reader that is done takes no buffers back.
            drop(self.spare.try_send(used));
            self.count_bytes += self.now.len() as u64;
            if let Some(write_back) = &mut self.write_back {
                write_back.wrote(self.now.len() as u64).map_err(io::Error::other)?;
            }
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.now);
            }
        }
        Ok(&self.now[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.fill_buf()?;
        let count = bytes.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
