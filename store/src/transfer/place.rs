//! Where the files of an image lie: a folder, a seekable archive, or an archive that has passed.
//!
//! A name is an [`ImagePath`]: `../../x` cannot leave the archive, it is merely not in it. Links in an
//! archive are followed in the map of its entries, links in a folder inside that folder.
//!
//! May touch: the folder or file given. Knows nothing of what the files mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{TransferError, walk};
use crate::oci::json::MAX_DOCUMENT_BYTES;
use crate::root_dir::{ImagePath, RootDir};

const MAX_LINKS: usize = 8;
/// What an archive that passes may ask to have remembered: all of its documents together.
const MAX_REMEMBERED_BYTES: u64 = 64 << 20;

/// The files of one or more images.
pub(super) enum Place {
    Folder {
        path: PathBuf,
        dir: RootDir,
    },
    File {
        file: File,
        entries: Entries<Extent>,
    },
    /// Documents only: the layers went into the store as they passed.
    Passed {
        documents: Entries<Vec<u8>>,
    },
}

/// A file's size and its bytes.
pub(super) type Content<'a> = (u64, Box<dyn Read + Send + 'a>);

/// Where an entry's content lies in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    start: u64,
    size_bytes: u64,
}

/// The entries of an archive, by name.
#[derive(Debug)]
pub(super) struct Entries<T> {
    files: BTreeMap<ImagePath, T>,
    links: BTreeMap<ImagePath, ImagePath>,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { files: BTreeMap::new(), links: BTreeMap::new() }
    }
}

impl<T> Entries<T> {
    pub(super) fn add(&mut self, path: &ImagePath, content: T) -> Result<(), TransferError> {
        match self.files.insert(path.clone(), content) {
            None if !self.links.contains_key(path) => Ok(()),
            _ => Err(TransferError::Twice { name: shown(path) }),
        }
    }

    pub(super) fn link(&mut self, path: &ImagePath, target: ImagePath) -> Result<(), TransferError> {
        match self.links.insert(path.clone(), target) {
            None if !self.files.contains_key(path) => Ok(()),
            _ => Err(TransferError::Twice { name: shown(path) }),
        }
    }

    /// The name under which the content of `path` lies, links followed.
    pub(super) fn resolve<'a>(&'a self, mut path: &'a ImagePath) -> &'a ImagePath {
        for _ in 0..MAX_LINKS {
            match self.links.get(path) {
                Some(target) => path = target,
                None => break,
            }
        }
        path
    }

    fn get(&self, path: &ImagePath) -> Option<&T> {
        self.files.get(self.resolve(path))
    }
}

impl Place {
    /// Opens a folder.
    pub(super) fn folder(path: &Path) -> Result<Self, TransferError> {
        let io = |source: rustix::io::Errno| TransferError::Io {
            doing: "open",
            path: path.to_owned(),
            source: source.into(),
        };
        let dir = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(io)?;
        Ok(Self::Folder { path: path.to_owned(), dir: RootDir::new(dir) })
    }

    /// Lists the entries of an archive, reading nothing but their headers.
    pub(super) fn file(file: File) -> Result<Self, TransferError> {
        let archive = |source| TransferError::Archive { source };
        let end = file.metadata().map_err(archive)?.len();
        let mut entries = Entries::default();
        // Header by header: a large buffer would read layers that are read again later.
        let mut input = BufReader::with_capacity(2048, &file);
        let mut start = input.seek(SeekFrom::Start(0)).map_err(archive)?;
        while let Some(head) = walk::next(&mut input).map_err(archive)? {
            start = input.stream_position().map_err(archive)?.max(start);
            let size_bytes = head.size_bytes;
            if start.checked_add(size_bytes).is_none_or(|behind| behind > end) {
                return Err(archive(io::ErrorKind::UnexpectedEof.into()));
            }
            let behind = size_bytes + head.padding();
            match head.kind {
                walk::Kind::File => entries.add(&head.path, Extent { start, size_bytes })?,
                walk::Kind::Link(target) => entries.link(&head.path, target)?,
                walk::Kind::Other => {}
            }
            let skip = i64::try_from(behind).map_err(|_| archive(io::ErrorKind::InvalidData.into()))?;
            input.seek_relative(skip).map_err(archive)?;
        }
        Ok(Self::File { file, entries })
    }

