//! Reads a tar strictly, entry by entry, and keeps every byte that is not file content.
//!
//! ```text
//! [x or g header, body] [L, K header, body] header [map of a sparse file] | content | padding   …   zeros
//! └──────────────────────────── literal ────────────────────────────────┘ └passed on┘ └literal┘
//! ```
//!
//! Where parsers are known to disagree (two sizes, a size on what has no content, names from two
//! extensions, data behind the end) this one refuses, so nothing can be smuggled past another reader.
//!
//! May touch: the stream given. Knows nothing of trees or disk.

use std::io::BufRead;

use super::{ArchiveError, LIMITS, Time, lossy};

mod number;
mod pax;
mod sparse;

pub(crate) use sparse::Sparse;

pub(crate) const BLOCK: usize = 512;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// One entry, all its headers put together.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// As it stands in the archive.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Content that follows in the archive.
    pub(crate) size_bytes: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<Sparse>,
}

/// Reads entries; between two calls of `next` the content is taken with `content` and `consume`.
pub(crate) struct TarReader<R> {
    input: R,
    at: u64,
    /// All bytes since the last content; the caller takes them.
    pub(crate) literal: Vec<u8>,
    content_left: u64,
    padding: u64,
    count: u64,
}

/// What the extended headers before an entry said.
#[derive(Default)]
struct Extended {
    pax: pax::Records,
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
}

