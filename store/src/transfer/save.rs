//! Save: images as an archive or a folder that docker, podman, skopeo and umoci read.
//!
//! ```text
//! docker-archive            oci-archive, oci-dir
//! ├── manifest.json         ├── oci-layout
//! ├── repositories          ├── index.json           names, as annotations
//! ├── <config hex>.json     └── blobs/sha256/<hex>   manifests, configs, packed layers
//! └── <diff hex>.tar
//! ```
//!
//! An image that came with a manifest leaves with it, byte for byte, as long as its packed layers
//! are here or can be made again; so its digest stays. Layers that were never packed are packed
//! once and remembered. A layer that several images share is written once. The same images give
//! the same bytes.
//!
//! May touch: the store through its methods, the stream or folder given. Knows nothing of terminals.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use super::TransferError;
use super::sink::{Folder, Sink, Tar};
use crate::digest::{BlobId, DiffId, Digest, ImageId};
use crate::oci::descriptor::{CONTAINERD_NAME, Descriptor, REF_NAME};
use crate::oci::docker_archive::{ArchivedImage, Repositories};
use crate::oci::index::{ImageIndex, LayoutMark};
use crate::oci::json;
use crate::oci::manifest::Manifest;
use crate::oci::media_type;
use crate::{Image, Reference, Store, StoreError};

/// How images are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Docker,
    Oci,
}

/// Where images go.
pub enum Target<'t> {
    Archive(&'t mut dyn Write),
    /// A folder that is there and empty.
    Folder(&'t Path),
}

/// An image that goes out, under the names that were asked for.
#[derive(Clone, Debug)]
pub struct Saved {
    pub image: Image,
    pub names: Vec<Reference>,
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Archive(_) => f.write_str("Archive"),
            Self::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
        }
    }
}

/// Writes images out.
pub fn save(
    store: &Store,
    images: &[Saved],
    format: Format,
    target: Target<'_>,
) -> Result<(), TransferError> {
    let sink: &mut dyn Sink = match target {
        Target::Archive(output) => &mut Tar { output },
        Target::Folder(path) => &mut Folder { path: path.to_owned() },
    };
    match format {
        Format::Docker => save_docker(store, images, sink)?,
        Format::Oci => save_oci(store, images, sink)?,
    }
    sink.finish()
}

fn save_docker(store: &Store, images: &[Saved], sink: &mut dyn Sink) -> Result<(), TransferError> {
    let mut listed = Vec::new();
    let mut repositories = Repositories::new();
    for Saved { image, names } in images {
        let layers: Vec<String> = image.layers.iter().map(|layer| format!("{}.tar", layer.0.hex())).collect();
        for name in names {
            let tags = repositories.entry(name.familiar_repository()).or_default();
            let uppermost = image.layers.last().map_or(image.id.0, |layer| layer.0);
            tags.insert(name.tag.clone().unwrap_or_default(), uppermost.hex());
        }
        let config = format!("{}.json", image.id.0.hex());
        listed.push(ArchivedImage {
            config,
            repo_tags: names.iter().map(Reference::to_string).collect(),
            layers,
        });
    }
    put_bytes(sink, "manifest.json", &json::write(&listed))?;
    if !repositories.is_empty() {
        put_bytes(sink, "repositories", &json::write(&repositories))?;
    }
    for id in images.iter().map(|saved| saved.image.id).collect::<BTreeSet<_>>() {
        put_bytes(sink, &format!("{}.json", id.0.hex()), &config(store, id)?)?;
    }
    for layer in images.iter().flat_map(|saved| &saved.image.layers).collect::<BTreeSet<_>>() {
        put_tar(store, *layer, &format!("{}.tar", layer.0.hex()), sink)?;
    }
    Ok(())
}

/// What a file below `blobs/` is made of.
enum Content {
    Bytes(Vec<u8>),
    Blob(u64),
    Tar,
}

