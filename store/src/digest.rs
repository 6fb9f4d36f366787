//! Names by hash: every identity in the store has its own type over one [`Digest`].
//!
//! A digest is made by *hash these bytes*, `FromStr` or from 32 bytes; it is always safe as a file name.
//! The text form is `sha256:<64 lower-case hex>` (OCI image-spec, descriptor.md, "Digests").
//!
//! May touch: its arguments. Knows nothing of disk or network.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Says that a text is no digest that this store can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest of the form sha256:<64 lower-case hex digits>")]
pub struct InvalidDigest(pub String);

impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 32 bytes themselves, for formats of our own.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest that was kept as its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 64 hex digits, the digest's name on disk.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let nibbles = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        nibbles.map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
    }

    /// Parses the bare hex digits, as file names carry them.
    pub fn from_hex(hex: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(hex.to_owned());
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(invalid()),
        };
        if hex.len() != 64 {
            return Err(invalid());
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(out))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix("sha256:").ok_or_else(|| InvalidDigest(text.to_owned()))?;
        Self::from_hex(hex).map_err(|_| InvalidDigest(text.to_owned()))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;

            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                text.parse().map(Self)
            }
        }
    };
}

identity! {
    /// Names bytes as they lie in `blobs/`: a manifest, a config, a packed layer.
    BlobId
}
identity! {
    /// Names a layer by the hash of its uncompressed tar.
    DiffId
}
identity! {
    /// Names a stack of layers, bottom to top; two equal chains hold equal files.
    ChainId
}
identity! {
    /// Names an image by the hash of its config, as Docker does.
    ImageId
}

impl DiffId {
    /// The layer without entries: the hash of a tar's two closing blocks, 1,024 zero bytes.
    pub const EMPTY: Self = Self(Digest([
        0x5f, 0x70, 0xbf, 0x18, 0xa0, 0x86, 0x00, 0x70, 0x16, 0xe9, 0x48, 0xb0, 0x4a, 0xed, 0x3b, 0x82, 0x10,
        0x3a, 0x36, 0xbe, 0xa4, 0x17, 0x55, 0xb6, 0xcd, 0xdf, 0xaf, 0x10, 0xac, 0xe3, 0xc6, 0xef,
    ]));
}

impl ChainId {
    /// The chain of one layer (OCI image-spec, config.md, "Layer `ChainID`").
    pub fn base(bottom: DiffId) -> Self {
        Self(bottom.0)
    }

    /// The chain with one more layer on top.
    #[must_use]
    pub fn push(self, above: DiffId) -> Self {
        Self(Digest::of(format!("{} {}", self.0, above.0).as_bytes()))
    }

    /// The chain of a stack, bottom to top; `None` for the empty stack.
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        let (bottom, rest) = layers.split_first()?;
        Some(rest.iter().fold(Self::base(*bottom), |chain, above| chain.push(*above)))
    }
}

/// Hashes what is fed to it, piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    state: sha2::Sha256,
    count_bytes: u64,
}

impl Hasher {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.count_bytes += bytes.len() as u64;
    }

    /// How many bytes were fed so far.
    pub fn count_bytes(&self) -> u64 {
        self.count_bytes
    }

    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes bytes on and hashes them on the way.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> HashingReader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::new() }
    }

    /// The digest and the count of all that was read so far.
    pub fn finish(self) -> (Digest, u64) {
        let count = self.hasher.count_bytes();
        (self.hasher.finish(), count)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_parses() {
        let good = Digest::of(b"").to_string();
        assert_eq!(good, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);

        for bad in [
            "",
            "sha256:",
            "sha256:e3b0",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &good.to_uppercase(),
            &format!("{good}/../../etc"),
            &good[7..],
        ] {
            assert_eq!(bad.parse::<Digest>(), Err(InvalidDigest(bad.to_owned())));
        }
    }

    #[test]
    fn the_empty_layer_is_the_hash_of_an_empty_tar() {
        assert_eq!(DiffId::EMPTY, DiffId(Digest::of(&[0; 1024])));
    }

    #[test]
    fn a_chain_is_folded_from_the_bottom() {
        let layers = [b"a", b"b", b"c"].map(|bytes| DiffId(Digest::of(bytes)));
        let by_hand = ChainId::base(layers[0]).push(layers[1]).push(layers[2]);
        assert_eq!(ChainId::of(&layers), Some(by_hand));
        assert_eq!(ChainId::of(&[]), None);
    }
}
