//! Packs a tree as a tar; an upper directory only as the hash and the recipe of one.
//!
//! The form is canonical: the same tree gives the same bytes on every machine.
//!
//! - depth first, names in byte order, and in each directory first what is hidden, then the rest;
//! - numbers only: uid, gid, mode, whole seconds; no names of users, no access times;
//! - ustar headers; PAX records, sorted by key, only for what ustar can't say; two zero blocks end it;
//! - a file's further names are hard links to the first one in this order.
//!
//! Times are cut to seconds as docker does, in the tar and in the tree alike, so that a layer that is
//! built and the same layer pulled are one. Overlay's bookkeeping is taken off an upper directory;
//! sockets, which no tar can hold, go. The root itself has an entry only when its mode or owner changed.
//!
//! May touch: the directory given. Knows nothing of the store.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::unpack::{DEVICE_XATTR, is_carried};
use super::{ArchiveError, DIRECTORY, LIMITS, lossy, whiteout};
use crate::OverlayForm;
use crate::digest::Digest;
use crate::folder::entries_of;
use crate::root_dir::open_by_rules;

mod header;
mod out;
pub(crate) mod place;

use header::{Header, Kind};
use out::{HashAndRecipe, Sink, Stream};
pub(crate) use place::Place;

/// Directories kept open on the way down; those above are opened again on the way up.
const OPEN_DEPTH: usize = 128;
const READ_BYTES: usize = 256 << 10;

/// What came of a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedTree {
    pub(crate) digest: Digest,
    pub(crate) tar_size_bytes: u64,
    pub(crate) disk_size_bytes: u64,
    pub(crate) entry_count: u64,
}

type Result<T> = std::result::Result<T, ArchiveError>;

/// Packs an upper directory into a recipe: one walk, which also puts the tree in order.
pub(crate) fn pack(
    upper: BorrowedFd<'_>,
    overlay: OverlayForm,
    clamp_mtime_seconds: Option<i64>,
    with_root: bool,
    recipe: impl Write,
) -> Result<PackedTree> {
    let mut out = HashAndRecipe::new(recipe).map_err(failed("pack", b"/"))?;
    let mut packer = Packer::new(upper, Some(overlay), &mut out);
    packer.clamp_mtime_seconds = clamp_mtime_seconds;
    packer.walk(with_root)?;
    let (disk_size_bytes, entry_count) = (packer.disk_size_bytes, packer.entry_count);
    let hasher = out.finish().map_err(failed("pack", b"/"))?;
    let tar_size_bytes = hasher.count_bytes();
    Ok(PackedTree { digest: hasher.finish(), tar_size_bytes, disk_size_bytes, entry_count })
}

/// Writes the recipe of a tree that was packed before; the tree is only read.
pub(crate) fn pack_again(
    tree: BorrowedFd<'_>,
    overlay: OverlayForm,
    with_root: bool,
    recipe: impl Write,
) -> Result<Digest> {
    let mut out = HashAndRecipe::new(recipe).map_err(failed("pack", b"/"))?;
    let mut packer = Packer::new(tree, Some(overlay), &mut out);
    packer.changes = false;
    packer.walk(with_root)?;
    Ok(out.finish().map_err(failed("pack", b"/"))?.finish())
}

/// Writes any tree (a mounted stack, say) as a tar in the same form; the tree is only read.
pub fn pack_tree(tree: &OwnedFd, out: &mut dyn Write) -> io::Result<()> {
    let mut stream = Stream(out);
    Packer::new(tree.as_fd(), None, &mut stream).walk(false).map_err(io::Error::other)
}

struct Packer<'u, S: Sink> {
    tree: BorrowedFd<'u>,
    /// Of an upper directory, which is changed to fit its tar; `None` leaves the tree alone.
    upper: Option<OverlayForm>,
    /// Whether an upper directory is put in order on the way.
    changes: bool,
    clamp_mtime_seconds: Option<i64>,
    out: &'u mut S,
    /// Of files with several names: inode → the name that has the content.
    first_names: HashMap<u64, Vec<u8>>,
    buffer: Vec<u8>,
    disk_size_bytes: u64,
    entry_count: u64,
}

