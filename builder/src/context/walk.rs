//! Walks a tree by descriptor: one `stat` a file, no path of the host, links never followed.
//!
//! ```text
//! waiting: folders to list, deepest last ─┬→ thread: names, stats, verdicts ─→ listings[slot]
//!                                         └→ …       (its folders wait with a slot of their own)
//! listings ─in_order→ one list
//! ```
//! Entries come in the order of their names' bytes, a directory before what is in it, so the same
//! tree gives the same list whatever order the file system and the threads keep. The newest folder is
//! listed first: what is open at a time is bound by depth, not by the number of folders.
//!
//! May touch: the tree below the descriptor. Knows nothing of ignore files, stores, steps.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

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
    /// Not this one, unless it is a directory and something in it is taken.
    Inside,
    /// Not this one and nothing below it.
    No,
}

/// What could not be read, relative to the start.
#[derive(Debug)]
pub struct WalkError {
    pub path: Vec<u8>,
    pub source: io::Error,
}

/// So many folders are listed before other threads are asked for help.
const ALONE: usize = 16;

const READ_DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Walks the directory `start` and collects what `take` wants; the start itself is not among them.
pub fn walk(start: &OwnedFd, take: &(dyn Fn(&[u8], &Stat) -> Take + Sync)) -> Result<Vec<Entry>, WalkError> {
    let failed = |source: rustix::io::Errno| WalkError { path: Vec::new(), source: source.into() };
    let start = Arc::new(rustix::fs::openat(start, c".", READ_DIRECTORY, Mode::empty()).map_err(failed)?);
    let walk = Walk { take, work: Mutex::new(Work::default()), changed: Condvar::new() };
    walk.work().waiting.push(Waiting { above: start, path: Vec::new(), name_at: 0, slot: 0 });
    if !walk.run(ALONE) {
        let helpers = std::thread::available_parallelism().map_or(1, usize::from).min(8) - 1;
        std::thread::scope(|scope| {
            for _ in 0..helpers {
                scope.spawn(|| walk.run(usize::MAX));
            }
            walk.run(usize::MAX);
        });
    }
    let work = walk.work.into_inner().unwrap_or_else(PoisonError::into_inner);
    work.failed.map_or_else(|| Ok(in_order(work.listings)), Err)
}

/// A directory to be listed.
struct Waiting {
    above: Arc<OwnedFd>,
    path: Vec<u8>,
    /// Where its own name begins in `path`.
    name_at: usize,
    /// Of its listing.
    slot: usize,
}

/// What a directory holds, in order.
type Listing = Vec<Found>;

struct Found {
    entry: Entry,
    take: Take,
    /// Of a directory: where its own listing is.
    slot: Option<usize>,
}

#[derive(Default)]
struct Work {
    waiting: Vec<Waiting>,
    listings: Vec<Listing>,
    busy: usize,
    failed: Option<WalkError>,
}

struct Walk<'t> {
    take: &'t (dyn Fn(&[u8], &Stat) -> Take + Sync),
    work: Mutex<Work>,
    changed: Condvar,
}

impl Walk<'_> {
    fn work(&self) -> MutexGuard<'_, Work> {
        // Nothing panics while it holds the lock.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists folders until none are left (true), or `limit` are done.
    fn run(&self, limit: usize) -> bool {
        let mut work = self.work();
        for _ in 0..limit {
            let next = loop {
                match work.waiting.pop() {
                    Some(next) => break next,
                    None if work.busy == 0 => return true,
                    None => work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner),
                }
            };
            work.busy += 1;
            drop(work);
            let (slot, listed) = (next.slot, self.list(next));
            work = self.work();
            work.busy -= 1;
            match listed {
                Ok((listing, folder)) => work.take_in(slot, listing, &folder),
                Err(error) => {
                    work.waiting.clear();
                    work.failed.get_or_insert(error);
                }
            }
            self.changed.notify_all();
        }
        false
    }

    fn list(&self, at: Waiting) -> Result<(Listing, Arc<OwnedFd>), WalkError> {
        let failed = |path: &[u8], source: io::Error| WalkError { path: path.to_vec(), source };
        let folder = if at.path.is_empty() {
            at.above
        } else {
            let opened = rustix::fs::openat(&at.above, &at.path[at.name_at..], READ_DIRECTORY, Mode::empty());
            Arc::new(opened.map_err(|errno| failed(&at.path, errno.into()))?)
        };
        let mut listing = Vec::new();
        for name in sorted_names(&folder).map_err(|error| failed(&at.path, error))? {
            let path = below(&at.path, &name);
            let stat = match Stat::of(&folder, &name) {
                Ok(stat) => stat,
                // Gone since it was listed: as if it had gone before.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&path, error)),
            };
            let take = (self.take)(&path, &stat);
            if take == Take::Yes || take == Take::Inside && stat.is_dir() {
                listing.push(Found { entry: Entry { path, stat }, take, slot: None });
            }
        }
        Ok((listing, folder))
    }
}

