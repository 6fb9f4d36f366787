//! FROM.
//!
//! May touch: its arguments. Knows nothing of images.

use super::Head;
use crate::containerfile::flags::Flags;
use crate::containerfile::syntax::{Span, Stage};
use crate::containerfile::words::Stretch;
use crate::containerfile::{Notes, fault, warning};

/// FROM [--platform=…] image [AS name]
pub(super) fn from(head: Head<'_>, span: Span, notes: &mut Notes) -> Option<Stage> {
    let mut flags = Flags::new("FROM", head.flags, &mut notes.errors);
    let platform = flags.value("platform");
    flags.finish();
    let words = head.rest.fields();
    let name = match words.as_slice() {
        [_] => None,
        [_, keyword, name] if keyword.text().eq_ignore_ascii_case("as") => {
            casing_of_as(&head.written, keyword, notes);
            Some(stage_name(name, notes)?)
        }
        _ => {
            let at = words.get(1).map_or(head.written.span(), Stretch::span);
            let message = "FROM requires either one or three arguments";
            notes.errors.push(fault(message, "expected FROM image [AS name]", at));
            return None;
        }
    };
    Some(Stage { image: words[0].word(), platform, name, span, instructions: Vec::new() })
}

fn casing_of_as(from: &Stretch<'_>, keyword: &Stretch<'_>, notes: &mut Notes) {
    let is_upper = |text: &str| text.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_upper(from.text()) != is_upper(keyword.text()) {
        let message = format!("'{}' and '{}' keywords' casing do not match", keyword.text(), from.text());
        notes.warnings.push(warning("FromAsCasing", message, "write both alike", keyword.span()));
    }
}

/// Checks a stage's name and puts it in small letters.
fn stage_name(name: &Stretch<'_>, notes: &mut Notes) -> Option<String> {
    let written = name.text();
    let lower = written.to_lowercase();
    let fits = lower.starts_with(|first: char| first.is_ascii_lowercase())
        && lower
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte));
    if !fits {
        let label = "expected a letter first, then letters, digits, `-`, `_` or `.`";
        notes.errors.push(fault(format!("invalid name for build stage: {written}"), label, name.span()));
        return None;
    }
    if lower != written {
        let message = format!("stage name '{written}' should be lowercase");
        notes.warnings.push(warning("StageNameCasing", message, format!("write `{lower}`"), name.span()));
    }
    Some(lower)
}
