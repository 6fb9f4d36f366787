//! `rbuild untag`: take names away, all that were asked for or none; images stay.
//!
//! May touch: names. Knows nothing of layers.

use anyhow::Context;
use store::{Reference, Store};

use crate::args::Global;
use crate::commands::images::{self, NoSuchImage};
use crate::commands::open_store;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Take these names away, or all names of the images with these IDs
    #[arg(value_name = "NAME|ID", required = true)]
    names: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    let mut names: Vec<Reference> = Vec::new();
    for typed in &args.names {
        for name in meant(&store, typed)? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if let Some(missing) = store.images().remove_names(&names).context("cannot take names away")? {
        return Err(NoSuchImage(missing.to_string()).into());
    }
    names.iter().try_for_each(|name| out.line(format_args!("Untagged: {name}")))?;
    Ok(0)
}

/// The name that was typed, or the names of the image whose ID was typed.
fn meant(store: &Store, typed: &str) -> anyhow::Result<Vec<Reference>> {
    if store.images().find(typed)?.is_some() && store.images().is_id(typed)? {
        return Ok(images::find(store, typed)?.names);
    }
    let name: Reference = typed.parse()?;
    Ok(vec![name.or_latest()])
}
