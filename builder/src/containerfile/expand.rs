//! `$name` and `${…}`: words get their values. Pure.
//!
//! The rules are those of `BuildKit`'s shell lexer, which is close to a shell but not one: an escape
//! outside quotes is dropped and keeps the next character; inside double quotes it only works before
//! `"`, `$` and itself; `$1` and `$@` are names like any other; patterns know `*` and `?` only.
//!
//! Every character is read once. Only `${a:-${b:-…}}` recurses, and `DEEPEST` bounds it.
//!
//! May touch: its arguments. Knows nothing of disk, clock, environment, store.

mod pattern;

use pattern::{Greed, Pattern};

/// How deep `${…}` may stand in `${…}`.
const DEEPEST: usize = 32;

/// Why a word has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    #[error("{0}")]
    Syntax(String),
    /// `${name:?message}` with `name` unset.
    #[error("{name}: {message}")]
    Required { name: String, message: String },
}

/// A variable's value; `None` is unset.
pub type Lookup<'v> = dyn Fn(&str) -> Option<String> + 'v;

/// Expands `word` into one value, quotes removed.
pub fn word(text: &str, escape: char, variables: &Lookup<'_>) -> Result<String, ExpandError> {
    Ok(Lexer::new(text, Mode::word(escape), variables).run()?.value)
}

/// Expands `word` and splits unquoted results at blanks (EXPOSE).
pub fn words(text: &str, escape: char, variables: &Lookup<'_>) -> Result<Vec<String>, ExpandError> {
    Ok(Lexer::new(text, Mode::word(escape), variables).run()?.words.done())
}

/// Expands variables in a heredoc's body: no quote removal, `\$` is a literal `$`.
///
/// As in `BuildKit` a backslash is dropped before any character, not only before `$`.
pub fn heredoc(text: &str, variables: &Lookup<'_>) -> Result<String, ExpandError> {
    let mode = Mode { quotes: Quotes::Ordinary, ..Mode::word('\\') };
    Ok(Lexer::new(text, mode, variables).run()?.value)
}

/// Splits a line into shell words, everything in them left as written.
pub(super) fn raw_words(text: &str) -> Result<Vec<String>, ExpandError> {
    let mode = Mode { quotes: Quotes::Kept, raw_escapes: true, keep_unset: true, ..Mode::word('\\') };
    Ok(Lexer::new(text, mode, &|_| None).run()?.words.done())
}

/// Splits a line into shell words, quotes and escapes removed, `$name` left as written.
pub(super) fn unquoted_words(text: &str) -> Result<Vec<String>, ExpandError> {
    let mode = Mode { keep_unset: true, ..Mode::word('\\') };
    Ok(Lexer::new(text, mode, &|_| None).run()?.words.done())
}

/// Takes quotes and escapes off a word; variables stay as they are written.
pub(super) fn unquoted(text: &str, escape: char) -> Result<String, ExpandError> {
    let mode = Mode { keep_unset: true, ..Mode::word(escape) };
    Ok(Lexer::new(text, mode, &|_| None).run()?.value)
}

/// What quotes do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// They group, and go.
    Removed,
    /// They group, and stay.
    Kept,
    /// They are characters like any other.
    Ordinary,
}

/// How a text is read.
#[derive(Clone, Copy)]
struct Mode {
    escape: char,
    quotes: Quotes,
    raw_escapes: bool,
    keep_unset: bool,
}

impl Mode {
    fn word(escape: char) -> Self {
        Self { escape, quotes: Quotes::Removed, raw_escapes: false, keep_unset: false }
    }
}

/// A text's value, whole and split.
#[derive(Default)]
struct Expanded {
    value: String,
    words: Words,
}

/// The words of a value, collected as it grows.
#[derive(Default)]
struct Words {
    finished: Vec<String>,
    open: String,
}

impl Words {
    /// Adds a character that was neither quoted nor escaped: a blank ends the word.
    fn add(&mut self, character: char) {
        if !character.is_whitespace() {
            self.open.push(character);
        } else if !self.open.is_empty() {
            self.finished.push(std::mem::take(&mut self.open));
        }
    }

    fn done(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.finished.push(self.open);
        }
        self.finished
    }
}

/// Reads a text from front to back.
struct Lexer<'t> {
    rest: std::str::Chars<'t>,
    mode: Mode,
    depth: usize,
    variables: &'t Lookup<'t>,
}

/// What follows the name in `${…}`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Modifier {
    /// `-` and `:-`
    Default,
    /// `+` and `:+`
    Alternative,
    /// `?` and `:?`
    Required,
    /// `#` and `##`
    TrimFront,
    /// `%` and `%%`
    TrimBack,
}

