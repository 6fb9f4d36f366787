//! Share: files that an older layer has too take no space of their own.
//!
//! ```text
//! file of a new layer ─size, first and last block→ sample ─index→ file of another layer
//!                     ─every byte compared→ FICLONE: both point at the same blocks
//! ```
//! A clone keeps its own inode: owner, mode, times, links and number are what the archive said, and a
//! container that writes into one leaves the other alone. That is why this is done, and only where the
//! file system can do it (XFS, btrfs, bcachefs). Hard links would show in link counts and inode numbers,
//! and join times and owners; `docs/sharing.md` has the numbers.
//!
//! The layer is still private and a sample proves nothing: bytes are compared. What goes wrong here
//! leaves a file as it was, which is right too.
//!
//! May touch: the staged tree, other layers' files for reading. Knows nothing of images and builds.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::place_of;
use crate::digest::{DiffId, Digest, Hasher};
use crate::folder::{Folder, entries_of};
use crate::index::files::FileRow;
use crate::root_dir::{ImagePath, RootDir};
use crate::{Store, StoreError, index};

/// Smaller files share no whole block.
const SMALLEST_BYTES: u64 = 4096;
const BLOCK_BYTES: usize = 4096;

/// What a new layer's files are, and what they did not take.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// For layers that come later.
    pub(super) files: Vec<FileRow>,
    pub(super) saved_bytes: u64,
}

/// Shares what can be shared of the staged `layer` (which holds `tree/`).
pub(super) fn share(store: &Store, folder: &Folder, layer: BorrowedFd<'_>) -> Result<Shared, StoreError> {
    let mut work = Work { store, shared: Shared::default(), seen: HashSet::new() };
    if !can_clone(store, folder) {
        return Ok(work.shared);
    }
    let path = store.root.join(&folder.place);
    work.walk(layer).map_err(StoreError::io("share the files of", path))?;
    Ok(work.shared)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?.into())
}

/// Whether the store's file system clones files. Found out once in a process.
fn can_clone(store: &Store, folder: &Folder) -> bool {
    let try_it = || -> Result<(), Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = |name: &str| -> Result<OwnedFd, Errno> {
            let file = rustix::fs::openat(&folder.dir, name, flags, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::unlinkat(&folder.dir, name, AtFlags::empty())?;
            Ok(file)
        };
        let (from, to) = (file("clone-from")?, file("clone-to")?);
        rustix::fs::ioctl_ficlone(&to, &from)
    };
    *store.can_clone.get_or_init(|| try_it().is_ok())
}

struct Work<'s> {
    store: &'s Store,
    shared: Shared,
    /// Inodes with several names.
    seen: HashSet<u64>,
}

impl Work<'_> {
    fn walk(&mut self, layer: BorrowedFd<'_>) -> io::Result<()> {
        let tree = RootDir::new(rustix::fs::openat(layer, "tree", DIRECTORY, Mode::empty())?);
        let mut waiting = vec![ImagePath::root()];
        while let Some(path) = waiting.pop() {
            let directory = tree.open(&path, DIRECTORY)?;
            for (name, kind) in entries_of(directory.as_fd())? {
                let below = path.join_names(name.to_bytes());
                if kind == FileType::Directory {
                    waiting.push(below);
                } else if kind == FileType::RegularFile {
                    self.take(directory.as_fd(), &name, &below)?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, directory: BorrowedFd<'_>, name: &CStr, path: &ImagePath) -> io::Result<()> {
        let file = open(directory, name, OFlags::RDONLY)?;
        let stat = rustix::fs::fstat(&file)?;
        let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        // Holes are cheaper than shared blocks.
        let is_sparse = u64::try_from(stat.st_blocks).unwrap_or(0) * 512 < size_bytes / 2;
        if size_bytes < SMALLEST_BYTES || is_sparse || (stat.st_nlink > 1 && !self.seen.insert(stat.st_ino)) {
            return Ok(());
        }
        let sample = sample_of(&file, size_bytes)?;
        let candidates = self.store.index.read("look for equal files", |c| index::files::like(c, sample));
        // An index that can't be read shares nothing now, and fails when the layer is recorded.
        for (diff_id, candidate) in candidates.unwrap_or_default() {
            let Ok(from) = open_other(self.store, diff_id, &candidate) else { continue };
            if !is_equal(&from, &file).unwrap_or(false) || !may_be_written(&file, &stat) {
                continue;
            }
            let Ok(to) = open(directory, name, OFlags::WRONLY) else { break };
            let cloned = rustix::fs::ioctl_ficlone(&to, &from);
            rustix::fs::futimens(&to, &times_of(&stat))?;
            if cloned.is_ok() {
                self.shared.saved_bytes += size_bytes;
                break;
            }
        }
        self.shared.files.push(FileRow { sample, path: path.as_bytes().to_vec() });
        Ok(())
    }
}

/// Whether a clone into the file takes nothing away: the kernel drops capabilities and set-id bits of a
/// file that is written (capabilities(7)).
fn may_be_written(file: &File, stat: &Stat) -> bool {
    let mut none = [0_u8; 0];
    stat.st_mode & 0o6000 == 0
        && rustix::fs::fgetxattr(file, "security.capability", &mut none) == Err(Errno::NODATA)
}

fn sample_of(file: &File, size_bytes: u64) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    hasher.update(&size_bytes.to_le_bytes());
    let mut block = [0; BLOCK_BYTES];
    file.read_exact_at(&mut block, 0)?;
    hasher.update(&block);
    file.read_exact_at(&mut block, size_bytes - BLOCK_BYTES as u64)?;
    hasher.update(&block);
    Ok(hasher.finish())
}

fn open_other(store: &Store, diff_id: DiffId, path: &[u8]) -> io::Result<File> {
    let place = format!("{}/tree", place_of(diff_id));
    let tree = RootDir::new(rustix::fs::openat(&store.dir, place, DIRECTORY, Mode::empty())?);
    Ok(tree.open(&ImagePath::new(path), OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?.into())
}

fn is_equal(one: &File, other: &File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    let size_bytes = one.metadata()?.len();
    if size_bytes != other.metadata()?.len() {
        return Ok(false);
    }
    let mut at = 0;
    while at < size_bytes {
        let count = usize::try_from(size_bytes - at).unwrap_or(usize::MAX).min(left.len());
        one.read_exact_at(&mut left[..count], at)?;
        other.read_exact_at(&mut right[..count], at)?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
