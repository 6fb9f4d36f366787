//! Garbage: what no image, no cached step and no living process needs.
//!
//! ```text
//! lock (flock, exclusive) each tree that could go ─busy? it stays
//! one write transaction, durable: rows out, folders and files renamed into trash/<lease>-<n>
//! unlink
//! ```
//! Whoever publishes does so in a write transaction too, so a folder without a row, seen inside ours,
//! belongs to nobody. A collector that dies leaves a dead lease, and the next process empties its trash.
//!
//! May touch: all of the store's rows, `layers/`, `blobs/`, `stacks/`, `trash/`. Knows nothing of builds.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::{BlobId, DiffId, Digest};
use crate::folder::{Folder, names_in};
use crate::index::{self, Commit, Count};
use crate::layers::place_of;
use crate::{Store, StoreError, blobs};

/// A blob's file without a row may be a moment away from having one; after this it is a leftover.
const LEFTOVER_AGE: Duration = Duration::from_hours(1);

/// What a collection took away, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub layers: Vec<DiffId>,
    pub blobs: Vec<BlobId>,
    pub size_bytes: u64,
}

impl Store {
    /// Takes away layers and blobs that nothing needs; with `keep_cache` a cached step is a need.
    ///
    /// What this process itself has in flight does not count: call it when that is done.
    pub fn collect(&self, keep_cache: bool, dry_run: bool) -> Result<Collected, StoreError> {
        self.held().clear();
        let candidates = self.index.read("find unneeded layers", |c| unneeded_layers(c, keep_cache))?;
        let mut free = Vec::new();
        for (diff_id, size_bytes) in candidates {
            match self.lock_for_removal(diff_id)? {
                Lock::Busy => {}
                Lock::Absent => free.push(Free { diff_id, size_bytes, lock: None }),
                Lock::Taken(lock) => free.push(Free { diff_id, size_bytes, lock: Some(lock) }),
            }
        }
        if dry_run {
            return self.foresee(keep_cache, &free);
        }
        let lease = self.lease()?;
        let trash = Folder::make(&lease, "trash")
            .map_err(StoreError::io("make a folder in", self.root.join("trash")))?;
        let boot_id = self.boot_id()?;
        let mut sweep =
            Sweep { store: self, trash: &trash, boot_id, moved: Vec::new(), found: Collected::default() };
        let swept = self.index.write("remove what nothing needs", Commit::Durable, |transaction| {
            if !keep_cache {
                transaction.execute("DELETE FROM cache", [])?;
            }
            sweep.layers(transaction, &free, keep_cache)?;
            sweep.blobs(transaction, &lease.name)?;
            sweep.strays(transaction)
        });
        if let Err(error) = swept {
            sweep.put_back();
            return Err(error);
        }
        let found = sweep.found;
        // Deletes what was moved; what can't be deleted now goes when this lease is dead.
        drop(trash);
        Ok(found)
    }

    /// What a collection would take.
    fn foresee(&self, keep_cache: bool, free: &[Free]) -> Result<Collected, StoreError> {
        let lease = self.lease()?;
        let blobs = self.index.read("find unneeded blobs", |c| {
            // Asked as if the layers were gone; nothing is committed.
            let transaction = c.unchecked_transaction()?;
            if !keep_cache {
                transaction.execute("DELETE FROM cache", [])?;
            }
            for free in free {
                index::layers::remove(&transaction, free.diff_id)?;
            }
            unneeded_blobs(&transaction, &lease.name)
        })?;
        let size_bytes =
            free.iter().map(|free| free.size_bytes).chain(blobs.iter().map(|(_, size)| *size)).sum();
        Ok(Collected {
            layers: free.iter().map(|free| free.diff_id).collect(),
            blobs: blobs.into_iter().map(|(id, _)| id).collect(),
            size_bytes,
        })
    }

    /// What a collection would take if `change` had been made to the rows; nothing is changed.
    pub(crate) fn foresee_after(
        &self,
        keep_cache: bool,
        change: &mut dyn FnMut(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Collected, StoreError> {
        let lease = self.lease()?;
        self.index.read("find what nothing needs", |connection| {
            // Dropped without a commit.
            let transaction = connection.unchecked_transaction()?;
            change(&transaction)?;
            if !keep_cache {
                transaction.execute("DELETE FROM cache", [])?;
            }
            let layers = unneeded_layers(&transaction, keep_cache)?;
            layers.iter().try_for_each(|(id, _)| index::layers::remove(&transaction, *id).map(drop))?;
            let blobs = unneeded_blobs(&transaction, &lease.name)?;
            Ok(Collected {
                size_bytes: layers
                    .iter()
                    .map(|(_, size)| size)
                    .chain(blobs.iter().map(|(_, size)| size))
                    .sum(),
                layers: layers.into_iter().map(|(id, _)| id).collect(),
                blobs: blobs.into_iter().map(|(id, _)| id).collect(),
            })
        })
    }

    fn lock_for_removal(&self, diff_id: DiffId) -> Result<Lock, StoreError> {
        let place = format!("{}/tree", place_of(diff_id));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tree = match rustix::fs::openat(&self.dir, &place, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Lock::Absent),
            other => other.map_err(StoreError::io("open", self.root.join(&place)))?,
        };
        match rustix::fs::flock(&tree, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock::Taken(tree)),
            Err(Errno::WOULDBLOCK) => Ok(Lock::Busy),
            Err(errno) => Err(StoreError::io("lock", self.root.join(&place))(errno)),
        }
    }
}

/// A layer that nothing needs.
struct Free {
    diff_id: DiffId,
    size_bytes: u64,
    /// Of its tree; none when the row lies.
    lock: Option<OwnedFd>,
}