type Result<T> = std::result::Result<T, ArchiveError>;

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, at: 0, literal: Vec::new(), content_left: 0, padding: 0, count: 0 }
    }

    /// Reads up to the next entry's content; `None` at the end, which [`TarReader::finish`] completes.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        while self.content_left > 0 {
            let count = self.content()?.len();
            self.consume(count);
        }
        let padding = std::mem::take(&mut self.padding);
        self.take_literal(padding, "padding")?;
        let mut extended = Extended::default();
        let mut headers = 0;
        loop {
            let Some(header) = self.header()? else {
                if headers > 0 {
                    return Err(ArchiveError::Truncated { what: "an entry" });
                }
                return Ok(None);
            };
            headers += 1;
            if headers > LIMITS.extended_count {
                return Err(ArchiveError::TooMuch {
                    what: "extended headers before one entry",
                    limit: LIMITS.extended_count,
                });
            }
            match header[156] {
                b'x' => {
                    let body = self.body(&header)?;
                    extended.pax.add(&body).map_err(|what| self.malformed(what))?;
                }
                b'g' => {
                    // Go's reader, so docker, gives a global header no effect; a size would shift all.
                    let mut records = pax::Records::default();
                    let body = self.body(&header)?;
                    records.add(&body).map_err(|what| self.malformed(what))?;
                    if records.size.is_some() {
                        return Err(self.malformed("a global header sets a size"));
                    }
                    headers -= 1;
                    self.count_entry()?;
                }
                b'L' => extended.gnu_path = Some(self.long_name(&header, extended.gnu_path.is_some())?),
                b'K' => extended.gnu_link = Some(self.long_name(&header, extended.gnu_link.is_some())?),
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// The next piece of the entry's content; empty when all was consumed.
    pub(crate) fn content(&mut self) -> Result<&[u8]> {
        if self.content_left == 0 {
            return Ok(&[]);
        }
        let bytes = fill(&mut self.input)?;
        if bytes.is_empty() {
            return Err(ArchiveError::Truncated { what: "a file" });
        }
        let count = usize::try_from(self.content_left).unwrap_or(usize::MAX).min(bytes.len());
        Ok(&bytes[..count])
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.content_left -= count as u64;
        self.at += count as u64;
    }

    /// Reads what follows the end mark; `sink` gets it all. Only zeros may follow.
    pub(crate) fn finish(&mut self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        sink(&std::mem::take(&mut self.literal))?;
        loop {
            let bytes = fill(&mut self.input)?;
            if bytes.is_empty() {
                return Ok(());
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Err(self.malformed("something other than zeros follows its end"));
            }
            sink(bytes)?;
            let count = bytes.len();
            self.input.consume(count);
            self.at += count as u64;
        }
    }

    fn malformed(&self, what: &'static str) -> ArchiveError {
        ArchiveError::Malformed { at: self.at, what }
    }

    fn count_entry(&mut self) -> Result<()> {
        self.count += 1;
        if self.count > LIMITS.entries {
            return Err(ArchiveError::TooMuch { what: "entries", limit: LIMITS.entries });
        }
        Ok(())
    }

    /// The next header block, its checksum checked; `None` at an end mark or the stream's end.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if fill(&mut self.input)?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.take_block(&mut block, "a header")?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stored =
            number::parse(&block[148..156]).ok_or_else(|| self.malformed("a checksum is no number"))?;
        let sum = |value: fn(u8) -> i64| -> i64 {
            let fields = block.iter().enumerate();
            fields.map(|(i, byte)| if (148..156).contains(&i) { 32 } else { value(*byte) }).sum()
        };
        // Some old writers summed signed bytes.
        if stored != sum(i64::from) && stored != sum(|byte| i64::from(byte.cast_signed())) {
            return Err(self.malformed("a header's checksum is wrong"));
        }
        Ok(Some(block))
    }

    /// The body of an extended header.
    fn body(&mut self, header: &[u8; BLOCK]) -> Result<Vec<u8>> {
        let size = self.number(&header[124..136])?;
        if size > LIMITS.extended_bytes {
            return Err(ArchiveError::TooMuch {
                what: "bytes of an extended header",
                limit: LIMITS.extended_bytes,
            });
        }
        let start = self.literal.len();
        self.take_literal(padded(size), "an extended header")?;
        let size = usize::try_from(size).expect("is below a limit of 1 MiB");
        Ok(self.literal[start..start + size].to_vec())
    }

    fn long_name(&mut self, header: &[u8; BLOCK], twice: bool) -> Result<Vec<u8>> {
        if twice {
            return Err(self.malformed("an entry has two long names"));
        }
        let mut name = self.body(header)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn number(&self, field: &[u8]) -> Result<u64> {
        let value = number::parse(field).ok_or_else(|| self.malformed("a field is no number"))?;
        u64::try_from(value).map_err(|_| self.malformed("a field is negative"))
    }

    /// Puts an entry together from its header and the extended ones.
    fn entry(&mut self, header: &[u8; BLOCK], extended: Extended) -> Result<Entry> {
        self.count_entry()?;
        let Extended { mut pax, gnu_path, gnu_link } = extended;
        let plain_path = Self::plain_path(header);
        let path = self.one_of(pax.path.take(), gnu_path)?.unwrap_or(plain_path);
        let link =
            self.one_of(pax.link.take(), gnu_link)?.unwrap_or_else(|| text(&header[157..257]).to_vec());
        let kind = Self::kind(header, &path)?;
        let size_bytes = match pax.size {
            Some(size) => size,
            None => self.number(&header[124..136])?,
        };
        if kind != Kind::File && size_bytes > 0 {
            return Err(bad(&path, "it has content, but is no regular file"));
        }
        let mtime = match pax.mtime {
            Some(time) => time,
            None => Time {
                seconds: number::parse(&header[136..148])
                    .ok_or_else(|| self.malformed("a time is no number"))?,
                nanoseconds: 0,
            },
        };
        self.check_name(&path, "a path")?;
        self.check_name(&link, "a link")?;
        let id = |value: u64| u32::try_from(value).ok().filter(|id| *id != u32::MAX);
        let uid = id(pax.uid.map_or_else(|| self.number(&header[108..116]), Ok)?);
        let gid = id(pax.gid.map_or_else(|| self.number(&header[116..124]), Ok)?);
        let devices = matches!(kind, Kind::Character | Kind::Block);
        let device_number = |field: &[u8]| if devices { self.number(field) } else { Ok(0) };
        let device = (device_number(&header[329..337])?, device_number(&header[337..345])?);
        let narrow =
            |value: u64| u32::try_from(value).map_err(|_| bad(&path, "its device number is too large"));
        let mut entry = Entry {
            kind,
            mode: u32::try_from(self.number(&header[100..108])? & 0o7777).expect("is masked to 12 bits"),
            uid: uid.ok_or_else(|| bad(&path, "its uid is out of range"))?,
            gid: gid.ok_or_else(|| bad(&path, "its gid is out of range"))?,
            mtime,
            size_bytes,
            link,
            device: (narrow(device.0)?, narrow(device.1)?),
            xattrs: std::mem::take(&mut pax.xattrs),
            sparse: None,
            path,
        };
        self.content_left = size_bytes;
        self.padding = padded(size_bytes) - size_bytes;
        entry.sparse = self.sparse(header, &mut entry, pax)?;
        entry.size_bytes = self.content_left;
        Ok(entry)
    }

    fn plain_path(header: &[u8; BLOCK]) -> Vec<u8> {
        let name = text(&header[..100]);
        let prefix = text(&header[345..500]);
        // GNU's own format uses the prefix's place for other things.
        if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    fn kind(header: &[u8; BLOCK], path: &[u8]) -> Result<Kind> {
        Ok(match header[156] {
            // Before ustar a directory was a file whose name ends in a slash.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(bad(path, "it is of an unknown type")),
        })
    }

    /// A name that two extensions give must be the same in both.
    fn one_of(&self, pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        match (pax, gnu) {
            (Some(pax), Some(gnu)) if pax != gnu => Err(self.malformed("an entry has two different names")),
            (pax, gnu) => Ok(pax.or(gnu)),
        }
    }

    fn check_name(&self, name: &[u8], what: &'static str) -> Result<()> {
        if name.len() as u64 > LIMITS.path_bytes {
            return Err(ArchiveError::TooMuch { what: "bytes of a path or link", limit: LIMITS.path_bytes });
        }
        if name.contains(&0) {
            return Err(self.malformed(if what == "a path" {
                "a path holds a NUL"
            } else {
                "a link holds a NUL"
            }));
        }
        Ok(())
    }

    fn take_literal(&mut self, count: u64, what: &'static str) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let bytes = fill(&mut self.input)?;
            if bytes.is_empty() {
                return Err(ArchiveError::Truncated { what });
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            self.literal.extend_from_slice(&bytes[..count]);
            self.input.consume(count);
            self.at += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    fn take_block(&mut self, block: &mut [u8; BLOCK], what: &'static str) -> Result<()> {
        self.take_literal(BLOCK as u64, what)?;
        block.copy_from_slice(&self.literal[self.literal.len() - BLOCK..]);
        Ok(())
    }
}

pub(crate) fn bad(path: &[u8], why: &'static str) -> ArchiveError {
    ArchiveError::BadEntry { path: lossy(path), why }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

pub(crate) fn padded(size: u64) -> u64 {
    size.saturating_add(BLOCK as u64 - 1) / BLOCK as u64 * BLOCK as u64
}

fn fill<R: BufRead>(input: &mut R) -> Result<&[u8]> {
    // The borrow of a first call that asks again would outlive the loop, so: ask, then ask for what is there.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ArchiveError::Read(error)),
        }
    }
    input.fill_buf().map_err(ArchiveError::Read)
}
