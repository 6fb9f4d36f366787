//! `$name` and `${…}`: words get their values. Pure.
//!
//! The rules are BuildKit's shell lexer (`frontend/dockerfile/shell/lex.go`).

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
    let _ = (text, escape, variables(""));
    todo!()
}

/// Expands `word` and splits unquoted results at blanks (EXPOSE).
pub fn words(text: &str, escape: char, variables: &Lookup<'_>) -> Result<Vec<String>, ExpandError> {
    let _ = (text, escape, variables(""));
    todo!()
}

/// Expands variables in a heredoc's body: no quote removal, `\$` is a literal `$`.
pub fn heredoc(text: &str, variables: &Lookup<'_>) -> Result<String, ExpandError> {
    let _ = (text, variables(""));
    todo!()
}
