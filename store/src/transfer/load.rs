//! Load: what all forms of archives have in common once their documents are read.
//!
//! ```text
//! 1  read     documents → Pending images: what each needs, and what it must hash to
//! 2  take in  layers, side by side; each is checked while it is unpacked
//! 3  record   images, then names                    nothing before 3 can be seen by anyone
//! ```
//!
//! An archive that passes once gives its layers away before its documents: 2 comes before 1, and
//! what the layers turned out to be is compared then. What no image asked for is dropped.
//!
//! May touch: the place given, the store through its methods. Knows nothing of terminals.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::place::{Entries, Place, Remembered, shown};
use super::{LoadOptions, Loaded, Source, TransferError, dir, docker_archive, legacy, oci_layout, walk};
use crate::archive::compress::{Compression, decompress};
use crate::digest::{BlobId, Digest};
use crate::layers::{Expected, Imported};
use crate::oci::config::ImageConfig;
use crate::oci::json::{self, MAX_DOCUMENT_BYTES};
use crate::root_dir::ImagePath;
use crate::{Reference, Store, StoreError};

const READ_BYTES: usize = 256 << 10;

/// An image whose documents are read and whose layers are still to come.
#[derive(Debug)]
pub(super) struct Pending {
    pub config: Vec<u8>,
    pub manifest: Option<Vec<u8>>,
    /// Bottom to top.
    pub layers: Vec<Wanted>,
    pub names: Vec<Reference>,
    /// What an OCI index calls it, verbatim.
    pub tag: Option<String>,
}

/// A layer that an image needs.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub path: ImagePath,
    pub expected: Expected,
}

/// Takes layers in and remembers them, so that they can be dropped when something is wrong.
pub(super) struct Intake<'s> {
    store: &'s Store,
    arrived: Mutex<BTreeMap<ImagePath, Result<Imported, StoreError>>>,
}

/// Takes all images of `source` in.
pub fn load(store: &Store, source: Source, options: &LoadOptions) -> Result<Vec<Loaded>, TransferError> {
    let intake = Intake { store, arrived: Mutex::default() };
    let loaded = intake.load(source, options);
    let asked_for = loaded.as_deref().map_or(Ok(false), |loaded| intake.all_asked_for(loaded))?;
    if !asked_for {
        store.collect(true, false)?;
    }
    loaded
}

/// Takes the layers of one image of `source` in, records nothing, and gives the image to `then`.
///
/// Afterwards the store is as it was before.
pub(super) fn pass_through<T>(
    store: &Store,
    source: Source,
    options: &LoadOptions,
    then: impl FnOnce(Pending) -> Result<T, TransferError>,
) -> Result<T, TransferError> {
    let intake = Intake { store, arrived: Mutex::default() };
    let result = intake.gather(source, options).and_then(|pending| then(the_one(pending)?));
    drop(intake);
    store.collect(true, false)?;
    result
}

fn the_one(mut pending: Vec<Pending>) -> Result<Pending, TransferError> {
    match pending.pop() {
        Some(image) if pending.is_empty() => Ok(image),
        last => {
            let all = pending.iter().chain(&last);
            Err(TransferError::Several {
                count: all.clone().count(),
                names: all.flat_map(Pending::called).collect(),
            })
        }
    }
}

impl Pending {
    /// All that the image is called.
    fn called(&self) -> Vec<String> {
        self.tag.iter().cloned().chain(self.names.iter().map(Reference::to_string)).collect()
    }

    fn is_called(&self, wanted: &str) -> bool {
        let reference = wanted.parse::<Reference>().ok().map(Reference::or_latest);
        let complete = |name: &Reference| name.clone().or_latest();
        self.tag.as_deref() == Some(wanted) || self.names.iter().any(|name| Some(complete(name)) == reference)
    }
}

