//! An image in packed form: the manifest it leaves with, and where the bytes of each layer come from.
//!
//! ```text
//! manifest it came with, layers all here in the form asked for ─→ that manifest
//! else, layer by layer:  kept in a fit form ─→ that blob
//!                        plain is asked for ─→ its tar
//!                        the usual form     ─→ packed now, remembered
//!                        any other form     ─→ packed now, gone when this value goes
//! ```
//!
//! May touch: the store through its methods. Knows nothing of where the files go.

use std::collections::BTreeMap;

use super::TransferError;
use super::save::{Outgoing, Repack};
use crate::Store;
use crate::archive::compress::{Compression, Packing};
use crate::blobs::Unpublished;
use crate::digest::{BlobId, DiffId, Digest};
use crate::oci::descriptor::Descriptor;
use crate::oci::manifest::Manifest;
use crate::oci::media_type;

/// What a file that goes out is made of.
#[derive(Debug)]
pub(super) enum Content {
    Bytes(Vec<u8>),
    Blob(BlobId, u64),
    Tar(DiffId),
    Unpublished(Unpublished),
}

/// An image with its manifest.
#[derive(Debug)]
pub(super) struct PackedImage {
    pub manifest: Manifest,
    /// The manifest's own.
    pub bytes: Vec<u8>,
    pub layers: BTreeMap<Digest, Content>,
}

impl PackedImage {
    /// Takes the manifest that an image came with, or makes one in OCI form.
    pub(super) fn make(store: &Store, image: &Outgoing, repack: Repack) -> Result<Self, TransferError> {
        if let Some(bytes) = &image.manifest {
            let document = |source| TransferError::Document { name: image.id.to_string(), source };
            let manifest = Manifest::read(bytes).map_err(document)?;
            if let Some(layers) = as_it_came(store, image, &manifest, repack)? {
                return Ok(Self { manifest, bytes: bytes.clone(), layers });
            }
        }
        let mut descriptors = Vec::new();
        let mut layers = BTreeMap::new();
        for diff_id in &image.layers {
            let (descriptor, content) = layer(store, *diff_id, repack)?;
            layers.insert(descriptor.digest, content);
            descriptors.push(descriptor);
        }
        let manifest = Manifest::new(Descriptor::of(media_type::CONFIG, &image.config), descriptors);
        let bytes = manifest.write();
        if repack == Repack::Keep && image.manifest.is_none() {
            let id = store.blobs().add(&bytes)?;
            store.images().set_manifest(image.id, id)?;
        }
        Ok(Self { manifest, bytes, layers })
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        let named = self.manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST);
        Descriptor::of(named, &self.bytes)
    }
}

/// The layers that a manifest names, when all are here in a form that is asked for.
fn as_it_came(
    store: &Store,
    image: &Outgoing,
    manifest: &Manifest,
    repack: Repack,
) -> Result<Option<BTreeMap<Digest, Content>>, TransferError> {
    if manifest.layers.len() != image.layers.len() || manifest.config.digest != image.id.0 {
        return Ok(None);
    }
    let mut layers = BTreeMap::new();
    for (layer, diff_id) in manifest.layers.iter().zip(&image.layers) {
        let is_plain = layer.digest == diff_id.0;
        let blob = layer.blob();
        if !is_plain && !store.blobs().contains(blob)? {
            return Ok(None);
        }
        let form = if is_plain { Compression::None } else { store.blobs().compression(blob)? };
        let stays = match repack {
            Repack::Keep => true,
            Repack::Others(packing) => form == packing.compression(),
            Repack::All(_) => false,
        };
        if !stays {
            return Ok(None);
        }
        let content = if is_plain { Content::Tar(*diff_id) } else { Content::Blob(blob, layer.size_bytes) };
        layers.insert(layer.digest, content);
    }
    Ok(Some(layers))
}

/// One layer in the form asked for, and where its bytes come from.
pub(super) fn layer(
    store: &Store,
    diff_id: DiffId,
    repack: Repack,
) -> Result<(Descriptor, Content), TransferError> {
    let layers = store.layers();
    let (form, digest, size_bytes, content) = match repack {
        Repack::Others(packing) | Repack::All(packing) if packing == Packing::NONE => {
            let size_bytes = tar_size_bytes(store, diff_id)?;
            (Compression::None, diff_id.0, size_bytes, Content::Tar(diff_id))
        }
        Repack::Keep => of_blob(layers.packed(diff_id)?),
        Repack::Others(packing) => match layers.kept(diff_id, Some(packing.compression()))? {
            Some(kept) => of_blob(kept),
            // What would be packed so anyway is remembered; beside another form it would be a second one.
            None if packing == Packing::GZIP && layers.kept(diff_id, None)?.is_none() => {
                of_blob(layers.packed(diff_id)?)
            }
            None => of_new(packing, layers.repacked(diff_id, packing)?),
        },
        Repack::All(packing) => of_new(packing, layers.repacked(diff_id, packing)?),
    };
    let media_type = media_type::layer(form).expect("layers are packed in forms that have a name").to_owned();
    Ok((Descriptor { media_type, digest, size_bytes, annotations: BTreeMap::new(), platform: None }, content))
}

type Form = (Compression, Digest, u64, Content);

fn of_blob(packed: crate::layers::Packed) -> Form {
    let content = Content::Blob(packed.blob, packed.size_bytes);
    (packed.compression, packed.blob.0, packed.size_bytes, content)
}

fn of_new(packing: Packing, blob: Unpublished) -> Form {
    (packing.compression(), blob.id.0, blob.size_bytes, Content::Unpublished(blob))
}

pub(super) fn tar_size_bytes(store: &Store, layer: DiffId) -> Result<u64, TransferError> {
    let missing = || TransferError::Missing { name: layer.to_string(), named_by: "image" };
    Ok(store.layers().find(layer)?.ok_or_else(missing)?.tar_size_bytes)
}
