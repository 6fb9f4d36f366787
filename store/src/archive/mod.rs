//! Tree ↔ tar, streaming.
pub mod compress;