impl Intake<'_> {
    fn load(&self, source: Source, options: &LoadOptions) -> Result<Vec<Loaded>, TransferError> {
        let mut pending = self.gather(source, options)?;
        if let Some(names) = &options.names {
            pending = vec![Pending { names: names.clone(), ..the_one(pending)? }];
        }
        self.record(pending)
    }

    /// Reads the images that are asked for and takes their layers in.
    fn gather(&self, source: Source, options: &LoadOptions) -> Result<Vec<Pending>, TransferError> {
        let place = self.open(source)?;
        let mut pending = self.read(&place, options)?;
        if let Some(wanted) = &options.only {
            let names = pending.iter().flat_map(Pending::called).collect();
            pending.retain(|image| image.is_called(wanted));
            if pending.is_empty() {
                return Err(TransferError::NoSuchName { wanted: wanted.clone(), names });
            }
            // One image may stand there under several names.
            pending.dedup_by(|one, other| one.config == other.config && one.manifest == other.manifest);
        }
        let layers: Vec<&Wanted> = pending.iter().flat_map(|image| &image.layers).collect();
        self.take_in(&place, &layers)?;
        Ok(pending)
    }

    /// Tells by content what lies at `source`.
    fn open(&self, source: Source) -> Result<Place, TransferError> {
        let archive = |source| TransferError::Archive { source };
        match source {
            Source::Folder(path) => Place::folder(&path),
            Source::File(file) => {
                use std::os::unix::fs::FileExt;
                let mut magic = [0; 8];
                let count = file.read_at(&mut magic, 0).map_err(archive)?;
                match Compression::detect(&magic[..count]) {
                    Compression::None => Place::file(file),
                    _ => self.pass(Box::new(file)),
                }
            }
            Source::Stream(stream) => self.pass(stream),
        }
    }

    fn read(&self, place: &Place, options: &LoadOptions) -> Result<Vec<Pending>, TransferError> {
        // Docker 25 and later writes both; the index is the one with digests.
        if let Some(images) = oci_layout::read(place, options)? {
            return Ok(images);
        }
        if let Some(images) = dir::read(place, options)? {
            return Ok(images);
        }
        if let Some(images) = docker_archive::read(place)? {
            return Ok(images);
        }
        match legacy::read(self, place)? {
            Some(images) => Ok(images),
            None => Err(TransferError::NoImage),
        }
    }

    /// Takes in the layers of an archive that passes; keeps its documents.
    fn pass(&self, stream: Box<dyn Read + Send>) -> Result<Place, TransferError> {
        let archive = |source| TransferError::Archive { source };
        let stream = decompress(stream).map_err(archive)?;
        let mut input = BufReader::with_capacity(READ_BYTES, stream);
        let mut documents = Entries::default();
        let mut remembered = Remembered::default();
        while let Some(head) = walk::next(&mut input).map_err(archive)? {
            let behind = head.padding();
            let looks = Looks::of(&head.path, head.size_bytes, input.fill_buf().map_err(archive)?);
            let mut content = (&mut input).take(head.size_bytes);
            match (head.kind, looks) {
                (walk::Kind::Link(target), _) => documents.link(&head.path, target)?,
                (walk::Kind::File, Looks::Document) => {
                    remembered.add(&head.path, head.size_bytes)?;
                    let mut bytes = Vec::new();
                    content.read_to_end(&mut bytes).map_err(archive)?;
                    documents.add(&head.path, bytes)?;
                }
                (walk::Kind::File, Looks::Layer) => self.take_in_passing(&head.path, &mut content)?,
                (walk::Kind::File, Looks::TooLarge) => {
                    let name = shown(&head.path);
                    return Err(TransferError::TooLarge { name, size_bytes: head.size_bytes });
                }
                (walk::Kind::File, Looks::Neither) | (walk::Kind::Other, _) => {}
            }
            let mut rest = content.limit();
            rest += behind;
            let skipped = io::copy(&mut (&mut input).take(rest), &mut io::sink()).map_err(archive)?;
            if skipped != rest {
                return Err(archive(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        // The writer at the other end of a pipe may still have zeros to write.
        io::copy(&mut input, &mut io::sink()).map_err(archive)?;
        Ok(Place::Passed { documents })
    }

    fn take_in_passing(
        &self,
        path: &ImagePath,
        content: &mut (dyn Read + Send),
    ) -> Result<(), TransferError> {
        // A file that lies under its own digest can be checked at once.
        let expected = Expected { blob: digest_in_name(path).map(BlobId), ..Expected::default() };
        let result = self.store.layers().import(content, expected, true);
        match self.arrived().insert(path.clone(), result) {
            Some(_) => Err(TransferError::Twice { name: shown(path) }),
            None => Ok(()),
        }
    }

    /// Takes in layers, side by side, each once.
    fn take_in(&self, place: &Place, wanted: &[&Wanted]) -> Result<(), TransferError> {
        let mut seen = BTreeSet::new();
        let (first, again): (Vec<&Wanted>, Vec<&Wanted>) =
            wanted.iter().partition(|layer| seen.insert(place.resolve(&layer.path)));
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(first.len());
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), TransferError> {
            while let Some(layer) = first.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.layer(place, layer) {
                    // The others stop at their next layer.
                    next.store(first.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        if threads > 1 {
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
                let results = workers.into_iter().map(|worker| worker.join().expect("no panic on input"));
                results.collect::<Vec<_>>().into_iter().collect::<Result<(), _>>()
            })?;
        } else {
            work()?;
        }
        // The same file named by another image may be expected to be something else there.
        again.into_iter().try_for_each(|layer| self.layer(place, layer).map(drop))
    }

    /// Takes in one layer, or compares what it was when it passed.
    pub(super) fn layer(&self, place: &Place, wanted: &Wanted) -> Result<Imported, TransferError> {
        let name = place.resolve(&wanted.path);
        let known = match self.arrived().get(&name) {
            Some(Ok(imported)) => Some(imported.clone()),
            _ => None,
        };
        if let Some(imported) = known {
            compare(&wanted.path, &imported, wanted.expected)?;
            return Ok(imported);
        }
        if let Some(Err(source)) = self.arrived().remove(&name) {
            return Err(TransferError::Layer { name: shown(&wanted.path), source });
        }
        let missing = || TransferError::Missing { name: shown(&wanted.path), named_by: "image" };
        let (size_bytes, mut content) = place.open(&wanted.path)?.ok_or_else(missing)?;
        if let Some(expected) = wanted.expected.blob_size_bytes
            && expected != size_bytes
        {
            return Err(TransferError::WrongSize { name: shown(&wanted.path), expected, actual: size_bytes });
        }
        let imported = self.store.layers().import(&mut *content, wanted.expected, true);
        let imported =
            imported.map_err(|source| TransferError::Layer { name: shown(&wanted.path), source })?;
        self.arrived().insert(name, Ok(imported.clone()));
        Ok(imported)
    }

    fn record(&self, pending: Vec<Pending>) -> Result<Vec<Loaded>, TransferError> {
        let images = self.store.images();
        let mut loaded: Vec<Loaded> = Vec::new();
        for image in pending {
            let manifest = image.manifest.map(|bytes| self.store.blobs().add(&bytes)).transpose()?;
            let id = images.add(&image.config, manifest)?;
            let names = super::set_names(self.store, image.names, id)?;
            // Docker lists an image once per name.
            match loaded.iter_mut().find(|other| other.image == id) {
                Some(other) => other.names.extend(names),
                None => loaded.push(Loaded { image: id, names }),
            }
        }
        self.store.make_durable()?;
        Ok(loaded)
    }

    /// Whether each layer that came in belongs to an image that came in.
    fn all_asked_for(&self, loaded: &[Loaded]) -> Result<bool, StoreError> {
        let mut needed = BTreeSet::new();
        for loaded in loaded {
            needed.extend(self.store.images().get(loaded.image)?.into_iter().flat_map(|image| image.layers));
        }
        let arrived = self.arrived();
        Ok(arrived.values().flatten().all(|imported| needed.contains(&imported.layer.diff_id)))
    }

    fn arrived(&self) -> std::sync::MutexGuard<'_, BTreeMap<ImagePath, Result<Imported, StoreError>>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an entry of an archive that passes is, by its name and first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Looks {
    Document,
    Layer,
    TooLarge,
    Neither,
}

impl Looks {
    fn of(path: &ImagePath, size_bytes: u64, start: &[u8]) -> Self {
        let name = path.relative();
        let is_tar = start.get(257..262) == Some(b"ustar");
        let is_json = start.first().is_some_and(|first| b"{[ \t\r\n".contains(first));
        let is_packed = name.starts_with(b"blobs/")
            || [&b".tar"[..], b".tar.gz", b".tgz", b".tar.zst"].iter().any(|end| name.ends_with(end))
            || is_tar
            || Compression::detect(start) != Compression::None;
        let is_document = (is_json && !is_tar) || !is_packed;
        match (is_document, size_bytes <= MAX_DOCUMENT_BYTES) {
            (true, true) => Self::Document,
            (true, false) if is_json && (!is_packed || name.ends_with(b".json")) => Self::TooLarge,
            _ if is_packed => Self::Layer,
            _ => Self::Neither,
        }
    }
}

/// The digest that a file is named after: `blobs/sha256/<hex>`.
pub(super) fn digest_in_name(path: &ImagePath) -> Option<Digest> {
    let hex = path.relative().strip_prefix(b"blobs/sha256/")?;
    Digest::from_hex(std::str::from_utf8(hex).ok()?).ok()
}

/// Checks bytes against the digest that they are named after.
pub(super) fn check_digest(path: &ImagePath, bytes: &[u8], expected: Digest) -> Result<(), TransferError> {
    let actual = Digest::of(bytes);
    if actual == expected {
        return Ok(());
    }
    Err(TransferError::Damaged { name: shown(path), expected, actual })
}

/// Reads a config and checks that it lists as many layers as the image has.
pub(super) fn read_config(
    path: &ImagePath,
    bytes: &[u8],
    layers: usize,
) -> Result<ImageConfig, TransferError> {
    let config: ImageConfig = json::read("image config", bytes)
        .map_err(|source| TransferError::Document { name: shown(path), source })?;
    let diff_ids = config.rootfs.diff_ids.len();
    if diff_ids != layers {
        return Err(TransferError::LayerCount { layers, diff_ids });
    }
    Ok(config)
}

/// Compares what came in with what an image expects it to be.
fn compare(path: &ImagePath, imported: &Imported, expected: Expected) -> Result<(), TransferError> {
    let name = || shown(path);
    let diff_id = imported.layer.diff_id;
    // An uncompressed layer is its own blob.
    let (blob, size_bytes) = imported.blob.unwrap_or((BlobId(diff_id.0), imported.layer.tar_size_bytes));
    let checks = [(expected.diff_id.map(|id| id.0), diff_id.0), (expected.blob.map(|id| id.0), blob.0)];
    for (expected, actual) in checks {
        if let Some(expected) = expected
            && expected != actual
        {
            return Err(TransferError::Damaged { name: name(), expected, actual });
        }
    }
    match expected.blob_size_bytes {
        Some(expected) if expected != size_bytes => {
            Err(TransferError::WrongSize { name: name(), expected, actual: size_bytes })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_entries_are_told_by_name_and_first_bytes() {
        let mut tar = vec![b'{'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let blob = "blobs/sha256/abc";
        for (name, size_bytes, start, expected) in [
            ("manifest.json", 10, &b"[{"[..], Looks::Document),
            ("oci-layout", 10, b"{", Looks::Document),
            ("a/VERSION", 3, b"1.0", Looks::Document),
            ("a/json", 10, b"{", Looks::Document),
            ("a/layer.tar", 10_240, b"usr/", Looks::Layer),
            ("abc.tar", 1 << 40, b"usr/", Looks::Layer),
            (blob, 10, b"{\"a\"", Looks::Document),
            (blob, 10_240, &tar, Looks::Layer),
            (blob, 10_240, b"\x1f\x8b", Looks::Layer),
            (blob, 5 << 20, b"{", Looks::Layer),
            ("manifest.json", 5 << 20, b"[", Looks::TooLarge),
            ("README", 5 << 20, b"x", Looks::Neither),
            ("0123abcd", 10_240, &tar, Looks::Layer),
            ("0123abcd", 10_240, b"\x28\xb5\x2f\xfd", Looks::Layer),
            ("0123abcd", 10, b"{\"a\"", Looks::Document),
        ] {
            assert_eq!(Looks::of(&ImagePath::new(name), size_bytes, start), expected, "{name}");
        }
    }
}
