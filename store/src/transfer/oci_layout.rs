//! The OCI image layout: `oci-layout`, `index.json`, `blobs/sha256/<hex>` (OCI image-spec, image-layout.md).
//!
//! Each entry of `index.json` is an image, or an index of which the image for our platform is taken.
//! Entries that say a platform that is not ours are passed over as long as another one fits.
//!
//! May touch: the place given. Knows nothing of the store.

use super::load::{Pending, Wanted, check_digest, read_config};
use super::place::{Place, shown};
use super::{LoadOptions, TransferError, docker_archive};
use crate::Reference;
use crate::layers::Expected;
use crate::oci::descriptor::{CONTAINERD_NAME, Descriptor, REF_NAME};
use crate::oci::index::{ImageIndex, LayoutMark};
use crate::oci::json::{self, DocumentError};
use crate::oci::manifest::Manifest;
use crate::oci::media_type::{self, Kind};
use crate::root_dir::ImagePath;

/// An index in an index in an index is more than any tool makes.
const MAX_ROUNDS: usize = 4;

/// Reads all images of a layout; `None` when there is no `index.json`.
pub(super) fn read(place: &Place, options: &LoadOptions) -> Result<Option<Vec<Pending>>, TransferError> {
    let path = ImagePath::new("index.json");
    let Some(bytes) = place.document(&path)? else {
        return Ok(None);
    };
    let mark = ImagePath::new("oci-layout");
    if let Some(bytes) = place.document(&mark)? {
        LayoutMark::check(&bytes).map_err(document(&mark))?;
    }
    let index = ImageIndex::read(&bytes).map_err(document(&path))?;
    let wanted = |entry: &&Descriptor| {
        let fits = entry.platform.as_ref().is_none_or(|offered| options.platform.accepts(offered));
        fits && !entry.is_attestation()
    };
    let entries: Vec<&Descriptor> = index.manifests.iter().filter(wanted).collect();
    if entries.is_empty() && !index.manifests.is_empty() {
        return Err(no_platform(&index, options));
    }
    let mut images = Vec::new();
    for entry in entries {
        images.push(image(place, entry, options)?);
    }
    if images.is_empty() {
        return Err(TransferError::NoImage);
    }
    docker_archive::add_names(place, &mut images)?;
    Ok(Some(images))
}

fn image(place: &Place, entry: &Descriptor, options: &LoadOptions) -> Result<Pending, TransferError> {
    let bytes = choose(place, entry, options, 0)?;
    let pending = of_manifest(place, bytes, &blob_path(entry), blob_path)?;
    let tag = entry.annotations.get(REF_NAME).cloned();
    Ok(Pending { names: names(entry), tag, ..pending })
}

/// Puts an image together from its manifest; `locate` tells where the bytes of a descriptor lie.
pub(super) fn of_manifest(
    place: &Place,
    bytes: Vec<u8>,
    path: &ImagePath,
    locate: fn(&Descriptor) -> ImagePath,
) -> Result<Pending, TransferError> {
    let manifest = Manifest::read(&bytes).map_err(document(path))?;
    let config_path = locate(&manifest.config);
    let config = fetch(place, &manifest.config, &config_path, "image manifest")?;
    let diff_ids = read_config(&config_path, &config, manifest.layers.len())?.rootfs.diff_ids;
    let layers = manifest.layers.iter().zip(diff_ids).map(|(layer, diff_id)| Wanted {
        path: locate(layer),
        expected: Expected {
            diff_id: Some(diff_id),
            blob: Some(layer.blob()),
            blob_size_bytes: Some(layer.size_bytes),
        },
    });
    Ok(Pending { config, layers: layers.collect(), manifest: Some(bytes), names: Vec::new(), tag: None })
}

/// Follows an entry to the bytes of the manifest for our platform.
fn choose(
    place: &Place,
    entry: &Descriptor,
    options: &LoadOptions,
    round: usize,
) -> Result<Vec<u8>, TransferError> {
    if round == MAX_ROUNDS {
        return Err(TransferError::TooDeep);
    }
    let bytes = fetch(place, entry, &blob_path(entry), "index")?;
    let is_index = match media_type::kind(&entry.media_type) {
        Some(kind) => kind == Kind::Index,
        None => json::keys(&bytes).contains("manifests"),
    };
    if !is_index {
        return Ok(bytes);
    }
    let index = ImageIndex::read(&bytes).map_err(document(&blob_path(entry)))?;
    let chosen = index.choose(&options.platform).ok_or_else(|| no_platform(&index, options))?;
    choose(place, chosen, options, round + 1)
}

/// Reads a document that a descriptor names, and checks its size and digest.
pub(super) fn fetch(
    place: &Place,
    descriptor: &Descriptor,
    path: &ImagePath,
    named_by: &'static str,
) -> Result<Vec<u8>, TransferError> {
    let name = shown(path);
    let missing = || TransferError::Missing { name: name.clone(), named_by };
    let bytes = place.document(path)?.ok_or_else(missing)?;
    let (expected, actual) = (descriptor.size_bytes, bytes.len() as u64);
    if expected != actual {
        return Err(TransferError::WrongSize { name, expected, actual });
    }
    check_digest(path, &bytes, descriptor.digest)?;
    Ok(bytes)
}

/// The names that an entry of `index.json` carries; what is no name of an image is passed over.
fn names(entry: &Descriptor) -> Vec<Reference> {
    let named = [CONTAINERD_NAME, REF_NAME].iter().find_map(|key| entry.annotations.get(*key));
    named.and_then(|text| text.parse().ok()).into_iter().collect()
}

fn blob_path(descriptor: &Descriptor) -> ImagePath {
    ImagePath::new(format!("blobs/sha256/{}", descriptor.digest.hex()))
}

pub(super) fn no_platform(index: &ImageIndex, options: &LoadOptions) -> TransferError {
    TransferError::NoPlatform { wanted: options.platform.clone(), offered: index.platforms() }
}

pub(super) fn document(path: &ImagePath) -> impl Fn(DocumentError) -> TransferError {
    let name = shown(path);
    move |source| TransferError::Document { name: name.clone(), source }
}
