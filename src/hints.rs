//! Error → one sentence that the user can act on.

/// The hint for an error, when there is one.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    let _ = error;
    None
}
