//! The layer store: layers deduplicated by digest, shared on disk by every image.
//!
//! ```text
//! <root>/                          0700; one file system, so that every publish is one rename
//! ├── version                      store format and overlay form (`trusted` or `user` xattrs)
//! ├── index.db                     SQLite: names, images, layers, blobs, cache, containers
//! ├── blobs/sha256/<hex>           manifests, configs, compressed layers, as they came
//! ├── layers/<diff id hex>/tree/   the files in overlay form, never changed again
//! ├── layers/<diff id hex>/recipe  tar headers and padding: tree + recipe = the exact tar
//! ├── scratch/<lease>-<n>/         writable tops: `upper/` and `work/`
//! ├── stacks/<chain>-<boot>/tree/  what a stack's layers leave to each other (rare)
//! ├── containers/<id>/             records' own files
//! ├── leases/<lease>               one locked file per living process that works here
//! └── staging/ trash/              half-made and half-deleted
//! ```
//!
//! There is no daemon. Any number of processes share one store; a process that dies at any
//! point leaves only garbage that the next one clears (`lease`, `gc`). Nothing is visible before
//! it is whole: bytes, then hash, then rename, then the index row.
//!
//! May touch: the folder it was opened on. Knows nothing of builds, sandboxes, terminals.
#![forbid(unsafe_code)]

pub mod archive;
pub mod blobs;
pub mod cache;
pub mod containers;
pub mod diff;
pub mod digest;
mod folder;
pub mod fsck;
mod gc;
pub mod images;
mod index;
pub mod layers;
mod lease;
mod listing;
pub mod oci;
pub mod reference;
pub mod root_dir;
pub mod scratch;
mod space;
pub mod transfer;
pub mod write_back;

mod open;

pub use digest::{BlobId, ChainId, DiffId, Digest, ImageId};
pub use gc::Collected;
pub use images::Image;
pub use layers::{Layer, Stack};
pub use listing::Listed;
pub use open::{OverlayForm, Store, StoreError};
pub use reference::Reference;
pub use root_dir::{ImagePath, RootDir};
pub use scratch::Scratch;
pub use space::{CachedStep, LayerUse, Space};
