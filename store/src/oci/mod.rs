//! OCI and Docker documents: what the store reads and writes, byte-stable.
pub mod config;
