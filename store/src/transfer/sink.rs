//! Where saved images go: named files, written once each, into a tar or a folder.
//!
//! The tar holds nothing of the moment it was written in: times are 0, owners are 0, and the caller
//! puts files in an order that depends on their names alone.
//!
//! An OCI layout that grows is whole at each moment: blobs come in by rename, those that are there
//! stay, and the index, which names them, is replaced last. Its other entries are kept as they are.
//!
//! May touch: the stream or folder given. Knows nothing of images.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::TransferError;
use crate::oci::descriptor::REF_NAME;
use crate::oci::index::ImageIndex;
use crate::oci::json;

const COPY_BYTES: usize = 1 << 20;

/// Takes files; a name holds only letters, digits, `.`, `-`, `_` and `/`.
pub(super) trait Sink {
    fn put(&mut self, name: &str, size_bytes: u64, content: &mut dyn Read) -> Result<(), TransferError>;

    fn finish(&mut self) -> Result<(), TransferError>;
}

/// A tar.
pub(super) struct Tar<W> {
    pub output: W,
}

/// A folder.
pub(super) struct Folder {
    path: PathBuf,
    /// It is an OCI layout already.
    grows: bool,
    /// Of a layout that grows; written last.
    index: Option<Vec<u8>>,
}

impl Folder {
    /// One that is there and empty.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), grows: false, index: None }
    }

    /// An OCI layout, which stays.
    pub(super) fn growing(path: &Path) -> Self {
        Self { grows: true, ..Self::new(path) }
    }

    fn write(&self, name: &str, size_bytes: u64, content: &mut dyn Read) -> Result<(), TransferError> {
        let path = self.path.join(name);
        let io = |source| TransferError::Io { doing: "write", path: path.clone(), source };
        std::fs::create_dir_all(path.parent().expect("it is below the folder")).map_err(io)?;
        if !self.grows {
            let mut file = File::create_new(&path).map_err(io)?;
            copy(name, size_bytes, content, &mut file)?;
            return file.sync_all().map_err(io);
        }
        let half = self.path.join(format!(".rbuild-{}", std::process::id()));
        let mut file = File::create(&half).map_err(io)?;
        let written = copy(name, size_bytes, content, &mut file)
            .and_then(|()| file.sync_all().and_then(|()| std::fs::rename(&half, &path)).map_err(io));
        if written.is_err() {
            // Best effort: the error says what went wrong.
            drop(std::fs::remove_file(&half));
        }
        written
    }
}

impl<W: Write> Sink for Tar<W> {
    fn put(&mut self, name: &str, size_bytes: u64, content: &mut dyn Read) -> Result<(), TransferError> {
        let mut header = tar::Header::new_ustar();
        let write = failed(name);
        header.set_path(name).map_err(&write)?;
        header.set_size(size_bytes);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.output.write_all(header.as_bytes()).map_err(&write)?;
        copy(name, size_bytes, content, &mut self.output)?;
        let padding = usize::try_from(size_bytes.wrapping_neg() % 512).expect("less than 512");
        self.output.write_all(&[0; 512][..padding]).map_err(&write)
    }

    fn finish(&mut self) -> Result<(), TransferError> {
        let write = failed("end of the archive");
        self.output.write_all(&[0; 1024]).map_err(&write)?;
        self.output.flush().map_err(&write)
    }
}

impl Sink for Folder {
    fn put(&mut self, name: &str, size_bytes: u64, content: &mut dyn Read) -> Result<(), TransferError> {
        if self.grows && name == "index.json" {
            let mut ours = Vec::new();
            content.read_to_end(&mut ours).map_err(failed(name))?;
            self.index = Some(merged(&self.path.join(name), &ours)?);
            return Ok(());
        }
        let is_there = |path: PathBuf| path.metadata().is_ok_and(|found| found.len() == size_bytes);
        if self.grows && is_there(self.path.join(name)) {
            return Ok(());
        }
        self.write(name, size_bytes, content)
    }

    fn finish(&mut self) -> Result<(), TransferError> {
        if let Some(index) = self.index.take() {
            self.write("index.json", index.len() as u64, &mut &index[..])?;
        }
        // The files are synced; what names them is left.
        for folder in ["blobs/sha256", "blobs", "."] {
            let path = self.path.join(folder);
            let io = |source| TransferError::Io { doing: "sync", path: path.clone(), source };
            match File::open(&path).and_then(|folder| folder.sync_all()) {
                // A `dir:` has no folders; some file systems have nothing to sync.
                Err(error)
                    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) =>
                {
                    return Err(io(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The entries of the index at `path` that `ours` does not name anew, then those of `ours`.
fn merged(path: &Path, ours: &[u8]) -> Result<Vec<u8>, TransferError> {
    let bytes = std::fs::read(path).map_err(|source| TransferError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    let document = |source| TransferError::Document { name: path.display().to_string(), source };
    // What is no index is not added to; what it says beyond what we know stays in it.
    ImageIndex::read(&bytes).map_err(document)?;
    let mut whole: Value = json::read("image index", &bytes).map_err(document)?;
    let ours: Value = json::read("image index", ours).map_err(document)?;
    let entries = |index: &Value| index["manifests"].as_array().cloned().unwrap_or_default();
    let name = |entry: &Value| entry["annotations"][REF_NAME].as_str().map(str::to_owned);
    let ours = entries(&ours);
    let replaced = |entry: &Value| match name(entry) {
        Some(known) => ours.iter().any(|new| name(new).as_ref() == Some(&known)),
        None => ours.iter().any(|new| name(new).is_none() && new["digest"] == entry["digest"]),
    };
    let mut all: Vec<Value> = entries(&whole).into_iter().filter(|entry| !replaced(entry)).collect();
    all.extend(ours.iter().cloned());
    whole["manifests"] = Value::Array(all);
    Ok(json::write(&whole))
}

/// Copies exactly as many bytes as were announced.
fn copy(
    name: &str,
    size_bytes: u64,
    content: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<(), TransferError> {
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(size_bytes).unwrap_or(COPY_BYTES).max(1))];
    let mut actual = 0;
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(name)(error)),
        };
        actual += count as u64;
        if actual > size_bytes {
            break;
        }
        output.write_all(&buffer[..count]).map_err(failed(name))?;
    }
    if actual == size_bytes {
        return Ok(());
    }
    Err(TransferError::WrongSize { name: name.to_owned(), expected: size_bytes, actual })
}

fn failed(what: &str) -> impl Fn(io::Error) -> TransferError {
    let what = what.to_owned();
    move |source| TransferError::Write { what: what.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_is_what_was_put_and_nothing_of_the_moment() {
        let mut sink = Tar { output: Vec::new() };
        sink.put("a/b", 3, &mut &b"abc"[..]).unwrap();
        sink.put("empty", 0, &mut io::empty()).unwrap();
        sink.finish().unwrap();
        let mut archive = tar::Archive::new(&sink.output[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            (entry.path().unwrap().display().to_string(), content)
        });
        let expected = [("a/b", "abc"), ("empty", "")].map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(entries.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn content_of_another_size_than_announced_is_an_error() {
        for size_bytes in [0, 2, 4, 1 << 40] {
            let error = Tar { output: Vec::new() }.put("a", size_bytes, &mut &b"abc"[..]).unwrap_err();
            assert!(matches!(error, TransferError::WrongSize { .. }), "{size_bytes}");
        }
    }
}