enum Lock {
    Taken(OwnedFd),
    /// A stack or a process leans on it.
    Busy,
    /// The row lies.
    Absent,
}

/// One collection, inside its transaction.
struct Sweep<'s> {
    store: &'s Store,
    trash: &'s Folder,
    boot_id: &'s str,
    /// Places below the root, in order of their names in the trash.
    moved: Vec<String>,
    found: Collected,
}

impl Sweep<'_> {
    fn layers(
        &mut self,
        transaction: &Transaction<'_>,
        free: &[Free],
        keep_cache: bool,
    ) -> rusqlite::Result<()> {
        // An image or a step may have come to need one since the first look.
        let still: HashSet<DiffId> =
            unneeded_layers(transaction, keep_cache)?.into_iter().map(|(id, _)| id).collect();
        for free in free.iter().filter(|free| still.contains(&free.diff_id)) {
            // A publisher that found our lock may have put its own in the place.
            if self.is_locked(free) {
                index::layers::remove(transaction, free.diff_id)?;
                self.discard(place_of(free.diff_id));
                self.found.layers.push(free.diff_id);
                self.found.size_bytes += free.size_bytes;
            }
        }
        Ok(())
    }

    /// Whether what lies in a layer's place is what was locked.
    fn is_locked(&self, free: &Free) -> bool {
        let place = format!("{}/tree", place_of(free.diff_id));
        let there = rustix::fs::statat(&self.store.dir, place, AtFlags::SYMLINK_NOFOLLOW);
        match (&free.lock, there) {
            (None, Err(Errno::NOENT)) => true,
            (Some(lock), Ok(there)) => rustix::fs::fstat(lock).is_ok_and(|ours| ours.st_ino == there.st_ino),
            _ => false,
        }
    }

    fn blobs(&mut self, transaction: &Transaction<'_>, own_lease: &str) -> rusqlite::Result<()> {
        for (id, size_bytes) in unneeded_blobs(transaction, own_lease)? {
            index::blobs::remove(transaction, id)?;
            self.discard(blobs::place_of(id));
            self.found.blobs.push(id);
            self.found.size_bytes += size_bytes;
        }
        Ok(())
    }

    /// Folders and files that no row speaks of.
    fn strays(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        for hex in self.names("layers") {
            let Ok(digest) = Digest::from_hex(&hex) else { continue };
            if index::layers::find(transaction, DiffId(digest))?.is_none() {
                self.discard(format!("layers/{hex}"));
            }
        }
        for hex in self.names("blobs/sha256") {
            let Ok(digest) = Digest::from_hex(&hex) else { continue };
            let place = format!("blobs/sha256/{hex}");
            if index::blobs::find(transaction, BlobId(digest))?.is_none() && self.is_old(&place) {
                self.discard(place);
            }
        }
        for name in self.names("stacks") {
            let place = format!("stacks/{name}");
            let layers = crate::layers::repaired_stack(&self.store.dir, &place).unwrap_or_default();
            let mut is_whole = !layers.is_empty() && name.ends_with(self.boot_id);
            for diff_id in layers {
                is_whole &= index::layers::find(transaction, diff_id)?.is_some();
            }
            if !is_whole {
                self.discard(place);
            }
        }
        Ok(())
    }

    /// Moves something into the trash; what is not there is gone already.
    fn discard(&mut self, place: String) {
        let name = self.moved.len().to_string();
        if rustix::fs::renameat(&self.store.dir, &place, &self.trash.dir, name).is_ok() {
            self.moved.push(place);
        }
    }

    fn put_back(&self) {
        for (number, place) in self.moved.iter().enumerate() {
            // Nothing better can be done on failure: a row without its folder counts as absent.
            rustix::fs::renameat(&self.trash.dir, number.to_string(), &self.store.dir, place).ok();
        }
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(dir) = rustix::fs::openat(&self.store.dir, folder, flags, Mode::empty()) else {
            return Vec::new();
        };
        let names = names_in(dir.as_fd()).unwrap_or_default();
        names.into_iter().filter_map(|name| name.into_string().ok()).collect()
    }

    fn is_old(&self, place: &str) -> bool {
        let Ok(stat) = rustix::fs::statat(&self.store.dir, place, AtFlags::SYMLINK_NOFOLLOW) else {
            return false;
        };
        let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_ctime).unwrap_or(0));
        SystemTime::now().duration_since(changed).is_ok_and(|age| age > LEFTOVER_AGE)
    }
}

fn unneeded_layers(connection: &Connection, keep_cache: bool) -> rusqlite::Result<Vec<(DiffId, u64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT diff_id, disk_size FROM layers AS l
         WHERE NOT EXISTS (SELECT 1 FROM image_layers WHERE diff_id = l.diff_id)
           AND NOT (?1 AND EXISTS (SELECT 1 FROM cache WHERE layer = l.diff_id))
         ORDER BY sequence",
    )?;
    statement.query_map([keep_cache], |row| Ok((row.get(0)?, row.get::<_, Count>(1)?.0)))?.collect()
}

fn unneeded_blobs(connection: &Connection, own_lease: &str) -> rusqlite::Result<Vec<(BlobId, u64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT digest, size FROM blobs AS b
         WHERE NOT EXISTS (SELECT 1 FROM images WHERE id = b.digest)
           AND NOT EXISTS (SELECT 1 FROM images WHERE manifest = b.digest)
           AND NOT EXISTS (SELECT 1 FROM layers WHERE diff_id = b.diff_id)
           AND NOT EXISTS (SELECT 1 FROM pins WHERE digest = b.digest AND lease <> ?1)
         ORDER BY sequence",
    )?;
    statement.query_map([own_lease], |row| Ok((row.get(0)?, row.get::<_, Count>(1)?.0)))?.collect()
}
