//! The tree while it grows: one method for each thing that an entry can make.
//!
//! What is in an entry's way goes: the last one wins (a directory over a directory keeps its
//! children). Content that the recipe still needs is moved to `displaced/`, not deleted.
//!
//! May touch: the layer's folder. Knows nothing of tar's bytes.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::default_acl;
use super::gaps::{Gaps, flag};
use super::parent::{Parent, is_whiteout};
use crate::OverlayForm;
use crate::archive::read::{Entry, Kind};
use crate::archive::{ArchiveError, DIRECTORY, Time, lossy};
use crate::folder::{entries_of, remove_tree};

type Result<T> = std::result::Result<T, ArchiveError>;

/// A tree that entries are put into.
#[derive(Debug)]
pub(super) struct TreeWriter<'l> {
    layer: BorrowedFd<'l>,
    pub(super) tree: OwnedFd,
    pub(super) overlay: OverlayForm,
    pub(super) umask: u32,
    pub(super) own_ids: (u32, u32),
    pub(super) parent: Option<Parent>,
    pub(super) gaps: Gaps,
    /// Real path, time and default ACL, in order of arrival.
    pub(super) directories: Vec<(Vec<u8>, Time, Option<Vec<u8>>)>,
    /// Files that no content segment of the recipe names.
    without_content: HashSet<Vec<u8>>,
    displaced: Vec<Vec<u8>>,
    flags: u32,
    pub(super) disk_size_bytes: u64,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct OpenFile {
    fd: OwnedFd,
    /// Its real path.
    pub(super) path: Vec<u8>,
}

impl OpenFile {
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("write", &self.path)(errno)),
            }
        }
        Ok(())
    }

    pub(super) fn seek(&mut self, offset: u64) -> Result<()> {
        let to = rustix::fs::SeekFrom::Start(offset);
        rustix::fs::seek(&self.fd, to).map(drop).map_err(failed("write", &self.path))
    }
}

fn failed<E: Into<io::Error>>(doing: &'static str, path: &[u8]) -> impl FnOnce(E) -> ArchiveError {
    move |source| ArchiveError::Entry { doing, path: lossy(path), source: source.into() }
}

