//! One layer: recipe and tree give the tar of its name, and the tree is what that tar means.
//!
//! ```text
//! recipe + content ─→ tar ─┬→ hash          one thread
//!                          └→ expected tree ─┐
//! tree ─walk→ names, attributes ─────────────┴→ differences     another
//! ```
//! May touch: the layer's folder, which it only reads; `staging/` for probes. Knows nothing of images.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Checked;
use super::blob::foreign;
use crate::archive::expected::{ExpectedTree, Made};
use crate::archive::observed::{Comparison, Facts, has_clean_holes, look_at, observe};
use crate::archive::read::Entry;
use crate::archive::recipe::{Content, RecipeReader};
use crate::archive::unpack::{flag, make_one};
use crate::archive::{DIRECTORY, lossy};
use crate::digest::{Digest, Hasher};
use crate::folder::{Folder, names_in};
use crate::index;
use crate::index::layers::LayerRow;
use crate::layers::place_of;
use crate::{Store, StoreError};

const READ_BYTES: usize = 256 << 10;
/// How often a layer is looked for that a collector holds.
const PATIENCE: u32 = 20;

pub(super) fn check(store: &Store, row: &LayerRow, quick: bool) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    if !row.synced && row.boot_id != store.boot_id()? {
        checked
            .note("it was written before a restart and never synced: it is not trusted, and is made again");
        return Ok(checked);
    }
    let _lock = match lock(store, row)? {
        Lock::Held(tree) => tree,
        Lock::Gone => return Ok(checked),
        Lock::Failed(why) => {
            checked.damage(None, why);
            return Ok(checked);
        }
    };
    if let Err(error) = look(store, row, quick, &mut checked) {
        checked.damage(None, error.to_string());
    }
    let again = store.index.read("look up a layer", |c| index::layers::find(c, row.layer.diff_id))?;
    if again.is_none() {
        checked.faults.clear();
    }
    Ok(checked)
}

enum Lock {
    /// No collector takes the layer now.
    Held(OwnedFd),
    Gone,
    Failed(String),
}

