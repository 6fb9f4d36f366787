//! `# syntax=`, `# escape=` and `# check=`: comments with a meaning, at the top of the file only.
//!
//! The first line that is none of them ends the search, be it another comment or an empty line.
//!
//! May touch: its arguments. Knows nothing of instructions.

use super::lines::{Lines, Physical};
use super::syntax::Diagnostic;

/// What the directives say.
#[derive(Debug, Default)]
pub(super) struct Directives {
    pub(super) syntax: Option<String>,
    pub(super) check: Option<String>,
    escape: Option<String>,
}

/// Takes the directives off the file's front.
pub(super) fn take(lines: &mut Lines<'_>, errors: &mut Vec<Diagnostic>) -> Directives {
    let mut found = Directives::default();
    while let Some(line) = lines.peek()
        && let Some((key, value)) = directive(line.text)
    {
        let place = match key.as_str() {
            "syntax" => &mut found.syntax,
            "check" => &mut found.check,
            "escape" => &mut found.escape,
            _ => break,
        };
        lines.next();
        if place.is_some() {
            errors.push(problem(&line, format!("only one {key} parser directive can be used")));
            continue;
        }
        *place = Some(value.to_owned());
        if key == "escape" {
            match value {
                "\\" => lines.escape = '\\',
                "`" => lines.escape = '`',
                _ => errors.push(problem(&line, format!("invalid escape token `{value}`"))),
            }
        }
    }
    found
}

/// Reads `# key = value`; the key comes back in lower case.
fn directive(line: &str) -> Option<(String, &str)> {
    let (key, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let is_key = key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_key && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

fn problem(line: &Physical<'_>, message: String) -> Diagnostic {
    let label =
        if message.starts_with("only") { "a second one" } else { "expected a backslash or a backtick" };
    Diagnostic { rule: None, message, label: label.to_owned(), span: line.span() }
}
