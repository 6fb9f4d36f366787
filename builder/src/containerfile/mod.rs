//! Containerfile text → syntax tree, with spans. Pure.
//!
//! ```text
//! text ─directives→ escape ─lines→ logical lines ─instructions→ tree
//!                            └ heredoc bodies, taken whole before anything in their line is judged
//! ```
//! An instruction that is wrong is reported and left out, and the next one is read: all errors of a
//! file come out of one run. Every step reads its text once, front to back.
//!
//! May touch: its arguments. Knows nothing of disk, clock, environment, store.

mod directives;
mod duration;
pub mod expand;
mod flags;
mod heredoc;
mod instructions;
mod json;
mod lines;
mod render;
mod stages;
pub(crate) mod suggest;
pub mod syntax;
mod validate;
mod words;

pub use render::render;
pub use syntax::*;
pub use validate::{sources_of, validate};

use instructions::Parsed;
use lines::Lines;

/// The largest file that is read; real ones have a thousandth of it.
const MOST_BYTES: usize = 4 << 20;

/// Parses a whole file. All errors that can be told apart come out of one run.
pub fn parse(text: &[u8]) -> Result<Containerfile, Vec<Diagnostic>> {
    if text.len() > MOST_BYTES {
        return Err(vec![fault(
            format!("the file has {} bytes, more than the {MOST_BYTES} that are read", text.len()),
            "",
            Span::default(),
        )]);
    }
    // Text that is not UTF-8 is mostly a comment in an old encoding.
    let text = String::from_utf8_lossy(text);
    let mut notes = Notes::default();
    let mut lines = Lines::new(&text);
    let directives = directives::take(&mut lines, &mut notes.errors);
    let mut stages = stages::Collected::default();
    while let Some(line) = lines.next_logical() {
        if let Some(parsed) = instructions::parse(&line, &mut lines, &mut notes) {
            stages.add(parsed, &mut notes.errors);
        }
    }
    stages.finish(&text, &mut notes);
    if !notes.errors.is_empty() {
        notes.errors.sort_by_key(|error| error.span.start);
        return Err(notes.errors);
    }
    notes.warnings.sort_by_key(|warning| warning.span.start);
    Ok(Containerfile {
        escape: lines.escape,
        syntax: directives.syntax,
        check: directives.check,
        global_args: stages.global_args,
        stages: stages.stages,
        warnings: notes.warnings,
    })
}

/// Parses one instruction, as ONBUILD triggers and `import --change` hold them.
pub fn parse_instruction(text: &str) -> Result<Instruction, Vec<Diagnostic>> {
    let mut notes = Notes::default();
    let mut lines = Lines::new(text);
    let parsed = lines.next_logical().and_then(|line| instructions::parse(&line, &mut lines, &mut notes));
    if let Some(more) = lines.next_logical() {
        let span = more.span(&(0..more.text.len()));
        notes.errors.push(fault("more than one instruction", "expected the end", span));
    }
    match parsed {
        _ if !notes.errors.is_empty() => Err(notes.errors),
        Some(Parsed::Instruction(instruction)) => Ok(instruction),
        Some(Parsed::From(stage)) => Err(vec![fault("FROM cannot stand here", "", stage.span)]),
        None => Err(vec![fault("there is no instruction", "", Span::default())]),
    }
}

/// What is found on the way.
#[derive(Debug, Default)]
struct Notes {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// Each instruction's keyword as written, for the rules on casing.
    keywords: Vec<Word>,
}

/// An error at a place.
fn fault(message: impl Into<String>, label: impl Into<String>, span: Span) -> Diagnostic {
    Diagnostic { rule: None, message: message.into(), label: label.into(), span }
}

/// A warning at a place.
fn warning(
    rule: &'static str,
    message: impl Into<String>,
    label: impl Into<String>,
    span: Span,
) -> Diagnostic {
    Diagnostic { rule: Some(rule), message: message.into(), label: label.into(), span }
}
