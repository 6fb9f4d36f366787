//! A diagnostic as people read it: file, line, text, caret, and what was expected.
//!
//! May touch: its arguments. Knows nothing of terminals.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::syntax::Diagnostic;

/// Prints a diagnostic the way rustc does, without colour.
pub fn render(diagnostic: &Diagnostic, file_name: &str, text: &str) -> String {
    let start = floor(text, diagnostic.span.start);
    // The first line is enough to see where; a heredoc may have thousands.
    let line_end = text[start..].find(['\n', '\r']).map_or(text.len(), |end| start + end);
    let end = floor(text, diagnostic.span.end).clamp(start, line_end);
    let annotation = AnnotationKind::Primary.span(start..end);
    let annotation = match diagnostic.label.as_str() {
        "" => annotation,
        label => annotation.label(label),
    };
    let level = match diagnostic.rule {
        None => Level::ERROR,
        Some(_) => Level::WARNING,
    };
    let title = level.primary_title(diagnostic.message.as_str());
    let title = match diagnostic.rule {
        None => title,
        Some(rule) => title.id(rule),
    };
    let group = title.element(Snippet::source(text).path(file_name).annotation(annotation));
    Renderer::plain().render(&[group])
}

/// The start of the character that `at` is in.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}
