//! `rbuild prune`: remove what nothing needs.
//!
//! Without flags: images without a name, and layers and blobs that no image and no cached step
//! needs. An image that a container was made from always stays.
//!
//! ```text
//! containers (--containers) → volumes (--volumes) → images → layers, blobs, cached steps
//! ```
//! What goes first may free what comes later. A dry run reckons in the same order.
//!
//! May touch: what the flags name. Knows nothing of how each is removed.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, bail};
use jiff::Timestamp;
use runner::container::{self, Record, State};
use runner::volumes;
use store::images::PruneOptions;
use store::{Image, Listed, Store};

use crate::args::Global;
use crate::commands::images::Filter;
use crate::commands::open_store;
use crate::human;
use crate::output::Output;

#[derive(Debug, Default, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Args {
    /// Remove all images that no container was made from, named or not
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Forget what build steps came to, too
    #[arg(long)]
    pub(crate) build_cache: bool,
    /// Remove containers that do not run, too
    #[arg(long)]
    pub(crate) containers: bool,
    /// Remove volumes that no container uses, too, with the data in them
    #[arg(long)]
    pub(crate) volumes: bool,
    /// Remove only images and containers that fit: `until=TIME`, `label=KEY[=VALUE]`, `label!=KEY[=VALUE]`
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What went, or would.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    containers: Vec<String>,
    volumes: Vec<String>,
    images: Vec<Image>,
    layers: usize,
    blobs: usize,
    pub(crate) size_bytes: u64,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let filters = filters(&args.filter, Timestamp::now())?;
    if args.volumes && !filters.is_empty() {
        bail!("volumes have neither labels nor a time: `--volumes` goes without `--filter`");
    }
    if !args.dry_run && !args.force && !is_confirmed(&args, out)? {
        return Ok(1);
    }
    let store = open_store(global)?;
    container::clear_dead(&store)?;
    let gone = if args.dry_run { foresee(&store, &args, &filters)? } else { remove(&store, &args, &filters)? };
    gone.containers.iter().try_for_each(|name| out.line(format_args!("Deleted container: {name}")))?;
    gone.volumes.iter().try_for_each(|name| out.line(format_args!("Deleted volume: {name}")))?;
    for image in &gone.images {
        for name in &image.names {
            out.line(format_args!("Untagged: {name}"))?;
        }
        out.line(format_args!("Deleted: {}", image.id))?;
    }
    let verb = if args.dry_run { "Would reclaim" } else { "Reclaimed" };
    let (layers, blobs) = (gone.layers, gone.blobs);
    out.line(format_args!(
        "{verb} {} ({} bytes): layers: {layers}, blobs: {blobs}",
        human::size(gone.size_bytes),
        gone.size_bytes
    ))?;
    Ok(0)
}

fn filters(typed: &[String], now: Timestamp) -> anyhow::Result<Vec<Filter>> {
    let is_known = |text: &String| ["until=", "label=", "label!="].iter().any(|key| text.starts_with(key));
    if let Some(bad) = typed.iter().find(|text| !is_known(text)) {
        bail!("`{}` is no filter of prune: there are until=, label= and label!=", bad.escape_debug());
    }
    typed.iter().map(|text| Filter::parse(text, now)).collect()
}

/// What a prune with these flags would take; nothing is changed.
pub(crate) fn foresee(store: &Store, args: &Args, filters: &[Filter]) -> anyhow::Result<Gone> {
    let mut gone = Gone::default();
    let mut ids = Vec::new();
    if args.containers {
        for record in stopped(store, filters)? {
            gone.size_bytes += container_bytes(store, &record)?;
            gone.containers.push(record.name);
            ids.push(record.id);
        }
    }
    if args.volumes {
        for volume in volumes::list(store)? {
            if volume.users.iter().all(|user| gone.containers.contains(user)) {
                gone.size_bytes += volume.size_bytes;
                gone.volumes.push(volume.name);
            }
        }
    }
    prune_images(store, args, filters, Some(&ids), &mut gone)?;
    Ok(gone)
}

fn remove(store: &Store, args: &Args, filters: &[Filter]) -> anyhow::Result<Gone> {
    let mut gone = Gone::default();
    if args.containers {
        for record in stopped(store, filters)? {
            let size_bytes = container_bytes(store, &record)?;
            match container::remove(store, &record, false) {
                // It was started since.
                Err(container::ContainerError::Running(_)) => continue,
                other => other.with_context(|| format!("cannot remove container `{}`", record.name))?,
            }
            gone.size_bytes += size_bytes;
            gone.containers.push(record.name);
        }
    }
    if args.volumes {
        for volume in volumes::list(store)?.into_iter().filter(|volume| volume.users.is_empty()) {
            if volumes::remove_unused(store, &volume.name)? {
                gone.size_bytes += volume.size_bytes;
                gone.volumes.push(volume.name);
            }
        }
    }
    prune_images(store, args, filters, None, &mut gone)?;
    Ok(gone)
}

fn prune_images(
    store: &Store,
    args: &Args,
    filters: &[Filter],
    as_without: Option<&[String]>,
    gone: &mut Gone,
) -> anyhow::Result<()> {
    let mut images = Vec::new();
    for image in store.images().list()? {
        let listed = Listed {
            id: image.id,
            manifest: image.manifest,
            names: image.names.clone(),
            size_bytes: image.size_bytes,
            created: image.config.created.clone(),
        };
        let mut is_taken = args.all || image.names.is_empty();
        for filter in filters {
            is_taken = is_taken && filter.takes_image(store, &listed)?;
        }
        images.extend(is_taken.then_some(image));
    }
    let options = PruneOptions { all: args.all, keep_cache: !args.build_cache };
    let pruned = store.images().prune_chosen(images, options, as_without)?;
    gone.images = pruned.images;
    gone.layers = pruned.collected.layers.len();
    gone.blobs = pruned.collected.blobs.len();
    gone.size_bytes += pruned.collected.size_bytes;
    Ok(())
}

/// Containers that have ended and fit.
pub(crate) fn stopped(store: &Store, filters: &[Filter]) -> anyhow::Result<Vec<Record>> {
    let mut records = container::list(store)?;
    records.retain(|record| {
        let has_ended = matches!(record.state, State::Exited { .. });
        has_ended && filters.iter().all(|filter| filter.takes_container(record))
    });
    Ok(records)
}

/// What goes with a container: what it wrote, and its volumes without a name.
pub(crate) fn container_bytes(store: &Store, record: &Record) -> anyhow::Result<u64> {
    let mut size_bytes = container::disk_size(store, record)?;
    for name in &record.anonymous_volumes {
        size_bytes += volumes::disk_size(store, name)?;
    }
    Ok(size_bytes)
}

fn is_confirmed(args: &Args, out: &mut Output) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("standard input is no terminal to ask at: use --force, or --dry-run to see what would go");
    }
    let images = if args.all { "all images without a container" } else { "all images without a name" };
    let mut what = vec![images];
    what.extend(args.containers.then_some("all containers that do not run"));
    what.extend(args.volumes.then_some("all volumes that no container uses, with their data"));
    what.extend(args.build_cache.then_some("the build cache"));
    let what = what.join(", ");
    let fitting = if args.filter.is_empty() { "" } else { " (of those that the filters take)" };
    out.note(format_args!("This removes {what}{fitting} and all layers that nothing else needs. Go on? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
