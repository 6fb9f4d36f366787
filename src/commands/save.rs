//! `rbuild save`: images as an archive or an OCI folder.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use store::transfer::{Format, Saved, Target, save};
use store::{Reference, Store};

use crate::args::Global;
use crate::commands::{images, open_store};
use crate::output::Output;

const BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write to FILE, not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write in this form
    #[arg(long, value_enum, default_value = "docker-archive")]
    format: Form,
    /// Save these images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    DockerArchive,
    OciArchive,
    OciDir,
}

pub(crate) fn run(args: Args, global: &Global, _: &mut Output) -> anyhow::Result<u8> {
    let output = args.output.filter(|path| path != Path::new("-"));
    match (&output, args.format) {
        (None, Form::OciDir) => bail!("an OCI folder can't go to standard output: name it with --output"),
        (None, _) if std::io::stdout().is_terminal() => {
            bail!("standard output is a terminal: name a file with --output or redirect it");
        }
        _ => {}
    }
    let store = open_store(global)?;
    let saved = collect(&store, &args.images)?;
    let format = if args.format == Form::DockerArchive { Format::Docker } else { Format::Oci };
    match (output, args.format) {
        (Some(path), Form::OciDir) => to_folder(&store, &saved, &path),
        (Some(path), _) => to_file(&store, &saved, format, &path),
        (None, _) => {
            let output = std::io::stdout().as_fd().try_clone_to_owned()?;
            write(&store, &saved, format, File::from(output))
        }
    }?;
    Ok(0)
}

/// Finds the images; two names of one image make it go out once, under both.
fn collect(store: &Store, typed: &[String]) -> anyhow::Result<Vec<Saved>> {
    let mut saved: Vec<Saved> = Vec::new();
    for typed in typed {
        let image = images::find(store, typed)?;
        let name = typed.parse::<Reference>().ok().map(Reference::or_latest);
        let name = name.filter(|name| image.names.contains(name));
        match saved.iter_mut().find(|other| other.image.id == image.id) {
            Some(other) => other.names.extend(name.filter(|name| !other.names.contains(name))),
            None => saved.push(Saved { image, names: name.into_iter().collect() }),
        }
    }
    Ok(saved)
}

fn write(store: &Store, saved: &[Saved], format: Format, output: File) -> anyhow::Result<()> {
    let mut output = BufWriter::with_capacity(BUFFER_BYTES, output);
    save(store, saved, format, Target::Archive(&mut output))?;
    output.flush()?;
    Ok(())
}

/// Writes a file that appears whole or not at all.
fn to_file(store: &Store, saved: &[Saved], format: Format, path: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", path.display());
    // A device or a pipe is written to, not replaced.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let output = File::options().write(true).open(path).with_context(context)?;
        return write(store, saved, format, output).with_context(context);
    }
    let half = half_made(path);
    let output = File::create_new(&half).with_context(context)?;
    let result = write(store, saved, format, output)
        .and_then(|()| Ok(std::fs::rename(&half, path)?))
        .with_context(context);
    if result.is_err() {
        // Best effort: the error above says what went wrong.
        drop(std::fs::remove_file(&half));
    }
    result
}

/// Writes a folder that appears whole or not at all, in place of an empty one or of none.
fn to_folder(store: &Store, saved: &[Saved], path: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", path.display());
    if path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty: name a new folder", path.display());
    }
    let half = half_made(path);
    std::fs::create_dir(&half).with_context(context)?;
    let result = save(store, saved, Format::Oci, Target::Folder(&half))
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(std::fs::rename(&half, path)?))
        .with_context(context);
    if result.is_err() {
        // Best effort: the error above says what went wrong.
        drop(std::fs::remove_dir_all(&half));
    }
    result
}

/// A hidden name beside `path`, which no other process uses.
fn half_made(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".rbuild-{}", std::process::id()));
    path.with_file_name(name)
}
