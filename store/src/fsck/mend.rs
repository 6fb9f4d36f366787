//! Mend: whatever can be made again from something that hashes right.
//!
//! ```text
//! layer    its own recipe and tree │ its blob │ its tree, packed once more │ files of other layers
//!          ─unpack→ staging/… ─hash right→ in the layer's place
//! blob     the config in the index │ its layer, packed once more ─hash right→ in the blob's place
//! ```
//! Layers are built beside and swapped, never changed in place; one that is in use stays as it is.
//!
//! May touch: all of the store. Knows nothing of how damage was found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};

use super::layer::chain;
use super::{Outcomes, Severity, Subject, blob, layer, rows};
use crate::archive::DIRECTORY;
use crate::archive::compress::{Packing, compress};
use crate::archive::expected::{ExpectedTree, Made};
use crate::archive::pack::pack_again;
use crate::archive::recipe::{Content, RecipeReader};
use crate::blobs::place_of as place_of_blob;
use crate::digest::{BlobId, DiffId, Digest, HashingReader, ImageId};
use crate::folder::Folder;
use crate::index::{self, Commit, Count};
use crate::layers::place_of;
use crate::root_dir::open_by_rules;
use crate::{Store, StoreError};

/// How many exchanges of files are tried on one layer, each of which reads all of it.
const TRIES: usize = 64;

pub(super) fn mend(store: &Store, damaged: &BTreeSet<Subject>) -> Outcomes {
    let mut outcomes = Outcomes::new();
    // In the order of `Subject`: layers before images and blobs, which are made of them.
    for subject in damaged {
        let mended = match subject {
            Subject::Index => reindex(store),
            Subject::Name(_) => {
                Err("what it pointed at is lost: take it away with `rbuild untag`".to_owned())
            }
            Subject::Image(id) => image(store, *id),
            Subject::Layer(id) => one_layer(store, *id),
            Subject::Blob(id) => one_blob(store, *id),
            Subject::Place(place) => own(store, place),
        };
        let (Ok(outcome) | Err(outcome)) = mended;
        outcomes.insert(subject.clone(), outcome);
    }
    outcomes
}

/// What was done, or why nothing could be done.
type Mended = Result<String, String>;

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(error: StoreError) -> String {
    chain(&error)
}

fn reindex(store: &Store) -> Mended {
    let done = store.index.write("sort the indexes anew", Commit::Durable, |t| t.execute_batch("REINDEX"));
    done.map(|()| "sorted its indexes anew".to_owned()).map_err(text)
}

/// Sets mode and owner of one of the store's own files or folders.
fn own(store: &Store, place: &str) -> Mended {
    let set = || -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&store.dir, place, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) if crate::open::FOLDERS.contains(&place) => {
                return Ok(rustix::fs::mkdirat(&store.dir, place, Mode::RWXU)?);
            }
            other => other?,
        };
        let is_directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_dir();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        Ok(rustix::fs::fchmod(&file, if is_directory { Mode::RWXU } else { Mode::RUSR | Mode::WUSR })?)
    };
    set().map(|()| "set its mode and owner".to_owned()).map_err(|error| error.to_string())
}

fn image(store: &Store, id: ImageId) -> Mended {
    let row = store.index.read("find an image", |c| index::images::find(c, id)).map_err(text)?;
    let Some(mut row) = row else {
        return Err("its config is lost".to_owned());
    };
    let mut outcome = "made its rows anew from its config";
    if Digest::of(&row.config) != id.0 {
        let config = store.blobs().read(BlobId(id.0));
        row.config = config.map_err(|_| "its config is lost: load or build it again".to_owned())?;
        outcome = "took its config from its blob";
    }
    let layers = rows::config(&row).ok_or("its config makes no sense")?.rootfs.diff_ids;
    let written = store.index.write("mend an image", Commit::Durable, |transaction| {
        transaction
            .execute("UPDATE images SET config = ?2 WHERE id = ?1", rusqlite::params![id, row.config])?;
        transaction.execute("DELETE FROM image_layers WHERE image_id = ?1", [id])?;
        let mut size_bytes = 0_u64;
        for (position, layer) in (0_i64..).zip(&layers) {
            let values = rusqlite::params![id, position, layer];
            transaction.execute("INSERT INTO image_layers VALUES (?1, ?2, ?3)", values)?;
            let known = index::layers::find(transaction, *layer)?;
            size_bytes += known.map_or(0, |row| row.layer.tar_size_bytes);
        }
        let values = rusqlite::params![id, Count(size_bytes)];
        transaction.execute("UPDATE images SET size = ?2 WHERE id = ?1", values).map(drop)
    });
    written.map(|()| outcome.to_owned()).map_err(text)
}

