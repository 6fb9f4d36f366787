//! One file per command, named after it: `Args` is what was typed, `run` does it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use store::Store;

use crate::args::{Cli, Global};
use crate::output::Output;

macro_rules! commands {
    ($($(#[$doc:meta])* $variant:ident = $module:ident,)*) => {
        $(mod $module;)*

        #[derive(Debug, Subcommand)]
        pub(crate) enum Command {
            $($(#[$doc])* $variant($module::Args),)*
        }

        impl Command {
            /// Whether `word` names a command.
            pub(crate) fn is_name(word: &str) -> bool {
                [$(stringify!($module)),*].contains(&word)
            }
        }

        /// Runs a command and returns the exit status.
        pub(crate) fn run(cli: Cli, out: &mut Output) -> anyhow::Result<u8> {
            match cli.command {
                $(Command::$variant(args) => $module::run(args, &cli.global, out),)*
            }
        }
    };
}

mod build_output;

commands! {
    /// Build an image from a Containerfile (what happens when no command is named)
    Build = build,
    /// Show how an image was made, newest step first
    History = history,
    /// List images
    Images = images,
    /// Make an image of a root file system tar
    Import = import,
    /// Show all that is known of an image
    Inspect = inspect,
    /// Take images out of an archive or an OCI folder
    Load = load,
    /// Remove what nothing needs
    Prune = prune,
    /// Remove images
    Rmi = rmi,
    /// Write images to an archive or an OCI folder
    Save = save,
    /// Give an image one more name
    Tag = tag,
    /// Take names away from images
    Untag = untag,
}

/// An error with an exit status of its own.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Failure {
    status: u8,
    source: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(status: u8, source: impl Into<anyhow::Error>) -> Self {
        Self { status, source: source.into() }
    }
}

/// The exit status of an error: its own, or 1.
pub(crate) fn failure_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Failure>().map_or(1, |failure| failure.status)
}

/// Opens the store that the flags name.
pub(crate) fn open_store(global: &Global) -> anyhow::Result<Store> {
    let root = store_root(global)?;
    Store::open(&root).with_context(|| format!("cannot open the store at {}", root.display()))
}

/// `--root`, else `/var/lib/rbuild` as root, else the XDG data folder.
fn store_root(global: &Global) -> anyhow::Result<PathBuf> {
    use etcetera::BaseStrategy;
    if let Some(root) = &global.root {
        return Ok(root.clone());
    }
    if rustix::process::getuid().is_root() {
        return Ok(PathBuf::from("/var/lib/rbuild"));
    }
    let folders = etcetera::choose_base_strategy().context("cannot tell the data folder")?;
    Ok(folders.data_dir().join("rbuild"))
}
