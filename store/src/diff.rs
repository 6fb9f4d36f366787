//! Diff: what one tree has that another has not, as docker tells it.
//!
//! ```text
//! A /new      and all below it           C /kept    other metadata or content
//! D /gone     and nothing below it       C /parent  of each of these
//! ```
//! Both trees are mounted views, so whiteouts and opaque folders have had their say. A file with the
//! inode, the times and the size of the other is the other: it is not read. The time of a folder says
//! nothing, since every change inside moves it.
//!
//! May touch: the two trees given, only reading. Knows nothing of layers, images and mounts.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::archive::DIRECTORY;
use crate::archive::pack::Place;
use crate::archive::unpack::is_carried;
use crate::folder::names_in;
use crate::root_dir::{ImagePath, open_by_rules};

const READ_BYTES: usize = 64 << 10;

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Changed,
    Deleted,
}

impl Change {
    /// docker's letter.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// Why two trees could not be compared.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path} to compare it")]
pub struct DiffError {
    doing: &'static str,
    path: ImagePath,
    source: io::Error,
}

type Result<T> = std::result::Result<T, DiffError>;
type Children = BTreeMap<Vec<u8>, Stat>;

/// Compares two root directories; paths come in byte order. The roots themselves are not compared.
pub fn diff(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<BTreeMap<ImagePath, Change>> {
    let mut changes = Changes(BTreeMap::new());
    let mut in_both = vec![ImagePath::root()];
    while let Some(path) = in_both.pop() {
        let (old_dir, mut old_children) = list(old, &path)?;
        let (new_dir, new_children) = list(new, &path)?;
        for (name, stat) in new_children {
            let below = path.join_names(&name);
            let Some(old_stat) = old_children.remove(&name) else {
                changes.note(&below, Change::Added);
                if is_dir(&stat) {
                    add_all(new, below, &mut changes)?;
                }
                continue;
            };
            let (one, other) = (Node::new(&old_dir, &name, old_stat), Node::new(&new_dir, &name, stat));
            if !one.is_same_as(&other).map_err(failed("read", &below))? {
                changes.note(&below, Change::Changed);
            }
            match (is_dir(&old_stat), is_dir(&stat)) {
                (true, true) => in_both.push(below),
                (false, true) => add_all(new, below, &mut changes)?,
                _ => {}
            }
        }
        for name in old_children.keys() {
            changes.note(&path.join_names(name), Change::Deleted);
        }
    }
    Ok(changes.0)
}

struct Changes(BTreeMap<ImagePath, Change>);

impl Changes {
    /// A folder with a change inside is changed, whatever else is known of it.
    fn note(&mut self, path: &ImagePath, change: Change) {
        self.0.insert(path.clone(), change);
        let mut parent = path.parent();
        while !parent.is_root() && !self.0.contains_key(&parent) {
            self.0.insert(parent.clone(), Change::Changed);
            parent = parent.parent();
        }
    }
}

/// Notes all that lies below a folder that only the new tree has.
fn add_all(new: BorrowedFd<'_>, folder: ImagePath, changes: &mut Changes) -> Result<()> {
    let mut todo = vec![folder];
    while let Some(path) = todo.pop() {
        for (name, stat) in list(new, &path)?.1 {
            let below = path.join_names(&name);
            changes.note(&below, Change::Added);
            if is_dir(&stat) {
                todo.push(below);
            }
        }
    }
    Ok(())
}

fn list(root: BorrowedFd<'_>, path: &ImagePath) -> Result<(OwnedFd, Children)> {
    let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let relative = if path.is_root() { b"." } else { path.relative() };
    let dir = open_by_rules(root, relative, DIRECTORY, rules).map_err(failed("open", path))?;
    let children = || -> io::Result<Children> {
        let mut children = Children::new();
        for name in names_in(dir.as_fd())? {
            let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            children.insert(name.into_bytes(), stat);
        }
        Ok(children)
    };
    let children = children().map_err(failed("list", path))?;
    Ok((dir, children))
}

/// A file of one tree, looked at.
struct Node<'n> {
    dir: &'n OwnedFd,
    name: &'n [u8],
    stat: Stat,
}

impl<'n> Node<'n> {
    fn new(dir: &'n OwnedFd, name: &'n [u8], stat: Stat) -> Self {
        Self { dir, name, stat }
    }

