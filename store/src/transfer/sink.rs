//! Where saved images go: named files, written once each, into a tar or a folder.
//!
//! The tar holds nothing of the moment it was written in: times are 0, owners are 0, and the caller
//! puts files in an order that depends on their names alone.
//!
//! May touch: the stream or folder given. Knows nothing of images.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::TransferError;

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

/// A folder that is there and empty.
pub(super) struct Folder {
    pub path: PathBuf,
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
        let path = self.path.join(name);
        let io = |source| TransferError::Io { doing: "write", path: path.clone(), source };
        std::fs::create_dir_all(path.parent().expect("it is below the folder")).map_err(io)?;
        let mut file = File::create_new(&path).map_err(io)?;
        copy(name, size_bytes, content, &mut file)
    }

    fn finish(&mut self) -> Result<(), TransferError> {
        Ok(())
    }
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
