//! `rbuild save`: images as an archive or a folder.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::ValueEnum;
use store::transfer::{Compression, Format, Packing, Repack, SaveOptions, Saved, Target, save};
use store::{Reference, Store};

use crate::args::Global;
use crate::commands::{images, open_store};
use crate::output::Output;
use crate::whole;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write to FILE (or to a new folder), not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write in this form
    #[arg(long, value_enum, default_value = "docker-archive")]
    format: Form,
    #[command(flatten)]
    packing: PackingArgs,
    /// Save these images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    DockerArchive,
    OciArchive,
    OciDir,
    /// One image as a folder of plain files (skopeo's `dir:`)
    Dir,
}

/// How layers are packed when they go out; without these flags they leave as they came.
#[derive(Debug, clap::Args)]
pub(crate) struct PackingArgs {
    /// Pack layers so; those that are packed so already stay as they are
    #[arg(long, visible_alias = "compression-format", value_enum, value_name = "FORM")]
    compression: Option<CompressionArg>,
    /// Pack all layers anew with this level (gzip: 1 to 12, zstd: 1 to 20)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    compression_level: Option<i32>,
    /// Pack all layers anew, whatever form they came in
    #[arg(long)]
    force_compression: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    Gzip,
    Zstd,
    None,
}

impl PackingArgs {
    pub(crate) fn repack(&self) -> anyhow::Result<Repack> {
        if self.compression.is_none() && self.compression_level.is_none() && !self.force_compression {
            return Ok(Repack::Keep);
        }
        let form = match self.compression.unwrap_or(CompressionArg::Gzip) {
            CompressionArg::Gzip => Compression::Gzip,
            CompressionArg::Zstd => Compression::Zstd,
            CompressionArg::None => Compression::None,
        };
        let packing = Packing::new(form, self.compression_level)?;
        let all = self.force_compression || self.compression_level.is_some();
        Ok(if all { Repack::All(packing) } else { Repack::Others(packing) })
    }
}

pub(crate) fn run(args: Args, global: &Global, _: &mut Output) -> anyhow::Result<u8> {
    let output = args.output.filter(|path| path != Path::new("-"));
    let is_folder = matches!(args.format, Form::OciDir | Form::Dir);
    match &output {
        None if is_folder => bail!("a folder can't go to standard output: name it with --output"),
        None if std::io::stdout().is_terminal() => {
            bail!("standard output is a terminal: name a file with --output or redirect it");
        }
        _ => {}
    }
    let format = match args.format {
        Form::DockerArchive => Format::Docker,
        Form::OciArchive | Form::OciDir => Format::Oci,
        Form::Dir => Format::Dir,
    };
    let options = SaveOptions { format, repack: args.packing.repack()? };
    let store = open_store(global)?;
    let saved = collect(&store, &args.images)?;
    let save = |target: Target<'_>| Ok(save(&store, &saved, options, target)?);
    match output {
        Some(path) if is_folder => whole::make_folder(&path, |folder| save(Target::Folder(folder)))?,
        Some(path) => whole::write_file(&path, |output| save(Target::Archive(output)))?,
        None => {
            let output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
            whole::write_all(&output, |output| save(Target::Archive(output)))?;
        }
    }
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
