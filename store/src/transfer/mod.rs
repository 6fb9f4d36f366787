//! Images in and out: archives, folders and root file systems.
//!
//! ```text
//! folder ─────────┐           ┌─ index.json    → oci_layout ─┐
//! file, seekable ─┼→ place ───┼─ version       → dir ────────┼→ Pending ─→ layers in ─→ images, names
//! stream ─────────┘           ├─ manifest.json → docker ─────┤  (read,      (verified,   (the last step,
//!   (layers go in as they pass)└─ repositories  → legacy ─────┘   checked)    in threads)  all or nothing)
//!
//! image ─→ save ─→ packed: manifest, layers ─→ sink: tar | folder
//! copy: what comes in goes out, and no image is recorded
//! ```
//!
//! What comes in is told apart by its content, never by its name. Everything that a digest covers is
//! checked against it; names of files in an archive are only ever keys of a map, never paths on the
//! host. An image is recorded when all of its layers are in; when anything is wrong before that,
//! what came in is dropped again and the store is as it was.
//!
//! May touch: the stream or folder given, the store through its methods. Knows nothing of builds,
//! sandboxes, terminals.

mod copy;
mod dir;
mod docker_archive;
mod legacy;
mod load;
mod oci_layout;
mod packed;
mod place;
mod rootfs_tar;
mod save;
mod sink;
mod walk;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use crate::digest::{Digest, ImageId};
use crate::oci::json::DocumentError;
use crate::oci::platform::Platform;
use crate::{Reference, Store, StoreError};

pub use crate::archive::compress::{BadPacking, Compression, Packing};
pub use copy::{Copied, copy, copy_stored};
pub use load::load;
pub use rootfs_tar::{ImportOptions, import_root};
pub use save::{Format, Repack, SaveOptions, Saved, Target, save};

/// Where images come from.
pub enum Source {
    /// An OCI layout.
    Folder(PathBuf),
    /// An archive that can be read at any place.
    File(File),
    /// An archive that passes once.
    Stream(Box<dyn Read + Send>),
}

/// What is taken of what comes in.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Of several images for several platforms, which.
    pub platform: Platform,
    /// The one image of this name or tag, instead of all.
    pub only: Option<String>,
    /// Name it so, not as it came; there must be one image then.
    pub names: Option<Vec<Reference>>,
}

/// An image that came in.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub image: ImageId,
    pub names: Vec<NameSet>,
}

/// A name that was set.
#[derive(Clone, Debug)]
pub struct NameSet {
    pub name: Reference,
    /// The other image that it pointed at before.
    pub moved_from: Option<ImageId>,
}

/// Why images can't come in or go out.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("there is no image in it: neither index.json nor manifest.json nor repositories")]
    NoImage,
    #[error("there are {count} images in it, and one is wanted: name it ({})", names.join(", "))]
    Several { count: usize, names: Vec<String> },
    #[error("there is no image `{wanted}` in it (there are: {})", names.join(", "))]
    NoSuchName { wanted: String, names: Vec<String> },
    #[error("a dir holds one image, not {count}")]
    OneImage { count: usize },
    #[error("there is no `{name}` in it, which its {named_by} names")]
    Missing { name: String, named_by: &'static str },
    #[error("`{name}` stands twice in it")]
    Twice { name: String },
    #[error("`{name}` is damaged: it hashes to {actual}, not {expected}")]
    Damaged { name: String, expected: Digest, actual: Digest },
    #[error("`{name}` is damaged: it has {actual} bytes, not {expected}")]
    WrongSize { name: String, expected: u64, actual: u64 },
    #[error("`{name}` has {size_bytes} bytes; more than 4 MiB are not read as a document")]
    TooLarge { name: String, size_bytes: u64 },
    #[error("cannot read `{name}`")]
    Document { name: String, source: DocumentError },
    #[error("the image has {layers} layers, but its config lists {diff_ids}")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("no image for {wanted} in it (there are: {offered})")]
    NoPlatform { wanted: Platform, offered: String },
    #[error("its documents name each other in too many rounds")]
    TooDeep,
    #[error("cannot take in layer `{name}`")]
    Layer { name: String, source: StoreError },
    #[error("cannot read the archive")]
    Archive { source: io::Error },
    #[error("cannot write {what}")]
    Write { what: String, source: io::Error },
    #[error(transparent)]
    Name(#[from] crate::reference::InvalidReference),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// Names an image, durably also when there is no name to give.
fn set_names(store: &Store, names: Vec<Reference>, image: ImageId) -> Result<Vec<NameSet>, TransferError> {
    if names.is_empty() {
        store.make_durable()?;
        return Ok(Vec::new());
    }
    let mut seen = std::collections::BTreeSet::new();
    let complete = names.into_iter().map(Reference::or_latest);
    let names: Vec<Reference> = complete.filter(|name| seen.insert(name.clone())).collect();
    let before = store.images().set_names(&names, image)?;
    let moved = before.into_iter().map(|before| before.filter(|before| *before != image));
    Ok(names.into_iter().zip(moved).map(|(name, moved_from)| NameSet { name, moved_from }).collect())
}
