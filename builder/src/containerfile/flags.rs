//! `--name=value` behind an instruction's keyword.
//!
//! Quotes and backslashes are taken off here (the escape directive does not count), before variables
//! get their values. `--` alone ends the flags. Which flags there are is the instruction's to say.
//!
//! May touch: its arguments. Knows nothing of what a flag means.

use super::fault;
use super::suggest::closest;
use super::syntax::{Diagnostic, Span, Word};
use super::words::Stretch;

/// A flag as written.
#[derive(Debug)]
pub(super) struct Flag {
    name: String,
    /// What stands behind `=`.
    value: Option<Word>,
    span: Span,
}

/// Takes the flags off the front of an instruction's arguments.
pub(super) fn split<'l>(arguments: &Stretch<'l>) -> (Vec<Flag>, Stretch<'l>) {
    let mut flags = Vec::new();
    let mut rest = arguments.trimmed();
    while rest.text().starts_with("--") {
        let (end, text) = first_word(rest.text());
        let written = rest.part(0..end);
        rest = rest.part(end..rest.range.len()).trimmed();
        if text == "--" {
            break;
        }
        flags.push(flag(&written, &text));
    }
    (flags, rest)
}

fn flag(written: &Stretch<'_>, text: &str) -> Flag {
    let text = text.strip_prefix("--").unwrap_or(text);
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let value_span = written.split_at_equals().map_or_else(|| written.span(), |(_, value)| value.span());
    Flag {
        name: name.to_owned(),
        value: value.map(|value| Word { text: value.to_owned(), span: value_span }),
        span: written.span(),
    }
}

/// Where the first word ends, and the word without quotes and escapes.
fn first_word(text: &str) -> (usize, String) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            _ if quote.is_none() && character.is_whitespace() => return (at, word),
            '\\' => word.extend(characters.next().map(|(_, escaped)| escaped)),
            _ if quote == Some(character) => quote = None,
            '\'' | '"' if quote.is_none() => quote = Some(character),
            _ => word.push(character),
        }
    }
    (text.len(), word)
}

/// An instruction's flags, taken one by one by name. What is left at the end is unknown.
pub(super) struct Flags<'e> {
    keyword: &'static str,
    given: Vec<Flag>,
    known: Vec<&'static str>,
    errors: &'e mut Vec<Diagnostic>,
}

impl<'e> Flags<'e> {
    pub(super) fn new(keyword: &'static str, given: Vec<Flag>, errors: &'e mut Vec<Diagnostic>) -> Self {
        Self { keyword, given, known: Vec::new(), errors }
    }

    /// A flag that may stand once: `--chown=me`.
    pub(super) fn value(&mut self, name: &'static str) -> Option<Word> {
        let flag = self.once(name)?;
        if flag.value.is_none() {
            self.no_value(&flag);
        }
        flag.value
    }

    /// A flag that may stand any number of times: `--exclude=a --exclude=b`.
    pub(super) fn values(&mut self, name: &'static str) -> Vec<Word> {
        let flags = self.take(name);
        for flag in flags.iter().filter(|flag| flag.value.is_none()) {
            self.no_value(flag);
        }
        flags.into_iter().filter_map(|flag| flag.value).collect()
    }

    /// A flag that is on, off or not there: `--link`, `--link=false`.
    pub(super) fn switch(&mut self, name: &'static str) -> Option<bool> {
        let flag = self.once(name)?;
        let Some(value) = &flag.value else { return Some(true) };
        match value.text.to_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            "" => {
                self.no_value(&flag);
                None
            }
            _ => {
                let message = format!("expecting boolean value for flag {name}, not: {}", value.text);
                self.errors.push(fault(message, "expected true or false", value.span));
                None
            }
        }
    }

    /// Reports what no call has taken.
    pub(super) fn finish(self) {
        for flag in self.given {
            let label = match closest(&flag.name, self.known.iter().copied()) {
                Some(name) => format!("did you mean --{name}?"),
                None if self.known.is_empty() => format!("{} has no flags", self.keyword),
                None => format!("expected {}", listed(&self.known)),
            };
            self.errors.push(fault(format!("unknown flag: --{}", flag.name), label, flag.span));
        }
    }

    fn once(&mut self, name: &'static str) -> Option<Flag> {
        let mut flags = self.take(name).into_iter();
        let first = flags.next();
        for again in flags {
            self.errors.push(fault(
                format!("duplicate flag specified: {name}"),
                "this flag may stand once only",
                again.span,
            ));
        }
        first
    }

    fn take(&mut self, name: &'static str) -> Vec<Flag> {
        self.known.push(name);
        self.given.extract_if(.., |flag| flag.name == name).collect()
    }

    fn no_value(&mut self, flag: &Flag) {
        let label = format!("expected --{}=…", flag.name);
        self.errors.push(fault(format!("missing a value on flag: {}", flag.name), label, flag.span));
    }
}

fn listed(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("--{name}")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