/// Whether a layer is whole, as far as a check can say.
fn is_whole(store: &Store, id: DiffId) -> bool {
    let row = store.index.read("look up a layer", |c| index::layers::find(c, id)).ok().flatten();
    let checked = row.and_then(|row| layer::check(store, &row, false).ok());
    checked.is_some_and(|checked| checked.faults.is_empty())
}

fn one_layer(store: &Store, id: DiffId) -> Mended {
    let place = place_of(id);
    for below in ["", "/recipe", "/gaps", "/displaced", "/displaced/list"] {
        // What is not there, or is more than a mode, is made again below.
        own(store, &format!("{place}{below}")).ok();
    }
    if is_whole(store, id) {
        return Ok("set the modes of its own files".to_owned());
    }
    let mut tried = Vec::new();
    match from_itself(store, id) {
        Ok(()) => return Ok("made again from its own recipe and files".to_owned()),
        Err(error) if error.contains("is in use") => return Err(error),
        Err(error) => tried.push(error),
    }
    for (blob, ..) in store.blobs().of_layer(id).map_err(text)? {
        let opened = store.blobs().open(blob).map_err(text);
        match opened.and_then(|mut packed| store.layers().rebuild(&mut *packed, id).map_err(text)) {
            Ok(()) => return Ok(format!("made again from blob {blob}")),
            Err(error) => tried.push(error),
        }
    }
    if from_tree(store, id).is_ok() {
        return Ok("made its recipe again from its tree".to_owned());
    }
    match from_others(store, id) {
        Ok(Some(paths)) => return Ok(format!("took from other layers: {}", paths.join(", "))),
        Ok(None) => {}
        Err(error) => tried.push(error.to_string()),
    }
    Err(format!("nothing that it could be made of is whole: {}", tried.join("; ")))
}

fn open_layer(store: &Store, id: DiffId) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(&store.dir, place_of(id), DIRECTORY, Mode::empty())?)
}

fn reader(store: &Store, id: DiffId) -> io::Result<RecipeReader> {
    RecipeReader::open(open_layer(store, id)?, &store.layers().path_of(id))
}

fn from_itself(store: &Store, id: DiffId) -> Result<(), String> {
    let mut tar = reader(store, id).map_err(|error| error.to_string())?;
    store.layers().rebuild(&mut tar, id).map_err(text)
}

/// A layer that was sealed here has a canonical tar: the tree alone says it.
fn from_tree(store: &Store, id: DiffId) -> Result<(), String> {
    let io_text = |error: io::Error| error.to_string();
    let lease = store.lease().map_err(text)?;
    let folder = Folder::make(&lease, "staging").map_err(io_text)?;
    let layer = open_layer(store, id).map_err(io_text)?;
    for with_root in [false, true] {
        let name = format!("recipe-{with_root}");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder.dir, &name, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|errno| errno.to_string())?);
        let tree = rustix::fs::openat(&layer, "tree", DIRECTORY, Mode::empty());
        let tree = tree.map_err(|errno| errno.to_string())?;
        let digest = pack_again(tree.as_fd(), store.overlay, with_root, &mut file);
        if digest.map_err(|error| chain(&error))? != id.0 {
            continue;
        }
        file.seek(SeekFrom::Start(0)).map_err(io_text)?;
        let layer = rustix::io::fcntl_dupfd_cloexec(&layer, 3).map_err(|errno| errno.to_string())?;
        let tar = RecipeReader::with_recipe(file, layer, &store.layers().path_of(id));
        return store.layers().rebuild(&mut tar.map_err(io_text)?, id).map_err(text);
    }
    Err("its tree is not what it was sealed from".to_owned())
}

