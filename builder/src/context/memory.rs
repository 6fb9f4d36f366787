//! What a context's files hashed to, remembered by their stat data.
//!
//! A file whose device, inode, size, mode, mtime and ctime are the same as at the last build has the
//! same content, so it is not read again. As in git's index, a file that was changed just before
//! it was looked at is not remembered: a later write in the same clock tick would not show.
//!
//! ```text
//! "rbuild-context-2\n", then per file, in the order of a walk (see `walk_order`):
//! path length u32, xattr length u32, device u64, inode u64, size u64, mtime i64, ctime i64, their
//! nanoseconds u32 u32, digest [32], path, xattrs                    (integers little endian)
//! ```
//! The bytes are kept as they come; a walk asks in their order, so most lookups are one comparison.
//!
//! May touch: its arguments. Knows nothing of disk, ignore rules, steps.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use store::Digest;

use super::walk::Stat;

const MAGIC: &[u8] = b"rbuild-context-2\n";
/// Timestamps of local file systems tick in at most 10 ms.
const RACY_NANOSECONDS: i128 = 100_000_000;
/// Of a file in the form above, before its path.
const HEAD_BYTES: usize = 8 + FINGERPRINT_BYTES + 32;
const FINGERPRINT_BYTES: usize = 48;

/// What is known of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub digest: Digest,
    /// As [`super::xattrs::encode`] makes them; mostly empty.
    pub xattrs: Vec<u8>,
}

type Fingerprint = [u8; FINGERPRINT_BYTES];

/// The files of a context by path.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    bytes: Vec<u8>,
    /// Where each file begins in `bytes`, in order.
    starts: Vec<usize>,
    /// The file after the one that was asked for last.
    next: usize,
    learnt: BTreeMap<PathKey, (Fingerprint, Content)>,
}

/// A path that sorts in the order of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PathKey(Vec<u8>);

impl Ord for PathKey {
    fn cmp(&self, other: &Self) -> Ordering {
        walk_order(&self.0, &other.0)
    }
}

impl PartialOrd for PathKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By components: what is in a folder comes right after the folder.
fn walk_order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) => key(a).cmp(&key(b)),
        None => a.len().cmp(&b.len()),
    }
}

/// A file in the bytes.
struct Kept<'m> {
    fingerprint: &'m [u8],
    digest: [u8; 32],
    path: &'m [u8],
    xattrs: &'m [u8],
    /// All of it.
    record: &'m [u8],
}

impl Memory {
    /// Reads a memory; anything that is not one is an empty memory (it only costs time).
    pub fn parse(bytes: Vec<u8>) -> Self {
        let mut starts = Vec::new();
        let mut at = MAGIC.len();
        let mut before: &[u8] = b"";
        if !bytes.starts_with(MAGIC) {
            return Self::default();
        }
        while at < bytes.len() {
            let Some(file) = Kept::read(&bytes[at..]) else { return Self::default() };
            if !starts.is_empty() && walk_order(before, file.path) != Ordering::Less {
                return Self::default();
            }
            before = file.path;
            starts.push(at);
            at += file.record.len();
        }
        Self { bytes, starts, next: 0, learnt: BTreeMap::new() }
    }

    /// The content of a file that looks as it did.
    pub fn recall(&mut self, path: &[u8], stat: &Stat) -> Option<Content> {
        if !self.learnt.is_empty()
            && let Some((seen, content)) = self.learnt.get(&PathKey(path.to_vec()))
        {
            return (*seen == fingerprint(stat)).then(|| content.clone());
        }
        let is_next = self.kept(self.next).is_some_and(|file| file.path == path);
        let at = if is_next { self.next } else { self.find(path).ok()? };
        self.next = at + 1;
        let file = self.kept(at)?;
        let content = || Content { digest: Digest::from_bytes(file.digest), xattrs: file.xattrs.to_vec() };
        (file.fingerprint == fingerprint(stat)).then(content)
    }

    /// Remembers a file, unless it changed too shortly before `now` (nanoseconds since 1970).
    pub fn remember(&mut self, path: &[u8], stat: &Stat, content: &Content, now: i128) {
        let changed = i128::from(stat.ctime.0) * 1_000_000_000 + i128::from(stat.ctime.1);
        if changed + RACY_NANOSECONDS > now {
            return;
        }
        self.learnt.insert(PathKey(path.to_vec()), (fingerprint(stat), content.clone()));
    }

    /// The bytes to keep, when there is anything new.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        if self.learnt.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(self.bytes.len() + self.learnt.len() * 2 * HEAD_BYTES);
        out.extend(MAGIC);
        let mut old = (0..self.starts.len()).filter_map(|at| self.kept(at)).peekable();
        for (PathKey(path), (fingerprint, content)) in &self.learnt {
            while let Some(file) = old.next_if(|file| walk_order(file.path, path) == Ordering::Less) {
                out.extend(file.record);
            }
            old.next_if(|file| file.path == path);
            put(&mut out, path, fingerprint, content);
        }
        old.for_each(|file| out.extend(file.record));
        Some(out)
    }

    fn kept(&self, at: usize) -> Option<Kept<'_>> {
        Kept::read(&self.bytes[*self.starts.get(at)?..])
    }

    fn find(&self, path: &[u8]) -> Result<usize, usize> {
        let path_at = |start: &usize| Kept::read(&self.bytes[*start..]).map_or(&b""[..], |file| file.path);
        self.starts.binary_search_by(|start| walk_order(path_at(start), path))
    }
}

