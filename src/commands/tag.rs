//! `rbuild tag`: one more name for an image.

use anyhow::{Context, bail};
use store::Reference;

use crate::args::Global;
use crate::commands::{images, load, open_store};
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name the image that has this name or ID
    #[arg(value_name = "IMAGE")]
    source: String,
    /// Give it these names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let names = args.names.iter().map(|name| parse(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let store = open_store(global)?;
    let image = images::find(&store, &args.source)?;
    let failed = || format!("cannot name image {}", image.id);
    let before = store.images().set_names(&names, image.id).with_context(failed)?;
    load::note_moves(&store, &names, &before, image.id, out)?;
    Ok(0)
}

/// Reads a name to be given: a digest can't be given, it is what it is.
pub(crate) fn parse(name: &str) -> anyhow::Result<Reference> {
    let reference: Reference = name.parse()?;
    if reference.digest.is_some() {
        bail!("`{name}` has a digest: an image can be given a tag only");
    }
    Ok(reference.or_latest())
}
