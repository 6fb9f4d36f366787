//! Ids and names of containers.
//!
//! May touch: the kernel's random numbers. Knows nothing of records.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

const QUALITIES: [&str; 32] = [
    "amber", "brave", "calm", "clever", "cosy", "crisp", "daring", "eager", "early", "fair", "fond",
    "gentle", "glad", "golden", "happy", "honest", "jolly", "keen", "kind", "lively", "lucky", "merry",
    "mild", "neat", "nimble", "proud", "quick", "quiet", "silver", "sunny", "warm", "wise",
];
const ANIMALS: [&str; 32] = [
    "badger", "beaver", "bison", "crane", "curlew", "dolphin", "dormouse", "eagle", "falcon", "finch", "fox",
    "gecko", "heron", "ibex", "jackdaw", "kestrel", "lark", "lynx", "marten", "moose", "newt", "otter",
    "owl", "panda", "plover", "raven", "seal", "stork", "swift", "tern", "vole", "wren",
];

/// How much of an id is shown.
const SHORT: usize = 12;

/// The beginning of an id, as people see it.
pub fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// 64 hex digits that nobody has had.
pub(super) fn new_id() -> io::Result<String> {
    let mut bytes = [0; 32];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(store::Digest::of(&bytes).hex())
}

/// A name for people, told by the id.
pub(super) fn made_up(id: &str) -> String {
    let place = |range: std::ops::Range<usize>| {
        let digits = id.get(range).and_then(|hex| usize::from_str_radix(hex, 16).ok());
        digits.unwrap_or(0) % 32
    };
    format!("{}_{}_{}", QUALITIES[place(0..2)], ANIMALS[place(2..4)], id.get(..4).unwrap_or_default())
}

/// docker's rule: a letter or digit, then letters, digits, `_`, `.`, `-`.
pub(super) fn is_name(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (2..=128).contains(&text.len())
        && text.bytes().all(rest)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_made_up_names_are_names() {
        let (one, two) = (new_id().unwrap(), new_id().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 64);
        assert!(is_name(&made_up(&one)), "{}", made_up(&one));
    }

    #[test]
    fn names_follow_dockers_rule() {
        for (text, expected) in [
            ("web-1", true),
            ("a.b_c", true),
            ("", false),
            ("a", false),
            ("-a", false),
            ("../x", false),
            ("a b", false),
            ("a/b", false),
        ] {
            assert_eq!(is_name(text), expected, "{text}");
        }
    }
}
