//! `rbuild load`: images out of an archive or a folder, told apart by content.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use store::oci::platform::Platform;
use store::transfer::{LoadOptions, Loaded, NameSet, Source, load};
use store::{ImageId, Reference, Store};

use crate::args::Global;
use crate::commands::open_store;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read FILE (an archive of any kind and compression, or a folder), not standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Show no progress (there is none: for scripts made for docker)
    #[arg(short, long)]
    quiet: bool,
    /// Of several images, take the one for this platform
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let source = match args.input.as_deref() {
        Some(path) if path != Path::new("-") => open(path)?,
        _ => standard_input()?,
    };
    let what = args.input.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    let store = open_store(global)?;
    let options = LoadOptions { platform: args.platform.unwrap_or_else(Platform::here), only: None, names: None };
    let loaded = load(&store, source, &options).with_context(|| format!("cannot load {what}"))?;
    for Loaded { image, names } in loaded {
        if names.is_empty() {
            out.line(format_args!("Loaded image ID: {image}"))?;
        }
        for name in names {
            out.line(format_args!("Loaded image: {}", name.name))?;
            note_move(&store, &name, out)?;
        }
    }
    Ok(0)
}

/// Says that a name left another image.
pub(crate) fn note_move(store: &Store, set: &NameSet, out: &mut Output) -> anyhow::Result<()> {
    let Some(before) = set.moved_from else { return Ok(()) };
    let is_bare = store.images().get(before)?.is_some_and(|image| image.names.is_empty());
    let left = if is_bare { ", which has no name now" } else { "" };
    out.note(format_args!("note: moved {} from {before}{left}", set.name.clone().or_latest()));
    Ok(())
}

/// As [`note_move`], for names that were set by hand and what each pointed at before.
pub(crate) fn note_moves(
    store: &Store,
    names: &[Reference],
    before: &[Option<ImageId>],
    image: ImageId,
    out: &mut Output,
) -> anyhow::Result<()> {
    names.iter().zip(before).try_for_each(|(name, before)| {
        let moved_from = before.filter(|before| *before != image);
        note_move(store, &NameSet { name: name.clone(), moved_from }, out)
    })
}

/// Opens what lies at a path.
pub(crate) fn open(path: &Path) -> anyhow::Result<Source> {
    let context = || format!("cannot open {}", path.display());
    let file = File::open(path).with_context(context)?;
    let metadata = file.metadata().with_context(context)?;
    Ok(if metadata.is_dir() {
        Source::Folder(path.to_owned())
    } else if metadata.is_file() {
        Source::File(file)
    } else {
        Source::Stream(Box::new(file))
    })
}

fn standard_input() -> anyhow::Result<Source> {
    let input = standard_input_file()?;
    // A file behind `<` can be read at any place like one that is named.
    let is_whole_file = input.metadata()?.is_file() && rustix::fs::tell(&input)? == 0;
    Ok(if is_whole_file { Source::File(input) } else { Source::Stream(Box::new(input)) })
}

/// Standard input as a file, without a buffer before it; a terminal is refused.
pub(crate) fn standard_input_file() -> anyhow::Result<File> {
    let input = std::io::stdin();
    if input.is_terminal() {
        bail!("standard input is a terminal: name a file or redirect one");
    }
    let file = input.as_fd().try_clone_to_owned().context("cannot read standard input")?;
    Ok(File::from(file))
}
