//! What a context's files hashed to, remembered by their stat data.
//!
//! A file whose device, inode, size, mode, mtime and ctime are the same as at the last build has the
//! same content, so it is not read again. As in git's index, a file that was changed just before
//! it was looked at is not remembered: a later write in the same clock tick would not show.
//!
//! ```text
//! "rbuild-context-1\n" then per file: path length u32, path, device, inode, size, mtime, ctime (u64 and
//! u32 each, little endian), digest (32 hex-decoded bytes as text), xattr length u32, xattrs
//! ```
//!
//! May touch: its arguments. Knows nothing of disk, ignore rules, steps.

use std::collections::HashMap;

use store::Digest;

use super::walk::Stat;

const MAGIC: &[u8] = b"rbuild-context-1\n";
/// Timestamps of local file systems tick in at most 10 ms.
const RACY_NANOSECONDS: i128 = 100_000_000;

/// What is known of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub digest: Digest,
    /// As [`super::xattrs::encode`] makes them; mostly empty.
    pub xattrs: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Remembered {
    fingerprint: Fingerprint,
    content: Content,
}

type Fingerprint = ([u64; 3], [i64; 2], [u32; 2]);

/// The files of a context by path.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    files: HashMap<Vec<u8>, Remembered>,
    changed: bool,
}

impl Memory {
    /// Reads a memory; anything that is not one is an empty memory (it only costs time).
    pub fn parse(bytes: &[u8]) -> Self {
        let mut memory = Self::default();
        let Some(mut rest) = bytes.strip_prefix(MAGIC) else { return memory };
        while !rest.is_empty() {
            let Some((path, remembered)) = parse_file(&mut rest) else { return Self::default() };
            memory.files.insert(path, remembered);
        }
        memory
    }

    /// The content of a file that looks as it did.
    pub fn recall(&self, path: &[u8], stat: &Stat) -> Option<Content> {
        let known = self.files.get(path)?;
        (known.fingerprint == fingerprint(stat)).then(|| known.content.clone())
    }

    /// Remembers a file, unless it changed too shortly before `now` (nanoseconds since 1970).
    pub fn remember(&mut self, path: &[u8], stat: &Stat, content: &Content, now: i128) {
        let changed = i128::from(stat.ctime.0) * 1_000_000_000 + i128::from(stat.ctime.1);
        if changed + RACY_NANOSECONDS > now {
            return;
        }
        let remembered = Remembered { fingerprint: fingerprint(stat), content: content.clone() };
        self.files.insert(path.to_vec(), remembered);
        self.changed = true;
    }

    /// The bytes to keep, when there is anything new.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        if !self.changed {
            return None;
        }
        let mut out = MAGIC.to_vec();
        for (path, file) in &self.files {
            put_bytes(&mut out, path);
            let (numbers, seconds, fractions) = file.fingerprint;
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            out.extend(seconds.iter().flat_map(|number| number.to_le_bytes()));
            out.extend(fractions.iter().flat_map(|number| number.to_le_bytes()));
            out.extend(file.content.digest.hex().as_bytes());
            put_bytes(&mut out, &file.content.xattrs);
        }
        Some(out)
    }
}

fn fingerprint(stat: &Stat) -> Fingerprint {
    ([stat.device, stat.inode, stat.size_bytes], [stat.mtime.0, stat.ctime.0], [stat.mtime.1, stat.ctime.1])
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("paths and xattrs are shorter than 4 GiB");
    out.extend(length.to_le_bytes());
    out.extend(bytes);
}

fn parse_file(rest: &mut &[u8]) -> Option<(Vec<u8>, Remembered)> {
    let path = take_bytes(rest)?.to_vec();
    let mut number = || Some(u64::from_le_bytes(take(rest, 8)?.try_into().ok()?));
    let numbers = [number()?, number()?, number()?];
    let seconds = [number()?.cast_signed(), number()?.cast_signed()];
    let mut fraction = || Some(u32::from_le_bytes(take(rest, 4)?.try_into().ok()?));
    let fractions = [fraction()?, fraction()?];
    let digest = Digest::from_hex(std::str::from_utf8(take(rest, 64)?).ok()?).ok()?;
    let xattrs = take_bytes(rest)?.to_vec();
    let content = Content { digest, xattrs };
    Some((path, Remembered { fingerprint: (numbers, seconds, fractions), content }))
}

fn take<'b>(rest: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

fn take_bytes<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
    take(rest, length as usize)
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
        let memory = Memory::parse(&memory.to_bytes().unwrap());
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
        assert_eq!(memory.recall(b"a", &stat(3, 10)), None);
    }

    #[test]
    fn a_damaged_memory_is_an_empty_one() {
        let mut memory = Memory::default();
        memory.remember(b"a", &stat(3, 10), &content("one"), 20_000_000_000);
        let bytes = memory.to_bytes().unwrap();
        for cut in 0..bytes.len() {
            let damaged = Memory::parse(&bytes[..cut]);
            assert!(damaged.files.is_empty());
        }
    }
}
