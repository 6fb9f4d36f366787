//! A mounted tree → a tar stream, for `--output type=tar`.
//!
//! ```text
//! for each directory, names sorted by their bytes:
//!   `.wh..wh..opq` when the directory is opaque      (before its siblings, image-spec layer.md)
//!   `.wh.<name>`   for each whiteout                 (a 0/0 character device)
//!   everything else; a directory `name/` before what is in it
//! ```
//!
//! The form of a header depends on the file alone: ustar, owners as numbers without names, and a PAX
//! header only for what ustar can't say: long names, large numbers, sub-second times, extended
//! attributes; its records are sorted. So the same tree gives the same bytes on every machine.
//! Attributes that an overlay keeps for itself are in no tar; sockets have no tar form and are left out.
//!
//! May touch: the tree below the descriptor. Knows nothing of the store's layout, of recipes, of hashes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use tar::{EntryType, Header};

/// Takes a tar in pieces.
pub(crate) trait Sink {
    /// Bytes of headers and padding.
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// The content of the regular file at `path` (relative to the tree): exactly `size_bytes` of it.
    fn content(&mut self, path: &[u8], file: File, size_bytes: u64) -> io::Result<()>;
}

/// How a tree is packed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PackOptions {
    /// Later modification times become this one, in the tree too (seconds since 1970).
    pub clamp_mtime_seconds: Option<i64>,
    /// The tree is a scratch's upper directory: what the overlay noted on it is taken off.
    pub strip_overlay_notes: bool,
}

/// Counts what was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packed {
    pub entry_count: u64,
    /// Of the files' content.
    pub content_bytes: u64,
}

/// Packs the tree below `tree` into `sink`, the end blocks included.
pub(crate) fn pack(tree: BorrowedFd<'_>, options: PackOptions, sink: &mut dyn Sink) -> io::Result<Packed> {
    let mut packer =
        Packer { options, sink, linked: HashMap::new(), packed: Packed::default(), path: Vec::new() };
    let root = rustix::fs::openat(tree, c".", DIRECTORY, Mode::empty())?;
    let root_is_opaque = packer.xattrs(&root)?.is_opaque;
    packer.folder(&root, root_is_opaque)?;
    packer.sink.literal(&[0; 1024])?;
    Ok(packer.packed)
}

/// Packs a tree into a stream.
pub fn pack_tree(tree: &OwnedFd, out: &mut dyn Write) -> io::Result<()> {
    pack(tree.as_fd(), PackOptions::default(), &mut Stream(out)).map(drop)
}

/// A plain tar stream.
struct Stream<'w>(&'w mut dyn Write);

impl Sink for Stream<'_> {
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn content(&mut self, path: &[u8], file: File, size_bytes: u64) -> io::Result<()> {
        let copied = io::copy(&mut file.take(size_bytes), self.0)?;
        if copied == size_bytes { Ok(()) } else { Err(shrunk(path)) }
    }
}

/// Says that a file got shorter while it was packed.
pub(crate) fn shrunk(path: &[u8]) -> io::Error {
    io::Error::other(format!("`{}` got shorter while it was read", String::from_utf8_lossy(path)))
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

struct Packer<'s> {
    options: PackOptions,
    sink: &'s mut dyn Sink,
    /// Files with several names: (device, inode) → the first name.
    linked: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
    /// Of the directory that is being packed, relative to the root.
    path: Vec<u8>,
}

/// The extended attributes of one file.
#[derive(Default)]
struct Xattrs {
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
    is_opaque: bool,
}

/// One name of a directory.
struct Name {
    bytes: Vec<u8>,
    stat: Stat,
}

impl Name {
    fn is_whiteout(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::CharacterDevice && self.stat.st_rdev == 0
    }
}

