//! OCI and Docker documents: what the store reads and writes, byte-stable.
//!
//! ```text
//! index ──→ manifest ──→ config            a descriptor is an arrow: media type, digest, size
//!                    └──→ layer, layer, …
//! ```
//!
//! Reading is strict ([`json`]): small, shallow, no key twice, nothing that two programs could
//! read as two different documents. Fields that nobody here knows are kept where a document is
//! written again, and ignored elsewhere.
//!
//! May touch: its arguments. Knows nothing of disk or network.
pub mod config;
pub mod descriptor;
pub mod docker_archive;
pub mod index;
pub mod json;
pub mod manifest;
pub mod media_type;
pub mod platform;