/// A directory on the way down.
struct Frame {
    dir: Option<OwnedFd>,
    /// Without slashes around it; empty for the root.
    path: Vec<u8>,
    /// In reverse order.
    names: Vec<(Vec<u8>, FileType)>,
    /// Set when its children are done: what is made or taken off inside would change it.
    mtime: Option<i64>,
}

impl<'u, S: Sink> Packer<'u, S> {
    fn new(tree: BorrowedFd<'u>, upper: Option<OverlayForm>, out: &'u mut S) -> Self {
        Self {
            tree,
            upper,
            changes: upper.is_some(),
            clamp_mtime_seconds: None,
            out,
            first_names: HashMap::new(),
            buffer: vec![0; READ_BYTES],
            disk_size_bytes: 4096,
            entry_count: 0,
        }
    }

    fn walk(&mut self, with_root: bool) -> Result<()> {
        let root = self.open_dir(b"").map_err(failed("open", b"/"))?;
        let mut root_seconds = None;
        if with_root {
            let mut header = Header::new(b"./", Kind::Directory);
            self.describe(&mut header, &rustix::fs::fstat(&root).map_err(failed("look at", b"/"))?);
            root_seconds = Some(header.mtime_seconds);
            self.put(&header)?;
        }
        let mut stack = vec![self.frame(root, Vec::new(), None)?];
        while let Some(mut frame) = stack.pop() {
            let dir = match frame.dir.take() {
                Some(dir) => dir,
                None => self.open_dir(&frame.path).map_err(failed("open", &frame.path))?,
            };
            let Some((name, kind)) = frame.names.pop() else {
                if let (Some(seconds), true) = (frame.mtime.or(root_seconds), self.changes) {
                    set_mtime(dir.as_fd(), seconds).map_err(failed("set the time of", &frame.path))?;
                }
                continue;
            };
            let path = join(&frame.path, &name);
            let below = self.take(&dir, &name, kind, path)?;
            frame.dir = Some(dir);
            stack.push(frame);
            if let Some(below) = below {
                stack.push(below);
                if let Some(above) = stack.len().checked_sub(OPEN_DEPTH) {
                    stack[above].dir = None;
                }
            }
        }
        self.out.literal(&[0; 1024]).map_err(failed("pack", b"/"))
    }

    fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        use rustix::fs::ResolveFlags;
        let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        open_by_rules(self.tree, if path.is_empty() { b"." } else { path }, DIRECTORY, rules)
    }

    /// Lists a directory, whiteouts first, and writes those.
    fn frame(&mut self, dir: OwnedFd, path: Vec<u8>, mtime: Option<i64>) -> Result<Frame> {
        let list = || -> io::Result<Vec<(Vec<u8>, FileType)>> {
            let mut names = Vec::new();
            for (name, kind) in entries_of(dir.as_fd())? {
                let name = name.into_bytes();
                let kind = if kind == FileType::Unknown {
                    FileType::from_raw_mode(
                        rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode,
                    )
                } else {
                    kind
                };
                names.push((name, kind));
            }
            Ok(names)
        };
        let mut names = list().map_err(failed("list", &path))?;
        names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut rest = Vec::with_capacity(names.len());
        for (name, kind) in names {
            if kind == FileType::CharacterDevice
                && Self::is_whiteout(&dir, &name).map_err(failed("look at", &path))?
            {
                self.mark(&join(&path, &[whiteout::PREFIX, &name].concat()), mtime.unwrap_or(0))?;
            } else {
                rest.push((name, kind));
            }
        }
        rest.reverse();
        Ok(Frame { dir: Some(dir), path, names: rest, mtime })
    }

    fn is_whiteout(dir: &OwnedFd, name: &[u8]) -> io::Result<bool> {
        Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_rdev == 0)
    }

    /// A `.wh.` file; its time says nothing, so it takes its directory's.
    fn mark(&mut self, path: &[u8], seconds: i64) -> Result<()> {
        let mut header = Header::new(path, Kind::File);
        header.mtime_seconds = seconds;
        self.put(&header)
    }

    /// Writes one entry; a directory gives the frame of its children.
    fn take(&mut self, dir: &OwnedFd, name: &[u8], kind: FileType, path: Vec<u8>) -> Result<Option<Frame>> {
        if path.len() as u64 > LIMITS.path_bytes {
            return Err(ArchiveError::TooMuch { what: "bytes of a path", limit: LIMITS.path_bytes });
        }
        if name.starts_with(whiteout::PREFIX) {
            let why = "names that start with `.wh.` mean something else in layers";
            return Err(ArchiveError::BadEntry { path: lossy(&path), why });
        }
        match kind {
            FileType::RegularFile => self.file(dir, name, &path).map(|()| None),
            FileType::Directory => self.directory(dir, name, path).map(Some),
            FileType::Socket if !self.changes => Ok(None),
            FileType::Socket => {
                let gone = rustix::fs::unlinkat(dir, name, AtFlags::empty());
                gone.map_err(failed("remove socket", &path)).map(|()| None)
            }
            _ => self.other(dir, name, kind, &path).map(|()| None),
        }
    }

    fn directory(&mut self, dir: &OwnedFd, name: &[u8], path: Vec<u8>) -> Result<Frame> {
        let mut header = Header::new(&[&path[..], b"/"].concat(), Kind::Directory);
        let read = |packer: &mut Self, header: &mut Header| -> io::Result<(OwnedFd, bool)> {
            let below = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
            packer.describe(header, &rustix::fs::fstat(&below)?);
            let hides = packer.take_xattrs(&Place::Open(below.as_fd()), header)?;
            Ok((below, hides))
        };
        let (below, hides) = read(self, &mut header).map_err(failed("read", &path))?;
        let mtime = header.mtime_seconds;
        self.disk_size_bytes += 4096;
        self.put(&header)?;
        if hides {
            self.mark(&join(&path, whiteout::OPAQUE), mtime)?;
        }
        self.frame(below, path, Some(mtime))
    }

    fn file(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let open = || -> io::Result<(OwnedFd, Stat)> {
            let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&file)?;
            Ok((file, stat))
        };
        let (file, stat) = open().map_err(failed("open", path))?;
        let mut header = Header::new(path, Kind::File);
        if stat.st_nlink > 1 {
            if let Some(first) = self.first_names.get(&stat.st_ino) {
                header.kind = Kind::HardLink;
                header.link.clone_from(first);
                self.describe(&mut header, &stat);
                return self.put(&header);
            }
            self.first_names.insert(stat.st_ino, path.to_vec());
        }
        self.describe(&mut header, &stat);
        self.take_xattrs(&Place::Open(file.as_fd()), &mut header).map_err(failed("read", path))?;
        if matches!(header.kind, Kind::File) {
            header.size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        }
        self.disk_size_bytes += header.size_bytes.next_multiple_of(4096);
        self.put(&header)?;
        if header.size_bytes > 0 {
            self.content(&file, path, header.size_bytes).map_err(failed("read", path))?;
        }
        if self.changes && needs_time(&stat, header.mtime_seconds) {
            set_mtime(file.as_fd(), header.mtime_seconds).map_err(failed("set the time of", path))?;
        }
        Ok(())
    }

    fn content(&mut self, file: &OwnedFd, path: &[u8], size_bytes: u64) -> io::Result<()> {
        self.out.begin_content(path, size_bytes)?;
        let mut left = size_bytes;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
            match rustix::io::read(file, &mut self.buffer[..most]) {
                Ok(0) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter meanwhile"));
                }
                Ok(count) => {
                    self.out.content(&self.buffer[..count])?;
                    left -= count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let padding = usize::try_from(super::read::padded(size_bytes) - size_bytes).expect("is below 512");
        self.out.literal(&[0; 512][..padding])
    }

    /// Links, devices and fifos.
    fn other(&mut self, dir: &OwnedFd, name: &[u8], kind: FileType, path: &[u8]) -> Result<()> {
        let mut header = Header::new(path, Kind::Symlink);
        let read = |packer: &mut Self, header: &mut Header| -> io::Result<Stat> {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            packer.describe(header, &stat);
            header.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            header.kind = match kind {
                FileType::Symlink => Kind::Symlink,
                FileType::CharacterDevice => Kind::Character,
                FileType::BlockDevice => Kind::Block,
                FileType::Fifo => Kind::Fifo,
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::Unsupported,
                        "it is of a kind that no tar knows",
                    ));
                }
            };
            if kind == FileType::Symlink {
                header.link = rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes();
                header.mode = 0o777;
            }
            packer.take_xattrs(&Place::Named(dir.as_fd(), name), header)?;
            Ok(stat)
        };
        let stat = read(self, &mut header).map_err(failed("read", path))?;
        if stat.st_nlink > 1 {
            if let Some(first) = self.first_names.get(&stat.st_ino) {
                header.kind = Kind::HardLink;
                header.link.clone_from(first);
                header.xattrs.clear();
                return self.put(&header);
            }
            self.first_names.insert(stat.st_ino, path.to_vec());
        }
        if self.changes && needs_time(&stat, header.mtime_seconds) {
            let time = super::Time { seconds: header.mtime_seconds, nanoseconds: 0 };
            rustix::fs::utimensat(dir, name, &time.timestamps(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("set the time of", path))?;
        }
        self.put(&header)
    }

    fn describe(&self, header: &mut Header, stat: &Stat) {
        header.mode = stat.st_mode & 0o7777;
        header.uid = stat.st_uid;
        header.gid = stat.st_gid;
        header.mtime_seconds =
            self.clamp_mtime_seconds.map_or(stat.st_mtime, |clamp| stat.st_mtime.min(clamp));
    }

    /// Puts the content's own attributes into the header, takes overlay's off the tree, and tells
    /// whether a directory is opaque.
    fn take_xattrs(&self, place: &Place<'_>, header: &mut Header) -> io::Result<bool> {
        let mut is_opaque = false;
        for name in place.xattrs()? {
            if self.upper.is_some_and(|form| name == form.opaque_xattr().as_bytes()) {
                is_opaque = place.xattr(&name)? == b"y";
            } else if let (Some(kind), Some(_)) = (overlay_name(&name), self.upper) {
                if matches!(kind, b"redirect" | b"metacopy") {
                    let why = "overlayfs moved or copied it by reference, which a layer can't hold";
                    return Err(io::Error::new(io::ErrorKind::Unsupported, why));
                }
                if self.changes {
                    place.remove(&name)?;
                }
            } else if name == DEVICE_XATTR.as_bytes() {
                header.become_device(&place.xattr(&name)?);
            } else if is_carried(&name) {
                header.xattrs.push((name.clone(), place.xattr(&name)?));
            }
        }
        header.xattrs.sort_unstable();
        Ok(is_opaque)
    }

    fn put(&mut self, header: &Header) -> Result<()> {
        self.entry_count += 1;
        self.out.literal(&header.bytes()).map_err(failed("write the recipe of", &header.path))
    }
}

fn overlay_name(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(b"trusted.overlay.").or_else(|| name.strip_prefix(b"user.overlay."))
}

fn needs_time(stat: &Stat, seconds: i64) -> bool {
    stat.st_mtime_nsec != 0 || stat.st_mtime != seconds
}

fn set_mtime(fd: BorrowedFd<'_>, seconds: i64) -> io::Result<()> {
    let time = super::Time { seconds, nanoseconds: 0 };
    Ok(rustix::fs::futimens(fd, &time.timestamps())?)
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn failed<E: Into<io::Error>>(doing: &'static str, path: &[u8]) -> impl FnOnce(E) -> ArchiveError {
    move |source| ArchiveError::Entry { doing, path: lossy(path), source: source.into() }
}
