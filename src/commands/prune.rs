//! `rbuild prune`: remove what nothing needs.
//!
//! Without flags: images without a name, and layers and blobs that no image and no cached step
//! needs. An image that a container was made from always stays.

use std::io::{BufRead, IsTerminal};

use anyhow::bail;

use crate::args::Global;
use crate::commands::open_store;
use crate::human;
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Args {
    /// Remove all images that no container was made from, named or not
    #[arg(short, long)]
    all: bool,
    /// Forget what build steps came to, too
    #[arg(long)]
    build_cache: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    if !args.dry_run && !args.force && !is_confirmed(&args, out)? {
        return Ok(1);
    }
    let store = open_store(global)?;
    let pruned = store.images().prune(args.all, !args.build_cache, args.dry_run)?;
    for image in &pruned.images {
        for name in &image.names {
            out.line(format_args!("Untagged: {name}"))?;
        }
        out.line(format_args!("Deleted: {}", image.id))?;
    }
    let (layers, blobs) = (pruned.collected.layers.len(), pruned.collected.blobs.len());
    let verb = if args.dry_run { "Would reclaim" } else { "Reclaimed" };
    out.line(format_args!("{verb} {}: layers: {layers}, blobs: {blobs}", human::size(pruned.collected.size_bytes)))?;
    Ok(0)
}

fn is_confirmed(args: &Args, out: &mut Output) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("standard input is no terminal to ask at: use --force, or --dry-run to see what would go");
    }
    let images = if args.all { "all images without a container" } else { "all images without a name" };
    let cache = if args.build_cache { ", the build cache" } else { "" };
    out.note(format_args!("This removes {images}{cache} and all layers that nothing else needs. Go on? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
