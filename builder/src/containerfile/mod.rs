//! Containerfile text → syntax tree, with spans. Pure.
//!
//! May touch: its arguments. Knows nothing of disk, clock, environment, store.

pub mod expand;
pub mod syntax;

pub use syntax::*;

/// Parses a whole file. All errors that can be told apart come out of one run.
pub fn parse(text: &[u8]) -> Result<Containerfile, Vec<Diagnostic>> {
    todo!("{}", text.len())
}

/// Parses one instruction, as ONBUILD triggers and `import --change` hold them.
pub fn parse_instruction(text: &str) -> Result<Instruction, Vec<Diagnostic>> {
    todo!("{text}")
}
