//! The outer tar of an image archive: its entries one after another, from a stream.
//!
//! Only what archives of images have is understood: files, links, long names (GNU and PAX). The
//! content is left to the caller, who reads [`Head::size_bytes`] bytes and then [`Head::padding`].
//!
//! May touch: the stream given. Knows nothing of images and of the host's files.

use std::io::{self, Read};

use crate::root_dir::ImagePath;

const BLOCK: usize = 512;
/// Long names and PAX records of one entry; far above what any archive has.
const MAX_EXTENDED_BYTES: u64 = 1 << 20;

/// One entry of the archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub path: ImagePath,
    pub kind: Kind,
    pub size_bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// Stands for another entry of the same archive.
    Link(ImagePath),
    /// A directory, a device: nothing that an image needs.
    Other,
}

/// What the extended headers in front of an entry say.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
}

impl Head {
    /// The zero bytes behind the content.
    pub(super) fn padding(&self) -> u64 {
        padding(self.size_bytes)
    }
}

fn padding(size_bytes: u64) -> u64 {
    size_bytes.wrapping_neg() % BLOCK as u64
}

/// Reads up to the content of the next entry; `None` at the end.
pub(super) fn next(input: &mut dyn Read) -> io::Result<Option<Head>> {
    let mut extended = Extended::default();
    loop {
        let Some(header) = next_header(input)? else {
            return Ok(None);
        };
        let size_bytes = header.entry_size()?;
        let kind = header.entry_type();
        if kind.is_gnu_longname() {
            extended.path = Some(long_name(input, size_bytes)?);
        } else if kind.is_gnu_longlink() {
            extended.link = Some(long_name(input, size_bytes)?);
        } else if kind.is_pax_local_extensions() {
            read_pax(&read_extended(input, size_bytes)?, &mut extended)?;
        } else if kind.is_pax_global_extensions() {
            read_extended(input, size_bytes)?;
        } else {
            return head(&header, extended, size_bytes).map(Some);
        }
    }
}

fn head(header: &tar::Header, extended: Extended, size_bytes: u64) -> io::Result<Head> {
    let path = ImagePath::new(extended.path.unwrap_or_else(|| header.path_bytes().into_owned()));
    let link = extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let kind = header.entry_type();
    let kind = match link {
        // A symlink is read from its own folder, a hard link from the root.
        Some(link) if kind.is_symlink() => Kind::Link(path.parent().join(link)),
        Some(link) if kind.is_hard_link() => Kind::Link(ImagePath::new(link)),
        _ if kind.is_file() || kind.is_contiguous() => Kind::File,
        _ => Kind::Other,
    };
    // Links and directories have no content, whatever their headers say.
    let size_bytes = match (&kind, header.entry_type().is_dir()) {
        (Kind::Link(_), _) | (_, true) => 0,
        _ => extended.size_bytes.unwrap_or(size_bytes),
    };
    if i64::try_from(size_bytes).is_err() {
        return Err(invalid("a size is beyond all bounds"));
    }
    Ok(Head { path, kind, size_bytes })
}

