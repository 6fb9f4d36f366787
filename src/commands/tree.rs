//! `rbuild tree`: which images share which layers.
//!
//! ```text
//! sha256:aa… 74.8MB            a layer; below it what stands on it in some image
//! ├── debian:12                an image that ends here
//! └── sha256:bb… 12MB
//!     └── app:latest
//! ```
//! A layer that stands on different ones appears under each of them, though it is kept once.
//!
//! May touch: nothing. Knows nothing of how layers are kept.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use store::{DiffId, Image, LayerUse, Reference};

use crate::args::Global;
use crate::commands::{images, open_store};
use crate::human;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print whole IDs
    #[arg(long)]
    no_trunc: bool,
    /// Print a tree (`text`) or one JSON object a layer (`json`)
    #[arg(long, value_parser = ["text", "json"], default_value = "text", hide_default_value = true)]
    format: String,
    /// Show these images only
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    let mut shown = if args.images.is_empty() {
        store.images().list()?
    } else {
        args.images.iter().map(|name| images::find(&store, name)).collect::<Result<_, _>>()?
    };
    shown.sort_by_key(title);
    shown.dedup_by_key(|image| image.id);
    let layers = store.layer_uses()?;
    if args.format == "json" {
        let mut text = String::new();
        for layer in layers.iter().map(|layer| Row::of(layer, &shown)).filter(|row| !row.images.is_empty()) {
            text.push_str(&serde_json::to_string(&layer)?);
            text.push('\n');
        }
        out.text(&text)?;
        return Ok(0);
    }
    let layers: HashMap<DiffId, &LayerUse> = layers.iter().map(|layer| (layer.diff_id, layer)).collect();
    let mut top = Node::default();
    for image in &shown {
        let node = image.layers.iter().fold(&mut top, |node, layer| node.layers.entry(*layer).or_default());
        node.images.push(title(image));
    }
    let mut text = String::new();
    top.write(&layers, args.no_trunc, "", true, &mut text);
    out.text(&text)?;
    Ok(0)
}

/// Its names, or its ID when it has none.
fn title(image: &Image) -> String {
    if image.names.is_empty() {
        return images::short_id(image.id);
    }
    image.names.iter().map(Reference::to_string).collect::<Vec<_>>().join(", ")
}

/// A layer with the images that have it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    layer: DiffId,
    /// Bytes, uncompressed.
    size: u64,
    /// Bytes on disk.
    disk_size: u64,
    /// Bytes on disk that share another layer's blocks.
    saved: u64,
    images: Vec<ImageRow>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageRow {
    id: String,
    names: Vec<String>,
}

impl Row {
    fn of(layer: &LayerUse, images: &[Image]) -> Self {
        let have = images.iter().filter(|image| image.layers.contains(&layer.diff_id));
        let row = |image: &Image| ImageRow {
            id: image.id.to_string(),
            names: image.names.iter().map(Reference::to_string).collect(),
        };
        Self {
            layer: layer.diff_id,
            size: layer.tar_size_bytes,
            disk_size: layer.disk_size_bytes,
            saved: layer.cloned_bytes,
            images: have.map(row).collect(),
        }
    }
}

/// What stands on one stack of layers.
#[derive(Debug, Default)]
struct Node {
    images: Vec<String>,
    layers: BTreeMap<DiffId, Node>,
}

impl Node {
    fn write(
        &self,
        layers: &HashMap<DiffId, &LayerUse>,
        whole: bool,
        before: &str,
        is_top: bool,
        text: &mut String,
    ) {
        let count = self.images.len() + self.layers.len();
        let branch = |number: usize| match (is_top, number + 1 == count) {
            (true, _) => ("", ""),
            (false, true) => ("└── ", "    "),
            (false, false) => ("├── ", "│   "),
        };
        for (number, title) in self.images.iter().enumerate() {
            text.push_str(&format!("{before}{}{title}\n", branch(number).0));
        }
        for (number, (id, node)) in self.layers.iter().enumerate() {
            let (branch, below) = branch(self.images.len() + number);
            let name = if whole { id.to_string() } else { id.0.hex()[..12].to_owned() };
            let size = layers.get(id).map_or_else(|| "?".to_owned(), |layer| human::size(layer.tar_size_bytes));
            text.push_str(&format!("{before}{branch}layer {name} {size}\n"));
            node.write(layers, whole, &format!("{before}{below}"), false, text);
        }
    }
}