impl Packer<'_> {
    /// Packs what is in a directory; its own entry was written by the caller.
    fn folder(&mut self, directory: &OwnedFd, is_opaque: bool) -> io::Result<()> {
        if is_opaque {
            self.whiteout(b".wh..wh..opq", None)?;
        }
        let (whiteouts, names): (Vec<Name>, Vec<Name>) =
            sorted(directory)?.into_iter().partition(Name::is_whiteout);
        for name in &whiteouts {
            self.clamp(directory, name)?;
            self.whiteout(&[b".wh.", &name.bytes[..]].concat(), Some(&name.stat))?;
        }
        for name in &names {
            self.name(directory, name)?;
        }
        Ok(())
    }

    fn name(&mut self, directory: &OwnedFd, name: &Name) -> io::Result<()> {
        let mtime = self.clamp(directory, name)?;
        let at = self.path.len();
        if at > 0 {
            self.path.push(b'/');
        }
        self.path.extend(&name.bytes);
        let result = self.entry(directory, name, mtime);
        self.path.truncate(at);
        result
    }

    fn entry(&mut self, directory: &OwnedFd, name: &Name, mtime: (i64, i64)) -> io::Result<()> {
        let stat = &name.stat;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut entry = Entry::new(self.path.clone(), stat, mtime);
        match kind {
            FileType::Directory => {
                let below = rustix::fs::openat(directory, &name.bytes[..], DIRECTORY, Mode::empty())?;
                let xattrs = self.xattrs(&below)?;
                entry.path.push(b'/');
                entry.xattrs = xattrs.kept;
                self.write(&entry, EntryType::Directory)?;
                self.folder(&below, xattrs.is_opaque)
            }
            FileType::RegularFile => self.regular(directory, name, entry),
            FileType::Symlink => {
                entry.link =
                    Some(rustix::fs::readlinkat(directory, &name.bytes[..], Vec::new())?.into_bytes());
                self.write(&entry, EntryType::Symlink)
            }
            FileType::CharacterDevice => self.write(&entry.with_device(stat), EntryType::Char),
            FileType::BlockDevice => self.write(&entry.with_device(stat), EntryType::Block),
            FileType::Fifo => self.write(&entry, EntryType::Fifo),
            _ => Ok(()),
        }
    }

    fn regular(&mut self, directory: &OwnedFd, name: &Name, mut entry: Entry) -> io::Result<()> {
        let identity = (name.stat.st_dev, name.stat.st_ino);
        if name.stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&identity) {
                entry.link = Some(first.clone());
                return self.write(&entry, EntryType::Link);
            }
            self.linked.insert(identity, self.path.clone());
        }
        let file = rustix::fs::openat(directory, &name.bytes[..], FILE, Mode::empty())?;
        entry.xattrs = self.xattrs(&file)?.kept;
        entry.size_bytes = u64::try_from(name.stat.st_size).unwrap_or(0);
        self.write(&entry, EntryType::Regular)?;
        if entry.size_bytes > 0 {
            self.sink.content(&self.path, file.into(), entry.size_bytes)?;
            self.sink.literal(padding(entry.size_bytes))?;
        }
        self.packed.content_bytes += entry.size_bytes;
        Ok(())
    }

    fn whiteout(&mut self, name: &[u8], stat: Option<&Stat>) -> io::Result<()> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name);
        let time = stat.map_or(0, |stat| {
            self.options.clamp_mtime_seconds.map_or(stat.st_mtime, |clamp| clamp.min(stat.st_mtime))
        });
        let mut entry = Entry { path, mtime: (time, 0), ..Entry::default() };
        entry.mode = 0;
        self.write(&entry, EntryType::Regular)
    }

    fn write(&mut self, entry: &Entry, kind: EntryType) -> io::Result<()> {
        self.packed.entry_count += 1;
        self.sink.literal(&entry.headers(kind)?)
    }

    /// The modification time that the entry gets, set in the tree too when it is another.
    fn clamp(&self, directory: &OwnedFd, name: &Name) -> io::Result<(i64, i64)> {
        let stat = &name.stat;
        let own = (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
        let Some(clamp) = self.options.clamp_mtime_seconds.filter(|clamp| own > (*clamp, 0)) else {
            return Ok(own);
        };
        let time = Timespec { tv_sec: clamp, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(directory, &name.bytes[..], &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((clamp, 0))
    }

    /// Reads the attributes that belong to the file, and takes the overlay's notes off if asked to.
    fn xattrs(&self, file: &OwnedFd) -> io::Result<Xattrs> {
        let mut found = Xattrs::default();
        for name in xattr_names(file)? {
            let note = name.strip_prefix(b"trusted.overlay.").or_else(|| name.strip_prefix(b"user.overlay."));
            match note {
                Some(b"opaque") => found.is_opaque = true,
                Some(_) if self.options.strip_overlay_notes => rustix::fs::fremovexattr(file, &name[..])?,
                Some(_) => {}
                None if is_machine_bound(&name) => {}
                None => {
                    let value = xattr(file, &name)?;
                    found.kept.insert(name, value);
                }
            }
        }
        Ok(found)
    }
}

/// What a security module or the kernel made for this machine.
fn is_machine_bound(name: &[u8]) -> bool {
    name.starts_with(b"trusted.")
        || [&b"security.selinux"[..], b"security.ima", b"security.evm", b"security.SMACK64"].contains(&name)
        || name.starts_with(b"system.nfs4")
}

fn xattr_names(file: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut small = [0_u8; 256];
    let list = match rustix::fs::flistxattr(file, &mut small[..]) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(count) => small[..count].to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0_u8; XATTR_LIMIT];
            let count = rustix::fs::flistxattr(file, &mut large[..])?;
            large.truncate(count);
            large
        }
        Err(error) => return Err(error.into()),
    };
    Ok(list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

fn xattr(file: &OwnedFd, name: &[u8]) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; XATTR_LIMIT];
    let count = rustix::fs::fgetxattr(file, name, &mut value[..])?;
    value.truncate(count);
    Ok(value)
}

