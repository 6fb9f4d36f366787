//! Save: images as an archive or a folder that docker, podman, skopeo and umoci read.
//!
//! ```text
//! docker-archive            oci-archive, oci-dir               dir
//! ├── manifest.json         ├── oci-layout                     ├── version
//! ├── repositories          ├── index.json    names            ├── manifest.json
//! ├── <config hex>.json     └── blobs/sha256/<hex>             └── <hex>   config, layers
//! └── <diff hex>.tar
//! ```
//!
//! An image that came with a manifest leaves with it, byte for byte, as long as its packed layers
//! are here or can be made again; so its digest stays. Layers that were never packed are packed
//! once and remembered, and so is the manifest that is made for them. A layer that several images
//! share is written once. The same images give the same bytes.
//!
//! May touch: the store through its methods, the stream or folder given. Knows nothing of terminals.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::TransferError;
use super::packed::{Content, PackedImage};
use super::sink::{Folder, Sink, Tar};
use crate::archive::compress::Packing;
use crate::digest::{DiffId, Digest, ImageId};
use crate::oci::descriptor::{CONTAINERD_NAME, Descriptor, REF_NAME};
use crate::oci::docker_archive::{ArchivedImage, Repositories};
use crate::oci::index::{ImageIndex, LayoutMark};
use crate::oci::json;
use crate::{Image, Reference, Store, StoreError};

/// The first line of a `dir:` folder, of the one version that is written today.
const DIR_VERSION: &str = "Directory Transport Version: 1.1\n";

/// How images are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Docker,
    Oci,
    /// One image, as skopeo's `dir:`.
    Dir,
}

/// Which layers are packed anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repack {
    /// None that is packed: layers leave as they came. In a docker-archive all are plain.
    #[default]
    Keep,
    /// Those that came in another form.
    Others(Packing),
    /// All.
    All(Packing),
}

/// How images go out.
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions {
    pub format: Format,
    pub repack: Repack,
}

/// Where images go.
pub enum Target<'t> {
    Archive(&'t mut dyn Write),
    /// A folder that is there and empty.
    Folder(&'t Path),
    /// An OCI layout that is there and stays as it is but for what is added.
    Layout(&'t Path),
}

/// An image that goes out, under the names that were asked for.
#[derive(Clone, Debug)]
pub struct Saved {
    pub image: Image,
    pub names: Vec<Reference>,
}

/// An image that goes out, whether the store records it or not.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub id: ImageId,
    pub config: Vec<u8>,
    /// Bottom to top.
    pub layers: Vec<DiffId>,
    pub manifest: Option<Vec<u8>>,
    pub names: Vec<Reference>,
    /// What an OCI index calls it instead of its names, verbatim.
    pub tag: Option<String>,
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Archive(_) => f.write_str("Archive"),
            Self::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
            Self::Layout(path) => f.debug_tuple("Layout").field(path).finish(),
        }
    }
}

/// Writes images out.
pub fn save(
    store: &Store,
    images: &[Saved],
    options: SaveOptions,
    target: Target<'_>,
) -> Result<(), TransferError> {
    let outgoing = images.iter().map(|saved| outgoing(store, saved)).collect::<Result<Vec<_>, _>>()?;
    write(store, &outgoing, options, target)
}

/// Reads what an image of the store is made of.
pub(super) fn outgoing(store: &Store, saved: &Saved) -> Result<Outgoing, TransferError> {
    let Saved { image, names } = saved;
    let missing = || TransferError::Missing { name: image.id.to_string(), named_by: "store" };
    let config = store.images().config_bytes(image.id)?.ok_or_else(missing)?;
    let (expected, actual) = (image.id.0, Digest::of(&config));
    if actual != expected {
        return Err(StoreError::WrongContent { what: "config", expected, actual }.into());
    }
    let manifest = match image.manifest {
        Some(id) if store.blobs().contains(id)? => Some(store.blobs().read(id)?),
        _ => None,
    };
    Ok(Outgoing {
        id: image.id,
        config,
        layers: image.layers.clone(),
        manifest,
        names: names.clone(),
        tag: None,
    })
}

pub(super) fn write(
    store: &Store,
    images: &[Outgoing],
    options: SaveOptions,
    target: Target<'_>,
) -> Result<(), TransferError> {
    let sink: &mut dyn Sink = match target {
        Target::Archive(output) => &mut Tar { output },
        Target::Folder(path) => &mut Folder::new(path),
        Target::Layout(path) => &mut Folder::growing(path),
    };
    match options.format {
        Format::Docker => save_docker(store, images, options.repack, sink)?,
        Format::Oci => save_oci(store, images, options.repack, sink)?,
        Format::Dir => save_dir(store, images, options.repack, sink)?,
    }
    sink.finish()
}