impl<'m> Kept<'m> {
    fn read(bytes: &'m [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let length = |at: usize| Some(u32::from_le_bytes(head[at..at + 4].try_into().ok()?) as usize);
        let (path_length, xattr_length) = (length(0)?, length(4)?);
        let (path, rest) = rest.split_at_checked(path_length)?;
        let (xattrs, _) = rest.split_at_checked(xattr_length)?;
        let digest = head[8 + FINGERPRINT_BYTES..].try_into().ok()?;
        let record = &bytes[..HEAD_BYTES + path_length + xattr_length];
        Some(Self { fingerprint: &head[8..8 + FINGERPRINT_BYTES], digest, path, xattrs, record })
    }
}

fn put(out: &mut Vec<u8>, path: &[u8], fingerprint: &Fingerprint, content: &Content) {
    for bytes in [path, &content.xattrs] {
        let length = u32::try_from(bytes.len()).expect("paths and xattrs are shorter than 4 GiB");
        out.extend(length.to_le_bytes());
    }
    out.extend(fingerprint);
    out.extend(content.digest.as_bytes());
    out.extend(path);
    out.extend(&content.xattrs);
}

fn fingerprint(stat: &Stat) -> Fingerprint {
    let mut out = [0; FINGERPRINT_BYTES];
    let numbers = [
        stat.device,
        stat.inode,
        stat.size_bytes,
        stat.mtime.0.cast_unsigned(),
        stat.ctime.0.cast_unsigned(),
    ];
    for (place, number) in out.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    out[40..44].copy_from_slice(&stat.mtime.1.to_le_bytes());
    out[44..].copy_from_slice(&stat.ctime.1.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(size_bytes: u64, changed: i64) -> Stat {
        Stat {
            kind: rustix::fs::FileType::RegularFile,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size_bytes,
            mtime: (changed, 5),
            ctime: (changed, 6),
            device: 1,
            inode: 2,
            link_count: 1,
            rdev: 0,
        }
    }

    fn content(text: &str) -> Content {
        Content { digest: Digest::of(text.as_bytes()), xattrs: b"x".to_vec() }
    }

    #[test]
    fn a_file_is_recalled_only_while_it_looks_the_same() {
        let mut memory = Memory::default();
        memory.remember(b"a", &stat(3, 10), &content("one"), 20_000_000_000);
        let mut memory = Memory::parse(memory.to_bytes().unwrap());
        assert_eq!(memory.recall(b"a", &stat(3, 10)), Some(content("one")));
        assert_eq!(memory.recall(b"a", &stat(4, 10)), None);
        assert_eq!(memory.recall(b"a", &stat(3, 11)), None);
        assert_eq!(memory.recall(b"b", &stat(3, 10)), None);
        assert_eq!(memory.to_bytes(), None, "nothing new was learnt");
    }

    #[test]
    fn a_file_changed_just_now_is_not_remembered() {
        let mut memory = Memory::default();
        memory.remember(b"a", &stat(3, 10), &content("one"), 10_050_000_000);
        assert!(memory.to_bytes().is_none());
        assert_eq!(memory.recall(b"a", &stat(3, 10)), None);
    }

    #[test]
    fn a_damaged_memory_is_an_empty_one() {
        let mut memory = Memory::default();
        memory.remember(b"a", &stat(3, 10), &content("one"), 20_000_000_000);
        let bytes = memory.to_bytes().unwrap();
        for cut in 0..bytes.len() {
            let damaged = Memory::parse(bytes[..cut].to_vec());
            assert!(damaged.starts.is_empty());
        }
        assert_eq!(Memory::parse(bytes).starts.len(), 1);
    }

    #[test]
    fn files_are_found_in_any_order_and_replaced_by_what_is_newer() {
        let names: [&[u8]; 6] = [b"a", b"a-b", b"a/b", b"a/c/d", b"a.b", b"z"];
        let now = 20_000_000_000;
        let mut memory = Memory::default();
        for name in names.iter().rev() {
            memory.remember(name, &stat(3, 10), &content("one"), now);
        }
        let mut memory = Memory::parse(memory.to_bytes().unwrap());
        memory.remember(b"a/b", &stat(4, 11), &content("two"), now);
        memory.remember(b"a/b2", &stat(4, 11), &content("two"), now);
        let mut memory = Memory::parse(memory.to_bytes().unwrap());
        assert_eq!(memory.starts.len(), 7);
        for name in names.iter().chain(names.iter().rev()).filter(|name| **name != b"a/b") {
            assert_eq!(memory.recall(name, &stat(3, 10)), Some(content("one")), "{name:?}");
        }
        assert_eq!(memory.recall(b"a/b", &stat(3, 10)), None);
        assert_eq!(memory.recall(b"a/b", &stat(4, 11)), Some(content("two")));
        assert_eq!(memory.recall(b"a/b2", &stat(4, 11)), Some(content("two")));
    }
}
