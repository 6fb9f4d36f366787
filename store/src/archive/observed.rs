//! The tree as it lies on disk, and where it differs from the one its tar means.
//!
//! A file system may round a time or refuse an attribute, and unpacking tolerates that. So before a
//! difference counts, the same entry is made once more elsewhere: what comes out alike is no damage.
//!
//! May touch: the tree given, which it only reads. Knows nothing of the store's layout.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::expected::{ExpectedTree, Inode, Made};
use super::pack::place::Place;
use super::read::{Entry, Kind};
use super::unpack::{DEVICE_XATTR, is_carried};
use super::{DIRECTORY, Time, lossy};
use crate::OverlayForm;
use crate::folder::entries_of;
use crate::root_dir::open_by_rules;

const RULES: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// What `lstat` and its kin say of one name.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    kind: FileType,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Time,
    pub(crate) size_bytes: u64,
    device: (u32, u32),
    link_count: u64,
    inode: u64,
    link: Vec<u8>,
    /// Sorted by name.
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One difference: where, and in what.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Without a leading slash; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) why: String,
}

/// Everything below `tree`, and the tree itself under the empty name.
pub(crate) fn observe(tree: BorrowedFd<'_>) -> io::Result<BTreeMap<Vec<u8>, Facts>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![Vec::new()];
    let root = open_by_rules(tree, b".", DIRECTORY, RULES)?;
    found.insert(Vec::new(), facts_of(&root, b".")?);
    drop(root);
    while let Some(path) = todo.pop() {
        let dir = open_by_rules(tree, if path.is_empty() { b"." } else { &path }, DIRECTORY, RULES)?;
        for (name, _) in entries_of(dir.as_fd())? {
            let name = name.to_bytes();
            let child = if path.is_empty() { name.to_vec() } else { [&path[..], b"/", name].concat() };
            let facts = facts_of(&dir, name)?;
            if facts.kind == FileType::Directory {
                todo.push(child.clone());
            }
            found.insert(child, facts);
        }
    }
    Ok(found)
}

/// Looks at one name in `dir`.
fn facts_of(dir: &OwnedFd, name: &[u8]) -> io::Result<Facts> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let place = Place::Named(dir.as_fd(), name);
    let mut xattrs = Vec::new();
    for key in place.xattrs()? {
        let value = place.xattr(&key)?;
        xattrs.push((key, value));
    }
    xattrs.sort_unstable();
    let link = match kind {
        FileType::Symlink => rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    Ok(Facts {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        link_count: stat.st_nlink,
        inode: stat.st_ino,
        link,
        xattrs,
    })
}

impl Facts {
    fn is_whiteout(&self) -> bool {
        self.kind == FileType::CharacterDevice && self.device == (0, 0)
    }

    /// What it is in a tar: an empty file may stand for a device.
    fn meaning(&self) -> (Option<Kind>, (u32, u32)) {
        let kind = match self.kind {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            _ => return (None, (0, 0)),
        };
        if kind == Kind::File
            && let Some(device) = self.xattr(DEVICE_XATTR.as_bytes()).and_then(parse_device)
        {
            return device;
        }
        let device = if matches!(kind, Kind::Character | Kind::Block) { self.device } else { (0, 0) };
        (Some(kind), device)
    }

    fn xattr(&self, name: &[u8]) -> Option<&[u8]> {
        self.xattrs.iter().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }

    fn carried(&self) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
        self.xattrs.iter().filter(|(name, _)| is_carried(name))
    }

    /// Overlay's own attributes but the opaque mark.
    fn overlay_marks(&self, form: OverlayForm) -> impl Iterator<Item = &[u8]> {
        let prefix: &[u8] = match form {
            OverlayForm::Trusted => b"trusted.overlay.",
            OverlayForm::User => b"user.overlay.",
        };
        let opaque = form.opaque_xattr().as_bytes();
        let names = self.xattrs.iter().map(|(name, _)| &name[..]);
        names.filter(move |name| name.starts_with(prefix) && *name != opaque)
    }
}

