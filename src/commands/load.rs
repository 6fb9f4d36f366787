//! `rbuild load`: images out of an archive or an OCI folder, told apart by content.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use store::oci::platform::Platform;
use store::transfer::{LoadOptions, Loaded, NameSet, Source, load};

use crate::args::Global;
use crate::commands::open_store;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read FILE (an archive of any kind and compression, or an OCI folder), not standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print names and IDs only, no notes
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
    let options = LoadOptions { platform: args.platform.unwrap_or_else(Platform::here) };
    let loaded = load(&store, source, &options).with_context(|| format!("cannot load {what}"))?;
    for Loaded { image, names } in loaded {
        if names.is_empty() {
            out.line(format_args!("Loaded image ID: {image}"))?;
        }
        for name in names {
            out.line(format_args!("Loaded image: {}", name.name))?;
            if !args.quiet {
                note_move(&name, out);
            }
        }
    }
    Ok(0)
}

/// Says that a name left another image, which may now have none.
pub(crate) fn note_move(set: &NameSet, out: &mut Output) {
    if let Some(before) = set.moved_from {
        out.note(format_args!("note: {} pointed at {before} before", set.name));
    }
}

fn open(path: &Path) -> anyhow::Result<Source> {
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
