//! One path component against one wildcard pattern, as Go's `filepath.Match` has it. Pure.
//!
//! `*` any run of characters, `?` one character, `[a-z]` and `[^a-z]` one of a class, `\` takes the next
//! character as it is. None of them matches a `/`. There is no `**`, no `{a,b}`, and no hidden-file rule.
//!
//! A match is greedy with one place to come back to, so it costs at most (pattern × name).
//!
//! May touch: its arguments. Knows nothing of directories.

/// Says that a text is no pattern: an open `[`, an empty class, or an escape with nothing behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Says whether the whole of `name` fits `pattern`. A bad pattern is an error for every name.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    check(pattern)?;
    let (mut at, mut place) = (0, 0);
    // Behind the last `*`, and what it has taken so far ends here.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            retry = Some((at, place));
            continue;
        }
        if at == pattern.len() && place == name.len() {
            return Ok(true);
        }
        if let Some((next, taken)) = step(&pattern[at..], &name[place..]) {
            at += next;
            place += taken;
            continue;
        }
        match retry {
            Some((behind, taken)) if taken < name.len() && name[taken] != b'/' => {
                at = behind;
                place = taken + 1;
                retry = Some((behind, place));
            }
            _ => return Ok(false),
        }
    }
}

/// Says whether a text is a pattern at all.
pub fn check(pattern: &[u8]) -> Result<(), BadPattern> {
    let mut at = 0;
    while at < pattern.len() {
        at += match pattern[at] {
            b'\\' if at + 1 == pattern.len() => return Err(BadPattern),
            b'\\' => 2,
            b'[' => Class::read(&pattern[at..]).ok_or(BadPattern)?.length,
            _ => 1,
        };
    }
    Ok(())
}

/// Says whether a text means only itself.
pub fn is_literal(pattern: &[u8]) -> bool {
    !pattern.iter().any(|byte| b"*?[\\".contains(byte))
}

/// Matches one item of a checked pattern, which is no `*`. Returns how much of both it took.
fn step(pattern: &[u8], name: &[u8]) -> Option<(usize, usize)> {
    let (&item, &byte) = (pattern.first()?, name.first()?);
    match item {
        b'?' => (byte != b'/').then(|| (1, character(name).1)),
        b'[' => {
            let class = Class::read(pattern)?;
            let (character, length) = character(name);
            (byte != b'/' && class.holds(character)).then_some((class.length, length))
        }
        b'\\' => (*pattern.get(1)? == byte).then_some((2, 1)),
        _ => (item == byte).then_some((1, 1)),
    }
}

/// `[…]`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Class {
    ranges: Vec<(char, char)>,
    negated: bool,
    /// With both brackets.
    pub(super) length: usize,
}

impl Class {
    /// Reads a class at the front of `text`.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let mut at = 1;
        let negated = text.get(at) == Some(&b'^');
        at += usize::from(negated);
        let mut ranges = Vec::new();
        while text.get(at) != Some(&b']') || ranges.is_empty() {
            let low = class_character(text, &mut at)?;
            let mut high = low;
            if text.get(at) == Some(&b'-') {
                at += 1;
                high = class_character(text, &mut at)?;
            }
            ranges.push((low, high));
        }
        Some(Self { ranges, negated, length: at + 1 })
    }

    pub(super) fn holds(&self, character: char) -> bool {
        self.ranges.iter().any(|&(low, high)| (low..=high).contains(&character)) != self.negated
    }
}

/// One end of a range. `-` and `]` have to be escaped.
fn class_character(text: &[u8], at: &mut usize) -> Option<char> {
    if matches!(text.get(*at)?, b'-' | b']') {
        return None;
    }
    if text[*at] == b'\\' {
        *at += 1;
    }
    let rest = text.get(*at..).filter(|rest| !rest.is_empty())?;
    let (character, length) = character(rest);
    *at += length;
    // A class that nothing closes is none.
    (*at < text.len()).then_some(character)
}

/// The first character of a text that is not empty, and its length; a byte that is no UTF-8 stands for itself.
pub(super) fn character(text: &[u8]) -> (char, usize) {
    let width = match text[0] {
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0.. => 4,
        _ => 1,
    };
    let whole = text.get(..width).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match whole.and_then(|text| text.chars().next()) {
        Some(character) => (character, width),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_one_component_as_in_go() {
        let table: &[(&str, &str, Result<bool, BadPattern>)] = &[
            ("abc", "abc", Ok(true)),
            ("*", "abc", Ok(true)),
            ("*", "", Ok(true)),
            ("", "", Ok(true)),
            ("", "a", Ok(false)),
            ("*c", "abc", Ok(true)),
            ("a*", "a", Ok(true)),
            ("a*", "ab/c", Ok(false)),
            ("a*/b", "abc/b", Ok(true)),
            ("a*/b", "a/c/b", Ok(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Ok(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Ok(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Ok(false)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Ok(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Ok(false)),
            ("ab[c]", "abc", Ok(true)),
            ("ab[b-d]", "abc", Ok(true)),
            ("ab[e-g]", "abc", Ok(false)),
            ("ab[^c]", "abc", Ok(false)),
            ("ab[^e-g]", "abc", Ok(true)),
            ("a\\*b", "a*b", Ok(true)),
            ("a\\*b", "ab", Ok(false)),
            ("a?b", "a☺b", Ok(true)),
            ("a[^a]b", "a☺b", Ok(true)),
            ("a???b", "a☺b", Ok(false)),
            ("[a-ζ]*", "α", Ok(true)),
            ("*[a-ζ]", "A", Ok(false)),
            ("a?b", "a/b", Ok(false)),
            ("a*b", "a/b", Ok(false)),
            ("[\\]a]", "]", Ok(true)),
            ("[\\-]", "-", Ok(true)),
            ("[x\\-]", "-", Ok(true)),
            ("[x\\-]", "z", Ok(false)),
            ("[\\-x]", "a", Ok(false)),
            ("[]a]", "]", Err(BadPattern)),
            ("[-]", "-", Err(BadPattern)),
            ("[x-]", "x", Err(BadPattern)),
            ("[-x]", "x", Err(BadPattern)),
            ("\\", "a", Err(BadPattern)),
            ("[a-b-c]", "a", Err(BadPattern)),
            ("[", "a", Err(BadPattern)),
            ("[^", "a", Err(BadPattern)),
            ("[^bc", "a", Err(BadPattern)),
            ("a[", "ab", Err(BadPattern)),
            ("*x", "xxx", Ok(true)),
            ("[[]x", "[x", Ok(true)),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), *expected, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_pattern_times_name() {
        let pattern = b"a*".repeat(2000);
        assert_eq!(matches(&[&pattern[..], b"b"].concat(), &b"a".repeat(20_000)), Ok(false));
    }
}