fn save_oci(store: &Store, images: &[Saved], sink: &mut dyn Sink) -> Result<(), TransferError> {
    let mut files: BTreeMap<Digest, Content> = BTreeMap::new();
    let mut entries = Vec::new();
    for Saved { image, names } in images {
        let (bytes, manifest) = manifest(store, image)?;
        let named = manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST);
        let entry = Descriptor::of(named, &bytes);
        for (layer, diff_id) in manifest.layers.iter().zip(&image.layers) {
            let content =
                if layer.digest == diff_id.0 { Content::Tar } else { Content::Blob(layer.size_bytes) };
            files.insert(layer.digest, content);
        }
        files.insert(manifest.config.digest, Content::Bytes(config(store, image.id)?));
        files.insert(entry.digest, Content::Bytes(bytes));
        entries.extend(named_entries(&entry, names));
    }
    put_bytes(sink, "oci-layout", &LayoutMark::write())?;
    put_bytes(sink, "index.json", &ImageIndex::new(entries).write())?;
    for (digest, content) in files {
        let name = format!("blobs/sha256/{}", digest.hex());
        match content {
            Content::Bytes(bytes) => put_bytes(sink, &name, &bytes)?,
            Content::Tar => put_tar(store, DiffId(digest), &name, sink)?,
            // The store checks a blob while it is read.
            Content::Blob(size_bytes) => {
                sink.put(&name, size_bytes, &mut *store.blobs().open(BlobId(digest))?)?;
            }
        }
    }
    Ok(())
}

/// One entry of the index for each name; one without names for an image that has none.
fn named_entries(entry: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    let entry_of = |name: &Reference| {
        let mut entry = entry.clone();
        // Both hold the whole name: a bare tag in the first would lose the repository.
        entry.annotations.insert(REF_NAME.to_owned(), name.full());
        entry.annotations.insert(CONTAINERD_NAME.to_owned(), name.full());
        entry
    };
    if names.is_empty() { vec![entry.clone()] } else { names.iter().map(entry_of).collect() }
}

/// The manifest that an image came with, else one in OCI form with packed layers.
fn manifest(store: &Store, image: &Image) -> Result<(Vec<u8>, Manifest), TransferError> {
    if let Some(id) = image.manifest
        && store.blobs().contains(id)?
    {
        let bytes = store.blobs().read(id)?;
        let document = |source| TransferError::Document { name: id.to_string(), source };
        let manifest = Manifest::read(&bytes).map_err(document)?;
        if is_whole(store, image, &manifest)? {
            return Ok((bytes, manifest));
        }
    }
    let config = Descriptor::of(media_type::CONFIG, &config(store, image.id)?);
    let mut layers = Vec::new();
    for layer in &image.layers {
        layers.push(packed(store, *layer)?);
    }
    let manifest = Manifest::new(config, layers);
    Ok((manifest.write(), manifest))
}

/// A layer in its packed form; one that was kept in a form which OCI has no name for goes out plain.
fn packed(store: &Store, layer: DiffId) -> Result<Descriptor, TransferError> {
    let packed = store.layers().packed(layer)?;
    let (media_type, digest, size_bytes) = match media_type::layer(packed.compression) {
        Some(media_type) => (media_type, packed.blob.0, packed.size_bytes),
        None => (media_type::LAYER, layer.0, tar_size_bytes(store, layer)?),
    };
    let media_type = media_type.to_owned();
    Ok(Descriptor { media_type, digest, size_bytes, annotations: BTreeMap::new(), platform: None })
}

/// Whether all that a manifest names is here.
fn is_whole(store: &Store, image: &Image, manifest: &Manifest) -> Result<bool, TransferError> {
    if manifest.layers.len() != image.layers.len() || manifest.config.digest != image.id.0 {
        return Ok(false);
    }
    for (layer, diff_id) in manifest.layers.iter().zip(&image.layers) {
        if layer.digest != diff_id.0 && !store.blobs().contains(layer.blob())? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn config(store: &Store, image: ImageId) -> Result<Vec<u8>, TransferError> {
    let missing = || TransferError::Missing { name: image.to_string(), named_by: "store" };
    let bytes = store.images().config_bytes(image)?.ok_or_else(missing)?;
    let (expected, actual) = (image.0, Digest::of(&bytes));
    if actual != expected {
        return Err(StoreError::WrongContent { what: "config", expected, actual }.into());
    }
    Ok(bytes)
}

fn put_bytes(sink: &mut dyn Sink, name: &str, bytes: &[u8]) -> Result<(), TransferError> {
    sink.put(name, bytes.len() as u64, &mut &bytes[..])
}

/// Puts a layer's uncompressed tar; the store checks it while it is read.
fn put_tar(store: &Store, layer: DiffId, name: &str, sink: &mut dyn Sink) -> Result<(), TransferError> {
    let size_bytes = tar_size_bytes(store, layer)?;
    sink.put(name, size_bytes, &mut *store.layers().tar(layer)?)
}

fn tar_size_bytes(store: &Store, layer: DiffId) -> Result<u64, TransferError> {
    let missing = || TransferError::Missing { name: layer.to_string(), named_by: "image" };
    Ok(store.layers().find(layer)?.ok_or_else(missing)?.tar_size_bytes)
}
