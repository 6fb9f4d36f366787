//! Repair: the small tree on top of a stack that fills its layers' gaps.
//!
//! A layer stands alone, so its tree can't hold what its tar leaves to the layers below: the attributes
//! of a directory without an entry, and the file that a hard link means. For one stack both are known.
//!
//! ```text
//! stacks/<chain id>-<boot id>/tree/    directories with their true attributes, copies of linked files
//! stacks/<chain id>-<boot id>/layers   the stack, one diff id a line
//! ```
//! It can be made again at any time, so it is trusted only within the boot that made it.
//!
//! May touch: `stacks/`, `staging/`; reads the trees given. Knows nothing of mounts.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::place_of;
use crate::archive::unpack::Gaps;
use crate::archive::{DIRECTORY, lossy};
use crate::digest::{ChainId, DiffId};
use crate::folder::Folder;
use crate::{OverlayForm, Store, StoreError};

/// One layer of the stack.
pub(super) struct Floor {
    pub(super) diff_id: DiffId,
    pub(super) tree: OwnedFd,
    pub(super) gaps: Gaps,
}

/// Reads the gaps of a layer that has some.
pub(super) fn gaps_of(store: &Store, diff_id: DiffId) -> io::Result<Gaps> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Gaps::read(rustix::fs::openat(&store.dir, place_of(diff_id), flags, Mode::empty())?.as_fd())
}

/// The layers of the stack that a repair was made for.
pub(crate) fn repaired_stack(root: &OwnedFd, place: &str) -> io::Result<Vec<DiffId>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut text = String::new();
    let file = rustix::fs::openat(root, format!("{place}/layers"), flags, Mode::empty())?;
    File::from(file).read_to_string(&mut text)?;
    text.lines().map(|line| DiffId::from_str(line).map_err(io::Error::other)).collect()
}

/// Opens the repair of a stack (its floors bottom to top), made when it is not there.
pub(super) fn open(store: &Store, floors: &[Floor]) -> Result<OwnedFd, StoreError> {
    let stack: Vec<DiffId> = floors.iter().map(|floor| floor.diff_id).collect();
    let chain = ChainId::of(&stack).expect("a stack with gaps has layers");
    let place = format!("stacks/{}-{}", chain.0.hex(), store.boot_id()?);
    let failed = |doing| StoreError::io(doing, store.root.join(&place));
    let tree = format!("{place}/tree");
    match rustix::fs::openat(&store.dir, &tree, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(failed("open")),
    }
    let lease = store.lease()?;
    let make = || -> io::Result<Folder> {
        match rustix::fs::mkdirat(&store.dir, "stacks", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let folder = Folder::make(&lease, "staging")?;
        let repair = folder.make_inside("repair", Mode::RWXU)?;
        rustix::fs::mkdirat(&repair, "tree", Mode::RWXU)?;
        let top = rustix::fs::openat(&repair, "tree", DIRECTORY, Mode::empty())?;
        rustix::fs::fchmod(&top, Mode::from_raw_mode(0o755))?;
        let mut repair_tree =
            Repair { floors, overlay: store.overlay, top, copied: HashMap::new(), made: Vec::new() };
        repair_tree.fill()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let list = rustix::fs::openat(&repair, "layers", flags, Mode::RUSR | Mode::WUSR)?;
        let lines: Vec<String> = stack.iter().map(ToString::to_string).collect();
        File::from(list).write_all(lines.join("\n").as_bytes())?;
        match rustix::fs::renameat(&folder.dir, "repair", &store.dir, &place) {
            // A twin that was faster made the same.
            Ok(()) | Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(folder),
            Err(errno) => Err(errno.into()),
        }
    };
    drop(make().map_err(StoreError::io("make", store.root.join(&place)))?);
    rustix::fs::openat(&store.dir, &tree, DIRECTORY, Mode::empty()).map_err(failed("open"))
}

/// What one layer says of a path.
enum Says {
    Nothing,
    /// Nothing, and nothing below counts.
    Hidden,
    There {
        parent: OwnedFd,
        stat: Stat,
        /// Nothing below counts.
        cuts: bool,
    },
}

struct Repair<'f> {
    floors: &'f [Floor],
    overlay: OverlayForm,
    top: OwnedFd,
    /// Target → the first path that it was copied to.
    copied: HashMap<Vec<u8>, Vec<u8>>,
    /// Directories with their times, which each child changes again.
    made: Vec<(OwnedFd, Timestamps)>,
}

