//! ADD's own part: a local archive is unpacked at the destination.
//!
//! An archive is told by its content: plain or compressed bytes whose first block is a tar header
//! (FEATURES C18). Entries go through the same door as everything else: each parent is resolved
//! inside the root, the last component never through a link. Owners are the archive's unless
//! `--chown` says otherwise; the archive's entry for its own root changes nothing.
//!
//! May touch: the two trees, by descriptor. Knows nothing of stores, whiteouts, networks.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use store::archive::compress;
use store::{ImagePath, RootDir};
use tar::EntryType;

use super::StepError;
use super::place::Placing;
use crate::context::select::{Selected, open_regular};
use crate::context::walk::Stat;

/// ADD of URLs and git references goes over the network, which this builder does not do.
pub fn refuse_remote(words: &[String]) -> Result<(), StepError> {
    let is_remote = |word: &&String| {
        ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|scheme| word.starts_with(scheme))
    };
    match words.iter().find(is_remote) {
        Some(word) => Err(StepError::Invalid(format!(
            "ADD of `{word}` is not supported yet: fetch it before the build, or in a RUN step"
        ))),
        None => Ok(()),
    }
}

/// Unpacks `selected` below `destination` if it is an archive, and says whether it was one.
pub fn unpack(
    from: &RootDir,
    selected: &Selected,
    root: &RootDir,
    destination: &ImagePath,
    placing: &Placing,
) -> Result<bool, StepError> {
    let item = &selected.items[0];
    if selected.is_dir || item.stat.kind != FileType::RegularFile {
        return Ok(false);
    }
    let failed = |source| StepError::Io { doing: format!("unpack {}", item.source), source };
    let open = || open_regular(from, &item.source).map(File::from);
    if !is_archive(open().map_err(failed)?) {
        return Ok(false);
    }
    let plain = compress::decompress(open().map_err(failed)?).map_err(failed)?;
    let owner = placing.owner_given();
    let own = owner.unwrap_or((0, 0));
    let mut made_by_us = |made: BorrowedFd<'_>| chown(made, own);
    // The destination is the archive's whole world: `..` and absolute links in it end there.
    let folder = root.make_dirs(destination, 0o755, &mut made_by_us).map_err(failed)?;
    let folder = RootDir::new(folder);
    Unpacker { root: &folder, owner, times: HashMap::new() }.unpack(plain).map_err(failed)?;
    Ok(true)
}

/// Whether the bytes, decompressed, start with a tar header whose checksum holds.
fn is_archive(packed: File) -> bool {
    let Ok(mut plain) = compress::decompress(packed) else { return false };
    let mut block = [0; 512];
    if plain.read_exact(&mut block).is_err() {
        return false;
    }
    let header = tar::Header::from_byte_slice(&block);
    let sum: u32 =
        block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
    header.cksum().is_ok_and(|expected| expected == sum) && sum != 8 * u32::from(b' ')
}

struct Unpacker<'u> {
    root: &'u RootDir,
    owner: Option<(u32, u32)>,
    /// Folders get their times when nothing more is put into them.
    times: HashMap<ImagePath, Timestamps>,
}

/// A name to be made: its open parent, and the name in it.
struct Place {
    parent: OwnedFd,
    path: ImagePath,
}

impl Place {
    fn name(&self) -> &[u8] {
        self.path.file_name().map(OsStrExt::as_bytes).unwrap_or_default()
    }
}

