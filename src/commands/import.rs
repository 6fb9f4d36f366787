//! `rbuild import`: an image of a root file system tar.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, bail};
use builder::containerfile::{self, Kind};
use builder::draft::Draft;
use builder::scope::Globals;
use builder::step::configure::{configure, value};
use jiff::Timestamp;
use store::oci::platform::Platform;
use store::transfer::{ImportOptions, import_root};

use crate::args::Global;
use crate::commands::{load, open_store, tag};
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Apply a Containerfile instruction to the image's config (`CMD ["sh"]`)
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Say this in the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// The platform of the programs in the tar
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Read this tar, compressed or not (`-`: standard input)
    #[arg(value_name = "TAR|-")]
    tar: String,
    /// Name the image
    name: Option<String>,
}

pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let name = args.name.as_deref().map(tag::parse).transpose()?;
    let mut draft = Draft::default();
    for text in &args.change {
        apply_change(&mut draft, text).with_context(|| format!("cannot apply --change `{}`", text.escape_debug()))?;
    }
    let mut tar = match args.tar.as_str() {
        "-" => load::standard_input_file()?,
        path => open(Path::new(path))?,
    };
    let store = open_store(global)?;
    let options = ImportOptions {
        config: draft.config.config,
        platform: args.platform.unwrap_or_else(Platform::here),
        created: Timestamp::now().to_string(),
        message: args.message.unwrap_or_else(|| format!("Imported from {}", args.tar)),
        name,
    };
    let loaded = import_root(&store, &mut tar, options).with_context(|| format!("cannot import {}", args.tar))?;
    loaded.names.iter().try_for_each(|set| load::note_move(&store, set, out))?;
    out.line(loaded.image)?;
    Ok(0)
}

fn open(path: &Path) -> anyhow::Result<File> {
    let context = || format!("cannot open {}", path.display());
    let file = File::open(path).with_context(context)?;
    if file.metadata().with_context(context)?.is_dir() {
        bail!("{} is a folder: pack it with tar, or load it when it is an OCI folder", path.display());
    }
    Ok(file)
}

fn apply_change(draft: &mut Draft, text: &str) -> anyhow::Result<()> {
    let instruction = containerfile::parse_instruction(text).map_err(|errors| {
        let messages: Vec<String> = errors.into_iter().map(|error| error.message).collect();
        anyhow::anyhow!("{}", messages.join("; "))
    })?;
    if let Kind::Workdir(word) = &instruction.kind {
        let folder = draft.working_dir().join(value(draft, word, '\\')?);
        draft.config.config.working_dir = folder.to_string();
        return Ok(());
    }
    match configure(draft, &instruction.kind, '\\', &Globals::default())? {
        Some(_) => Ok(()),
        None => bail!("it does not only change the config: RUN, COPY and ADD belong into a Containerfile"),
    }
}
