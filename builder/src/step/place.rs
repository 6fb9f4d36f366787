//! Puts selected files into a tree: the one engine under COPY, ADD and `--output type=local`.
//!
//! The destination is resolved once, inside its root, links of the image followed; below it names
//! are created by descriptor and never follow a link. Directories merge, anything else is replaced,
//! a file and a directory never silently take each other's place. Content is hashed while it is
//! copied and compared with what the cache key was made from, so a file that changes during the
//! build is an error and never a wrong cache entry. Directory times are set last.
//!
//! May touch: the two trees, by descriptor. Knows nothing of stores, cache keys, Containerfiles.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use store::digest::Hasher;
use store::{ImagePath, RootDir};

use super::chmod::Chmod;
use crate::context::select::{Item, Selected, buffer_size, open_regular};
use crate::context::walk::Stat;
use crate::context::xattrs;

/// How files come out at their destination.
#[derive(Clone, Debug, Default)]
pub struct Placing {
    /// `None` keeps the files' own (a stage or image).
    pub owner: Option<(u32, u32)>,
    pub chmod: Option<Chmod>,
    /// The user named the owner (`--chown`), so that archives lose theirs too.
    pub owner_is_given: bool,
    /// The destination is a folder whatever is there now (trailing slash, several sources).
    pub into_folder: bool,
    /// Each source keeps its path below the destination (`--parents`).
    pub keep_parents: bool,
}

impl Placing {
    /// The owner that the user named.
    pub fn owner_given(&self) -> Option<(u32, u32)> {
        self.owner.filter(|_| self.owner_is_given)
    }
}

/// Why files can't be put in place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("cannot copy directory `{from}` to `{to}`: a file of that name is there")]
    DirectoryOntoFile { from: String, to: String },
    #[error("cannot copy file `{from}` to `{to}`: a directory of that name is there")]
    FileOntoDirectory { from: String, to: String },
    #[error("`{0}` changed while it was copied; build again when it is quiet")]
    Changed(String),
    #[error("cannot {doing} `{path}`")]
    Io { doing: &'static str, path: String, source: io::Error },
}

/// Puts files of one source tree into one destination tree.
#[derive(Debug)]
pub struct Placer<'p> {
    from: &'p RootDir,
    to: &'p RootDir,
    placing: &'p Placing,
    /// Files with several names: (device, inode) → where the first name was put.
    linked: HashMap<(u64, u64), ImagePath>,
}

fn failed(doing: &'static str, path: &ImagePath) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_string();
    move |source| PlaceError::Io { doing, path, source }
}

/// Where an item goes: an open directory, and the name in it.
struct Place<'d> {
    directory: BorrowedFd<'d>,
    name: &'d [u8],
    path: ImagePath,
}

impl<'p> Placer<'p> {
    pub fn new(from: &'p RootDir, to: &'p RootDir, placing: &'p Placing) -> Self {
        Self { from, to, placing, linked: HashMap::new() }
    }

    /// Puts one selected thing at `destination`.
    pub fn place(&mut self, selected: &Selected, destination: &ImagePath) -> Result<(), PlaceError> {
        let target = self.target(selected, destination)?;
        if selected.is_dir {
            self.place_folder(selected, &target)
        } else {
            self.place_file(selected, &target)
        }
    }

    fn target(&self, selected: &Selected, destination: &ImagePath) -> Result<ImagePath, PlaceError> {
        if self.placing.keep_parents {
            return Ok(destination.join(&selected.path));
        }
        let into = self.placing.into_folder || self.is_folder(destination)?;
        Ok(if into && !selected.is_dir { destination.join(&selected.name) } else { destination.clone() })
    }