impl<'l> TreeWriter<'l> {
    pub(super) fn new(layer: BorrowedFd<'l>, overlay: OverlayForm) -> Result<Self> {
        let start = || -> io::Result<(OwnedFd, u32)> {
            // The one way to learn the umask without changing it for the other threads.
            rustix::fs::mkdirat(layer, "umask", Mode::from_raw_mode(0o777))?;
            let made = rustix::fs::statat(layer, "umask", AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::unlinkat(layer, "umask", AtFlags::REMOVEDIR)?;
            let tree = rustix::fs::openat(layer, "tree", DIRECTORY, Mode::empty())?;
            Ok((tree, !made.st_mode & 0o777))
        };
        let (tree, umask) = start().map_err(failed("start", b"/"))?;
        let own_ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(Self {
            layer,
            tree,
            overlay,
            umask,
            own_ids,
            parent: None,
            gaps: Gaps::default(),
            directories: Vec::new(),
            without_content: HashSet::new(),
            displaced: Vec::new(),
            flags: 0,
            disk_size_bytes: 4096,
        })
    }

    /// The entry of the root itself gives its attributes.
    pub(super) fn set_root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(ArchiveError::BadEntry {
                path: lossy(&entry.path),
                why: "the root can only be a directory",
            });
        }
        let mut set = || -> io::Result<()> {
            let root = rustix::io::fcntl_dupfd_cloexec(&self.tree, 3)?;
            self.finish_by_fd(&root, entry, 0, false)
        };
        set().map_err(failed("set attributes of", b"/"))?;
        self.directories.push((Vec::new(), entry.mtime, default_acl(entry)));
        self.flags |= flag::ROOT_GIVEN;
        Ok(())
    }

    pub(super) fn open_file(&mut self, path: &[&[u8]], entry: &Entry) -> Result<OpenFile> {
        self.enter_parent_of(path)?;
        let name = path[path.len() - 1];
        let real = self.here().child(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let fd = self.make(name, &real, |dir| rustix::fs::openat(dir, name, flags, mode))?;
        Ok(OpenFile { fd, path: real })
    }

    pub(super) fn close_file(&mut self, file: &OpenFile, entry: &Entry) -> Result<()> {
        if entry.size_bytes == 0 {
            self.without_content.insert(file.path.clone());
        }
        let mut finish = || -> io::Result<()> {
            if let Some(sparse) = &entry.sparse {
                rustix::fs::ftruncate(&file.fd, sparse.real_size_bytes)?;
            }
            self.finish_by_fd(&file.fd, entry, entry.mode & 0o777, true)?;
            Ok(rustix::fs::futimens(&file.fd, &entry.mtime.timestamps())?)
        };
        finish().map_err(failed("set attributes of", &file.path))?;
        self.disk_size_bytes += entry.size_bytes.next_multiple_of(4096);
        Ok(())
    }

    pub(super) fn directory(&mut self, path: &[&[u8]], entry: &Entry) -> Result<()> {
        self.enter_parent_of(path)?;
        let name = path[path.len() - 1];
        let real = self.here().child(name);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut hides = false;
        let mut fresh = true;
        let dir = self.here().dir.as_fd();
        match rustix::fs::mkdirat(dir, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                fresh = !self.is_directory(name).map_err(failed("look at", &real))?;
                if fresh {
                    hides = is_whiteout(&self.here().dir, name).map_err(failed("look at", &real))?;
                    self.make(name, &real, |dir| rustix::fs::mkdirat(dir, name, mode))?;
                }
            }
            Err(errno) => return Err(failed("make", &real)(errno)),
        }
        let mut finish = || -> io::Result<Parent> {
            let fd = rustix::fs::openat(&self.here().dir, name, DIRECTORY, Mode::empty())?;
            if hides {
                self.make_opaque(fd.as_fd())?;
            }
            self.finish_by_fd(&fd, entry, entry.mode & 0o777, fresh)?;
            if fresh && self.here().passes_group {
                // The set-group-id bit is inherited.
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(entry.mode))?;
            }
            Parent::new(fd, path.join(&b'/'), real.clone())
        };
        let entered = finish().map_err(failed("set attributes of", &real))?;
        // Its own entries come next, as a rule.
        self.parent = Some(entered);
        self.gaps.directories.remove(&real);
        self.directories.push((real, entry.mtime, default_acl(entry)));
        self.disk_size_bytes += 4096;
        Ok(())
    }

    pub(super) fn symlink(&mut self, path: &[&[u8]], entry: &Entry) -> Result<()> {
        self.enter_parent_of(path)?;
        let name = path[path.len() - 1];
        let real = self.here().child(name);
        self.make(name, &real, |dir| rustix::fs::symlinkat(&entry.link[..], dir, name))?;
        self.finish_by_name(name, entry).map_err(failed("set attributes of", &real))
    }

    pub(super) fn device(&mut self, path: &[&[u8]], entry: &Entry) -> Result<()> {
        if entry.kind == Kind::Character && entry.device == (0, 0) {
            // In overlay form this would be a whiteout, which a tar spells `.wh.`.
            return Err(ArchiveError::BadEntry {
                path: lossy(&entry.path),
                why: "there is no character device 0:0",
            });
        }
        self.enter_parent_of(path)?;
        let name = path[path.len() - 1];
        let real = self.here().child(name);
        let dir = self.duplicate_here(&real)?;
        self.clear_way(name, &real).map_err(failed("replace", &real))?;
        Self::make_node(&dir, name, entry).map_err(failed("make", &real))?;
        self.without_content.insert(real.clone());
        self.finish_by_name(name, entry).map_err(failed("set attributes of", &real))
    }

    /// Links to a file of this layer; one of a lower layer is a gap.
    pub(super) fn hard_link(&mut self, path: &[&[u8]], target: &[&[u8]], entry: &Entry) -> Result<()> {
        let bad = |why| ArchiveError::BadEntry { path: lossy(&entry.path), why };
        let Some((target_name, target_dir)) = target.split_last() else {
            return Err(bad("it is a link to the root"));
        };
        self.enter_parent_of(path)?;
        let name = path[path.len() - 1];
        let real = self.here().child(name);
        let there = self.find_dir(target_dir).map_err(failed("find the target of", &real))?;
        let kind = match &there {
            Some(dir) => kind_of(dir, target_name).map_err(failed("find the target of", &real))?,
            None => None,
        };
        match (there, kind) {
            (_, Some(FileType::Directory)) => Err(bad("it is a hard link to a directory")),
            (Some(dir), Some(_)) => {
                if path == target {
                    return Ok(());
                }
                self.make(name, &real, |here| {
                    rustix::fs::linkat(&dir, *target_name, here, name, AtFlags::empty())
                })?;
                self.without_content.insert(real);
                Ok(())
            }
            _ => {
                self.clear_way(name, &real).map_err(failed("replace", &real))?;
                self.gaps.links.insert(real, target.join(&b'/'));
                Ok(())
            }
        }
    }

    /// Hides `hidden` of lower layers; what this layer itself has there stays.
    pub(super) fn hide(&mut self, path: &[&[u8]], hidden: &[u8], entry: &Entry) -> Result<()> {
        self.enter_parent_of(path)?;
        let dir = &self.here().dir;
        let device = rustix::fs::makedev(0, 0);
        let made = match rustix::fs::mknodat(dir, hidden, FileType::CharacterDevice, Mode::empty(), device) {
            Err(Errno::EXIST) if self.is_directory(hidden).map_err(failed("look at", &entry.path))? => {
                let own = rustix::fs::openat(&self.here().dir, hidden, DIRECTORY, Mode::empty());
                let real = self.here().child(hidden);
                self.gaps.directories.remove(&real);
                own.map_err(io::Error::from).and_then(|own| self.make_opaque(own.as_fd()))
            }
            Err(Errno::EXIST) => Ok(()),
            other => other.map_err(io::Error::from),
        };
        made.map_err(failed("hide", &entry.path))
    }

    /// Hides all that lower layers have in the entry's directory.
    pub(super) fn hide_all(&mut self, path: &[&[u8]], entry: &Entry) -> Result<()> {
        self.enter_parent_of(path)?;
        let here = self.here();
        if here.real.is_empty() {
            self.flags |= flag::OPAQUE_ROOT;
            return Ok(());
        }
        self.make_opaque(here.dir.as_fd()).map_err(failed("hide", &entry.path))
    }

    /// Sets what had to wait, writes the lists beside the tree, and tells the layer's flags.
    pub(super) fn finish(mut self) -> Result<u32> {
        self.parent = None;
        self.finish_directories().map_err(failed("set times of", b"directories"))?;
        let flags = self.flags | self.gaps.flags();
        if self.gaps.flags() != 0 {
            self.gaps.write(self.layer).map_err(failed("note the gaps of", b"the layer"))?;
        }
        if !self.displaced.is_empty() {
            self.write_displaced().map_err(failed("note the replaced files of", b"the layer"))?;
        }
        Ok(flags)
    }

    fn write_displaced(&self) -> io::Result<()> {
        let mut bytes = Vec::new();
        for path in &self.displaced {
            bytes.extend_from_slice(path);
            bytes.push(0);
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.layer, "displaced/list", flags, Mode::RUSR | Mode::WUSR)?;
        io::Write::write_all(&mut std::fs::File::from(file), &bytes)
    }

    fn here(&self) -> &Parent {
        self.parent.as_ref().expect("every entry enters its parent first")
    }

    fn duplicate_here(&self, real: &[u8]) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.here().dir, 3).map_err(failed("make", real))
    }

    fn is_directory(&self, name: &[u8]) -> io::Result<bool> {
        Ok(kind_of(&self.here().dir, name)? == Some(FileType::Directory))
    }

    /// Makes something in the current directory; what is in its way goes first.
    fn make<T>(
        &mut self,
        name: &[u8],
        real: &[u8],
        mut attempt: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Result<T> {
        if !self.gaps.links.is_empty() {
            self.gaps.links.remove(real);
        }
        match attempt(self.here().dir.as_fd()) {
            Err(Errno::EXIST) => {}
            other => return other.map_err(failed("make", real)),
        }
        self.clear_way(name, real).map_err(failed("replace", real))?;
        attempt(self.here().dir.as_fd()).map_err(failed("make", real))
    }

    /// Takes away what has the name, content that the recipe needs put aside.
    fn clear_way(&mut self, name: &[u8], real: &[u8]) -> io::Result<()> {
        let dir = rustix::io::fcntl_dupfd_cloexec(&self.here().dir, 3)?;
        self.gaps.forget(real);
        let Some(kind) = kind_of(&dir, name)? else { return Ok(()) };
        self.put_aside(&dir, name, real, kind)?;
        remove_tree(dir.as_fd(), &CString::new(name)?)
    }

    fn put_aside(&mut self, dir: &OwnedFd, name: &[u8], real: &[u8], kind: FileType) -> io::Result<()> {
        // Whatever its kind: the next file of this name may have content.
        let has_content = !self.without_content.remove(real);
        match kind {
            FileType::RegularFile if has_content => {
                if self.displaced.is_empty() {
                    rustix::fs::mkdirat(self.layer, "displaced", Mode::RWXU)?;
                }
                let place = format!("displaced/{}", self.displaced.len());
                rustix::fs::renameat(dir, name, self.layer, place)?;
                self.displaced.push(real.to_vec());
            }
            FileType::Directory => {
                let below = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
                for (child, kind) in entries_of(below.as_fd())? {
                    let child = child.to_bytes();
                    let kind = if kind == FileType::Unknown {
                        kind_of(&below, child)?.unwrap_or(kind)
                    } else {
                        kind
                    };
                    self.put_aside(&below, child, &super::parent::join(real, child), kind)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn kind_of(dir: &OwnedFd, name: &[u8]) -> io::Result<Option<FileType>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
