//! What skopeo calls `dir:`: `version`, `manifest.json`, and each blob in a file of its hex name.
//!
//! The manifest is an image's own, or an index whose manifests lie beside it as `<hex>.manifest.json`
//! (containers/image, directory transport 1.1). No name stands in it.
//!
//! May touch: the place given. Knows nothing of the store.

use super::load::Pending;
use super::oci_layout::{document, fetch, no_platform, of_manifest};
use super::place::{Place, shown};
use super::{LoadOptions, TransferError};
use crate::oci::descriptor::Descriptor;
use crate::oci::index::ImageIndex;
use crate::oci::json;
use crate::root_dir::ImagePath;

const VERSION: &str = "version";
const MANIFEST: &str = "manifest.json";
const VERSION_LINE: &[u8] = b"Directory Transport Version: 1.";

/// Reads the image; `None` when there is no `version`.
pub(super) fn read(place: &Place, options: &LoadOptions) -> Result<Option<Vec<Pending>>, TransferError> {
    match place.document(&ImagePath::new(VERSION))? {
        Some(version) if version.starts_with(VERSION_LINE) => {}
        _ => return Ok(None),
    }
    let path = ImagePath::new(MANIFEST);
    let missing = || TransferError::Missing { name: shown(&path), named_by: "file `version`" };
    let bytes = place.document(&path)?.ok_or_else(missing)?;
    if !json::keys(&bytes).contains("manifests") {
        return Ok(Some(vec![of_manifest(place, bytes, &path, blob_path)?]));
    }
    let index = ImageIndex::read(&bytes).map_err(document(&path))?;
    let chosen = index.choose(&options.platform).ok_or_else(|| no_platform(&index, options))?;
    let path = ImagePath::new(format!("{}.manifest.json", chosen.digest.hex()));
    let bytes = fetch(place, chosen, &path, "index")?;
    Ok(Some(vec![of_manifest(place, bytes, &path, blob_path)?]))
}

fn blob_path(descriptor: &Descriptor) -> ImagePath {
    ImagePath::new(descriptor.digest.hex())
}