/// The kernel's own limit of a list and of a value (xattr(7)).
const XATTR_LIMIT: usize = 64 * 1024;

fn sorted(directory: &OwnedFd) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut listing = RawDir::new(directory, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            let stat = rustix::fs::statat(directory, bytes, AtFlags::SYMLINK_NOFOLLOW)?;
            names.push(Name { bytes: bytes.to_vec(), stat });
        }
    }
    names.sort_unstable_by(|one, other| one.bytes.cmp(&other.bytes));
    Ok(names)
}

/// Zero bytes up to the next block.
fn padding(size_bytes: u64) -> &'static [u8] {
    const ZEROS: [u8; 512] = [0; 512];
    let used = usize::try_from(size_bytes % 512).expect("smaller than 512");
    if used == 0 { &[] } else { &ZEROS[used..] }
}

/// What a header says.
#[derive(Default)]
struct Entry {
    path: Vec<u8>,
    link: Option<Vec<u8>>,
    mode: u32,
    uid: u64,
    gid: u64,
    size_bytes: u64,
    mtime: (i64, i64),
    device: Option<(u32, u32)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The largest numbers that ustar's octal fields hold.
const MAX_ID: u64 = 0o777_7777;
const MAX_SIZE: u64 = 0o777_7777_7777;

impl Entry {
    fn new(path: Vec<u8>, stat: &Stat, mtime: (i64, i64)) -> Self {
        Self {
            path,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid.into(),
            gid: stat.st_gid.into(),
            mtime,
            ..Self::default()
        }
    }

    fn with_device(mut self, stat: &Stat) -> Self {
        self.device = Some((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)));
        self
    }

    /// The header's bytes, a PAX header before it where one is needed.
    fn headers(&self, kind: EntryType) -> io::Result<Vec<u8>> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(self.mode);
        let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        if !put_path(&mut header, &self.path) {
            records.insert(b"path".to_vec(), self.path.clone());
        }
        if let Some(link) = &self.link {
            if link.len() > 100 {
                records.insert(b"linkpath".to_vec(), link.clone());
            }
            let shown = &link[..link.len().min(100)];
            header.as_old_mut().linkname[..shown.len()].copy_from_slice(shown);
        }
        let mut number = |key: &str, value: u64, max: u64| {
            if value > max {
                records.insert(key.as_bytes().to_vec(), value.to_string().into_bytes());
            }
            if value > max { 0 } else { value }
        };
        header.set_uid(number("uid", self.uid, MAX_ID));
        header.set_gid(number("gid", self.gid, MAX_ID));
        header.set_size(number("size", self.size_bytes, MAX_SIZE));
        let (seconds, nanoseconds) = self.mtime;
        if nanoseconds != 0 || seconds < 0 || seconds.unsigned_abs() > MAX_SIZE {
            records.insert(b"mtime".to_vec(), pax_time(seconds, nanoseconds).into_bytes());
        }
        header.set_mtime(u64::try_from(seconds).unwrap_or(0).min(MAX_SIZE));
        if let Some((major, minor)) = self.device {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        for (name, value) in &self.xattrs {
            records.insert([b"SCHILY.xattr.", &name[..]].concat(), value.clone());
        }
        header.set_cksum();
        let mut out = if records.is_empty() { Vec::new() } else { pax_header(&self.path, &records) };
        out.extend(header.as_bytes());
        Ok(out)
    }
}

