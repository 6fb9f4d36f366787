//! Folders of the store's own: list them, own one for a while, delete a tree by descriptor.
//!
//! Deleting never follows a link and never holds more than a few dozen descriptors: a tree that is
//! deeper is cut, its lower part moved beside the top and deleted from there.
//!
//! May touch: the folders given by descriptor. Knows nothing of what they mean.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::lease::Lease;

/// Where deleting cuts a tree in two.
const CUT_DEPTH: usize = 48;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A folder `<area>/<lease>-<n>`; dropping it deletes it.
#[derive(Debug)]
pub(crate) struct Folder {
    lease: Arc<Lease>,
    /// Below the store's root: `staging/<lease>-<n>`.
    pub(crate) place: String,
    pub(crate) dir: OwnedFd,
}

impl Folder {
    /// Makes an empty one in `area`.
    pub(crate) fn make(lease: &Arc<Lease>, area: &str) -> io::Result<Self> {
        let place = format!("{area}/{}", lease.next_name());
        rustix::fs::mkdirat(&lease.root, &place, Mode::RWXU)?;
        let dir = rustix::fs::openat(&lease.root, &place, DIRECTORY, Mode::empty())?;
        Ok(Self { lease: Arc::clone(lease), place, dir })
    }

    /// Makes a folder inside, with exactly `mode`.
    pub(crate) fn make_inside(&self, name: &str, mode: Mode) -> io::Result<OwnedFd> {
        rustix::fs::mkdirat(&self.dir, name, Mode::RWXU)?;
        let dir = rustix::fs::openat(&self.dir, name, DIRECTORY, Mode::empty())?;
        rustix::fs::fchmod(&dir, mode)?;
        Ok(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let name = CString::new(self.place.as_bytes()).expect("made of hex digits and an area's name");
        // What can't be deleted now belongs to a dead lease soon, and is deleted then.
        drop(remove_tree(self.lease.root.as_fd(), &name));
    }
}

/// The names in an open directory, without `.` and `..`, in no order.
pub(crate) fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    Ok(entries_of(dir)?.into_iter().map(|(name, _)| name).collect())
}

/// The names in an open directory with their types, where the file system tells.
pub(crate) fn entries_of(dir: BorrowedFd<'_>) -> io::Result<Vec<(CString, FileType)>> {
    let mut buffer = Vec::<u8>::with_capacity(32 * 1024);
    let space: &mut [MaybeUninit<u8>] = buffer.spare_capacity_mut();
    let mut listing = RawDir::new(dir, space);
    let mut entries = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            entries.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(entries)
}

/// Deletes `name` in `dir` and all below it; what is not there is fine.
pub(crate) fn remove_tree(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let top = match rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut cut = Cut { top: top.as_fd(), count: 0 };
    empty(top.as_fd(), 0, &mut cut)?;
    let mut done = 0;
    while done < cut.count {
        let part = Cut::name(done);
        if let Ok(below) = rustix::fs::openat(&top, &part, DIRECTORY, Mode::empty()) {
            empty(below.as_fd(), 1, &mut cut)?;
            remove_empty(top.as_fd(), &part)?;
        }
        done += 1;
    }
    remove_empty(dir, name)
}

/// The lower parts of a deep tree, moved beside its top.
struct Cut<'d> {
    top: BorrowedFd<'d>,
    count: u64,
}

impl Cut<'_> {
    fn name(number: u64) -> CString {
        CString::new(format!(".cut-{number}")).expect("has no NUL")
    }

    fn take(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            let part = Self::name(self.count);
            self.count += 1;
            match rustix::fs::renameat(dir, name, self.top, &part) {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                other => return Ok(other?),
            }
        }
    }
}

fn empty(dir: BorrowedFd<'_>, depth: usize, cut: &mut Cut<'_>) -> io::Result<()> {
    for (name, kind) in entries_of(dir)? {
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if depth >= CUT_DEPTH {
            cut.take(dir, &name)?;
            continue;
        }
        match rustix::fs::openat(dir, &name, DIRECTORY, Mode::empty()) {
            Ok(below) => empty(below.as_fd(), depth + 1, cut)?,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        }
        remove_empty(dir, &name)?;
    }
    Ok(())
}

fn remove_empty(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_tree_of_any_depth_goes_and_links_are_not_followed() {
        let outer = tempfile::tempdir().unwrap();
        let canary = outer.path().join("canary");
        std::fs::write(&canary, b"alive").unwrap();
        let top = outer.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let mut dir: OwnedFd = std::fs::File::open(&top).unwrap().into();
        for level in 0..3000 {
            rustix::fs::symlinkat(&canary, &dir, "link").unwrap();
            rustix::fs::symlinkat(outer.path(), &dir, "folder").unwrap();
            let name = if level % 7 == 0 { ".cut-0" } else { "d" };
            rustix::fs::mkdirat(&dir, name, Mode::RWXU).unwrap();
            dir = rustix::fs::openat(&dir, name, DIRECTORY, Mode::empty()).unwrap();
        }
        drop(dir);
        let parent: OwnedFd = std::fs::File::open(outer.path()).unwrap().into();
        remove_tree(parent.as_fd(), &CString::new(top.file_name().unwrap().as_bytes()).unwrap()).unwrap();
        assert!(!top.exists());
        assert_eq!(std::fs::read(&canary).unwrap(), b"alive");
    }
}
