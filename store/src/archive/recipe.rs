//! The recipe of a tar: all of it but the files' content, which the tree has.
//!
//! ```text
//! recipe            zstd( 1 <length> bytes | 2 <path> <count> (<offset> <length>)… | 0 )
//! tree/             what segments of kind 2 point into
//! displaced/<n>     content that a later entry of the same tar took the place of
//! displaced/list    its paths, in order of n, each ended by a NUL
//! ```
//! All numbers are LEB128. When a path has displaced content, the first segments that name it mean
//! that, in order; the last one means the tree.
//!
//! May touch: the layer's own folder. Knows nothing of headers.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::ArchiveError;
use crate::root_dir::open_by_rules;

const END: u8 = 0;
const LITERAL: u8 = 1;
const CONTENT: u8 = 2;

/// Headers are alike: the fastest level packs them tenfold.
const LEVEL: i32 = 1;

/// Writes a recipe while its tar goes by.
pub(crate) struct RecipeWriter<W: Write> {
    out: zstd::Encoder<'static, W>,
}

impl<W: Write> RecipeWriter<W> {
    pub(crate) fn new(out: W) -> io::Result<Self> {
        Ok(Self { out: zstd::Encoder::new(out, LEVEL)? })
    }

    pub(crate) fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.out.write_all(&[LITERAL])?;
        self.number(bytes.len() as u64)?;
        self.out.write_all(bytes)
    }

    /// Says that `regions` of the file `path` (without a leading slash) come here.
    pub(crate) fn content(&mut self, path: &[u8], regions: &[(u64, u64)]) -> io::Result<()> {
        self.out.write_all(&[CONTENT])?;
        self.number(path.len() as u64)?;
        self.out.write_all(path)?;
        self.number(regions.len() as u64)?;
        for (offset, length) in regions {
            self.number(*offset)?;
            self.number(*length)?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[END])?;
        self.out.finish()
    }

    fn number(&mut self, mut value: u64) -> io::Result<()> {
        loop {
            let low = u8::try_from(value & 0x7f).expect("is seven bits");
            value >>= 7;
            if value == 0 {
                return self.out.write_all(&[low]);
            }
            self.out.write_all(&[low | 0x80])?;
        }
    }
}

/// Gives the tar back; whoever reads it compares the hash.
pub(crate) struct RecipeReader {
    recipe: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    tree: OwnedFd,
    layer: OwnedFd,
    /// Path → numbers of displaced files, the next one last.
    displaced: HashMap<Vec<u8>, Vec<u64>>,
    now: Source,
    path: PathBuf,
    content: Content,
    /// Files that could not be read to their end, and why.
    faults: Vec<(Vec<u8>, io::Error)>,
    /// Read in place of the tree's own.
    substitutes: HashMap<Vec<u8>, File>,
}

/// What a reader does about files' content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Reads it; what can't be read is an error.
    Needed,
    /// Reads it; what can't be read becomes zeros and a fault.
    Wanted,
    /// Passes zeros on in its place.
    Left,
}

enum Source {
    Between,
    Zeros { left: u64 },
    Literal { left: u64 },
    File { file: File, left: u64, rest: Vec<(u64, u64)>, path: Vec<u8> },
    End,
}

impl RecipeReader {
    /// Opens the recipe in a layer's folder; `path` is for messages.
    pub(crate) fn open(layer: OwnedFd, path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let recipe = File::from(rustix::fs::openat(&layer, "recipe", flags, Mode::empty())?);
        Self::with_recipe(recipe, layer, path)
    }

    /// Takes a recipe that lies elsewhere.
    pub(crate) fn with_recipe(recipe: File, layer: OwnedFd, path: &Path) -> io::Result<Self> {
        let open = |name: &str, flags: OFlags| {
            rustix::fs::openat(&layer, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        };
        let tree = open("tree", OFlags::PATH | OFlags::DIRECTORY)?;
        let displaced = match open("displaced/list", OFlags::RDONLY) {
            Ok(list) => read_displaced(File::from(list))?,
            Err(Errno::NOENT) => HashMap::new(),
            Err(errno) => return Err(errno.into()),
        };
        let recipe = BufReader::with_capacity(128 << 10, zstd::Decoder::new(recipe)?);
        Ok(Self {
            recipe,
            tree,
            layer,
            displaced,
            now: Source::Between,
            path: path.to_owned(),
            content: Content::Needed,
            faults: Vec::new(),
            substitutes: HashMap::new(),
        })
    }

    pub(crate) fn with_content(self, content: Content) -> Self {
        Self { content, ..self }
    }

    /// Reads `file` where the recipe names `path` of the tree.
    pub(crate) fn substitute(&mut self, path: Vec<u8>, file: File) {
        self.substitutes.insert(path, file);
    }

    /// Whether nothing follows the last segment.
    pub(crate) fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(matches!(self.now, Source::End) && self.recipe.read(&mut [0])? == 0)
    }

