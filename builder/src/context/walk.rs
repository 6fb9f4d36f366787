//! Walks a tree by descriptor: one `statx` a file, no path of the host, links never followed.
//!
//! Entries come in the order of their names' bytes, a directory before what is in it, so the same
//! tree gives the same list whatever order the file system keeps.
//!
//! May touch: the tree below the descriptor. Knows nothing of ignore files, stores, steps.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};

/// What the kernel says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: FileType,
    /// The low twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size_bytes: u64,
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
    pub device: u64,
    pub inode: u64,
    pub link_count: u64,
    /// Of a device node.
    pub rdev: u64,
}

/// A file that the walk met.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Relative to the start, `a/b`; empty for the start itself.
    pub path: Vec<u8>,
    pub stat: Stat,
}

impl Stat {
    /// Reads the state of `name` in `dir`; a link is not followed.
    pub fn of(dir: impl AsFd, name: &[u8]) -> io::Result<Self> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Self::from_raw(&stat))
    }

    /// Reads the state of an open file.
    pub fn of_open(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from_raw(&rustix::fs::fstat(file)?))
    }

    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "sizes and nanoseconds from the kernel"
    )]
    fn from_raw(stat: &rustix::fs::Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size_bytes: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
            device: stat.st_dev,
            inode: stat.st_ino,
            link_count: stat.st_nlink,
            rdev: stat.st_rdev,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }
}

/// What the caller makes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    Yes,
    /// Not this one, but look inside if it is a directory.
    Inside,
    /// Not this one and nothing below it.
    No,
}

/// Walks the directory `start` and collects what `take` wants; the start itself is not among them.
pub fn walk(start: &OwnedFd, take: &mut dyn FnMut(&[u8], &Stat) -> Take) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    let directory = rustix::fs::openat(start, c".", READ_DIRECTORY, Mode::empty())?;
    walk_directory(&directory, &mut Vec::new(), take, &mut found)?;
    Ok(found)
}

const READ_DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn walk_directory(
    directory: &OwnedFd,
    path: &mut Vec<u8>,
    take: &mut dyn FnMut(&[u8], &Stat) -> Take,
    found: &mut Vec<Entry>,
) -> io::Result<()> {
    let at = path.len();
    for name in sorted_names(directory)? {
        path.truncate(at);
        if at > 0 {
            path.push(b'/');
        }
        path.extend(&name);
        let stat = match Stat::of(directory, &name) {
            Ok(stat) => stat,
            // Gone since it was listed: as if it had gone before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let verdict = take(path, &stat);
        if verdict == Take::Yes {
            found.push(Entry { path: path.clone(), stat });
        }
        if stat.is_dir() && verdict != Take::No {
            let below = rustix::fs::openat(directory, &name[..], READ_DIRECTORY, Mode::empty())?;
            walk_directory(&below, path, take, found)?;
        }
    }
    path.truncate(at);
    Ok(())
}

/// The names in a directory, sorted by their bytes.
pub fn sorted_names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut listing = RawDir::new(directory, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads where the link `name` in `dir` points.
pub fn read_link(dir: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn entries_come_sorted_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("b/c")).unwrap();
        fs::write(at("b/c/file"), "x").unwrap();
        fs::write(at("a"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", at("link")).unwrap();
        let start = OwnedFd::from(fs::File::open(folder.path()).unwrap());

        let all = walk(&start, &mut |_, _| Take::Yes).unwrap();
        let paths: Vec<_> = all.iter().map(|entry| String::from_utf8_lossy(&entry.path)).collect();
        assert_eq!(paths, ["a", "b", "b/c", "b/c/file", "link"]);

        let pruned = walk(&start, &mut |path, _| if path == b"b" { Take::No } else { Take::Yes }).unwrap();
        assert_eq!(pruned.len(), 2);
        let inside =
            walk(&start, &mut |path, _| if path == b"b" { Take::Inside } else { Take::Yes }).unwrap();
        assert_eq!(inside.len(), 4);
    }
}
