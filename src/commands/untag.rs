//! `rbuild untag`: take names away; images stay.

use anyhow::Context;
use store::Reference;

use crate::args::Global;
use crate::commands::images::NoSuchImage;
use crate::commands::open_store;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Take these names away
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let names = args.names.iter().map(|name| name.parse()).collect::<Result<Vec<Reference>, _>>()?;
    let store = open_store(global)?;
    for (name, typed) in names.into_iter().zip(args.names) {
        let name = name.or_latest();
        if !store.images().remove_name(&name).with_context(|| format!("cannot take `{name}` away"))? {
            return Err(NoSuchImage(typed).into());
        }
        out.line(format_args!("Untagged: {name}"))?;
    }
    Ok(0)
}