    fn is_same_as(&self, other: &Self) -> io::Result<bool> {
        let (one, two) = (&self.stat, &other.stat);
        let owner = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
        let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        let identity = |stat: &Stat| (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
        if owner(one) != owner(two) {
            return Ok(false);
        }
        let kind = FileType::from_raw_mode(one.st_mode);
        if kind != FileType::Directory {
            if (times(one), one.st_size, one.st_rdev) != (times(two), two.st_size, two.st_rdev) {
                return Ok(false);
            }
            if identity(one) == identity(two) {
                return Ok(true);
            }
        }
        if self.xattrs()? != other.xattrs()? {
            return Ok(false);
        }
        match kind {
            FileType::RegularFile => same_content(&self.open()?, &other.open()?),
            FileType::Symlink => Ok(self.target()? == other.target()?),
            _ => Ok(true),
        }
    }

    /// What layers carry of its extended attributes, sorted.
    fn xattrs(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let place = Place::Named(self.dir.as_fd(), self.name);
        let names = place.xattrs()?.into_iter().filter(|name| is_carried(name));
        let mut found =
            names.map(|name| Ok((name.clone(), place.xattr(&name)?))).collect::<io::Result<Vec<_>>>()?;
        found.sort_unstable();
        Ok(found)
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.dir, self.name, flags, Mode::empty())?)
    }

    fn target(&self) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(self.dir, self.name, Vec::new())?.into_bytes())
    }
}

fn same_content(one: &OwnedFd, two: &OwnedFd) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    loop {
        let counts = (fill(one, &mut left)?, fill(two, &mut right)?);
        if counts.0 != counts.1 || left[..counts.0] != right[..counts.1] {
            return Ok(false);
        }
        if counts.0 < READ_BYTES {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::read(file, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(filled)
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn failed(doing: &'static str, path: &ImagePath) -> impl FnOnce(io::Error) -> DiffError {
    let path = path.clone();
    move |source| DiffError { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn tree(fill: impl FnOnce(&Path)) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        for entry in walkdir::WalkDir::new(dir.path()).contents_first(true) {
            let path = entry.unwrap().into_path();
            if !path.is_symlink() {
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
                fs::File::open(&path).unwrap().set_modified(time).unwrap();
            }
        }
        dir
    }

    fn changes(old: &tempfile::TempDir, new: &tempfile::TempDir) -> Vec<String> {
        let open = |dir: &tempfile::TempDir| OwnedFd::from(fs::File::open(dir.path()).unwrap());
        let found = diff(open(old).as_fd(), open(new).as_fd()).unwrap();
        found.iter().map(|(path, change)| format!("{} {path}", change.letter())).collect()
    }

    #[test]
    fn every_kind_of_change_is_told_with_its_parents() {
        let old = tree(|at| {
            fs::create_dir_all(at.join("same/deep")).unwrap();
            fs::write(at.join("same/deep/file"), "1").unwrap();
            fs::create_dir_all(at.join("a/gone/below")).unwrap();
            fs::write(at.join("a/mode"), "1").unwrap();
            fs::write(at.join("a/text"), "1").unwrap();
            fs::write(at.join("becomes-dir"), "").unwrap();
            fs::create_dir_all(at.join("becomes-file/below")).unwrap();
        });
        let new = tree(|at| {
            fs::create_dir_all(at.join("same/deep")).unwrap();
            fs::write(at.join("same/deep/file"), "1").unwrap();
            fs::create_dir_all(at.join("a/new/below")).unwrap();
            fs::write(at.join("a/mode"), "1").unwrap();
            fs::set_permissions(at.join("a/mode"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(at.join("a/text"), "2").unwrap();
            fs::create_dir_all(at.join("becomes-dir/below")).unwrap();
            fs::write(at.join("becomes-file"), "").unwrap();
            symlink("x", at.join("link")).unwrap();
        });
        let expected = [
            "C /a",
            "D /a/gone",
            "C /a/mode",
            "A /a/new",
            "A /a/new/below",
            "C /a/text",
            "C /becomes-dir",
            "A /becomes-dir/below",
            "C /becomes-file",
            "A /link",
        ];
        assert_eq!(changes(&old, &new), expected);
        assert!(changes(&old, &old).is_empty());
    }

    #[test]
    fn content_longer_than_a_buffer_is_read_to_its_end() {
        let long = |last: u8| {
            tree(move |at| {
                let mut bytes = vec![7; 2 * READ_BYTES + 1];
                bytes[2 * READ_BYTES] = last;
                fs::write(at.join("long"), bytes).unwrap();
            })
        };
        assert_eq!(changes(&long(1), &long(2)), ["C /long"]);
        assert!(changes(&long(1), &long(1)).is_empty());
    }
}