    pub(crate) fn take_faults(&mut self) -> Vec<(Vec<u8>, io::Error)> {
        std::mem::take(&mut self.faults)
    }

    fn damaged(&self, what: &'static str) -> io::Error {
        let error = ArchiveError::BadRecipe { path: self.path.clone(), what };
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    fn next_source(&mut self) -> io::Result<Source> {
        let mut tag = [0];
        self.recipe.read_exact(&mut tag)?;
        match tag[0] {
            END => Ok(Source::End),
            LITERAL => Ok(Source::Literal { left: self.number()? }),
            CONTENT => self.next_file(),
            _ => Err(self.damaged("a segment of an unknown kind")),
        }
    }

    fn next_file(&mut self) -> io::Result<Source> {
        let length = self.number()?;
        let mut path = Vec::new();
        (&mut self.recipe).take(length.min(1 << 16)).read_to_end(&mut path)?;
        let count = self.number()?;
        let mut rest = Vec::new();
        for _ in 0..count {
            rest.push((self.number()?, self.number()?));
        }
        rest.reverse();
        let displaced = self.displaced.get_mut(&path).and_then(Vec::pop);
        if self.content == Content::Left {
            return Ok(Source::Zeros { left: total(&rest) });
        }
        let opened = match (displaced, self.substitutes.get(&path)) {
            (Some(number), _) => Self::open_beneath(&self.layer, format!("displaced/{number}").as_bytes()),
            (None, Some(file)) => file.try_clone(),
            (None, None) => Self::open_beneath(&self.tree, &path),
        };
        match opened {
            Ok(file) => Ok(Source::File { file, left: 0, rest, path }),
            Err(error) => self.fault(path, error, total(&rest)),
        }
    }

    /// Notes what can't be read, where that is asked for, and goes on with zeros.
    fn fault(&mut self, path: Vec<u8>, error: io::Error, left: u64) -> io::Result<Source> {
        if self.content == Content::Needed {
            return Err(error);
        }
        self.faults.push((path, error));
        Ok(Source::Zeros { left })
    }

    fn open_beneath(dir: &OwnedFd, path: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = open_by_rules(dir.as_fd(), path, flags, rules);
        opened.map(File::from).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open `{}` of a layer: {error}", super::lossy(path)))
        })
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.recipe.read_exact(&mut byte)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.damaged("a number that is too long"))
    }
}

impl Read for RecipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let step = match &mut self.now {
                Source::End => return Ok(0),
                Source::Between => Ok(0),
                Source::Literal { left } => Ok(read_some(&mut self.recipe, buffer, left)?),
                Source::Zeros { left } => read_some(&mut io::repeat(0), buffer, left),
                Source::File { file, left, rest, .. } => read_region(file, buffer, left, rest),
            };
            match (step, std::mem::replace(&mut self.now, Source::Between)) {
                (Ok(count @ 1..), now) => {
                    self.now = now;
                    return Ok(count);
                }
                (Ok(0), Source::Literal { left: 1.. }) => {
                    return Err(self.damaged("it asks for more content than there is"));
                }
                (Ok(0), Source::File { left: left @ 1.., rest, path, .. }) => {
                    let error = self.damaged("it asks for more content than there is");
                    self.now = self.fault(path, error, left + total(&rest))?;
                }
                (Err(error), Source::File { left, rest, path, .. }) => {
                    self.now = self.fault(path, error, left + total(&rest))?;
                }
                (Err(error), _) => return Err(error),
                (Ok(0), now @ Source::File { .. }) if matches!(&now, Source::File { rest, .. } if !rest.is_empty()) =>
                {
                    self.now = now;
                }
                (Ok(0), _) => self.now = self.next_source()?,
            }
        }
    }
}

fn total(regions: &[(u64, u64)]) -> u64 {
    regions.iter().fold(0, |sum, (_, length)| sum.saturating_add(*length))
}

/// Reads from the region at hand, or from the next one when that is done.
fn read_region(
    file: &mut File,
    buffer: &mut [u8],
    left: &mut u64,
    rest: &mut Vec<(u64, u64)>,
) -> io::Result<usize> {
    if *left == 0
        && let Some((offset, length)) = rest.pop()
    {
        rustix::fs::seek(&*file, rustix::fs::SeekFrom::Start(offset))?;
        *left = length;
    }
    read_some(file, buffer, left)
}

fn read_some(source: &mut impl Read, buffer: &mut [u8], left: &mut u64) -> io::Result<usize> {
    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    let count = if most == 0 { 0 } else { source.read(&mut buffer[..most])? };
    *left -= count as u64;
    Ok(count)
}

fn read_displaced(list: File) -> io::Result<HashMap<Vec<u8>, Vec<u64>>> {
    let mut displaced: HashMap<Vec<u8>, Vec<u64>> = HashMap::new();
    for (number, path) in BufReader::new(list).split(0).enumerate() {
        displaced.entry(path?).or_default().push(number as u64);
    }
    for numbers in displaced.values_mut() {
        numbers.reverse();
    }
    Ok(displaced)
}
