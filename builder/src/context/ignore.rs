//! Ignore files, as moby's pattern matcher reads them. Pure.

/// The rules of one ignore file, compiled.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {}

/// What the rules say of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub ignored: bool,
    /// The line (from 1) of the rule that decided, if any matched.
    pub line: Option<usize>,
}

/// Says that a line is no valid pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the ignore file is no valid pattern: `{pattern}`")]
pub struct BadPattern {
    pub line: usize,
    pub pattern: String,
}

impl IgnoreRules {
    pub fn parse(text: &[u8]) -> Result<Self, BadPattern> {
        todo!("{}", text.len())
    }

    /// Says whether `path` (relative, `a/b`) is ignored, its parents taken into account.
    pub fn verdict(&self, path: &[u8]) -> Verdict {
        todo!("{}", path.len())
    }

    /// Whether anything below the ignored directory `path` could come back through a `!` rule.
    pub fn may_hold_exceptions(&self, path: &[u8]) -> bool {
        todo!("{}", path.len())
    }

    pub fn is_empty(&self) -> bool {
        todo!()
    }
}