impl Work {
    /// Keeps what was found; its folders wait from now on, the first one on top.
    fn take_in(&mut self, slot: usize, mut listing: Listing, folder: &Arc<OwnedFd>) {
        let first = self.waiting.len();
        let mut next_slot = self.listings.len().max(slot + 1);
        for found in listing.iter_mut().filter(|found| found.entry.stat.is_dir()) {
            let path = found.entry.path.clone();
            let name_at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            self.waiting.push(Waiting { above: Arc::clone(folder), path, name_at, slot: next_slot });
            found.slot = Some(next_slot);
            next_slot += 1;
        }
        if self.failed.is_some() {
            self.waiting.clear();
        } else {
            self.waiting[first..].reverse();
        }
        self.listings.resize_with(next_slot, Vec::new);
        self.listings[slot] = listing;
    }
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    if !folder.is_empty() {
        path.extend(folder);
        path.push(b'/');
    }
    path.extend(name);
    path
}

/// Puts each folder's listing behind the folder; one that was wanted only for what is inside and has
/// nothing is left out.
fn in_order(mut listings: Vec<Listing>) -> Vec<Entry> {
    let mut out = Vec::with_capacity(listings.iter().map(Vec::len).sum());
    let top = listings.first_mut().map(std::mem::take).unwrap_or_default();
    // The folders that are open, each with the place of an entry that may have to go again.
    let mut open = vec![(top.into_iter(), None)];
    while let Some((listing, tentative)) = open.last_mut() {
        let Some(found) = listing.next() else {
            if tentative.is_some_and(|at: usize| at + 1 == out.len()) {
                out.pop();
            }
            open.pop();
            continue;
        };
        let at = out.len();
        out.push(found.entry);
        if let Some(slot) = found.slot {
            let inside = std::mem::take(&mut listings[slot]);
            open.push((inside.into_iter(), (found.take == Take::Inside).then_some(at)));
        }
    }
    out
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

        let all = walk(&start, &|_, _| Take::Yes).unwrap();
        let paths: Vec<_> = all.iter().map(|entry| String::from_utf8_lossy(&entry.path)).collect();
        assert_eq!(paths, ["a", "b", "b/c", "b/c/file", "link"]);

        let pruned = walk(&start, &|path, _| if path == b"b" { Take::No } else { Take::Yes }).unwrap();
        assert_eq!(pruned.len(), 2);
        let inside = |wanted: &'static [u8]| {
            let take = move |path: &[u8], _: &Stat| if path == wanted { Take::Yes } else { Take::Inside };
            let found = walk(&start, &take).unwrap();
            found.into_iter().map(|entry| String::from_utf8(entry.path).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(inside(b"b/c/file"), ["b", "b/c", "b/c/file"]);
        assert_eq!(inside(b"b/c"), ["b", "b/c"]);
        assert_eq!(inside(b"a"), ["a"]);
    }

    #[test]
    fn many_folders_come_in_order_from_many_threads() {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for i in 0..40 {
            expected.push(format!("{i:02}"));
            for j in 0..3 {
                let path = format!("{i:02}/{j}");
                fs::create_dir_all(folder.path().join(&path)).unwrap();
                fs::write(folder.path().join(&path).join("file"), "x").unwrap();
                expected.extend([path.clone(), format!("{path}/file")]);
            }
        }
        let start = OwnedFd::from(fs::File::open(folder.path()).unwrap());
        let found = walk(&start, &|_, _| Take::Yes).unwrap();
        let paths: Vec<_> = found.into_iter().map(|entry| String::from_utf8(entry.path).unwrap()).collect();
        assert_eq!(paths, expected);
    }
}
