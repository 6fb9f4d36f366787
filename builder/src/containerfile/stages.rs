//! Instructions → stages: ARG may stand before the first FROM, everything else belongs to one.
//!
//! May touch: its arguments. Knows nothing of lines and words.

use super::instructions::Parsed;
use super::syntax::{Diagnostic, Instruction, Kind, Span, Stage};
use super::{Notes, fault, warning};

/// The file so far.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) global_args: Vec<Instruction>,
    pub(super) stages: Vec<Stage>,
    /// An instruction before the first FROM was reported; the ones behind it are the same mistake.
    told: bool,
}

impl Collected {
    pub(super) fn add(&mut self, parsed: Parsed, errors: &mut Vec<Diagnostic>) {
        match (parsed, self.stages.last_mut()) {
            (Parsed::From(stage), _) => self.stages.push(stage),
            (Parsed::Instruction(instruction), Some(stage)) => stage.instructions.push(instruction),
            (Parsed::Instruction(instruction), None) if matches!(instruction.kind, Kind::Arg(_)) => {
                self.global_args.push(instruction);
            }
            (Parsed::Instruction(instruction), None) => {
                if !self.told {
                    let message = "no build stage in current context";
                    errors.push(fault(
                        message,
                        "expected FROM or ARG before any other instruction",
                        instruction.span,
                    ));
                }
                self.told = true;
            }
        }
    }

    /// Judges the file as a whole.
    pub(super) fn finish(&self, text: &str, notes: &mut Notes) {
        if self.stages.is_empty() && notes.errors.is_empty() {
            let end = Span { start: text.len(), end: text.len(), line: text.lines().count().max(1) };
            let message = match () {
                () if text.is_empty() => "the file is empty",
                () if self.global_args.is_empty() => "file with no instructions",
                () => "the file has no build stage",
            };
            notes.errors.push(fault(message, "expected FROM", end));
        }
        consistent_casing(notes);
    }
}

/// Keywords are all in capitals or all in small letters, whichever are more.
fn consistent_casing(notes: &mut Notes) {
    let is_upper = |text: &str| !text.contains(|character: char| character.is_ascii_lowercase());
    let is_lower = |text: &str| !text.contains(|character: char| character.is_ascii_uppercase());
    let upper = notes.keywords.iter().filter(|keyword| is_upper(&keyword.text)).count();
    let lower = notes.keywords.iter().filter(|keyword| is_lower(&keyword.text)).count();
    let (fits, name): (&dyn Fn(&str) -> bool, _) =
        if lower > upper { (&is_lower, "lowercase") } else { (&is_upper, "uppercase") };
    for keyword in notes.keywords.iter().filter(|keyword| !fits(&keyword.text)) {
        let message =
            format!("command '{}' should match the case of the command majority ({name})", keyword.text);
        notes.warnings.push(warning("ConsistentInstructionCasing", message, name, keyword.span));
    }
}