impl<'t> Lexer<'t> {
    fn new(text: &'t str, mode: Mode, variables: &'t Lookup<'t>) -> Self {
        Self { rest: text.chars(), mode, depth: 0, variables }
    }

    fn run(mut self) -> Result<Expanded, ExpandError> {
        self.until(None)
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// Reads up to `stop` (taken, not kept) or, without one, to the end.
    fn until(&mut self, stop: Option<char>) -> Result<Expanded, ExpandError> {
        let mut out = Expanded::default();
        while let Some(character) = self.peek() {
            if Some(character) == stop {
                self.rest.next();
                return Ok(out);
            }
            match character {
                '$' => {
                    let value = self.dollar()?;
                    out.value.push_str(&value);
                    value.chars().for_each(|character| out.words.add(character));
                }
                '\'' | '"' if self.mode.quotes != Quotes::Ordinary => {
                    let value = if character == '"' { self.double_quoted() } else { self.single_quoted() }?;
                    out.value.push_str(&value);
                    out.words.open.push_str(&value);
                }
                _ => self.plain(&mut out),
            }
        }
        match stop {
            None => Ok(out),
            Some(stop) => Err(unclosed(&stop.to_string())),
        }
    }

    /// Takes one character that is neither `$` nor a quote, or an escape and what it escapes.
    fn plain(&mut self, out: &mut Expanded) {
        let Some(character) = self.rest.next() else { return };
        if character != self.mode.escape {
            out.value.push(character);
            out.words.add(character);
            return;
        }
        if self.mode.raw_escapes {
            out.value.push(character);
            out.words.open.push(character);
        }
        // An escape at the very end is dropped.
        if let Some(escaped) = self.rest.next() {
            out.value.push(escaped);
            out.words.open.push(escaped);
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let mut value = String::new();
        self.quote(&mut value);
        loop {
            match self.peek() {
                None => return Err(unclosed("single-quote")),
                Some('\'') => {
                    self.quote(&mut value);
                    return Ok(value);
                }
                Some(character) => {
                    self.rest.next();
                    value.push(character);
                }
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let mut value = String::new();
        self.quote(&mut value);
        loop {
            match self.peek() {
                None => return Err(unclosed("double-quote")),
                Some('"') => {
                    self.quote(&mut value);
                    return Ok(value);
                }
                Some('$') => value.push_str(&self.dollar()?),
                Some(character) if character == self.mode.escape => self.escaped_in_quotes(&mut value),
                Some(character) => {
                    self.rest.next();
                    value.push(character);
                }
            }
        }
    }

    /// Takes a quote, and keeps it if the mode says so.
    fn quote(&mut self, value: &mut String) {
        if let Some(quote) = self.rest.next()
            && self.mode.quotes == Quotes::Kept
        {
            value.push(quote);
        }
    }

    /// Inside double quotes an escape works before `"`, `$` and itself; else it stays.
    fn escaped_in_quotes(&mut self, value: &mut String) {
        self.rest.next();
        if self.mode.raw_escapes {
            value.push(self.mode.escape);
        }
        match self.peek() {
            None => {}
            Some(next) if next == '"' || next == '$' || next == self.mode.escape => {
                self.rest.next();
                value.push(next);
            }
            Some(_) => value.push(self.mode.escape),
        }
    }

    /// `$name` or `${…}`; a `$` before anything else is itself.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.rest.next();
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(match self.lookup(&name) {
                _ if name.is_empty() => "$".to_owned(),
                Some(value) => value,
                None if self.mode.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.rest.next();
        if self.depth == DEEPEST {
            return Err(ExpandError::Syntax(format!("${{…}} is nested more than {DEEPEST} deep")));
        }
        self.depth += 1;
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// What follows `${`.
    fn braces(&mut self) -> Result<String, ExpandError> {
        match self.peek() {
            None => return Err(missing("}")),
            Some('{' | '}' | ':') => return Err(syntax("syntax error: bad substitution")),
            Some(_) => {}
        }
        let name = self.name();
        match self.rest.next() {
            None => Err(missing("}")),
            Some('}') => Ok(match self.lookup(&name) {
                Some(value) => value,
                None if self.mode.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some('/') => self.replaced(&name),
            Some(':') => match self.rest.next() {
                None => Err(missing("}")),
                Some(sign) => self.modified(&name, sign, true),
            },
            Some(sign) => self.modified(&name, sign, false),
        }
    }

    /// `${name-…}` and its kin; `colon` makes an empty value count as unset.
    fn modified(&mut self, name: &str, sign: char, colon: bool) -> Result<String, ExpandError> {
        let written =
            if colon { format!(":{}", sign.escape_debug()) } else { sign.escape_debug().to_string() };
        let modifier = match (sign, colon) {
            ('-', _) => Modifier::Default,
            ('+', _) => Modifier::Alternative,
            ('?', _) => Modifier::Required,
            ('#', false) => Modifier::TrimFront,
            ('%', false) => Modifier::TrimBack,
            _ => return Err(syntax(&format!("unsupported modifier ({written}) in substitution"))),
        };
        let is_pattern = matches!(modifier, Modifier::TrimFront | Modifier::TrimBack);
        let word = self.operand('}', is_pattern)?;
        let value = self.lookup(name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(format!("${{{name}{written}{word}}}"));
        }
        let given = value.clone().filter(|value| !(colon && value.is_empty()));
        match (modifier, given) {
            (Modifier::Default | Modifier::Required, Some(given)) => Ok(given),
            (Modifier::Default, None) | (Modifier::Alternative, Some(_)) => Ok(word),
            (Modifier::Alternative, None) => Ok(String::new()),
            (Modifier::Required, None) => Err(required(name, word, value.is_some())),
            (Modifier::TrimFront | Modifier::TrimBack, given) => {
                trimmed(sign, &word, &given.unwrap_or_default(), modifier == Modifier::TrimFront)
            }
        }
    }

    /// `${name/pattern/replacement}`, and with `//` every match.
    fn replaced(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.rest.next();
        }
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = self.lookup(name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        Ok(compiled(&pattern)?.replace(&value.unwrap_or_default(), &replacement, all))
    }

    /// Reads the part of a `${…}` up to `stop`. In a pattern escapes stay for the pattern to read.
    fn operand(&mut self, stop: char, raw_escapes: bool) -> Result<String, ExpandError> {
        let outer = std::mem::replace(&mut self.mode.raw_escapes, raw_escapes);
        let read = self.until(Some(stop));
        self.mode.raw_escapes = outer;
        match read {
            Ok(expanded) => Ok(expanded.value),
            Err(ExpandError::Syntax(_)) if self.peek().is_none() && stop == '/' => {
                Err(syntax("syntax error: missing '/' in ${}"))
            }
            Err(ExpandError::Syntax(_)) if self.peek().is_none() => Err(missing("}")),
            Err(other) => Err(other),
        }
    }

    /// Letters, digits and `_`; or digits alone; or one special character.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(special @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                self.rest.next();
                return special.to_string();
            }
            Some(digit) if digit.is_ascii_digit() => {
                while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
                    self.rest.next();
                    name.push(digit);
                }
                return name;
            }
            _ => {}
        }
        while let Some(character) =
            self.peek().filter(|&character| character == '_' || character.is_alphanumeric())
        {
            self.rest.next();
            name.push(character);
        }
        name
    }

    fn lookup(&self, name: &str) -> Option<String> {
        (self.variables)(name)
    }
}

/// Takes the match of `#`, `##`, `%` or `%%` off a value; the second sign is the pattern's first character.
fn trimmed(sign: char, word: &str, value: &str, front: bool) -> Result<String, ExpandError> {
    let (greed, word) = match word.strip_prefix(sign) {
        Some(rest) => (Greed::Longest, rest),
        None => (Greed::Shortest, word),
    };
    let pattern = compiled(word)?;
    Ok(if front { pattern.trim_front(value, greed) } else { pattern.trim_back(value, greed) })
}

fn compiled(pattern: &str) -> Result<Pattern, ExpandError> {
    Pattern::compile(pattern)
        .map_err(|problem| syntax(&format!("invalid pattern ({pattern}) in substitution: {problem}")))
}

fn required(name: &str, message: String, set: bool) -> ExpandError {
    let silent = if set { "is not allowed to be empty" } else { "is not allowed to be unset" };
    let message = if message.is_empty() { silent.to_owned() } else { message };
    ExpandError::Required { name: name.to_owned(), message }
}

fn syntax(message: &str) -> ExpandError {
    ExpandError::Syntax(message.to_owned())
}

fn missing(what: &str) -> ExpandError {
    ExpandError::Syntax(format!("syntax error: missing '{what}'"))
}

fn unclosed(what: &str) -> ExpandError {
    ExpandError::Syntax(format!("unexpected end of statement while looking for matching {what}"))
}
