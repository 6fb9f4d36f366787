//! The records of PAX extended headers: `<length> <key>=<value>\n` (POSIX pax, "pax Extended Header").
//!
//! May touch: its arguments. Knows nothing of headers' other fields.

use crate::archive::{LIMITS, Time};

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records that matter to us, the last of a kind as the standard has it.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
    xattr_bytes: u64,
}

/// GNU's records for files with holes, versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) map: Vec<u64>,
    pub(super) is_sparse: bool,
}

type Result<T> = std::result::Result<T, &'static str>;

impl Records {
    /// Takes in one header's body.
    pub(super) fn add(&mut self, mut body: &[u8]) -> Result<()> {
        while !body.is_empty() {
            let (key, value, rest) = record(body).ok_or("a PAX record has the wrong length")?;
            self.take(key, value)?;
            body = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"path" => self.path = name(value),
            b"linkpath" => self.link = name(value),
            b"size" => {
                if self.size.is_some() {
                    return Err("an entry has two sizes");
                }
                self.size = Some(number(value)?);
            }
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value).ok_or("a PAX time is no number")?),
            _ if key.starts_with(XATTR) => self.take_xattr(&key[XATTR.len()..], value)?,
            _ if key.starts_with(b"GNU.sparse.") => self.sparse.take(&key[11..], value)?,
            _ => {}
        }
        Ok(())
    }

    fn take_xattr(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.xattr_bytes += (key.len() + value.len()) as u64;
        if self.xattr_bytes > LIMITS.xattr_bytes || value.len() > 64 << 10 {
            return Err("an entry's extended attributes are larger than Linux can hold");
        }
        if key.is_empty() || key.len() > 255 || key.contains(&0) {
            return Err("an extended attribute has an impossible name");
        }
        self.xattrs.retain(|(known, _)| known != key);
        self.xattrs.push((key.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl SparseRecords {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.is_sparse = true;
        match key {
            b"major" => self.major = Some(number(value)?),
            b"minor" => self.minor = Some(number(value)?),
            b"name" => self.name = name(value),
            b"size" | b"realsize" => self.real_size = Some(number(value)?),
            b"offset" | b"numbytes" => {
                if self.map.len().is_multiple_of(2) != (key == b"offset") {
                    return Err("a sparse map is out of order");
                }
                self.map.push(number(value)?);
            }
            b"map" => {
                self.map = value.split(|byte| *byte == b',').map(number).collect::<Result<_>>()?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Splits the first record off.
fn record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&body[..space]).ok()?).ok()?;
    let (record, rest) = body.split_at_checked(length)?;
    let inner = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = inner.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&inner[..equals], &inner[equals + 1..], rest))
}

/// An empty value takes the header's own field back into force.
fn name(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

pub(super) fn number(text: &[u8]) -> Result<u64> {
    if text.is_empty() || text.len() > 20 {
        return Err("a PAX number is empty or too long");
    }
    text.iter()
        .try_fold(0_u64, |value, digit| match digit {
            b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        })
        .filter(|value| i64::try_from(*value).is_ok())
        .ok_or("a PAX number is malformed")
}

/// `-1.25` is a second and a quarter before 1970: seconds -2, nanoseconds 750 million.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?).ok()?).ok()?;
    let fraction = parts.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_to_the_byte() {
        let mut records = Records::default();
        records.add(b"9 path=a\n30 SCHILY.xattr.user.x=\x00=\n\n\xff12\n11 mtime=1\n").unwrap_err();
        let mut records = Records::default();
        records.add(b"9 path=a\n26 SCHILY.xattr.user.x=\0=\n\n20 mtime=1234567.5\n12 size=77\n").unwrap_err();
        let mut records = Records::default();
        records.add(b"10 path=a\n27 SCHILY.xattr.user.x=\0=\n\n19 mtime=1234567.5\n11 size=77\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(records.xattrs, [(b"user.x".to_vec(), b"\0=\n".to_vec())]);
        assert_eq!(records.mtime, Some(Time { seconds: 1_234_567, nanoseconds: 500_000_000 }));
        assert_eq!(records.size, Some(77));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"9 path=a"[..],
            b"8 path=a\n",
            b"999999999 path=a\n",
            b"-9 path=a\n",
            b"0 path=a\n",
            b"4 =a\n",
            b"6 abc\n",
            b"10 size=1\n10 size=1\n",
            b"11 size=-1\n",
            b"31 size=99999999999999999999999\n",
            b"12 mtime=x\n",
        ] {
            assert!(Records::default().add(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_before_1970_round_down() {
        for (text, seconds, nanoseconds) in
            [("0", 0, 0), ("-1", -1, 0), ("-1.25", -2, 750_000_000), ("1.0000000019", 1, 1), ("2.", 2, 0)]
        {
            assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanoseconds }), "{text}");
        }
    }
}