/// Exchanges files that may be the damaged ones for those of the same path and size in other layers.
fn from_others(store: &Store, id: DiffId) -> io::Result<Option<Vec<String>>> {
    let expected = ExpectedTree::read(BufReader::new(reader(store, id)?.with_content(Content::Left)))
        .map_err(io::Error::other)?;
    let mut known_bad: Vec<Vec<u8>> = Vec::new();
    let mut offers: BTreeMap<Vec<u8>, Vec<(DiffId, Vec<u8>)>> = BTreeMap::new();
    let own = open_layer(store, id)?;
    let others = store.index.read("list layers", |c| {
        let mut statement = c.prepare("SELECT diff_id FROM layers ORDER BY sequence DESC")?;
        statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<DiffId>>>()
    });
    let others = others.map_err(io::Error::other)?;
    for (path, name) in expected.names.iter().filter(|(_, name)| name.has_content) {
        let Made::Entry(entry) = &expected.inodes[name.inode].made else { continue };
        let size = entry.sparse.as_ref().map_or(entry.size_bytes, |sparse| sparse.real_size_bytes);
        let ours = open_sized(&own, path, size);
        let mut found = Vec::new();
        let siblings = expected.names.iter().filter(|(other, _)| ours.is_none() && *other != path);
        for (sibling, _) in siblings.filter(|(_, other)| other.inode == name.inode) {
            found.push((id, sibling.clone()));
        }
        found.extend(others.iter().filter(|other| **other != id).map(|other| (*other, path.clone())));
        found.retain(|(layer, path)| {
            let theirs = open_layer(store, *layer).ok().and_then(|layer| open_sized(&layer, path, size));
            theirs.is_some_and(|theirs| ours.as_ref().is_none_or(|ours| !are_equal(ours, &theirs)))
        });
        if ours.is_none() {
            known_bad.push(path.clone());
        }
        if !found.is_empty() {
            offers.insert(path.clone(), found);
        }
    }
    for exchange in exchanges(&known_bad, &offers) {
        let make = || -> io::Result<RecipeReader> {
            let mut tar = reader(store, id)?;
            for (path, (layer, place)) in &exchange {
                let file = open_by_rules(
                    open_layer(store, *layer)?.as_fd(),
                    &[b"tree/", &place[..]].concat(),
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK,
                    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
                )?;
                tar.substitute(path.clone(), File::from(file));
            }
            Ok(tar)
        };
        let mut hashed = HashingReader::new(make()?);
        let is_read = io::copy(&mut hashed, &mut io::sink()).is_ok();
        if is_read && hashed.finish().0 == id.0 {
            store.layers().rebuild(&mut make()?, id).map_err(io::Error::other)?;
            return Ok(Some(exchange.keys().map(|path| crate::archive::lossy(path)).collect()));
        }
    }
    Ok(None)
}

type Exchange = BTreeMap<Vec<u8>, (DiffId, Vec<u8>)>;

/// What to try: all that is known to be bad at once, else one suspect after the other.
fn exchanges(known_bad: &[Vec<u8>], offers: &BTreeMap<Vec<u8>, Vec<(DiffId, Vec<u8>)>>) -> Vec<Exchange> {
    if known_bad.is_empty() {
        let single = |(path, found): (&Vec<u8>, &Vec<(DiffId, Vec<u8>)>)| {
            let path = path.clone();
            found
                .clone()
                .into_iter()
                .map(move |offer| Exchange::from([(path.clone(), offer)]))
                .collect::<Vec<_>>()
        };
        return offers.iter().flat_map(single).take(TRIES).collect();
    }
    let most = known_bad.iter().filter_map(|path| offers.get(path)).map(Vec::len).max().unwrap_or(0);
    let turn = |number: usize| -> Option<Exchange> {
        let offer = |path: &Vec<u8>| {
            let found = offers.get(path)?;
            Some((path.clone(), found[number.min(found.len() - 1)].clone()))
        };
        known_bad.iter().map(offer).collect()
    };
    (0..most.min(TRIES)).filter_map(turn).collect()
}

