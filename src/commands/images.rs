//! `rbuild images`: what the store holds, by name.

use crate::args::Global;
use crate::commands::open_store;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    for image in store.images().list()? {
        out.line(if args.quiet { image.id.to_string() } else { format!("{:?}", image.names) })?;
    }
    Ok(0)
}
