//! The directory that entries are made in: found once for neighbours, never through a link.
//!
//! May touch: the tree. Knows nothing of entries' kinds.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::tree::TreeWriter;
use crate::archive::{ArchiveError, DIRECTORY, lossy};
use crate::root_dir::open_by_rules;

const LINK_BUDGET: u32 = 40;
const RULES: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// An open directory of the tree.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) dir: OwnedFd,
    /// As entries name it.
    pub(super) text: Vec<u8>,
    /// Where it really is, when links lie in between.
    pub(super) real: Vec<u8>,
    /// The group that new files get in place of ours (set-group-id directory).
    pub(super) passes_group: bool,
}

impl Parent {
    pub(super) fn new(dir: OwnedFd, text: Vec<u8>, real: Vec<u8>) -> io::Result<Self> {
        let passes_group = rustix::fs::fstat(&dir)?.st_mode & 0o2000 != 0;
        Ok(Self { dir, text, real, passes_group })
    }

    /// The real path of a child.
    pub(super) fn child(&self, name: &[u8]) -> Vec<u8> {
        join(&self.real, name)
    }
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

impl TreeWriter<'_> {
    /// Makes the directory of `path` the current one, with missing directories made.
    pub(super) fn enter_parent_of(&mut self, path: &[&[u8]]) -> Result<(), ArchiveError> {
        let parent = path[..path.len() - 1].join(&b'/');
        if self.parent.as_ref().is_some_and(|known| known.text == parent) {
            return Ok(());
        }
        let failed = |source| ArchiveError::Entry {
            doing: "make the parent of",
            path: lossy(&path.join(&b'/')),
            source,
        };
        self.parent = Some(self.open_parent(parent).map_err(failed)?);
        Ok(())
    }

    fn open_parent(&mut self, text: Vec<u8>) -> io::Result<Parent> {
        let name: &[u8] = if text.is_empty() { b"." } else { &text };
        match rustix::fs::openat2(&self.tree, name, DIRECTORY, Mode::empty(), RULES) {
            Ok(dir) => Parent::new(dir, text.clone(), text),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::AGAIN) => {
                let (dir, real) = self.walk(&text)?;
                Parent::new(dir, text, real)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Goes to a directory step by step: makes what is missing, follows links inside the tree.
    fn walk(&mut self, text: &[u8]) -> io::Result<(OwnedFd, Vec<u8>)> {
        let mut todo: Vec<Vec<u8>> = split(text).rev().map(<[u8]>::to_vec).collect();
        let mut real = Vec::new();
        let mut here = self.reopen(&real)?;
        let mut budget = LINK_BUDGET;
        while let Some(name) = todo.pop() {
            if name == b".." {
                real.truncate(real.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                here = self.reopen(&real)?;
                continue;
            }
            match rustix::fs::openat(&here, &name, DIRECTORY, Mode::empty()) {
                Ok(next) => here = next,
                Err(Errno::NOENT) => here = self.make_implicit(&here, &real, &name, false)?,
                Err(Errno::LOOP | Errno::NOTDIR) => match rustix::fs::readlinkat(&here, &name, Vec::new()) {
                    Ok(target) => {
                        budget = budget.checked_sub(1).ok_or(Errno::LOOP)?;
                        let target = target.into_bytes();
                        if target.starts_with(b"/") {
                            real.clear();
                            here = self.reopen(&real)?;
                        }
                        todo.extend(split(&target).rev().map(<[u8]>::to_vec));
                        continue;
                    }
                    Err(Errno::INVAL) if is_whiteout(&here, &name)? => {
                        rustix::fs::unlinkat(&here, &name, rustix::fs::AtFlags::empty())?;
                        here = self.make_implicit(&here, &real, &name, true)?;
                    }
                    Err(Errno::INVAL) => return Err(Errno::NOTDIR.into()),
                    Err(errno) => return Err(errno.into()),
                },
                Err(errno) => return Err(errno.into()),
            }
            real = join(&real, &name);
        }
        Ok((here, real))
    }

    /// A directory that no entry has described yet.
    fn make_implicit(
        &mut self,
        dir: &OwnedFd,
        real: &[u8],
        name: &[u8],
        opaque: bool,
    ) -> io::Result<OwnedFd> {
        rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
        let made = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
        self.chown_if_needed(&made, 0, 0, true)?;
        if opaque {
            self.make_opaque(made.as_fd())?;
        } else {
            // An opaque one takes nothing from lower layers, not even attributes.
            self.gaps.directories.insert(join(real, name));
        }
        self.disk_size_bytes += 4096;
        Ok(made)
    }

    fn reopen(&self, real: &[u8]) -> io::Result<OwnedFd> {
        open_by_rules(self.tree.as_fd(), if real.is_empty() { b"." } else { real }, DIRECTORY, RULES)
    }

    /// Opens a directory by its real path; `None` when it is no longer there.
    pub(super) fn reopen_if_there(&self, real: &[u8]) -> io::Result<Option<OwnedFd>> {
        let name: &[u8] = if real.is_empty() { b"." } else { real };
        match rustix::fs::openat2(&self.tree, name, DIRECTORY, Mode::empty(), RULES) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Finds the directory of a link's target inside the tree, links followed; `None` when it is not here.
    pub(super) fn find_dir(&self, path: &[&[u8]]) -> io::Result<Option<OwnedFd>> {
        let text = path.join(&b'/');
        let name: &[u8] = if text.is_empty() { b"." } else { &text };
        let rules = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.tree, name, DIRECTORY & !OFlags::NOFOLLOW, Mode::empty(), rules) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

pub(super) fn is_whiteout(dir: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    let stat = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0)
}
