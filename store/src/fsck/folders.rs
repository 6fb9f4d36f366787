//! The store's own folders: modes, owners, and what no row speaks of.
//!
//! May touch: folders of the store, which it only lists. Knows nothing of what files hold.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::blob::foreign;
use super::rows::Snapshot;
use super::{Finding, Severity, Subject};
use crate::archive::{DIRECTORY, lossy};
use crate::digest::{BlobId, DiffId, Digest};
use crate::folder::names_in;
use crate::index::{self, Commit};
use crate::open::FOLDERS;
use crate::{Store, StoreError};

pub(super) fn check(store: &Store, snapshot: &Snapshot) -> Result<Vec<Finding>, StoreError> {
    let mut found = Vec::new();
    for place in FOLDERS {
        found.extend(own(store, place, FileType::Directory));
    }
    found.extend(own(store, "version", FileType::RegularFile));
    let mut strays = Vec::new();
    for folder in ["layers", "blobs/sha256"] {
        for name in names(store, folder)? {
            let digest = Digest::from_hex(&name).ok();
            let known = digest.is_some_and(|digest| match folder {
                "layers" => snapshot.layers.contains_key(&DiffId(digest)),
                _ => snapshot.blobs.contains_key(&BlobId(digest)),
            });
            if !known {
                strays.push((format!("{folder}/{name}"), digest));
            }
        }
    }
    if strays.is_empty() {
        return Ok(found);
    }
    // Whoever publishes holds the write lock: what has no row inside it has none.
    let strays = store.index.write("look for leftovers", Commit::Soon, |transaction| {
        let mut still = Vec::new();
        for (place, digest) in strays {
            let known = match digest {
                None => false,
                Some(digest) if place.starts_with("layers/") => {
                    index::layers::find(transaction, DiffId(digest))?.is_some()
                }
                Some(digest) => index::blobs::find(transaction, BlobId(digest))?.is_some(),
            };
            if !known {
                still.push(place);
            }
        }
        Ok(still)
    })?;
    found.extend(strays.into_iter().map(|place| {
        finding(
            Severity::Garbage,
            place,
            "the index does not speak of it; `rbuild prune` takes it".to_owned(),
        )
    }));
    Ok(found)
}

fn own(store: &Store, place: &str, kind: FileType) -> Option<Finding> {
    let why = match rustix::fs::statat(&store.dir, place, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => foreign(&stat, kind)?,
        Err(Errno::NOENT) => "it is missing".to_owned(),
        Err(errno) => format!("it cannot be looked at: {errno}"),
    };
    Some(finding(Severity::Damage, place.to_owned(), why))
}

fn finding(severity: Severity, place: String, why: String) -> Finding {
    let subject = Subject::Place(place);
    Finding { severity, subject, path: None, why, images: Vec::new(), outcome: None, repaired: false }
}

fn names(store: &Store, folder: &str) -> Result<Vec<String>, StoreError> {
    let path = store.root.join(folder);
    let dir = match rustix::fs::openat(&store.dir, folder, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        other => other.map_err(StoreError::io("list", &path))?,
    };
    let names = names_in(dir.as_fd()).map_err(StoreError::io("list", &path))?;
    Ok(names.iter().map(|name| lossy(name.to_bytes())).collect())
}