fn save_docker(
    store: &Store,
    images: &[Outgoing],
    repack: Repack,
    sink: &mut dyn Sink,
) -> Result<(), TransferError> {
    let mut files: BTreeMap<String, Content> = BTreeMap::new();
    let mut listed = Vec::new();
    let mut repositories = Repositories::new();
    for image in images {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let (name, content) = docker_layer(store, *layer, repack)?;
            files.insert(name.clone(), content);
            layers.push(name);
        }
        for name in &image.names {
            let tags = repositories.entry(name.familiar_repository()).or_default();
            let uppermost = image.layers.last().map_or(image.id.0, |layer| layer.0);
            tags.insert(name.tag.clone().unwrap_or_default(), uppermost.hex());
        }
        let config = format!("{}.json", image.id.0.hex());
        let repo_tags = image.names.iter().map(Reference::to_string).collect();
        listed.push(ArchivedImage { config, repo_tags, layers });
    }
    put_bytes(sink, "manifest.json", &json::write(&listed))?;
    if !repositories.is_empty() {
        put_bytes(sink, "repositories", &json::write(&repositories))?;
    }
    let configs: BTreeMap<ImageId, &[u8]> =
        images.iter().map(|image| (image.id, &image.config[..])).collect();
    for (id, config) in configs {
        put_bytes(sink, &format!("{}.json", id.0.hex()), config)?;
    }
    files.into_iter().try_for_each(|(name, content)| put(store, &name, content, sink))
}

/// A layer's name and bytes in a docker-archive: plain, as docker writes it, unless asked otherwise.
fn docker_layer(store: &Store, layer: DiffId, repack: Repack) -> Result<(String, Content), TransferError> {
    if repack == Repack::Keep {
        return Ok((format!("{}.tar", layer.0.hex()), Content::Tar(layer)));
    }
    let (descriptor, content) = super::packed::layer(store, layer, repack)?;
    let end = if descriptor.digest == layer.0 {
        ""
    } else if descriptor.media_type.ends_with("zstd") {
        ".zst"
    } else {
        ".gz"
    };
    Ok((format!("{}.tar{end}", descriptor.digest.hex()), content))
}

fn save_oci(
    store: &Store,
    images: &[Outgoing],
    repack: Repack,
    sink: &mut dyn Sink,
) -> Result<(), TransferError> {
    let mut files: BTreeMap<Digest, Content> = BTreeMap::new();
    let mut entries = Vec::new();
    for image in images {
        let packed = PackedImage::make(store, image, repack)?;
        entries.extend(named_entries(&packed.descriptor(), image));
        files.insert(packed.descriptor().digest, Content::Bytes(packed.bytes));
        files.insert(packed.manifest.config.digest, Content::Bytes(image.config.clone()));
        files.extend(packed.layers);
    }
    put_bytes(sink, "oci-layout", &LayoutMark::write())?;
    put_bytes(sink, "index.json", &ImageIndex::new(entries).write())?;
    for (digest, content) in files {
        put(store, &format!("blobs/sha256/{}", digest.hex()), content, sink)?;
    }
    Ok(())
}

fn save_dir(
    store: &Store,
    images: &[Outgoing],
    repack: Repack,
    sink: &mut dyn Sink,
) -> Result<(), TransferError> {
    let [image] = images else {
        return Err(TransferError::OneImage { count: images.len() });
    };
    let packed = PackedImage::make(store, image, repack)?;
    put_bytes(sink, "version", DIR_VERSION.as_bytes())?;
    put_bytes(sink, "manifest.json", &packed.bytes)?;
    put_bytes(sink, &packed.manifest.config.digest.hex(), &image.config)?;
    for (digest, content) in packed.layers {
        put(store, &digest.hex(), content, sink)?;
    }
    Ok(())
}

/// One entry of the index for each name; one without names for an image that has none.
fn named_entries(entry: &Descriptor, image: &Outgoing) -> Vec<Descriptor> {
    let entry_of = |names: &[(&str, String)]| {
        let mut entry = entry.clone();
        entry.annotations.extend(names.iter().map(|(key, name)| ((*key).to_owned(), name.clone())));
        entry
    };
    if let Some(tag) = &image.tag {
        return vec![entry_of(&[(REF_NAME, tag.clone())])];
    }
    if image.names.is_empty() {
        return vec![entry.clone()];
    }
    // Both hold the whole name: a bare tag in the first would lose the repository.
    let both = |name: &Reference| entry_of(&[(REF_NAME, name.full()), (CONTAINERD_NAME, name.full())]);
    image.names.iter().map(both).collect()
}

fn put_bytes(sink: &mut dyn Sink, name: &str, bytes: &[u8]) -> Result<(), TransferError> {
    sink.put(name, bytes.len() as u64, &mut &bytes[..])
}

/// Puts a file; the store checks its own while they are read.
fn put(store: &Store, name: &str, content: Content, sink: &mut dyn Sink) -> Result<(), TransferError> {
    match content {
        Content::Bytes(bytes) => put_bytes(sink, name, &bytes),
        Content::Tar(layer) => {
            let size_bytes = super::packed::tar_size_bytes(store, layer)?;
            sink.put(name, size_bytes, &mut *store.layers().tar(layer)?)
        }
        Content::Blob(id, size_bytes) => sink.put(name, size_bytes, &mut *store.blobs().open(id)?),
        Content::Unpublished(blob) => {
            let write = |source| TransferError::Write { what: name.to_owned(), source };
            sink.put(name, blob.size_bytes, &mut *blob.open().map_err(write)?)
        }
    }
}
