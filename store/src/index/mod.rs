//! The index: SQLite.

/// The open database.
#[derive(Debug)]
pub struct Index {}
