//! Which files a COPY or ADD takes, and what they are: names, modes, links, content hashes.
//!
//! ```text
//! source word ─wildcards→ matches ─follow a top-level link→ file, or a folder's contents
//!             ─ignore rules, --exclude→ items ─memory, else read→ content hashes
//! ```
//!
//! The list is complete and sorted before anything is copied: the cache key is made from it, and
//! copying compares what it reads with what was hashed.
//!
//! May touch: the source's tree. Knows nothing of destinations, stores, steps.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use store::digest::Hasher;
use store::{ImagePath, RootDir};

use super::Source;
use super::ignore::IgnoreRules;
use super::memory::Content;
use super::pattern;
use super::walk::{self, Entry, Stat, Take};
use super::xattrs;

/// One thing that was named: a file, or a folder whose contents are taken.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The last component, which a file keeps when it goes into a folder.
    pub name: Vec<u8>,
    /// The source's own path below the root, for `--parents`.
    pub path: Vec<u8>,
    pub is_dir: bool,
    /// The thing itself first (`relative` empty), then what is in it.
    pub items: Vec<Item>,
}

/// One file to be copied.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where it is in the source.
    pub source: ImagePath,
    /// Where it goes, relative to the thing that was named.
    pub relative: Vec<u8>,
    pub stat: Stat,
    /// Where a symbolic link points.
    pub link: Option<Vec<u8>>,
    /// Of regular files.
    pub content: Option<Content>,
}

/// Why files can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    #[error("cannot find `{0}` in the {1}")]
    NotFound(String, &'static str),
    #[error("cannot find `{path}` in the context: line {line} of the ignore file excludes it")]
    Ignored { path: String, line: usize },
    #[error("`{0}` is not a valid pattern")]
    BadPattern(String),
    #[error("cannot {doing} `{path}`")]
    Io { doing: &'static str, path: String, source: io::Error },
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    pub words: &'r [String],
    pub exclude: &'r IgnoreRules,
}

fn failed(doing: &'static str, path: &ImagePath) -> impl FnOnce(io::Error) -> SelectError {
    let path = path.to_string();
    move |source| SelectError::Io { doing, path, source }
}

/// Finds all that `request` names and hashes it. A pattern may match nothing, as in BuildKit
/// (`COPY package.json lock* ./` depends on it); a plain name must be there.
pub fn select(source: &Source, request: Request<'_>) -> Result<Vec<Selected>, SelectError> {
    let mut selected = Vec::new();
    for word in request.words {
        let matches = find(source, word)?;
        let above = folders_before_pivot(word);
        for path in matches {
            let mut found = select_one(source, &path, request.exclude)?;
            if let Some(one) = &mut found {
                one.path = path.components().skip(above).collect::<Vec<_>>().join(&b'/');
            }
            selected.extend(found);
        }
    }
    hash_contents(source, &mut selected)?;
    Ok(selected)
}

/// How many folders of a source are before the pivot `/./`, which `--parents` does not keep.
fn folders_before_pivot(word: &str) -> usize {
    let word = word.trim_start_matches("./");
    word.find("/./").map_or(0, |pivot| ImagePath::new(&word[..pivot]).components().count())
}

/// Whether a text has anything that Go's `filepath.Match` gives a meaning.
fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| b"*?[\\".contains(byte))
}

/// The paths that a source word names; links in the last component are not followed yet.
fn find(source: &Source, word: &str) -> Result<Vec<ImagePath>, SelectError> {
    let path = ImagePath::new(word);
    if !is_pattern(word.as_bytes()) {
        return if exists(source, &path)? { Ok(vec![path]) } else { Err(not_found(source, &path, word)) };
    }
    let mut found = vec![ImagePath::root()];
    for part in path.components() {
        let mut next = Vec::new();
        for folder in found {
            if !is_pattern(part) {
                let below = folder.join(part);
                if exists(source, &below)? {
                    next.push(below);
                }
                continue;
            }
            next.extend(matching_names(source, &folder, part, word)?);
        }
        found = next;
    }
    Ok(found)
}

