//! The JSON form: an array of strings behind an instruction's flags.
//!
//! Text that is no JSON at all is no mistake but the shell form, so it is told apart from an array that
//! holds something else than strings.
//!
//! May touch: its arguments. Knows nothing of instructions.

use super::fault;
use super::syntax::{Diagnostic, Span, Word};
use super::words::Stretch;

/// Reads a JSON array of strings. Anything that is no JSON array is `None`; an array that holds
/// something else than strings is a mistake.
pub(super) fn read<'l>(text: &Stretch<'l>) -> Result<Option<Vec<Word>>, Diagnostic> {
    let text: Stretch<'l> = text.trimmed();
    if !text.text().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text.text()) else { return Ok(None) };
    let mut places = strings(&text).into_iter();
    let mut words = Vec::with_capacity(values.len());
    for value in values {
        let (serde_json::Value::String(value), Some(place)) = (value, places.next()) else {
            let message = "when using JSON array syntax, arrays must be comprised of strings only";
            return Err(fault(message, "expected double-quoted strings", text.span()));
        };
        words.push(Word { text: value, span: place });
    }
    Ok(Some(words))
}

/// Where the strings of a valid JSON text stand.
fn strings(text: &Stretch<'_>) -> Vec<Span> {
    let mut places = Vec::new();
    let mut start = None;
    let mut escaped = false;
    for (at, byte) in text.text().bytes().enumerate() {
        match (byte, start) {
            _ if escaped => escaped = false,
            (b'\\', Some(_)) => escaped = true,
            (b'"', None) => start = Some(at),
            (b'"', Some(from)) => {
                places.push(text.part(from..at + 1).span());
                start = None;
            }
            _ => {}
        }
    }
    places
}

/// Whether somebody meant a JSON array: `['a']`, `["a",]`, but not `[ "$a" = b ]`.
pub(super) fn is_meant(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('[').map(str::trim_start) else { return false };
    let Some(quote) = inner.chars().next().filter(|quote| matches!(quote, '"' | '\'')) else { return false };
    let mut behind = inner[1..].splitn(2, quote).skip(1);
    let Some(behind) = behind.next().map(str::trim_start) else { return false };
    behind.is_empty() || behind.starts_with(',') || behind == "]"
}
