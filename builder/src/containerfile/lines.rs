//! Physical lines → logical lines: continuations joined, comments dropped, heredoc bodies taken whole.
//!
//! ```text
//! RUN a \          ┐
//!   # a comment    │ one logical line: `RUN a   b`
//!   b              ┘ (the break goes, the blanks before `b` stay)
//! ```
//!
//! A logical line remembers where each of its pieces stood, so every range of it has a place in the file.
//!
//! May touch: its arguments. Knows nothing of instructions.

use std::ops::Range;

use super::syntax::Span;

/// One logical line.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) text: String,
    pieces: Vec<Piece>,
    /// Empty lines within continuations: a warning each.
    pub(super) empty_continuations: Vec<Span>,
}

/// A stretch of a logical line that stood on one physical line.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it starts in the logical line, in the file, and on which line of the file.
    joined: usize,
    file: usize,
    line: usize,
}

impl Line {
    /// Where a range of the logical line stands in the file.
    pub(super) fn span(&self, range: &Range<usize>) -> Span {
        let first = self.piece(range.start);
        let start = first.file + (range.start - first.joined);
        let last = self.piece(range.end.saturating_sub(1).max(range.start));
        Span { start, end: (last.file + range.end - last.joined).max(start), line: first.line }
    }

    fn piece(&self, at: usize) -> Piece {
        let after = self.pieces.partition_point(|piece| piece.joined <= at);
        self.pieces[after.saturating_sub(1)]
    }

    fn push(&mut self, text: &str, file: usize, line: usize) {
        // An empty piece would hide the one before it from `piece`.
        if !text.is_empty() || self.pieces.is_empty() {
            if self.text.is_empty() {
                self.pieces.clear();
            }
            self.pieces.push(Piece { joined: self.text.len(), file, line });
            self.text.push_str(text);
        }
    }
}

/// A physical line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Physical<'t> {
    /// Without its line end.
    pub(super) text: &'t str,
    /// With it.
    pub(super) raw: &'t str,
    pub(super) start: usize,
    /// From 1.
    pub(super) number: usize,
}

impl Physical<'_> {
    pub(super) fn span(&self) -> Span {
        let text = self.text.trim();
        let start = self.start + (self.text.len() - self.text.trim_start().len());
        Span { start, end: start + text.len(), line: self.number }
    }
}

/// Reads a file line by line.
#[derive(Debug)]
pub(super) struct Lines<'t> {
    text: &'t str,
    at: usize,
    number: usize,
    /// What continues a line.
    pub(super) escape: char,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        // A byte order mark is no part of the first line.
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, at, number: 0, escape: '\\' }
    }

    pub(super) fn peek(&self) -> Option<Physical<'t>> {
        let rest = &self.text[self.at..];
        let length = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let raw = &rest[..length];
        let text = raw.trim_end_matches(['\r', '\n']);
        (length > 0).then_some(Physical { text, raw, start: self.at, number: self.number + 1 })
    }

    pub(super) fn next(&mut self) -> Option<Physical<'t>> {
        let line = self.peek()?;
        self.at += line.raw.len();
        self.number += 1;
        Some(line)
    }

    /// Reads the next logical line that is neither empty nor a comment.
    pub(super) fn next_logical(&mut self) -> Option<Line> {
        loop {
            let first = self.next()?;
            let text = first.text.trim_start();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let start = first.start + (first.text.len() - text.len());
            let mut line = Line::default();
            let (text, mut goes_on) = self.without_continuation(text);
            line.push(text, start, first.number);
            while goes_on && let Some(next) = self.next() {
                let blank = next.text.trim_start();
                if blank.starts_with('#') {
                    continue;
                }
                if blank.is_empty() {
                    line.empty_continuations.push(next.span());
                    continue;
                }
                let text;
                (text, goes_on) = self.without_continuation(next.text);
                line.push(text, next.start, next.number);
            }
            if !line.text.trim().is_empty() {
                return Some(line);
            }
        }
    }

    /// Takes a heredoc's body: all lines up to `delimiter` alone on one. `None` if that never comes.
    pub(super) fn heredoc(&mut self, delimiter: &str, strip_tabs: bool) -> Option<String> {
        let mut body = String::new();
        while let Some(line) = self.next() {
            let text = if strip_tabs { line.text.trim_start_matches('\t') } else { line.text };
            if text == delimiter {
                return Some(body);
            }
            body.push_str(line.raw);
        }
        None
    }

    /// Splits off the escape that continues a line. A doubled one is a plain character.
    fn without_continuation<'l>(&self, text: &'l str) -> (&'l str, bool) {
        let trimmed = text.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(self.escape) {
            Some(kept) if !kept.ends_with(self.escape) => (kept, true),
            _ => (text, false),
        }
    }
}
