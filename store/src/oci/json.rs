//! Strict JSON: what all documents of others are read with.
//!
//! A document is at most 4 MiB and 128 levels deep (serde's own bound), is nothing but one value, and
//! has no key twice at any level: with a doubled key one program sees the first value, another the
//! last, and what was checked is not what is used.
//!
//! May touch: its arguments. Knows nothing of disk or network.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The largest manifest, index or config that is read.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Why a text is not the document that it should be.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the {what} is larger than 4 MiB ({size_bytes} bytes)")]
    TooLarge { what: &'static str, size_bytes: u64 },
    #[error("the {what} is not valid")]
    Invalid { what: &'static str, source: serde_json::Error },
    #[error("the {what} {problem}")]
    Wrong { what: &'static str, problem: String },
}

/// Reads a document; `what` names it in errors ("image manifest").
pub fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DocumentError> {
    let size_bytes = bytes.len() as u64;
    if size_bytes > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLarge { what, size_bytes });
    }
    let invalid = |source| DocumentError::Invalid { what, source };
    serde_json::from_slice::<EachKeyOnce>(bytes).map_err(invalid)?;
    serde_json::from_slice(bytes).map_err(invalid)
}

/// Writes a document; equal values give equal bytes.
pub fn write<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("our documents have string keys and no failing fields")
}

/// The top-level keys of an object, in lower case; empty for anything else.
///
/// Lower case because Go reads `Layers` as `layers`.
pub(crate) fn keys(bytes: &[u8]) -> BTreeSet<String> {
    let value: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(bytes).ok();
    value.into_iter().flatten().map(|(key, _)| key.to_lowercase()).collect()
}

/// Any JSON value without a doubled key.
struct EachKeyOnce;

impl<'de> Deserialize<'de> for EachKeyOnce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for EachKeyOnce {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while let Some(Self) = seq.next_element()? {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let Self = map.next_value()?;
            if let Some(twice) = seen.replace(key) {
                return Err(A::Error::custom(format_args!("the key {twice:?} stands twice")));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_plain_value_is_a_document() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let large = format!("\"{}\"", "x".repeat(5 << 20));
        for bad in [
            "",
            " ",
            "{",
            "{}{}",
            "{} x",
            "\u{feff}{}",
            "{\"a\":1,\"a\":2}",
            "[{\"b\":{\"a\":1,\"a\":1}}]",
            "{'a':1}",
            "1e400",
            "{\"a\":NaN}",
            "{\"\\u0061\":1,\"a\":2}",
            &deep,
            &large,
        ] {
            let read: Result<serde_json::Value, _> = read("thing", bad.as_bytes());
            assert!(read.is_err(), "{}", &bad[..bad.len().min(40)]);
        }
        for good in ["{}", "[1, -2, 3.5, null, true, \"a\", {\"a\": {\"a\": []}}]\n"] {
            assert!(read::<serde_json::Value>("thing", good.as_bytes()).is_ok(), "{good}");
        }
    }

    #[test]
    fn keys_are_told_in_lower_case() {
        assert!(keys(b"{\"Layers\":[],\"x\":1}").contains("layers"));
        assert!(keys(b"[]").is_empty());
    }
}