    /// Reads a small file whole; `None` when it is not there.
    pub(super) fn document(&self, path: &ImagePath) -> Result<Option<Vec<u8>>, TransferError> {
        if let Self::Passed { documents } = self {
            return Ok(documents.get(path).cloned());
        }
        let Some((size_bytes, content)) = self.open(path)? else {
            return Ok(None);
        };
        if size_bytes > MAX_DOCUMENT_BYTES {
            return Err(TransferError::TooLarge { name: shown(path), size_bytes });
        }
        let mut bytes = Vec::new();
        let read = content.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|source| TransferError::Archive { source })?;
        Ok(Some(bytes))
    }

    /// Opens a file for streaming, with its size; `None` when it is not there.
    pub(super) fn open(&self, path: &ImagePath) -> Result<Option<Content<'_>>, TransferError> {
        match self {
            Self::Folder { path: host, dir } => open_in_folder(host, dir, path),
            Self::File { file, entries } => Ok(entries.get(path).map(|extent| {
                let content = Slice { file, at: extent.start, left: extent.size_bytes };
                let content: Box<dyn Read + Send> = Box::new(content);
                (extent.size_bytes, content)
            })),
            Self::Passed { .. } => Ok(None),
        }
    }

    /// The name under which the content of `path` lies: two names of one file give the same.
    pub(super) fn resolve(&self, path: &ImagePath) -> ImagePath {
        match self {
            Self::Folder { .. } => path.clone(),
            Self::File { entries, .. } => entries.resolve(path).clone(),
            Self::Passed { documents } => documents.resolve(path).clone(),
        }
    }
}

fn open_in_folder<'a>(
    host: &Path,
    dir: &RootDir,
    path: &ImagePath,
) -> Result<Option<Content<'a>>, TransferError> {
    let io = |source| TransferError::Io { doing: "read", path: host.join(shown(path)), source };
    // Not blocking: opening a FIFO that was laid there must not wait for a writer.
    let file = match dir.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => File::from(fd),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(io(io::Error::other("it is not a regular file")));
    }
    Ok(Some((metadata.len(), Box::new(file))))
}

/// A part of a file; several may be read at the same time.
struct Slice<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Counts what an archive that passes has remembered.
#[derive(Debug, Default)]
pub(super) struct Remembered(u64);

impl Remembered {
    pub(super) fn add(&mut self, name: &ImagePath, size_bytes: u64) -> Result<(), TransferError> {
        self.0 += size_bytes;
        if self.0 > MAX_REMEMBERED_BYTES {
            return Err(TransferError::TooLarge { name: shown(name), size_bytes: self.0 });
        }
        Ok(())
    }
}

/// A name as errors print it: as it stands in archives, with nothing that a terminal acts on.
pub(super) fn shown(path: &ImagePath) -> String {
    String::from_utf8_lossy(path.relative()).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, &[u8])], links: &[(&str, &str)]) -> File {
        let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        for (name, target) in links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(place: &Place, name: &str) -> Option<Vec<u8>> {
        place.document(&ImagePath::new(name)).unwrap()
    }

    #[test]
    fn entries_are_found_by_any_name_they_have() {
        let file = archive(
            &[("a/layer.tar", b"content"), ("empty", b""), ("last", &[1; 5000])],
            &[("b/layer.tar", "../a/layer.tar"), ("round", "round"), ("out", "../../etc/passwd")],
        );
        let place = Place::file(file).unwrap();
        assert_eq!(read(&place, "a/layer.tar").unwrap(), b"content");
        assert_eq!(read(&place, "./b/../b/layer.tar").unwrap(), b"content");
        assert_eq!(place.resolve(&ImagePath::new("b/layer.tar")), ImagePath::new("a/layer.tar"));
        assert_eq!(read(&place, "empty").unwrap(), b"");
        assert_eq!(read(&place, "last").unwrap(), [1; 5000]);
        for missing in ["round", "out", "a", "../../etc/passwd", "/etc/passwd"] {
            assert_eq!(read(&place, missing), None, "{missing}");
        }
    }

    #[test]
    fn a_name_that_stands_twice_and_a_document_that_is_too_large_are_refused() {
        assert!(matches!(
            Place::file(archive(&[("a", b"1"), ("./a", b"2")], &[])),
            Err(TransferError::Twice { .. })
        ));
        assert!(matches!(
            Place::file(archive(&[("a", b"1")], &[("a", "b")])),
            Err(TransferError::Twice { .. })
        ));
        let large = vec![0; 5 << 20];
        let place = Place::file(archive(&[("a", &large)], &[])).unwrap();
        assert!(matches!(place.document(&ImagePath::new("a")), Err(TransferError::TooLarge { .. })));
    }

    #[test]
    fn a_folder_does_not_lead_out_of_itself() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "content").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink("/a", folder.path().join("in")).unwrap();
        let place = Place::folder(folder.path()).unwrap();
        assert_eq!(read(&place, "a").unwrap(), b"content");
        assert_eq!(read(&place, "in").unwrap(), b"content");
        assert_eq!(read(&place, "out"), None);
        assert_eq!(read(&place, "../../../../etc/passwd"), None);
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("fifo"), Mode::RUSR).unwrap();
        assert!(place.document(&ImagePath::new("fifo")).is_err());
        assert!(place.document(&ImagePath::root()).is_err());
    }
}
