//! Stretches of a logical line, and how they fall into words.
//!
//! Two ways to split, as the instruction asks: at blanks ([`Stretch::fields`]: COPY, FROM, EXPOSE), or at
//! blanks outside quotes ([`Stretch::quoted_words`]: ENV, LABEL, ARG). Quotes and `$` stay in the words.
//!
//! May touch: its arguments. Knows nothing of instructions.

use std::ops::Range;

use super::lines::Line;
use super::syntax::{Span, Word};

/// A stretch of a logical line.
#[derive(Clone, Debug)]
pub(super) struct Stretch<'l> {
    pub(super) line: &'l Line,
    pub(super) range: Range<usize>,
}

impl<'l> Stretch<'l> {
    pub(super) fn whole(line: &'l Line) -> Self {
        Self { line, range: 0..line.text.len() }
    }

    pub(super) fn text(&self) -> &'l str {
        &self.line.text[self.range.clone()]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    pub(super) fn span(&self) -> Span {
        self.line.span(&self.range)
    }

    pub(super) fn word(&self) -> Word {
        Word { text: self.text().to_owned(), span: self.span() }
    }

    /// A part, by byte offsets from this stretch's start.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        let start = self.range.start;
        Self { line: self.line, range: start + range.start..start + range.end }
    }

    pub(super) fn trimmed(&self) -> Self {
        let text = self.text();
        let start = text.len() - text.trim_start().len();
        self.part(start..start + text.trim().len())
    }

    /// Splits at the first run of blanks.
    pub(super) fn split_first(&self) -> (Self, Self) {
        let text = self.text();
        let end = text.find(is_blank).unwrap_or(text.len());
        let rest =
            text[end..].find(|character| !is_blank(character)).map_or(text.len(), |blanks| end + blanks);
        (self.part(0..end), self.part(rest..text.len()))
    }

    /// The part before and the part behind the first `=`.
    pub(super) fn split_at_equals(&self) -> Option<(Self, Self)> {
        let at = self.text().find('=')?;
        Some((self.part(0..at), self.part(at + 1..self.range.len())))
    }

    /// Splits at blanks; quotes mean nothing.
    pub(super) fn fields(&self) -> Vec<Self> {
        let mut fields = Vec::new();
        let mut rest = self.trimmed();
        while !rest.is_empty() {
            let (field, behind) = rest.split_first();
            fields.push(field);
            rest = behind;
        }
        fields
    }

    /// Splits at blanks that are neither quoted nor escaped. An escape at the very end is dropped.
    pub(super) fn quoted_words(&self, escape: char) -> Vec<Self> {
        let text = self.text();
        let mut words = Vec::new();
        let mut start = None;
        let mut quote = None;
        let mut end = text.len();
        let mut characters = text.char_indices();
        while let Some((at, character)) = characters.next() {
            if quote.is_none() && character.is_whitespace() {
                words.extend(start.take().map(|start| self.part(start..at)));
                continue;
            }
            start.get_or_insert(at);
            if character == escape && quote != Some('\'') {
                if characters.next().is_none() {
                    end = at;
                }
            } else if quote == Some(character) {
                quote = None;
            } else if quote.is_none() && matches!(character, '\'' | '"') {
                quote = Some(character);
            }
        }
        words.extend(start.filter(|&start| start < end).map(|start| self.part(start..end)));
        words
    }
}

/// The blanks that stand between an instruction and its words.
pub(super) fn is_blank(character: char) -> bool {
    matches!(character, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}
