//! What `docker save` writes since 1.10: `manifest.json`, a config and layers for each image.
//!
//! A layer may be a link to another image's layer, may be compressed whatever it is called, and
//! may lie anywhere in the archive.
//!
//! May touch: the place given. Knows nothing of the store.

use super::TransferError;
use super::load::{Pending, Wanted, check_digest, digest_in_name, read_config};
use super::place::{Place, shown};
use crate::Reference;
use crate::digest::{BlobId, Digest};
use crate::layers::Expected;
use crate::oci::docker_archive::{ArchivedImage, read_manifest};
use crate::root_dir::ImagePath;

const NAME: &str = "manifest.json";

/// Reads all images of an archive; `None` when there is no `manifest.json`.
pub(super) fn read(place: &Place) -> Result<Option<Vec<Pending>>, TransferError> {
    let Some(listed) = listed(place)? else {
        return Ok(None);
    };
    if listed.is_empty() {
        return Err(TransferError::NoImage);
    }
    listed.iter().map(|image| read_image(place, image)).collect::<Result<_, _>>().map(Some)
}

/// Gives images of an index that carry no names those that `manifest.json` has for them.
pub(super) fn add_names(place: &Place, images: &mut [Pending]) -> Result<(), TransferError> {
    if images.iter().all(|image| !image.names.is_empty()) {
        return Ok(());
    }
    let listed = listed(place)?.unwrap_or_default();
    for image in images.iter_mut().filter(|image| image.names.is_empty()) {
        let id = Digest::of(&image.config);
        let same = listed.iter().filter(|other| named_digest(&ImagePath::new(&other.config)) == Some(id));
        for other in same {
            image.names.extend(names(other)?);
        }
    }
    Ok(())
}

fn listed(place: &Place) -> Result<Option<Vec<ArchivedImage>>, TransferError> {
    let document = |source| TransferError::Document { name: NAME.to_owned(), source };
    let bytes = place.document(&ImagePath::new(NAME))?;
    bytes.map(|bytes| read_manifest(&bytes).map_err(document)).transpose()
}

fn read_image(place: &Place, image: &ArchivedImage) -> Result<Pending, TransferError> {
    let path = ImagePath::new(&image.config);
    let missing = || TransferError::Missing { name: shown(&path), named_by: NAME };
    let config = place.document(&path)?.ok_or_else(missing)?;
    if let Some(expected) = named_digest(&path) {
        check_digest(&path, &config, expected)?;
    }
    let diff_ids = read_config(&path, &config, image.layers.len())?.rootfs.diff_ids;
    let layers = image.layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
        let path = ImagePath::new(layer);
        let blob = digest_in_name(&place.resolve(&path)).map(BlobId);
        Wanted { path, expected: Expected { diff_id: Some(diff_id), blob, blob_size_bytes: None } }
    });
    Ok(Pending { layers: layers.collect(), manifest: None, names: names(image)?, tag: None, config })
}

fn names(image: &ArchivedImage) -> Result<Vec<Reference>, TransferError> {
    image.repo_tags.iter().map(|tag| Ok(tag.parse()?)).collect()
}

/// The digest that a config is named after: `<hex>.json`, `blobs/sha256/<hex>` or `sha256:<hex>`.
fn named_digest(path: &ImagePath) -> Option<Digest> {
    let name = std::str::from_utf8(path.relative()).ok()?;
    let ends = [name.strip_suffix(".json"), name.strip_prefix("blobs/sha256/"), name.strip_prefix("sha256:")];
    Digest::from_hex(ends.into_iter().flatten().next()?).ok()
}
