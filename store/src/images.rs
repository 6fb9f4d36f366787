//! Images: a config over a stack of layers, and the names that point at them.

use crate::digest::{BlobId, DiffId, ImageId};
use crate::oci::config::ImageConfig;
use crate::{Reference, Store, StoreError};

/// The images of a store.
#[derive(Clone, Copy, Debug)]
pub struct Images<'s> {
    pub(crate) store: &'s Store,
}

/// An image that the store holds.
#[derive(Clone, Debug)]
pub struct Image {
    pub id: ImageId,
    pub config: ImageConfig,
    /// Bottom to top, as in the config's `rootfs`.
    pub layers: Vec<DiffId>,
    /// The manifest it came with, when it came with one (its bytes are a blob).
    pub manifest: Option<BlobId>,
    pub names: Vec<Reference>,
    /// Of the uncompressed layers.
    pub size_bytes: u64,
}

impl Images<'_> {
    /// Finds an image by name, `name@digest`, ID or a unique beginning of an ID (docker's rules).
    pub fn find(&self, name: &str) -> Result<Option<Image>, StoreError> {
        todo!("{name}")
    }

    /// All images, newest first.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        todo!()
    }

    /// Records an image from the exact bytes of its config; every layer must be here.
    pub fn add(&self, config: &[u8], manifest: Option<BlobId>) -> Result<ImageId, StoreError> {
        let _ = (config, manifest);
        todo!()
    }

    /// Points `name` at `image`, durably, and returns what it pointed at before.
    pub fn set_name(&self, name: &Reference, image: ImageId) -> Result<Option<ImageId>, StoreError> {
        todo!("{name} {image}")
    }

    /// Takes a name away; the image stays.
    pub fn remove_name(&self, name: &Reference) -> Result<bool, StoreError> {
        todo!("{name}")
    }

    /// Takes an image and its names away, and every layer and blob that nothing else needs.
    pub fn remove(&self, image: ImageId) -> Result<(), StoreError> {
        todo!("{image}")
    }
}
