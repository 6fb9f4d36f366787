//! What `docker save` wrote before 1.10: `repositories`, and `<id>/{json,layer.tar}` for each layer.
//!
//! There is no config and no digest in it: each layer has a JSON of its own that names its parent.
//! The config is put together as Docker did it when it met such an archive, so that the image gets
//! the ID that Docker gave it: the uppermost layer's JSON without its own names, and the layers and
//! the history of the whole chain.
//!
//! May touch: the place given, the intake. Knows nothing of names on the host.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::TransferError;
use super::load::{Intake, Pending, Wanted};
use super::place::{Place, shown};
use crate::layers::Expected;
use crate::oci::config::{History, RootFs};
use crate::oci::{docker_archive, json};
use crate::root_dir::ImagePath;
use crate::{Digest, Reference};

const NAME: &str = "repositories";
/// Docker itself stops at 127.
const MAX_LAYERS: usize = 512;
/// Fields that named the layer, not the image.
const OWN_FIELDS: [&str; 6] = ["id", "parent", "Size", "parent_id", "layer_id", "throwaway"];

/// What one layer's JSON says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LayerJson {
    parent: String,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    throwaway: bool,
    container_config: Option<Made>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Made {
    cmd: Option<Vec<String>>,
}

/// A layer of a chain: its ID, what it says, its whole JSON.
type Link = (String, LayerJson, Map<String, Value>);

/// Reads all images of an archive; `None` when there is no `repositories`.
pub(super) fn read(intake: &Intake<'_>, place: &Place) -> Result<Option<Vec<Pending>>, TransferError> {
    let Some(bytes) = place.document(&ImagePath::new(NAME))? else {
        return Ok(None);
    };
    let document = |source| TransferError::Document { name: NAME.to_owned(), source };
    let repositories = docker_archive::read_repositories(&bytes).map_err(document)?;
    let mut images = Vec::new();
    for (repository, tags) in repositories {
        for (tag, id) in tags {
            let name: Reference = format!("{repository}:{tag}").parse()?;
            images.push(image(intake, place, &id, name)?);
        }
    }
    Ok(Some(images))
}

fn image(intake: &Intake<'_>, place: &Place, id: &str, name: Reference) -> Result<Pending, TransferError> {
    let chain = chain(place, id)?;
    let mut layers = Vec::new();
    let mut rootfs = RootFs::default();
    for (id, _, _) in &chain {
        let path = ImagePath::new(format!("{id}/layer.tar"));
        let imported = intake.layer(place, &Wanted { path: path.clone(), expected: Expected::default() })?;
        let diff_id = imported.layer.diff_id;
        rootfs.diff_ids.push(diff_id);
        layers.push(Wanted { path, expected: Expected { diff_id: Some(diff_id), ..Expected::default() } });
    }
    let history = chain.iter().map(|(_, layer, _)| history(layer)).collect();
    let (_, _, uppermost) = chain.into_iter().next_back().expect("the chain begins with `id`");
    Ok(Pending {
        config: config(uppermost, &rootfs, history),
        manifest: None,
        layers,
        names: vec![name],
        tag: None,
    })
}

/// The layers of an image, bottom to top.
fn chain(place: &Place, id: &str) -> Result<Vec<Link>, TransferError> {
    let mut chain = Vec::new();
    let mut next = id.to_owned();
    while !next.is_empty() {
        let path = ImagePath::new(format!("{next}/json"));
        let missing = || TransferError::Missing { name: shown(&path), named_by: NAME };
        if Digest::from_hex(&next).is_err() {
            return Err(missing());
        }
        let bytes = place.document(&path)?.ok_or_else(missing)?;
        let document = |source| TransferError::Document { name: shown(&path), source };
        let layer: LayerJson = json::read("layer's JSON", &bytes).map_err(document)?;
        let whole = json::read("layer's JSON", &bytes).map_err(document)?;
        let parent = layer.parent.clone();
        chain.push((next, layer, whole));
        if chain.len() > MAX_LAYERS {
            return Err(TransferError::TooDeep);
        }
        next = parent;
    }
    chain.reverse();
    Ok(chain)
}

fn history(layer: &LayerJson) -> History {
    let command = layer.container_config.as_ref().and_then(|made| made.cmd.as_ref());
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    History {
        created: layer.created.clone(),
        author: said(&layer.author),
        created_by: command.map(|words| words.join(" ")).filter(|text| !text.is_empty()),
        comment: said(&layer.comment),
        empty_layer: layer.throwaway,
    }
}

fn config(mut whole: Map<String, Value>, rootfs: &RootFs, history: Vec<History>) -> Vec<u8> {
    for field in OWN_FIELDS {
        whole.remove(field);
    }
    let value = |value| serde_json::to_value(value).expect("it has string keys only");
    whole.insert("rootfs".to_owned(), value(rootfs));
    whole.insert("history".to_owned(), serde_json::to_value(history).expect("it has string keys only"));
    json::write(&whole)
}