/// `c 1 3`
fn parse_device(text: &[u8]) -> Option<(Option<Kind>, (u32, u32))> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    let kind = match words.next()? {
        "c" => Kind::Character,
        "b" => Kind::Block,
        _ => return None,
    };
    Some((Some(kind), (words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
}

/// Compares a tree with the one that is expected.
#[derive(Debug)]
pub(crate) struct Comparison<'e, P> {
    pub(crate) expected: &'e ExpectedTree,
    pub(crate) found: &'e BTreeMap<Vec<u8>, Facts>,
    pub(crate) form: OverlayForm,
    /// Makes an entry once more and says what came of it.
    pub(crate) probe: P,
    pub(crate) differences: Vec<Difference>,
}

impl<P: FnMut(&Entry) -> io::Result<Facts>> Comparison<'_, P> {
    pub(crate) fn run(mut self) -> io::Result<Vec<Difference>> {
        let counts = self.expected.link_counts();
        let mut first: BTreeMap<usize, (&[u8], u64)> = BTreeMap::new();
        for (path, name) in &self.expected.names {
            let inode = &self.expected.inodes[name.inode];
            let Some(facts) = self.found.get(path) else {
                let what = if matches!(inode.made, Made::Whiteout) { "the whiteout" } else { "it" };
                self.differ(path, format!("{what} is missing"));
                continue;
            };
            self.inode(path, inode, facts)?;
            if matches!(inode.made, Made::Whiteout) || facts.kind == FileType::Directory {
                continue;
            }
            let (first_path, first_inode) = *first.entry(name.inode).or_insert((path, facts.inode));
            if first_inode != facts.inode {
                self.differ(path, format!("it is no longer the same file as `{}`", lossy(first_path)));
            } else if facts.link_count != counts[name.inode] {
                let (found, expected) = (facts.link_count, counts[name.inode]);
                self.differ(path, format!("it has {found} names, not {expected}"));
            }
        }
        self.root()?;
        let names = &self.expected.names;
        for (path, _) in self.found.iter().filter(|(path, _)| !path.is_empty() && !names.contains_key(*path))
        {
            self.differ(path, "the layer has no such entry".to_owned());
        }
        Ok(self.differences)
    }

    fn differ(&mut self, path: &[u8], why: String) {
        self.differences.push(Difference { path: path.to_vec(), why });
    }

    fn root(&mut self) -> io::Result<()> {
        let Some(facts) = self.found.get(&Vec::new()) else { return Ok(()) };
        if let Some(root) = &self.expected.root
            && let Some(why) = self.attributes(root, Some(root.mtime), facts, true)?
        {
            self.differ(b"", why);
        }
        // The kernel leaves notes of its own on the root of an upper directory; these two change what is seen.
        let is_bad = |mark: &&[u8]| mark.ends_with(b".redirect") || mark.ends_with(b".metacopy");
        let mark = facts.overlay_marks(self.form).find(is_bad).map(lossy);
        if let Some(mark) = mark {
            self.differ(b"", format!("it has the attribute `{mark}`"));
        }
        Ok(())
    }

    fn inode(&mut self, path: &[u8], inode: &Inode, facts: &Facts) -> io::Result<()> {
        if let Made::Whiteout = inode.made {
            if !facts.is_whiteout() {
                self.differ(path, "it is no whiteout".to_owned());
            }
            return Ok(());
        }
        if facts.is_whiteout() {
            self.differ(path, "it is a whiteout".to_owned());
            return Ok(());
        }
        let opaque = facts.xattr(self.form.opaque_xattr().as_bytes());
        if (opaque == Some(b"y")) != inode.is_opaque || opaque.is_some_and(|value| value != b"y") {
            let why = if inode.is_opaque { "its opaque mark is missing" } else { "it has an opaque mark" };
            self.differ(path, why.to_owned());
        }
        if let Some(mark) = facts.overlay_marks(self.form).map(lossy).next() {
            self.differ(path, format!("it has the attribute `{mark}`"));
        }
        let why = match &inode.made {
            Made::Entry(entry) => self.attributes(entry, inode.mtime, facts, false)?,
            _ => parent_difference(facts),
        };
        if let Some(why) = why {
            self.differ(path, why);
        }
        Ok(())
    }

    /// The first difference between what an entry says and what is there.
    fn attributes(
        &mut self,
        entry: &Entry,
        mtime: Option<Time>,
        facts: &Facts,
        is_root: bool,
    ) -> io::Result<Option<String>> {
        let (kind, device) = facts.meaning();
        if kind != Some(entry.kind) {
            return Ok(Some(format!("it is {}, not {}", word(kind), word(Some(entry.kind)))));
        }
        let real_size = entry.sparse.as_ref().map_or(entry.size_bytes, |sparse| sparse.real_size_bytes);
        let devices = matches!(entry.kind, Kind::Character | Kind::Block);
        if devices && device != entry.device {
            let (found, expected) = (device, entry.device);
            return Ok(Some(format!(
                "it is device {}:{}, not {}:{}",
                found.0, found.1, expected.0, expected.1
            )));
        }
        if facts.kind == FileType::RegularFile && facts.size_bytes != real_size {
            return Ok(Some(format!("it has {} bytes, not {real_size}", facts.size_bytes)));
        }
        if entry.kind == Kind::Symlink && facts.link != entry.link {
            return Ok(Some(format!("it leads to `{}`, not `{}`", lossy(&facts.link), lossy(&entry.link))));
        }
        if (facts.uid, facts.gid) != (entry.uid, entry.gid) {
            let (found, expected) = ((facts.uid, facts.gid), (entry.uid, entry.gid));
            let why = format!("its owner is {}:{}, not {}:{}", found.0, found.1, expected.0, expected.1);
            return Ok(Some(why));
        }
        let mut wanted: Vec<&(Vec<u8>, Vec<u8>)> =
            entry.xattrs.iter().filter(|(name, _)| is_carried(name)).collect();
        wanted.sort_unstable();
        let Some(why) = softly(entry, mtime, &wanted, facts, is_root) else { return Ok(None) };
        let made = Entry { mtime: mtime.unwrap_or(entry.mtime), ..entry.clone() };
        let alike = (self.probe)(&made)?;
        let made_xattrs: Vec<_> = alike.carried().collect();
        let same = Entry { mode: alike.mode, ..made };
        let time = mtime.map(|_| alike.mtime);
        Ok(softly(&same, time, &made_xattrs, facts, is_root).and(Some(why)))
    }
}