impl Unpacker<'_> {
    fn unpack(&mut self, plain: impl Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(plain);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = ImagePath::new(entry.path_bytes());
            if path.is_root() {
                continue;
            }
            self.unpack_entry(&mut entry, path)?;
        }
        for (path, times) in std::mem::take(&mut self.times) {
            if let Ok(folder) = self.root.open(&path, OFlags::RDONLY | OFlags::DIRECTORY) {
                rustix::fs::futimens(&folder, &times)?;
            }
        }
        Ok(())
    }

    fn unpack_entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: ImagePath) -> io::Result<()> {
        let parent = self.root.make_dirs(&path.parent(), 0o755, &mut |made| self.own(made, None))?;
        let place = Place { parent, path };
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Directory => self.make_folder(entry, &place),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.make_file(entry, &place)
            }
            EntryType::Symlink => {
                self.clear(&place)?;
                let target = link_name(entry)?;
                rustix::fs::symlinkat(&target[..], &place.parent, place.name())?;
                self.set_unopened(entry, &place)
            }
            EntryType::Link => self.make_link(entry, &place),
            EntryType::Fifo | EntryType::Char | EntryType::Block => self.make_node(entry, &place, kind),
            // What is no file (a comment, a volume label) makes none.
            _ => Ok(()),
        }
    }

    fn make_folder(&mut self, entry: &tar::Entry<'_, impl Read>, place: &Place) -> io::Result<()> {
        let there = Stat::of(&place.parent, place.name());
        // A link to a folder stays, as in BuildKit: its target takes what is below.
        let is_folder = self.root.open(&place.path, OFlags::PATH | OFlags::DIRECTORY).is_ok();
        if there.is_ok() && !is_folder {
            self.clear(place)?;
        }
        let folder = self.root.make_dirs(&place.path, 0o755, &mut |made| self.own(made, None))?;
        let folder = rustix::fs::openat(
            &folder,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        self.own(folder.as_fd(), Some(entry.header()))?;
        rustix::fs::fchmod(&folder, mode(entry)?)?;
        self.times.insert(place.path.clone(), times(entry)?);
        Ok(())
    }

    fn make_file(&self, entry: &mut tar::Entry<'_, impl Read>, place: &Place) -> io::Result<()> {
        self.clear(place)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&place.parent, place.name(), flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(made);
        let xattrs = xattrs(entry)?;
        io::copy(entry, &mut file)?;
        self.own(file.as_fd(), Some(entry.header()))?;
        for (name, value) in xattrs {
            rustix::fs::fsetxattr(&file, &name[..], &value, rustix::fs::XattrFlags::empty())?;
        }
        rustix::fs::fchmod(&file, mode(entry)?)?;
        Ok(rustix::fs::futimens(&file, &times(entry)?)?)
    }

    fn make_link(&self, entry: &tar::Entry<'_, impl Read>, place: &Place) -> io::Result<()> {
        let target = ImagePath::new(link_name(entry)?);
        let (folder, name) = self.root.open_parent(&target)?;
        if target != place.path {
            self.clear(place)?;
            rustix::fs::linkat(&folder, name.as_bytes(), &place.parent, place.name(), AtFlags::empty())?;
        }
        Ok(())
    }

    fn make_node(&self, entry: &tar::Entry<'_, impl Read>, place: &Place, kind: EntryType) -> io::Result<()> {
        self.clear(place)?;
        let header = entry.header();
        let device =
            rustix::fs::makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        let file_type = match kind {
            EntryType::Fifo => FileType::Fifo,
            EntryType::Char => FileType::CharacterDevice,
            _ => FileType::BlockDevice,
        };
        rustix::fs::mknodat(&place.parent, place.name(), file_type, mode(entry)?, device)?;
        self.set_unopened(entry, place)?;
        Ok(rustix::fs::chmodat(&place.parent, place.name(), mode(entry)?, AtFlags::empty())?)
    }

    /// Takes away what has the name, a folder with all that is in it.
    fn clear(&self, place: &Place) -> io::Result<()> {
        match rustix::fs::unlinkat(&place.parent, place.name(), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => self.root.remove_all(&place.path),
            Err(error) => Err(error.into()),
        }
    }

    fn own(&self, file: BorrowedFd<'_>, header: Option<&tar::Header>) -> io::Result<()> {
        chown(file, self.owner_of(header)?)
    }

    fn owner_of(&self, header: Option<&tar::Header>) -> io::Result<(u32, u32)> {
        let narrow = |id: u64| {
            u32::try_from(id).map_err(|_| io::Error::other(format!("the owner {id} is out of range")))
        };
        match (self.owner, header) {
            (Some(owner), _) => Ok(owner),
            (None, Some(header)) => Ok((narrow(header.uid()?)?, narrow(header.gid()?)?)),
            (None, None) => Ok((0, 0)),
        }
    }

    fn set_unopened(&self, entry: &tar::Entry<'_, impl Read>, place: &Place) -> io::Result<()> {
        let (uid, gid) = self.owner_of(Some(entry.header()))?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&place.parent, place.name(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(rustix::fs::utimensat(&place.parent, place.name(), &times(entry)?, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn chown(file: BorrowedFd<'_>, (uid, gid): (u32, u32)) -> io::Result<()> {
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

fn mode(entry: &tar::Entry<'_, impl Read>) -> io::Result<Mode> {
    Ok(Mode::from_raw_mode(entry.header().mode()? & 0o7777))
}

fn times(entry: &tar::Entry<'_, impl Read>) -> io::Result<Timestamps> {
    let seconds = i64::try_from(entry.header().mtime()?).unwrap_or(i64::MAX);
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Ok(Timestamps { last_access: time, last_modification: time })
}

fn link_name(entry: &tar::Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    let name = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
    name.ok_or_else(|| {
        io::Error::other(format!("the link `{}` has no target", String::from_utf8_lossy(&entry.path_bytes())))
    })
}

/// Attributes that travel with a file (`security.capability`, `user.*`).
fn xattrs(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<crate::context::xattrs::Xattr>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for extension in extensions {
        let extension = extension?;
        if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
            if crate::context::xattrs::travels(name) {
                found.push((name.to_vec(), extension.value_bytes().to_vec()));
            }
        }
    }
    Ok(found)
}
