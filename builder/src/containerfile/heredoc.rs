//! Here-documents: which ones a line asks for.
//!
//! A heredoc is a shell word of the form `3<<-NAME`. Any quote or escape in the name means that its
//! body is taken as it is. The bodies follow the line in the order of their words.
//!
//! May touch: its arguments. Knows nothing of files.

use super::expand;

/// A heredoc as announced on its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) name: String,
    pub(super) expand: bool,
    pub(super) strip_tabs: bool,
    pub(super) descriptor: u32,
}

/// The heredocs that a line announces, in order.
pub(super) fn announced(line: &str) -> Vec<Announced> {
    if !line.contains("<<") {
        return Vec::new();
    }
    // A line that is no sequence of shell words (an open quote) announces none; the shell will say so.
    let words = expand::raw_words(line).unwrap_or_default();
    words.iter().filter_map(|word| announcement(word)).collect()
}

/// Reads one shell word.
pub(super) fn announcement(word: &str) -> Option<Announced> {
    let (descriptor, rest) = word.split_once("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let written = rest.trim_start();
    if !descriptor.bytes().all(|byte| byte.is_ascii_digit()) || written.contains('<') || written.is_empty() {
        return None;
    }
    let name = only(expand::unquoted_words(written).ok()?)?;
    let expand = only(expand::raw_words(written).ok()?)? == name;
    Some(Announced { name, expand, strip_tabs, descriptor: descriptor.parse().unwrap_or(0) })
}

fn only(words: Vec<String>) -> Option<String> {
    <[String; 1]>::try_from(words).ok().map(|[word]| word)
}