/// Differences that a file system may have made itself.
fn softly(
    entry: &Entry,
    mtime: Option<Time>,
    xattrs: &[&(Vec<u8>, Vec<u8>)],
    facts: &Facts,
    is_root: bool,
) -> Option<String> {
    if entry.kind != Kind::Symlink && facts.mode != entry.mode {
        return Some(format!("its mode is {:04o}, not {:04o}", facts.mode, entry.mode));
    }
    if let Some(time) = mtime
        && facts.mtime != time
    {
        let (found, expected) = (facts.mtime, time);
        return Some(format!(
            "its time is {}.{:09}, not {}.{:09}",
            found.seconds, found.nanoseconds, expected.seconds, expected.nanoseconds
        ));
    }
    for (name, value) in xattrs {
        match facts.xattr(name) {
            Some(found) if found == value => {}
            Some(_) => return Some(format!("its attribute `{}` has another value", lossy(name))),
            None => return Some(format!("its attribute `{}` is missing", lossy(name))),
        }
    }
    // A sealed root keeps attributes that its tar does not say.
    let extra = facts.carried().find(|(name, _)| !xattrs.iter().any(|(known, _)| known == name));
    extra.filter(|_| !is_root).map(|(name, _)| format!("it has the attribute `{}`", lossy(name)))
}

fn parent_difference(facts: &Facts) -> Option<String> {
    if facts.kind != FileType::Directory {
        return Some("it is no directory".to_owned());
    }
    if facts.mode != 0o755 {
        return Some(format!("its mode is {:04o}, not 0755", facts.mode));
    }
    if (facts.uid, facts.gid) != (0, 0) {
        return Some(format!("its owner is {}:{}, not 0:0", facts.uid, facts.gid));
    }
    let extra = facts.carried().next();
    extra.map(|(name, _)| format!("it has the attribute `{}`", lossy(name)))
}

fn word(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::File) => "a file",
        Some(Kind::HardLink) => "a hard link",
        Some(Kind::Symlink) => "a link",
        Some(Kind::Character) => "a character device",
        Some(Kind::Block) => "a block device",
        Some(Kind::Directory) => "a directory",
        Some(Kind::Fifo) => "a fifo",
        None => "something that no tar holds",
    }
}

/// Whether what lies between the regions of a file is zeros, as holes are.
pub(crate) fn has_clean_holes(
    dir: BorrowedFd<'_>,
    path: &[u8],
    size_bytes: u64,
    regions: &[(u64, u64)],
) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = open_by_rules(dir, path, flags, RULES)?;
    let mut at = 0;
    for (offset, length) in regions.iter().copied().chain([(size_bytes, 0)]) {
        if !is_zero(&file, at, offset)? {
            return Ok(false);
        }
        at = offset + length;
    }
    Ok(true)
}

fn is_zero(file: &OwnedFd, mut at: u64, end: u64) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    while at < end {
        at = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(true),
            Err(Errno::INVAL) => at,
            Err(errno) => return Err(errno.into()),
        };
        if at >= end {
            break;
        }
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = rustix::io::pread(file, &mut buffer[..most], at)?;
        if count == 0 {
            break;
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// Opens `tree/<name>` below a layer's folder and looks at it.
pub(crate) fn look_at(layer: BorrowedFd<'_>, name: &[u8]) -> io::Result<Facts> {
    let tree = rustix::fs::openat(layer, "tree", DIRECTORY, Mode::empty())?;
    facts_of(&tree, name)
}
