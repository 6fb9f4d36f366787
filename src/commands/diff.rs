//! `rbuild diff`: what one image or container has that another has not.
//!
//! ```text
//! diff IMAGE        its last layer against all below it
//! diff CONTAINER    what it wrote against its image
//! diff OLD NEW      one against the other
//! ```

use std::os::fd::AsFd;

use anyhow::{Context, bail};
use runner::container::{self, ContainerError, Record};
use runner::view::{View, ViewError};
use serde_json::json;
use store::diff::{Change, diff};
use store::{Image, Store};

use crate::args::Global;
use crate::commands::{NoSuchImage, open_store};
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print docker's lines (`A /added`, `C /changed`, `D /deleted`) or one JSON object (`json`)
    #[arg(long, value_parser = ["json", "table"], default_value = "table", hide_default_value = true)]
    format: String,
    /// Show what changed in this image or container
    #[arg(value_name = "NAME")]
    name: String,
    /// Show what this one has that NAME has not, instead
    #[arg(value_name = "NEW")]
    new: Option<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    let first = find(&store, &args.name)?;
    let (old, new) = match &args.new {
        Some(new) => (first.view(&store)?, find(&store, new)?.view(&store)?),
        None => (first.base(&store)?, first.view(&store)?),
    };
    let changes = diff(old.tree().as_fd(), new.tree().as_fd())?;
    if args.format == "json" {
        let of = |wanted: Change| -> Vec<String> {
            let fitting = changes.iter().filter(|(_, change)| **change == wanted);
            fitting.map(|(path, _)| path.to_string()).collect()
        };
        let (added, changed, deleted) = (of(Change::Added), of(Change::Changed), of(Change::Deleted));
        out.line(json!({ "added": added, "changed": changed, "deleted": deleted }))?;
        return Ok(0);
    }
    for (path, change) in &changes {
        // Names come from images: what steers a terminal is not printed as it is.
        let path: String = path.to_string().chars().map(shown).collect();
        out.line(format_args!("{} {path}", change.letter()))?;
    }
    Ok(0)
}

fn shown(letter: char) -> String {
    if letter.is_control() { letter.escape_default().to_string() } else { letter.to_string() }
}

/// What was named: an image, or a container and its image.
struct Named {
    image: Image,
    container: Option<Record>,
}

impl Named {
    fn view(&self, store: &Store) -> Result<View, ViewError> {
        match &self.container {
            None => View::of_image(store, &self.image, 0),
            Some(record) => View::of_container(store, record, &self.image),
        }
    }

    /// What it was made from.
    fn base(&self, store: &Store) -> Result<View, ViewError> {
        let own_layers = usize::from(self.container.is_none());
        View::of_image(store, &self.image, own_layers)
    }
}

/// A container's whole name or ID comes first, then an image, then the beginning of a container's ID.
fn find(store: &Store, typed: &str) -> anyhow::Result<Named> {
    container::clear_dead(store)?;
    let record = match container::find(store, typed) {
        Err(ContainerError::Unknown(_)) => None,
        other => Some(other?),
    };
    let is_whole = record.as_ref().is_some_and(|record| record.id == typed || record.name == typed);
    let image = if is_whole { None } else { store.images().find(typed)? };
    match (image, record) {
        (Some(image), _) => Ok(Named { image, container: None }),
        (None, Some(record)) => {
            let image = store.images().get(record.image)?;
            let image = image
                .with_context(|| format!("container {}: its image {} is gone", record.name, record.image))?;
            Ok(Named { image, container: Some(record) })
        }
        (None, None) if typed.is_empty() => bail!("an empty name names nothing"),
        (None, None) => {
            Err(anyhow::Error::from(NoSuchImage(typed.to_owned())).context("no container has this name either"))
        }
    }
}