/// Opens a regular file of a layer's tree, if it has this size.
fn open_sized(layer: &OwnedFd, path: &[u8], size_bytes: u64) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(open_by_rules(layer.as_fd(), &[b"tree/", path].concat(), flags, rules).ok()?);
    let found = file.metadata().ok()?;
    (found.is_file() && found.len() == size_bytes).then_some(file)
}

fn are_equal(one: &File, other: &File) -> bool {
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut at = 0;
    loop {
        let Ok(count) = rustix::io::pread(one, &mut left[..], at) else { return false };
        let Ok(same) = rustix::io::pread(other, &mut right[..], at) else { return false };
        if left[..count] != right[..same] {
            return false;
        }
        if count == 0 {
            return true;
        }
        at += count as u64;
    }
}

fn one_blob(store: &Store, id: BlobId) -> Mended {
    let row = store.index.read("look up a blob", |c| index::blobs::find(c, id)).map_err(text)?;
    let Some(row) = row else { return Ok("it went meanwhile".to_owned()) };
    own(store, &place_of_blob(id)).ok();
    if is_blob_whole(store, &row)? {
        return Ok("set its mode and owner".to_owned());
    }
    if let Ok(bytes_read) = size_of_good(store, id) {
        let values = rusqlite::params![id, Count(bytes_read)];
        let set = store.index.write("mend a blob's row", Commit::Durable, |t| {
            t.execute("UPDATE blobs SET size = ?2 WHERE digest = ?1", values)
        });
        return set.map(|_| "set its size in the index".to_owned()).map_err(text);
    }
    if let Ok(Some(config)) = store.images().config_bytes(ImageId(id.0))
        && in_place(store, id, &mut &config[..], Packing::NONE).is_ok()
    {
        return Ok("written again from the index".to_owned());
    }
    let Some(layer) = row.diff_id.filter(|layer| is_whole(store, *layer)) else {
        return Err("nothing here holds its bytes: load the image again from where it came".to_owned());
    };
    let layers = store.layers();
    let mut tar = layers.tar(layer).map_err(text)?;
    if in_place(store, id, &mut *tar, Packing::GZIP).is_ok() {
        return Ok(format!("packed again from layer {layer}"));
    }
    discard(store, id).map_err(text)?;
    Ok(format!("moved away: layer {layer} itself is whole, and is packed anew when it leaves"))
}

fn is_blob_whole(store: &Store, row: &index::blobs::BlobRow) -> Result<bool, String> {
    let checked = blob::check(store, row, false).map_err(text)?;
    Ok(!checked.faults.iter().any(|fault| fault.severity == Severity::Damage))
}

/// The size of a blob whose bytes are right, whatever its row says.
fn size_of_good(store: &Store, id: BlobId) -> Result<u64, StoreError> {
    let mut content = store.blobs().open(id)?;
    io::copy(&mut content, &mut io::sink()).map_err(StoreError::io("read", store.blobs().path_of(id)))
}

/// Packs `plain` and puts it in the blob's place, if it is that blob.
fn in_place(store: &Store, id: BlobId, plain: &mut dyn Read, packing: Packing) -> Result<(), StoreError> {
    let blobs = store.blobs();
    let mut writer = blobs.writer()?;
    compress(plain, &mut writer, packing).map_err(StoreError::io("pack", blobs.path_of(id)))?;
    writer.finish_in_place(id)
}

/// Takes a damaged blob and its row away.
fn discard(store: &Store, id: BlobId) -> Result<(), StoreError> {
    let lease = store.lease()?;
    let trash = Folder::make(&lease, "trash")
        .map_err(StoreError::io("make a folder in", store.root.join("trash")))?;
    store.index.write("drop a damaged blob", Commit::Durable, |transaction| {
        index::blobs::remove(transaction, id).map(drop)
    })?;
    match rustix::fs::renameat(&store.dir, place_of_blob(id), &trash.dir, "blob") {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(StoreError::io("move away", store.blobs().path_of(id))(errno)),
    }
}