    fn is_folder(&self, path: &ImagePath) -> Result<bool, PlaceError> {
        match self.to.open(path, OFlags::PATH) {
            Ok(opened) => Ok(Stat::of_open(&opened).map_err(failed("read the state of", path))?.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            Err(error) => Err(failed("open", path)(error)),
        }
    }

    fn place_file(&mut self, selected: &Selected, target: &ImagePath) -> Result<(), PlaceError> {
        let item = &selected.items[0];
        let parent = self.make_parents(&target.parent())?;
        let place = Place {
            directory: parent.as_fd(),
            name: target.file_name().map(OsStrExt::as_bytes).unwrap_or_default(),
            path: target.clone(),
        };
        self.put(item, &place)
    }

    fn make_parents(&self, path: &ImagePath) -> Result<OwnedFd, PlaceError> {
        let owner = self.placing.owner.unwrap_or((0, 0));
        let mut own = |made: BorrowedFd<'_>| chown_open(made, owner);
        let made = self.to.make_dirs(path, 0o755, &mut own);
        made.map_err(|source| match source.kind() {
            io::ErrorKind::NotADirectory => {
                PlaceError::Io { doing: "make directory", path: path.to_string(), source }
            }
            _ => failed("make directory", path)(source),
        })
    }

    /// Puts a folder's contents below `target`, in the order of the walk, with a stack of the open
    /// directories on the way down.
    fn place_folder(&mut self, selected: &Selected, target: &ImagePath) -> Result<(), PlaceError> {
        let (top, rest) = selected.items.split_first().expect("a folder lists itself first");
        let opened = self.make_top(top, target)?;
        let mut open: Vec<(Vec<u8>, OwnedFd, Option<&Item>)> = vec![(Vec::new(), opened, None)];
        for item in rest {
            let (folder, name) = split(&item.relative);
            while open.last().is_some_and(|(path, ..)| path != folder) {
                finish(open.pop())?;
            }
            let (_, directory, _) = open.last().expect("a directory is listed before what is in it");
            let place = Place { directory: directory.as_fd(), name, path: target.join(&item.relative) };
            if item.stat.is_dir() {
                let made = self.make_folder(item, &place)?;
                open.push((item.relative.clone(), made, Some(item)));
            } else {
                self.put(item, &place)?;
            }
        }
        while !open.is_empty() {
            finish(open.pop())?;
        }
        Ok(())
    }

    /// The folder that a folder's contents go into: made like the source, or left as it is.
    fn make_top(&self, item: &Item, target: &ImagePath) -> Result<OwnedFd, PlaceError> {
        if self.is_folder(target)? {
            return self.to.open(target, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed("open", target));
        }
        let parent = self.make_parents(&target.parent())?;
        let name = target.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        let place = Place { directory: parent.as_fd(), name, path: target.clone() };
        match self.make_folder(item, &place) {
            // A link that leads nowhere yet: what it names is made inside the root.
            Err(PlaceError::DirectoryOntoFile { .. }) if is_link(&place) => self.make_parents(target),
            other => other,
        }
    }

    fn make_folder(&self, item: &Item, place: &Place<'_>) -> Result<OwnedFd, PlaceError> {
        match rustix::fs::mkdirat(place.directory, place.name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let there = Stat::of(place.directory, place.name)
                    .map_err(failed("read the state of", &place.path))?;
                if !there.is_dir() {
                    let (from, to) = (item.source.to_string(), place.path.to_string());
                    return Err(PlaceError::DirectoryOntoFile { from, to });
                }
            }
            Err(error) => return Err(failed("make directory", &place.path)(error.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(place.directory, place.name, flags, Mode::empty())
            .map_err(|error| failed("open", &place.path)(error.into()))?;
        self.set_attributes(made.as_fd(), item).map_err(failed("set the attributes of", &place.path))?;
        Ok(made)
    }

    /// Puts anything but a folder in place of whatever is there, except a folder.
    fn put(&mut self, item: &Item, place: &Place<'_>) -> Result<(), PlaceError> {
        let identity = (item.stat.device, item.stat.inode);
        let shared = item.stat.link_count > 1 && item.stat.kind == FileType::RegularFile;
        if let Some(first) = self.linked.get(&identity).filter(|_| shared) {
            return Self::replace(item, place, || self.link(first, place));
        }
        match item.stat.kind {
            FileType::RegularFile => self.put_content(item, place)?,
            FileType::Symlink => {
                let target = item.link.as_deref().unwrap_or_default();
                Self::replace(item, place, || {
                    Ok(rustix::fs::symlinkat(target, place.directory, place.name)?)
                })?;
                self.set_unopened(item, place).map_err(failed("set the attributes of", &place.path))?;
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                let mode = Mode::from_raw_mode(self.mode(item));
                let make = || {
                    Ok(rustix::fs::mknodat(
                        place.directory,
                        place.name,
                        item.stat.kind,
                        mode,
                        item.stat.rdev,
                    )?)
                };
                Self::replace(item, place, make)?;
                self.set_unopened(item, place).map_err(failed("set the attributes of", &place.path))?;
            }
            // A socket has no content to copy; docker skips it too.
            _ => return Ok(()),
        }
        if shared {
            self.linked.insert(identity, place.path.clone());
        }
        Ok(())
    }

    /// Runs `make`; what is there already goes first, unless it is a folder.
    fn replace<T>(item: &Item, place: &Place<'_>, make: impl Fn() -> io::Result<T>) -> Result<T, PlaceError> {
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map_err(failed("create", &place.path)),
        }
        if Stat::of(place.directory, place.name).is_ok_and(|stat| stat.is_dir()) {
            let (from, to) = (item.source.to_string(), place.path.to_string());
            return Err(PlaceError::FileOntoDirectory { from, to });
        }
        rustix::fs::unlinkat(place.directory, place.name, AtFlags::empty())
            .map_err(|error| failed("replace", &place.path)(error.into()))?;
        make().map_err(failed("create", &place.path))
    }

    fn link(&self, first: &ImagePath, place: &Place<'_>) -> io::Result<()> {
        let (directory, name) = self.to.open_parent(first)?;
        Ok(rustix::fs::linkat(&directory, name.as_bytes(), place.directory, place.name, AtFlags::empty())?)
    }

    fn put_content(&self, item: &Item, place: &Place<'_>) -> Result<(), PlaceError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create =
            || Ok(rustix::fs::openat(place.directory, place.name, flags, Mode::from_raw_mode(0o600))?);
        let made = Self::replace(item, place, create)?;
        let from = open_regular(self.from, &item.source).map_err(failed("open", &item.source))?;
        copy_content(from, &made, item, place)?;
        self.set_attributes(made.as_fd(), item)
            .and_then(|()| Ok(rustix::fs::futimens(&made, &times(item))?))
            .map_err(failed("set the attributes of", &place.path))
    }

    /// Owner, then attributes, then mode: `chown(2)` takes set-id bits and capabilities away.
    fn set_attributes(&self, made: BorrowedFd<'_>, item: &Item) -> io::Result<()> {
        chown_open(made, self.placing.owner.unwrap_or((item.stat.uid, item.stat.gid)))?;
        if item.stat.is_dir() {
            if let Ok(source) = self.from.open(&item.source, OFlags::RDONLY | OFlags::DIRECTORY) {
                xattrs::write(made, &xattrs::read(&source)?)?;
            }
        } else if let Some(content) = item.content.as_ref().filter(|content| !content.xattrs.is_empty()) {
            xattrs::write(made, &xattrs::decode(&content.xattrs))?;
        }
        Ok(rustix::fs::fchmod(made, Mode::from_raw_mode(self.mode(item)))?)
    }

    /// The same for what can't be opened: links and nodes.
    fn set_unopened(&self, item: &Item, place: &Place<'_>) -> io::Result<()> {
        let (uid, gid) = self.placing.owner.unwrap_or((item.stat.uid, item.stat.gid));
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(place.directory, place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        if item.stat.kind != FileType::Symlink {
            let mode = Mode::from_raw_mode(self.mode(item));
            rustix::fs::chmodat(place.directory, place.name, mode, AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(place.directory, place.name, &times(item), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn mode(&self, item: &Item) -> u32 {
        match &self.placing.chmod {
            Some(chmod) => chmod.apply(item.stat.mode, item.stat.is_dir()),
            None => item.stat.mode,
        }
    }
}

/// The folder and the name of a relative path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Gives a folder its time, now that nothing more is put into it.
fn finish(folder: Option<(Vec<u8>, OwnedFd, Option<&Item>)>) -> Result<(), PlaceError> {
    let Some((_, directory, Some(item))) = folder else { return Ok(()) };
    rustix::fs::futimens(&directory, &times(item))
        .map_err(|error| failed("set the time of", &item.source)(error.into()))
}

fn is_link(place: &Place<'_>) -> bool {
    Stat::of(place.directory, place.name).is_ok_and(|stat| stat.kind == FileType::Symlink)
}

fn chown_open(made: BorrowedFd<'_>, (uid, gid): (u32, u32)) -> io::Result<()> {
    Ok(rustix::fs::fchown(made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

fn times(item: &Item) -> Timestamps {
    let (tv_sec, nanoseconds) = item.stat.mtime;
    let mtime = Timespec { tv_sec, tv_nsec: i64::from(nanoseconds) };
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Copies and hashes; the hash must be the one that the cache key was made from.
fn copy_content(from: OwnedFd, to: &OwnedFd, item: &Item, place: &Place<'_>) -> Result<(), PlaceError> {
    let mut from = File::from(from);
    let mut to = File::from(to.try_clone().map_err(failed("write", &place.path))?);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; buffer_size(item.stat.size_bytes)];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("read", &item.source)(error)),
        };
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count]).map_err(failed("write", &place.path))?;
    }
    let expected = item.content.as_ref().map(|content| content.digest);
    if expected.is_some_and(|expected| expected != hasher.finish()) {
        return Err(PlaceError::Changed(item.source.to_string()));
    }
    Ok(())
}