/// Reads a header block; `None` at a block of zeros or a clean end.
fn next_header(input: &mut dyn Read) -> io::Result<Option<tar::Header>> {
    let mut header = tar::Header::new_old();
    let mut filled = 0;
    while filled < BLOCK {
        match input.read(&mut header.as_mut_bytes()[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let bytes = header.as_bytes();
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    // The checksum is taken with its own field as blanks.
    let sum: u32 =
        bytes[..148].iter().chain(&[b' '; 8]).chain(&bytes[156..]).map(|&byte| u32::from(byte)).sum();
    if header.cksum().ok() != Some(sum) {
        return Err(invalid("it is no tar archive, or a header in it is damaged"));
    }
    Ok(Some(header))
}

fn read_extended(input: &mut dyn Read, size_bytes: u64) -> io::Result<Vec<u8>> {
    if size_bytes > MAX_EXTENDED_BYTES {
        return Err(invalid("an extended header is larger than 1 MiB"));
    }
    let mut bytes = Vec::new();
    input.take(size_bytes).read_to_end(&mut bytes)?;
    let expected = size_bytes + padding(size_bytes);
    let rest = io::copy(&mut input.take(padding(size_bytes)), &mut io::sink())?;
    if bytes.len() as u64 + rest != expected {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn long_name(input: &mut dyn Read, size_bytes: u64) -> io::Result<Vec<u8>> {
    let mut name = read_extended(input, size_bytes)?;
    if let Some(end) = name.iter().position(|&byte| byte == 0) {
        name.truncate(end);
    }
    Ok(name)
}

/// Reads `<length> <key>=<value>\n` records; of the keys three matter.
fn read_pax(mut records: &[u8], extended: &mut Extended) -> io::Result<()> {
    let wrong = || invalid("a PAX header is malformed");
    while !records.is_empty() {
        let blank = records.iter().position(|&byte| byte == b' ').ok_or_else(wrong)?;
        let length: usize = std::str::from_utf8(&records[..blank])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(wrong)?;
        let record = records.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or_else(wrong)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => {
                let text = std::str::from_utf8(value).ok();
                extended.size_bytes = Some(text.and_then(|text| text.parse().ok()).ok_or_else(wrong)?);
            }
            _ => {}
        }
        records = &records[length..];
    }
    Ok(())
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(
        archive: &mut tar::Builder<Vec<u8>>,
        path: &str,
        kind: tar::EntryType,
        link: &str,
        content: &[u8],
    ) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if link.is_empty() {
            archive.append_data(&mut header, path, content).unwrap();
        } else {
            archive.append_link(&mut header, path, link).unwrap();
        }
    }

    fn walk(mut input: &[u8]) -> io::Result<Vec<Head>> {
        let mut heads = Vec::new();
        while let Some(head) = next(&mut input)? {
            let count = usize::try_from(head.size_bytes + head.padding()).unwrap();
            input = input.get(count..).ok_or(io::ErrorKind::UnexpectedEof)?;
            heads.push(head);
        }
        Ok(heads)
    }

    #[test]
    fn files_links_and_long_names_are_told() {
        let long = "d/".repeat(120) + "layer.tar";
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, "./a/", tar::EntryType::Directory, "", b"");
        entry(&mut archive, "./a/layer.tar", tar::EntryType::Regular, "", b"hello");
        entry(&mut archive, "b/layer.tar", tar::EntryType::Symlink, "../a/layer.tar", b"");
        entry(&mut archive, "c/layer.tar", tar::EntryType::Symlink, "../../../etc/shadow", b"");
        entry(&mut archive, "d/layer.tar", tar::EntryType::Link, "a/layer.tar", b"");
        entry(&mut archive, &long, tar::EntryType::Symlink, &("x/".repeat(120) + "y"), b"");
        archive.append_pax_extensions([("path", &b"renamed"[..]), ("size", b"3")]).unwrap();
        entry(&mut archive, "before", tar::EntryType::Regular, "", b"abc");
        let bytes = archive.into_inner().unwrap();

        let heads = walk(&bytes).unwrap();
        let told: Vec<(String, String, u64)> = heads
            .iter()
            .map(|head| {
                let kind = match &head.kind {
                    Kind::File => "file".to_owned(),
                    Kind::Link(to) => to.to_string(),
                    Kind::Other => "other".to_owned(),
                };
                (head.path.to_string(), kind, head.size_bytes)
            })
            .collect();
        let row = |path: &str, kind: &str, size| (path.to_owned(), kind.to_owned(), size);
        assert_eq!(told[0], row("/a", "other", 0));
        assert_eq!(told[1], row("/a/layer.tar", "file", 5));
        assert_eq!(told[2], row("/b/layer.tar", "/a/layer.tar", 0));
        assert_eq!(told[3], row("/c/layer.tar", "/etc/shadow", 0));
        assert_eq!(told[4], row("/d/layer.tar", "/a/layer.tar", 0));
        assert_eq!(told[5].0, format!("/{long}"));
        assert_eq!(told[6], row("/renamed", "file", 3));
    }

    #[test]
    fn damage_is_an_error_never_a_panic() {
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, &"n".repeat(300), tar::EntryType::Regular, "", &[7; 1000]);
        let bytes = archive.into_inner().unwrap();
        for end in 1..bytes.len() - 1024 {
            assert!(end % BLOCK == 0 || walk(&bytes[..end]).is_err(), "{end}");
        }
        // The checksum itself may change from `0` to a blank and say the same.
        for place in (0..148).chain(156..512) {
            let mut flipped = bytes.clone();
            flipped[place] ^= 0x10;
            assert!(walk(&flipped).is_err(), "{place}");
        }
        assert!(walk(&[b'x'; 2048]).is_err());
    }

    #[test]
    fn a_header_cannot_claim_memory() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(8 << 30);
        header.set_cksum();
        assert!(walk(header.as_bytes()).unwrap_err().to_string().contains("1 MiB"));
    }
}
