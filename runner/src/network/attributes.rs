//! Netlink attributes as bytes: length, kind, value, padded to four (netlink(7), `struct nlattr`).
//!
//! May touch: its arguments. Knows nothing of sockets or of what the kinds mean.

use std::io;

const NESTED: u16 = 0x8000;
/// `struct nlattr`.
const HEAD_BYTES: usize = 4;
/// `struct nlmsghdr`.
const MESSAGE_HEAD_BYTES: usize = 16;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

/// A list of attributes being written.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    bytes: Vec<u8>,
}

impl Attributes {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(HEAD_BYTES + value.len()).expect("our values are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// A string, closed by NUL.
    pub(super) fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    /// A number in network order, as nfnetlink has them.
    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(&mut self, kind: u16, inner: &Self) -> &mut Self {
        self.bytes(kind | NESTED, &inner.bytes)
    }
}

/// The attributes in `bytes`: kind and value of each; ends at the first that is damaged.
pub(super) fn nested(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..HEAD_BYTES)?.try_into().ok()?);
        let value = rest.get(HEAD_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// The messages of a datagram: the payload of each, `None` for an acknowledgement or the end of
/// a dump, the kernel's error for a refusal.
pub(super) fn answers(datagram: &[u8]) -> impl Iterator<Item = io::Result<Option<&[u8]>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let payload = rest.get(MESSAGE_HEAD_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(match kind {
            MESSAGE_DONE => Ok(None),
            MESSAGE_ERROR => match error_code(payload) {
                0 => Ok(None),
                code => Err(io::Error::from_raw_os_error(code)),
            },
            _ => Ok(Some(payload)),
        })
    })
}

/// `struct nlmsgerr` begins with the negative error number, 0 for an acknowledgement.
fn error_code(payload: &[u8]) -> i32 {
    let code = payload.get(..4).and_then(|bytes| bytes.try_into().ok());
    code.map_or(0, |bytes| i32::from_ne_bytes(bytes).saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut inner = Attributes::default();
        inner.number(7, 0x0102_0304);
        let mut outer = Attributes::default();
        outer.text(1, "abc").bytes(2, b"x").nest(3, &inner);

        let read: Vec<(u16, &[u8])> = nested(outer.as_bytes()).collect();
        assert_eq!(read[0], (1, &b"abc\0"[..]));
        assert_eq!(read[1], (2, &b"x"[..]));
        assert_eq!(nested(read[2].1).collect::<Vec<_>>(), [(7, &[1, 2, 3, 4][..])]);
        assert_eq!(outer.as_bytes().len() % 4, 0);
    }

    #[test]
    fn damaged_attributes_end_the_list() {
        for bytes in [&b""[..], b"\x01", b"\x03\x00\x01\x00", b"\xff\x00\x01\x00ab", b"\x00\x00\x00\x00"] {
            assert_eq!(nested(bytes).count(), 0, "{bytes:?}");
        }
    }
}