fn matching_names(
    source: &Source,
    folder: &ImagePath,
    part: &[u8],
    word: &str,
) -> Result<Vec<ImagePath>, SelectError> {
    let Ok(directory) = source.root.open(folder, OFlags::RDONLY | OFlags::DIRECTORY) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for name in walk::sorted_names(&directory).map_err(failed("list", folder))? {
        let matched = pattern::matches(part, &name).map_err(|_| SelectError::BadPattern(word.to_owned()))?;
        let path = folder.join(&name);
        if matched && exists(source, &path)? {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether `path` is there and may be seen.
fn exists(source: &Source, path: &ImagePath) -> Result<bool, SelectError> {
    match source.root.open(path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(opened) => Ok(path.is_root() || is_visible(source, path, &opened)?),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(failed("open", path)(error)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether the rules let a path be seen: an ignored folder is there for what comes back below it.
fn is_visible(source: &Source, path: &ImagePath, opened: &OwnedFd) -> Result<bool, SelectError> {
    if !source.rules.verdict(path.relative()).ignored {
        return Ok(true);
    }
    let stat = Stat::of_open(opened).map_err(failed("read the state of", path))?;
    if !stat.is_dir() || !source.rules.may_hold_exceptions(path.relative()) {
        return Ok(false);
    }
    Ok(!list_folder(source, path, opened, &IgnoreRules::default())?.is_empty())
}

fn not_found(source: &Source, path: &ImagePath, word: &str) -> SelectError {
    if source.keeps_owners {
        return SelectError::NotFound(word.to_owned(), "image");
    }
    let there = source.root.open(path, OFlags::PATH | OFlags::NOFOLLOW).is_ok();
    match source.rules.verdict(path.relative()).line.filter(|_| there) {
        Some(line) => SelectError::Ignored { path: word.to_owned(), line },
        None => SelectError::NotFound(word.to_owned(), "context"),
    }
}

/// Lists one match: a top-level link is followed, a folder gives its contents.
fn select_one(
    source: &Source,
    path: &ImagePath,
    exclude: &IgnoreRules,
) -> Result<Option<Selected>, SelectError> {
    let opened = source.root.open(path, OFlags::PATH);
    let opened = match opened {
        Err(error) if is_absent(&error) => return Err(not_found(source, path, &path.to_string())),
        other => other.map_err(failed("open", path))?,
    };
    let stat = Stat::of_open(&opened).map_err(failed("read the state of", path))?;
    let name = path.components().last().unwrap_or_default().to_vec();
    let top = Item { source: path.clone(), relative: Vec::new(), stat, link: None, content: None };
    if !stat.is_dir() {
        let excluded = !exclude.is_empty() && exclude.verdict(&name).ignored;
        let selected = Selected { name, path: path.relative().to_vec(), is_dir: false, items: vec![top] };
        return Ok((!excluded).then_some(selected));
    }
    let mut items = vec![top];
    items.extend(list_folder(source, path, &opened, exclude)?);
    Ok(Some(Selected { name, path: path.relative().to_vec(), is_dir: true, items }))
}

fn list_folder(
    source: &Source,
    path: &ImagePath,
    folder: &OwnedFd,
    exclude: &IgnoreRules,
) -> Result<Vec<Item>, SelectError> {
    let rules = &source.rules;
    let entries = walk::walk(folder, &|relative, _| match (rules.is_empty(), exclude.is_empty()) {
        (true, true) => Take::Yes,
        (false, true) => judge(rules, path.join_names(relative).relative()),
        (true, false) => judge(exclude, relative),
        (false, false) => {
            judge(rules, path.join_names(relative).relative()).min_with(judge(exclude, relative))
        }
    })
    .map_err(|error| failed("read", &path.join_names(&error.path))(error.source))?;
    entries.into_iter().map(|entry| to_item(source, path, entry)).collect()
}

fn judge(rules: &IgnoreRules, path: &[u8]) -> Take {
    match rules.verdict(path).ignored {
        false => Take::Yes,
        true if rules.may_hold_exceptions(path) => Take::Inside,
        true => Take::No,
    }
}

impl Take {
    /// The stricter of two verdicts.
    fn min_with(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Inside, _) | (_, Self::Inside) => Self::Inside,
            _ => Self::Yes,
        }
    }
}

fn to_item(source: &Source, folder: &ImagePath, entry: Entry) -> Result<Item, SelectError> {
    let path = folder.join_names(&entry.path);
    let link = match entry.stat.kind {
        FileType::Symlink => Some(link_target(&source.root, &path).map_err(failed("read link", &path))?),
        _ => None,
    };
    Ok(Item { source: path, relative: entry.path, stat: entry.stat, link, content: None })
}

fn link_target(root: &RootDir, path: &ImagePath) -> io::Result<Vec<u8>> {
    let link = root.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
    walk::read_link(&link, b"")
}

/// Fills in what regular files hold: from memory where they look the same, else by reading them.
fn hash_contents(source: &Source, selected: &mut [Selected]) -> Result<(), SelectError> {
    let now = now_nanoseconds();
    let mut missing = Vec::new();
    {
        let mut memory = source.memory.lock().expect("no thread panics while it holds the memory");
        for item in selected.iter_mut().flat_map(|one| &mut one.items) {
            if item.stat.kind != FileType::RegularFile {
                continue;
            }
            item.content = memory.recall(item.source.relative(), &item.stat);
            if item.content.is_none() {
                missing.push(item);
            }
        }
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let share = missing.len().div_ceil(workers).max(64);
    std::thread::scope(|scope| {
        let hash_share =
            |items: &mut [&mut Item]| items.iter_mut().try_for_each(|item| hash_item(source, item));
        let threads: Vec<_> =
            missing.chunks_mut(share).map(|items| scope.spawn(move || hash_share(items))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("hashing does not panic"))
    })?;
    if !source.keeps_owners {
        let mut memory = source.memory.lock().expect("no thread panics while it holds the memory");
        for item in missing {
            if let Some(content) = &item.content {
                memory.remember(item.source.relative(), &item.stat, content, now);
            }
        }
    }
    Ok(())
}

fn hash_item(source: &Source, item: &mut Item) -> Result<(), SelectError> {
    let file = open_regular(&source.root, &item.source).map_err(failed("open", &item.source))?;
    let xattrs = xattrs::read(&file).map_err(failed("read attributes of", &item.source))?;
    let mut file = std::fs::File::from(file);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; buffer_size(item.stat.size_bytes)];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("read", &item.source)(error)),
        }
    }
    item.content = Some(Content { digest: hasher.finish(), xattrs: xattrs::encode(&xattrs) });
    Ok(())
}

/// Opens a file that the walk saw as a regular one; a pipe that took its place does not block.
pub fn open_regular(root: &RootDir, path: &ImagePath) -> io::Result<OwnedFd> {
    root.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
}

/// A buffer that takes a small file in one read and a large one in few.
pub fn buffer_size(size_bytes: u64) -> usize {
    usize::try_from(size_bytes + 1).unwrap_or(usize::MAX).clamp(4 * 1024, 256 * 1024)
}

fn now_nanoseconds() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}