/// Puts a name into ustar's two fields, and says whether it fits.
fn put_path(header: &mut Header, path: &[u8]) -> bool {
    let fields = header.as_ustar_mut().expect("made as ustar");
    if path.len() <= 100 {
        fields.name[..path.len()].copy_from_slice(path);
        return true;
    }
    // The name after some slash must fit in 100 bytes, what is before it in 155.
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    let fits = |at: &usize| trimmed[*at] == b'/' && *at <= 155 && path.len() - at - 1 <= 100;
    if let Some(at) = (1..trimmed.len()).find(fits) {
        fields.prefix[..at].copy_from_slice(&path[..at]);
        fields.name[..path.len() - at - 1].copy_from_slice(&path[at + 1..]);
        return true;
    }
    fields.name.copy_from_slice(&path[..100]);
    false
}

/// Seconds with the fraction's trailing zeros off; before 1970 the fraction counts back (pax(1)).
fn pax_time(seconds: i64, nanoseconds: i64) -> String {
    let (sign, seconds, nanoseconds) = match (seconds, nanoseconds) {
        (seconds, 0) if seconds < 0 => ("-", -seconds, 0),
        (seconds, fraction) if seconds < 0 => ("-", -seconds - 1, 1_000_000_000 - fraction),
        (seconds, fraction) => ("", seconds, fraction),
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    let fraction = format!("{nanoseconds:09}");
    format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
}

/// An extended header (pax(1), "pax Extended Header"): `length key=value\n` each.
fn pax_header(path: &[u8], records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        if length.to_string().len() > rest.to_string().len() {
            length += 1;
        }
        body.extend(length.to_string().as_bytes());
        body.push(b' ');
        body.extend(key);
        body.push(b'=');
        body.extend(value);
        body.push(b'\n');
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(body.len() as u64);
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    let base = trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
    header.as_old_mut().name[..name.len()].copy_from_slice(&name);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    let size = body.len() as u64;
    out.extend(body);
    out.extend(padding(size));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn packed(folder: &std::path::Path, options: PackOptions) -> Vec<u8> {
        let tree = OwnedFd::from(File::open(folder).unwrap());
        let mut bytes = Vec::new();
        pack(tree.as_fd(), options, &mut Stream(&mut bytes)).unwrap();
        bytes
    }

    #[test]
    fn an_empty_tree_is_the_empty_layer() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(packed(folder.path(), PackOptions::default()), [0; 1024]);
    }

    #[test]
    fn names_come_sorted_and_links_point_at_the_first_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("b")).unwrap();
        fs::write(at("b/file"), "content").unwrap();
        fs::set_permissions(at("b/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(at("b/file"), at("b/second")).unwrap();
        symlink("/etc/passwd", at("a")).unwrap();
        let long = "x".repeat(120);
        fs::write(at(&long), "").unwrap();
        let bytes = packed(folder.path(), PackOptions::default());
        let mut archive = tar::Archive::new(&bytes[..]);
        let seen: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry.link_name().unwrap().map(|link| link.display().to_string());
                (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), link)
            })
            .collect();
        let row =
            |path: &str, mode: u32, link: Option<&str>| (path.to_owned(), mode, link.map(str::to_owned));
        assert_eq!(seen[0], row("a", 0o777, Some("/etc/passwd")));
        assert_eq!(seen[1].0, "b/");
        assert_eq!(seen[2], row("b/file", 0o4755, None));
        assert_eq!(seen[3], row("b/second", 0o4755, Some("b/file")));
        assert_eq!(seen[4].0, long);
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn later_times_are_clamped_in_the_tar_and_in_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        let options = PackOptions { clamp_mtime_seconds: Some(1000), ..PackOptions::default() };
        let first = packed(folder.path(), options);
        let mut archive = tar::Archive::new(&first[..]);
        assert_eq!(archive.entries().unwrap().next().unwrap().unwrap().header().mtime().unwrap(), 1000);
        assert_eq!(packed(folder.path(), PackOptions::default()), first);
    }

    #[test]
    fn times_before_1970_count_back() {
        for (seconds, nanoseconds, expected) in [
            (5, 0, "5"),
            (5, 500_000_000, "5.5"),
            (-5, 0, "-5"),
            (-2, 750_000_000, "-1.25"),
            (0, 1, "0.000000001"),
        ] {
            assert_eq!(pax_time(seconds, nanoseconds), expected);
        }
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for length in 80..110 {
            let records = BTreeMap::from([(b"k".to_vec(), vec![b'v'; length])]);
            let bytes = pax_header(b"name", &records);
            let text = std::str::from_utf8(&bytes[512..]).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(text.as_bytes()[said - 1], b'\n');
            assert_eq!(text[..said].matches('\n').count(), 1);
            assert_eq!(said, said.to_string().len() + 1 + 2 + length + 1);
        }
    }
}
