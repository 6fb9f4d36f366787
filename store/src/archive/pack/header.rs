//! Headers in canonical form: ustar, with PAX records only for what ustar can't say.
//!
//! May touch: its arguments. Knows nothing of trees.

const BLOCK: usize = 512;
/// The largest number that seven octal digits hold.
const SEVEN_DIGITS: u64 = 0o777_7777;
const ELEVEN_DIGITS: u64 = 0o777_7777_7777;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// All that an entry says.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size_bytes: u64,
    pub(super) mtime_seconds: i64,
    pub(super) link: Vec<u8>,
    pub(super) device: (u32, u32),
    /// Sorted by name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Header {
    pub(super) fn new(path: &[u8], kind: Kind) -> Self {
        Self {
            path: path.to_vec(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size_bytes: 0,
            mtime_seconds: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// Makes it the device that an empty file stands for (`c 1 3`); other text changes nothing.
    pub(super) fn become_device(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let mut words = text.split(' ');
        let kind = match words.next() {
            Some("c") => Kind::Character,
            Some("b") => Kind::Block,
            _ => return,
        };
        let mut number = || words.next().and_then(|word| word.parse().ok());
        if let (Some(major), Some(minor)) = (number(), number()) {
            self.kind = kind;
            self.device = (major, minor);
            self.size_bytes = 0;
        }
    }

    /// The header's blocks, extended ones before.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let records = self.records();
        let mut out = Vec::with_capacity(BLOCK * 3);
        if !records.is_empty() {
            let extended =
                Self { size_bytes: records.len() as u64, ..Self::new(b"././@PaxHeader", Kind::File) };
            out.extend_from_slice(extended.block(b'x').as_bytes());
            out.extend_from_slice(&records);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        out.extend_from_slice(self.block(self.kind.flag()).as_bytes());
        out
    }

    fn block(&self, flag: u8) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        let fits = |value: u64, most: u64| if value <= most { value } else { 0 };
        {
            let old = header.as_old_mut();
            copy(&mut old.name, &self.path);
            copy(&mut old.linkname, &self.link);
        }
        header.set_entry_type(tar::EntryType::new(flag));
        header.set_mode(self.mode);
        header.set_uid(fits(self.uid.into(), SEVEN_DIGITS));
        header.set_gid(fits(self.gid.into(), SEVEN_DIGITS));
        header.set_size(fits(self.size_bytes, ELEVEN_DIGITS));
        header.set_mtime(fits(u64::try_from(self.mtime_seconds).unwrap_or(0), ELEVEN_DIGITS));
        let devices = header.as_ustar_mut().expect("was made as one");
        devices.set_device_major(self.device.0);
        devices.set_device_minor(self.device.1);
        header.set_cksum();
        header
    }

    /// What ustar can't say, sorted by key.
    fn records(&self) -> Vec<u8> {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut say = |key: &str, value: Vec<u8>| records.push((key.as_bytes().to_vec(), value));
        for (key, id) in [("gid", self.gid), ("uid", self.uid)] {
            if u64::from(id) > SEVEN_DIGITS {
                say(key, id.to_string().into_bytes());
            }
        }
        for (key, name) in [("linkpath", &self.link), ("path", &self.path)] {
            if name.len() > 100 {
                say(key, name.clone());
            }
        }
        if u64::try_from(self.mtime_seconds).map_or(true, |seconds| seconds > ELEVEN_DIGITS) {
            say("mtime", self.mtime_seconds.to_string().into_bytes());
        }
        if self.size_bytes > ELEVEN_DIGITS {
            say("size", self.size_bytes.to_string().into_bytes());
        }
        for (name, value) in &self.xattrs {
            records.push(([b"SCHILY.xattr.", &name[..]].concat(), value.clone()));
        }
        records.sort_unstable();
        records.iter().flat_map(|(key, value)| record(key, value)).collect()
    }
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::Character => b'3',
            Self::Block => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// A name that is too long stands here cut; its record says all of it.
fn copy(field: &mut [u8; 100], name: &[u8]) {
    let count = name.len().min(field.len());
    field[..count].copy_from_slice(&name[..count]);
}

/// `<length> <key>=<value>\n`, where the length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_length_counts_itself() {
        for size in 0..2000 {
            let record = record(b"k", &vec![b'v'; size]);
            let text = String::from_utf8(record.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), record.len());
        }
    }

    #[test]
    fn a_plain_file_takes_one_block_and_the_extraordinary_three() {
        let plain = Header::new(b"etc/passwd", Kind::File);
        assert_eq!(plain.bytes().len(), BLOCK);
        for strange in [
            Header { uid: 3_000_000, ..plain.clone() },
            Header { mtime_seconds: -1, ..plain.clone() },
            Header { size_bytes: 9 << 30, ..plain.clone() },
            Header { path: vec![b'a'; 101], ..plain.clone() },
            Header { link: vec![b'a'; 101], ..plain.clone() },
            Header { xattrs: vec![(b"user.x".to_vec(), vec![0, 255])], ..plain },
        ] {
            assert_eq!(strange.bytes().len(), 3 * BLOCK, "{strange:?}");
        }
    }
}
