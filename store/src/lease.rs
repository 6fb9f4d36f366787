//! Leases: who works in this store right now.
//!
//! ```text
//! leases/<lease>          locked with flock(2) by the process that works
//! staging/<lease>-<n>/    what it makes
//! scratch/<lease>-<n>/    what its sandboxes write
//! trash/<lease>-<n>/      what it deletes
//! ```
//!
//! The kernel drops the lock when its process dies, however it dies and in whichever pid namespace
//! it lived. So whoever can lock a lease file knows that its owner is gone, and clears what it left:
//! pins first, then folders, the file itself last, so that a cleaner that dies is cleaned up after.
//!
//! May touch: `leases/`, and the leftovers of the dead. Knows nothing of what the folders hold.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::folder::{names_in, remove_tree};

/// The folders whose entries are named after leases.
const AREAS: [&str; 3] = ["staging", "scratch", "trash"];

/// This process's own lease; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) name: String,
    /// Of the store; its own descriptor, for what outlives the `Store` value.
    pub(crate) root: OwnedFd,
    next: AtomicU64,
    /// Holds the lock.
    _file: OwnedFd,
}

impl Lease {
    /// Takes a new lease in the store whose folder is `root`.
    pub(crate) fn take(root: BorrowedFd<'_>) -> io::Result<Self> {
        loop {
            let name = random_name()?;
            let path = file_of(&name);
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = match rustix::fs::openat(root, &path, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::EXIST) => continue,
                other => other?,
            };
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            // A cleaner that came between took the file for a dead one's and unlinked it.
            if rustix::fs::fstat(&file)?.st_nlink > 0 {
                let root = rustix::io::fcntl_dupfd_cloexec(root, 3)?;
                return Ok(Self { name, root, next: AtomicU64::new(0), _file: file });
            }
        }
    }

    /// A name for a folder that belongs to this lease, never given twice.
    pub(crate) fn next_name(&self) -> String {
        format!("{}-{}", self.name, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What can't be unlinked now is a dead lease for the next process that opens the store.
        rustix::fs::unlinkat(&self.root, file_of(&self.name), AtFlags::empty()).ok();
    }
}

/// A lease whose owner is gone; holding the value keeps other cleaners away.
#[derive(Debug)]
pub(crate) struct DeadLease {
    pub(crate) name: String,
    /// None when even the file is gone and only folders are left.
    _lock: Option<OwnedFd>,
}

impl DeadLease {
    /// Deletes the folders that it left, then the lease itself. Pins must be gone by now.
    pub(crate) fn clear(self, root: BorrowedFd<'_>) -> io::Result<()> {
        for area in AREAS {
            let folder = open_folder(root, area)?;
            for name in names_in(folder.as_fd())? {
                if lease_of(&name) == Some(self.name.as_bytes()) {
                    remove_tree(folder.as_fd(), &name)?;
                }
            }
        }
        match rustix::fs::unlinkat(root, file_of(&self.name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Finds the leases whose owners are gone. A few microseconds when there are none.
pub(crate) fn find_dead(root: BorrowedFd<'_>) -> io::Result<Vec<DeadLease>> {
    // Folders are listed before leases: a lease is there before its first folder is.
    let mut owners = Vec::new();
    for area in AREAS {
        for name in names_in(open_folder(root, area)?.as_fd())? {
            owners.extend(lease_of(&name).map(<[u8]>::to_vec));
        }
    }
    let files = names_in(open_folder(root, "leases")?.as_fd())?;
    owners.extend(files.iter().map(|name| name.to_bytes().to_vec()));
    owners.sort();
    owners.dedup();

    let mut dead = Vec::new();
    for name in owners.into_iter().filter_map(|name| String::from_utf8(name).ok()) {
        match try_lock(root, &name)? {
            Attempt::Alive => {}
            Attempt::Locked(file) => dead.push(DeadLease { name, _lock: Some(file) }),
            Attempt::Absent => dead.push(DeadLease { name, _lock: None }),
        }
    }
    Ok(dead)
}

/// Whether the owner of the lease `name` lives.
pub(crate) fn is_alive(root: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    Ok(is_name(name.as_bytes()) && matches!(try_lock(root, name)?, Attempt::Alive))
}

enum Attempt {
    Alive,
    Locked(OwnedFd),
    Absent,
}

fn try_lock(root: BorrowedFd<'_>, name: &str) -> io::Result<Attempt> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::openat(root, file_of(name), flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Attempt::Absent),
        other => other?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Attempt::Locked(file)),
        Err(Errno::WOULDBLOCK) => Ok(Attempt::Alive),
        Err(errno) => Err(errno.into()),
    }
}

fn open_folder(root: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(root, name, flags, Mode::empty())?)
}

fn file_of(name: &str) -> String {
    format!("leases/{name}")
}

/// The lease in a folder's name `<lease>-<n>`.
fn lease_of(folder: &std::ffi::CStr) -> Option<&[u8]> {
    let name = folder.to_bytes().split(|byte| *byte == b'-').next()?;
    is_name(name).then_some(name)
}

fn is_name(name: &[u8]) -> bool {
    name.len() == 16 && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