fn lock(store: &Store, row: &LayerRow) -> Result<Lock, StoreError> {
    let diff_id = row.layer.diff_id;
    for _ in 0..PATIENCE {
        match store.layers().open_tree(diff_id) {
            Ok(Some(tree)) => return Ok(Lock::Held(tree)),
            Ok(None) => {}
            Err(error) => return Ok(Lock::Failed(chain(&error))),
        }
        if store.index.read("look up a layer", |c| index::layers::find(c, diff_id))?.is_none() {
            return Ok(Lock::Gone);
        }
        let place = format!("{}/tree", place_of(diff_id));
        if let Err(Errno::NOENT) = rustix::fs::statat(&store.dir, &place, AtFlags::SYMLINK_NOFOLLOW) {
            return Ok(Lock::Failed("its tree is missing".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Lock::Gone)
}

fn look(store: &Store, row: &LayerRow, quick: bool, checked: &mut Checked) -> io::Result<()> {
    let layer = rustix::fs::openat(&store.dir, place_of(row.layer.diff_id), DIRECTORY, Mode::empty())?;
    own_files(layer.as_fd(), checked)?;
    let tree = rustix::fs::openat(&layer, "tree", DIRECTORY, Mode::empty())?;
    let (streamed, found) = std::thread::scope(|scope| {
        let walk = scope.spawn(|| observe(tree.as_fd()));
        let streamed = stream(store, row, layer.as_fd(), quick);
        (streamed, walk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let Streamed { expected, digest, count_bytes, faults } = match streamed {
        Ok(streamed) => streamed,
        Err(error) => {
            checked
                .damage(Some("recipe".to_owned()), format!("the recipe cannot be read: {}", chain(&error)));
            return Ok(());
        }
    };
    if !quick {
        checked.bytes = count_bytes;
    }
    for (path, error) in faults {
        checked.damage(Some(lossy(&path)), format!("its content cannot be read: {}", chain(&error)));
    }
    if digest.is_some_and(|digest| digest != row.layer.diff_id.0) {
        checked.damage(None, "its content does not hash to its name");
    }
    let expected = match expected {
        Ok(expected) => expected,
        Err(error) => {
            checked.damage(Some("recipe".to_owned()), format!("the recipe is damaged: {}", chain(&error)));
            return Ok(());
        }
    };
    for (what, found, known) in [
        ("bytes of tar", count_bytes, row.layer.tar_size_bytes),
        ("entries", expected.entry_count, row.layer.entry_count),
        ("gaps", expected.flags().into(), row.gaps.into()),
    ] {
        if found != known {
            checked.damage(None, format!("the index says that it has {known} {what}, it has {found}"));
        }
    }
    let found = found?;
    lists(layer.as_fd(), &expected, checked)?;
    if !quick {
        holes(tree.as_fd(), &expected, &found, checked);
    }
    let mut probe = Probe { store, folder: None, count: 0 };
    let comparison = Comparison {
        expected: &expected,
        found: &found,
        form: store.overlay,
        probe: |entry: &Entry| probe.make(entry),
        differences: Vec::new(),
    };
    for difference in comparison.run()? {
        checked.damage(Some(lossy(&difference.path)), difference.why);
    }
    Ok(())
}

/// What one pass over the tar gave.
struct Streamed {
    expected: Result<ExpectedTree, crate::archive::ArchiveError>,
    /// None when the content was left unread.
    digest: Option<Digest>,
    count_bytes: u64,
    faults: Vec<(Vec<u8>, io::Error)>,
}

fn stream(store: &Store, row: &LayerRow, layer: BorrowedFd<'_>, quick: bool) -> io::Result<Streamed> {
    let path = store.layers().path_of(row.layer.diff_id);
    let content = if quick { Content::Left } else { Content::Wanted };
    let recipe = RecipeReader::open(rustix::io::fcntl_dupfd_cloexec(layer, 3)?, &path)?.with_content(content);
    let hasher = (!quick).then(Hasher::new);
    let mut tar = TarStream { recipe, hasher, buffer: vec![0; READ_BYTES], at: 0, end: 0, count_bytes: 0 };
    let expected = ExpectedTree::read(&mut tar);
    // What follows a fault still belongs to the hash.
    while expected.is_err() && !tar.fill_buf()?.is_empty() {
        tar.at = tar.end;
    }
    if expected.is_ok() && !tar.recipe.is_at_end()? {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "something follows its end"));
    }
    let faults = tar.recipe.take_faults();
    Ok(Streamed { expected, digest: tar.hasher.map(Hasher::finish), count_bytes: tar.count_bytes, faults })
}

/// The tar of a layer, hashed as it is read.
struct TarStream {
    recipe: RecipeReader,
    hasher: Option<Hasher>,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    count_bytes: u64,
}

impl BufRead for TarStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            self.at = 0;
            self.end = 0;
            self.end = self.recipe.read(&mut self.buffer)?;
            self.count_bytes += self.end as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.buffer[..self.end]);
            }
        }
        Ok(&self.buffer[self.at..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for TarStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Modes and owners of the layer's folder and of what is beside the tree.
fn own_files(layer: BorrowedFd<'_>, checked: &mut Checked) -> io::Result<()> {
    if let Some(why) = foreign(&rustix::fs::fstat(layer)?, FileType::Directory) {
        checked.damage(None, why);
    }
    let mut seen_recipe = false;
    for name in names_in(layer)? {
        let kind = match name.to_bytes() {
            b"tree" => continue,
            b"recipe" | b"gaps" => FileType::RegularFile,
            b"displaced" => FileType::Directory,
            _ => {
                checked.damage(Some(lossy(name.to_bytes())), "it does not belong beside a layer's tree");
                continue;
            }
        };
        seen_recipe |= name.to_bytes() == b"recipe";
        let stat = rustix::fs::statat(layer, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if let Some(why) = foreign(&stat, kind) {
            checked.damage(Some(lossy(name.to_bytes())), why);
        }
    }
    if !seen_recipe {
        checked.damage(Some("recipe".to_owned()), "it is missing");
    }
    Ok(())
}

/// `gaps` and `displaced/` hold what the tar asks for and nothing else.
fn lists(layer: BorrowedFd<'_>, expected: &ExpectedTree, checked: &mut Checked) -> io::Result<()> {
    let has_gaps = expected.flags() & (flag::PARENTS | flag::LINKS) != 0;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let same = match rustix::fs::openat(layer, "gaps", flags, Mode::empty()) {
        Ok(file) => {
            let mut bytes = Vec::new();
            File::from(file).read_to_end(&mut bytes)?;
            has_gaps && bytes == expected.gaps.bytes()
        }
        Err(Errno::NOENT) => !has_gaps,
        Err(_) => false,
    };
    if !same {
        checked.damage(Some("gaps".to_owned()), "it is not what the tar leaves to lower layers");
    }
    let displaced = match rustix::fs::openat(layer, "displaced", DIRECTORY, Mode::empty()) {
        Ok(displaced) => displaced,
        Err(Errno::NOENT) => {
            if !expected.displaced.is_empty() {
                checked.damage(Some("displaced".to_owned()), "it is missing");
            }
            return Ok(());
        }
        Err(errno) => return Err(errno.into()),
    };
    displaced_files(&displaced, expected, checked)
}

fn displaced_files(displaced: &OwnedFd, expected: &ExpectedTree, checked: &mut Checked) -> io::Result<()> {
    let mut listed = Vec::new();
    match rustix::fs::openat(
        displaced,
        "list",
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(list) => drop(File::from(list).read_to_end(&mut listed)?),
        Err(errno) => {
            checked.damage(Some("displaced/list".to_owned()), format!("it cannot be opened: {errno}"));
        }
    }
    let mut by_path: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (path, inode) in expected.displaced.iter().rev() {
        by_path.entry(path).or_default().push(*inode);
    }
    let paths: Vec<&[u8]> = listed.split_inclusive(|byte| *byte == 0).collect();
    let mut same = paths.len() == expected.displaced.len();
    for (number, path) in paths.iter().enumerate() {
        let inode = path.strip_suffix(b"\0").and_then(|path| by_path.get_mut(path)?.pop());
        let Some(inode) = inode else {
            same = false;
            continue;
        };
        let Made::Entry(entry) = &expected.inodes[inode].made else { continue };
        let name = format!("displaced/{number}");
        let (size, regions) = entry
            .sparse
            .as_ref()
            .map_or((entry.size_bytes, None), |sparse| (sparse.real_size_bytes, Some(&sparse.regions)));
        match rustix::fs::statat(displaced, number.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if u64::try_from(stat.st_size) == Ok(size) => {}
            Ok(stat) => checked.damage(Some(name), format!("it has {} bytes, not {size}", stat.st_size)),
            Err(errno) => {
                checked.damage(Some(name), format!("it cannot be looked at: {errno}"));
                continue;
            }
        }
        if let Some(regions) = regions
            && !has_clean_holes(displaced.as_fd(), number.to_string().as_bytes(), size, regions)?
        {
            checked.damage(Some(format!("displaced/{number}")), "its holes hold something");
        }
    }
    if !same {
        checked.damage(Some("displaced/list".to_owned()), "it does not list what the tar replaced");
    }
    for name in names_in(displaced.as_fd())? {
        let number = name.to_str().ok().and_then(|name| name.parse::<usize>().ok());
        if name.to_bytes() != b"list" && number.is_none_or(|number| number >= paths.len()) {
            checked
                .damage(Some(format!("displaced/{}", lossy(name.to_bytes()))), "the layer has no such entry");
        }
    }
    Ok(())
}

/// No hash covers what lies in the holes of a file.
fn holes(
    tree: BorrowedFd<'_>,
    expected: &ExpectedTree,
    found: &BTreeMap<Vec<u8>, Facts>,
    checked: &mut Checked,
) {
    for (path, name) in &expected.names {
        if let Made::Entry(entry) = &expected.inodes[name.inode].made
            && let Some(sparse) = &entry.sparse
            && found.get(path).is_some_and(|facts| facts.size_bytes == sparse.real_size_bytes)
        {
            match has_clean_holes(tree, path, sparse.real_size_bytes, &sparse.regions) {
                Ok(true) => {}
                Ok(false) => checked.damage(Some(lossy(path)), "its holes hold something"),
                Err(error) => checked.damage(Some(lossy(path)), format!("it cannot be read: {error}")),
            }
        }
    }
}

/// Makes entries once more, to see what this file system makes of them.
struct Probe<'s> {
    store: &'s Store,
    folder: Option<(Folder, OwnedFd)>,
    count: u64,
}

impl Probe<'_> {
    fn make(&mut self, entry: &Entry) -> io::Result<Facts> {
        if self.folder.is_none() {
            let lease = self.store.lease().map_err(io::Error::other)?;
            let folder = Folder::make(&lease, "staging")?;
            let layer = folder.make_inside("layer", Mode::RWXU)?;
            rustix::fs::mkdirat(&layer, "tree", Mode::RWXU)?;
            self.folder = Some((folder, layer));
        }
        let (_, layer) = self.folder.as_ref().expect("was made above");
        self.count += 1;
        let name = self.count.to_string();
        make_one(layer.as_fd(), self.store.overlay, name.as_bytes(), entry).map_err(io::Error::other)?;
        look_at(layer.as_fd(), name.as_bytes())
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