impl Repair<'_> {
    fn fill(&mut self) -> io::Result<()> {
        for (number, floor) in self.floors.iter().enumerate() {
            for path in &floor.gaps.directories {
                if self.needs_attributes(path)? {
                    self.make_dirs(path)?;
                }
            }
            for (path, target) in &floor.gaps.links {
                self.link(number, path, target)?;
            }
        }
        for (dir, times) in &self.made {
            rustix::fs::futimens(dir, times)?;
        }
        Ok(())
    }

    /// Looks a path up in one tree, links not followed.
    fn look(&self, floor: usize, path: &[u8]) -> io::Result<Says> {
        let mut here = rustix::fs::openat(&self.floors[floor].tree, ".", DIRECTORY, Mode::empty())?;
        let mut cuts = false;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            let stat = match rustix::fs::statat(&here, part, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(if cuts { Says::Hidden } else { Says::Nothing }),
                other => other?,
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let is_whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
            let is_last = parts.peek().is_none();
            if is_whiteout || (!is_last && kind != FileType::Directory) {
                return Ok(Says::Hidden);
            }
            if kind == FileType::Directory {
                let next = rustix::fs::openat(&here, part, DIRECTORY, Mode::empty())?;
                cuts |= self.is_opaque(&next)?;
                if !is_last {
                    here = next;
                    continue;
                }
            } else {
                cuts = true;
            }
            return Ok(Says::There { parent: here, stat, cuts });
        }
        Ok(Says::Nothing)
    }

    fn is_opaque(&self, dir: &OwnedFd) -> io::Result<bool> {
        let mut value = [0; 8];
        match rustix::fs::fgetxattr(dir, self.overlay.opaque_xattr(), &mut value) {
            Ok(count) => Ok(&value[..count] == b"y"),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether the overlay would show the attributes of a directory that no entry describes.
    fn needs_attributes(&self, path: &[u8]) -> io::Result<bool> {
        for number in (0..self.floors.len()).rev() {
            match self.look(number, path)? {
                Says::Nothing => {}
                Says::Hidden => return Ok(false),
                Says::There { stat, .. } => {
                    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                    return Ok(is_directory && self.floors[number].gaps.directories.contains(path));
                }
            }
        }
        Ok(false)
    }

    /// The topmost directory of a path that an entry describes.
    fn described(&self, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        for number in (0..self.floors.len()).rev() {
            let Says::There { parent, stat, cuts } = (match self.look(number, path)? {
                Says::Nothing => continue,
                Says::Hidden => return Ok(None),
                there @ Says::There { .. } => there,
            }) else {
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {}
                FileType::Symlink => {
                    let text = format!(
                        "layer {} goes through `/{}`, which is a link in a layer below",
                        self.floors.last().expect("has floors").diff_id,
                        lossy(path)
                    );
                    return Err(io::Error::new(io::ErrorKind::Unsupported, text));
                }
                _ => return Ok(None),
            }
            if !self.floors[number].gaps.directories.contains(path) {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
                return Ok(Some(rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty())?));
            }
            if cuts {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Makes a directory and those above it in the repair, each with its true attributes.
    fn make_dirs(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut here = rustix::io::fcntl_dupfd_cloexec(&self.top, 3)?;
        let mut end = 0;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            end += part.len() + usize::from(end > 0);
            let made = match rustix::fs::mkdirat(&here, part, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(errno.into()),
            };
            let next = rustix::fs::openat(&here, part, DIRECTORY, Mode::empty())?;
            if made {
                match self.described(&path[..end])? {
                    Some(model) => {
                        copy_attributes(&model, &next)?;
                        let again = rustix::io::fcntl_dupfd_cloexec(&next, 3)?;
                        self.made.push((again, times(&rustix::fs::fstat(&model)?)));
                    }
                    None => rustix::fs::fchmod(&next, Mode::from_raw_mode(0o755))?,
                }
            }
            here = next;
        }
        Ok(here)
    }

    /// Puts the file that a hard link means at the link's place, unless something above hides it.
    fn link(&mut self, number: usize, path: &[u8], target: &[u8]) -> io::Result<()> {
        for above in (number + 1..self.floors.len()).rev() {
            if !matches!(self.look(above, path)?, Says::Nothing)
                || self.floors[above].gaps.links.contains_key(path)
            {
                return Ok(());
            }
        }
        let broken = || {
            let (path, target) = (lossy(path), lossy(target));
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("`/{path}` is a link to `/{target}`, which no layer has"),
            )
        };
        let (source, name) = self.find_file(number, target)?.ok_or_else(broken)?;
        let (parent, own_name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (self.make_dirs(&path[..slash])?, &path[slash + 1..]),
            None => (rustix::io::fcntl_dupfd_cloexec(&self.top, 3)?, path),
        };
        if let Some(first) = self.copied.get(target) {
            return Ok(rustix::fs::linkat(&self.top, &first[..], &parent, own_name, AtFlags::empty())?);
        }
        copy_file(&source, &name, &parent, own_name)?;
        self.copied.insert(target.to_vec(), path.to_vec());
        Ok(())
    }

    /// The file at `target` as the layers below `number` show it.
    fn find_file(&self, number: usize, target: &[u8]) -> io::Result<Option<(OwnedFd, Vec<u8>)>> {
        for below in (0..number).rev() {
            if let Some(next) = self.floors[below].gaps.links.get(target) {
                return self.find_file(below, next);
            }
            match self.look(below, target)? {
                Says::Nothing => {}
                Says::Hidden => return Ok(None),
                Says::There { parent, stat, .. } => {
                    let name = target.rsplit(|byte| *byte == b'/').next().unwrap_or(target).to_vec();
                    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                    return Ok((!is_directory).then_some((parent, name)));
                }
            }
        }
        Ok(None)
    }
}

fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut list = vec![0; 64 << 10];
    let count = match rustix::fs::flistxattr(from, &mut list) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut value = vec![0; 64 << 10];
    for name in list[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if crate::archive::unpack::is_carried(name) {
            let count = rustix::fs::fgetxattr(from, name, &mut value)?;
            rustix::fs::fsetxattr(to, name, &value[..count], XattrFlags::empty())?;
        }
    }
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    Timestamps { last_access: time, last_modification: time }
}

fn copy_file(from: &OwnedFd, name: &[u8], to: &OwnedFd, own_name: &[u8]) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(to, own_name, flags, Mode::RUSR | Mode::WUSR)?;
            io::copy(&mut File::from(source.try_clone()?), &mut File::from(copy.try_clone()?))?;
            return copy_attributes(&source, &copy);
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(&target, to, own_name)?;
        }
        kind => {
            rustix::fs::mknodat(
                to,
                own_name,
                kind,
                Mode::from_raw_mode(stat.st_mode & 0o7777),
                stat.st_rdev,
            )?;
            rustix::fs::chmodat(to, own_name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, own_name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::utimensat(to, own_name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
}
