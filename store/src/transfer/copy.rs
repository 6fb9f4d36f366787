//! Copy: an image from one place to another, digests and all, without a name or a record in between.
//!
//! ```text
//! source ─→ layers into the store, held and pinned ─→ save ─→ target
//!                                                     └→ what nothing needs goes again
//! ```
//! Taking the layers in is what checks them; a copy that fails or ends leaves the store as it was.
//!
//! May touch: the store through its methods, the places given. Knows nothing of how places are typed.

use super::load::pass_through;
use super::save::{Outgoing, outgoing, write};
use super::{LoadOptions, SaveOptions, Saved, Source, Target, TransferError};
use crate::digest::{Digest, ImageId};
use crate::oci::config::ImageConfig;
use crate::oci::json;
use crate::{Image, Reference, Store};

/// What the image is called where it goes.
#[derive(Clone, Debug, Default)]
pub struct Copied {
    pub names: Vec<Reference>,
    /// Its tag in an OCI index, verbatim.
    pub tag: Option<String>,
}

/// Copies the one image of `source` that `load` selects.
pub fn copy(
    store: &Store,
    source: Source,
    load: &LoadOptions,
    called: Copied,
    save: SaveOptions,
    target: Target<'_>,
) -> Result<ImageId, TransferError> {
    pass_through(store, source, load, |pending| {
        let id = ImageId(Digest::of(&pending.config));
        let document = |source| TransferError::Document { name: id.to_string(), source };
        let config: ImageConfig = json::read("image config", &pending.config).map_err(document)?;
        let image = Outgoing {
            id,
            layers: config.rootfs.diff_ids,
            config: pending.config,
            manifest: pending.manifest,
            names: called.names,
            tag: called.tag,
        };
        write(store, &[image], save, target)?;
        Ok(id)
    })
}

/// Copies an image of the store.
pub fn copy_stored(
    store: &Store,
    image: &Image,
    called: Copied,
    save: SaveOptions,
    target: Target<'_>,
) -> Result<(), TransferError> {
    let stored = outgoing(store, &Saved { image: image.clone(), names: called.names })?;
    write(store, &[Outgoing { tag: called.tag, ..stored }], save, target)
}
