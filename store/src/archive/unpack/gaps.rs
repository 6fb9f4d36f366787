//! Gaps: what a layer's tar leaves for lower layers to say.
//!
//! On disk, each record is `d <path> NUL` or `l <path> NUL <target> NUL`, sorted; paths have no
//! leading slash.
//!
//! May touch: its own file. Knows nothing of how gaps are filled (`layers::stack`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};

/// Bits of a layer's `gaps` column.
pub(crate) mod flag {
    /// Directories without an entry.
    pub(crate) const PARENTS: u32 = 1;
    /// Hard links to files that are not in this layer.
    pub(crate) const LINKS: u32 = 2;
    /// The root hides all lower layers.
    pub(crate) const OPAQUE_ROOT: u32 = 4;
    /// Not a gap: the root has an entry.
    pub(crate) const ROOT_GIVEN: u32 = 8;
}

/// What is missing in one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps {
    pub(crate) directories: BTreeSet<Vec<u8>>,
    /// Link → target.
    pub(crate) links: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Gaps {
    /// Something has taken the place of `path` and of all below it.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        let below = [path, b"/"].concat();
        self.directories.retain(|known| known != path && !known.starts_with(&below));
        self.links.retain(|known, _| known != path && !known.starts_with(&below));
    }

    pub(crate) fn flags(&self) -> u32 {
        let parents = if self.directories.is_empty() { 0 } else { flag::PARENTS };
        let links = if self.links.is_empty() { 0 } else { flag::LINKS };
        parents | links
    }

    /// As they stand in the file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for path in &self.directories {
            bytes.extend([b"d ", &path[..], b"\0"].concat());
        }
        for (path, target) in &self.links {
            bytes.extend([b"l ", &path[..], b"\0", target, b"\0"].concat());
        }
        bytes
    }

    pub(super) fn write(&self, layer: BorrowedFd<'_>) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(layer, "gaps", flags, Mode::RUSR | Mode::WUSR)?;
        std::fs::File::from(file).write_all(&self.bytes())
    }

    pub(crate) fn read(layer: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut bytes = Vec::new();
        let file = rustix::fs::openat(layer, "gaps", flags, Mode::empty())?;
        std::fs::File::from(file).read_to_end(&mut bytes)?;
        let mut gaps = Self::default();
        let mut fields = bytes.split(|byte| *byte == 0);
        while let Some(field) = fields.next().filter(|field| !field.is_empty()) {
            let malformed = || io::Error::new(io::ErrorKind::InvalidData, "it is malformed");
            let (tag, path) = field.split_at_checked(2).ok_or_else(malformed)?;
            match tag {
                b"d " => drop(gaps.directories.insert(path.to_vec())),
                b"l " => {
                    let target = fields.next().ok_or_else(malformed)?;
                    gaps.links.insert(path.to_vec(), target.to_vec());
                }
                _ => return Err(malformed()),
            }
        }
        Ok(gaps)
    }
}
