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

            /// Whether the command works on the store, and so needs to be root over its files.
            pub(crate) fn needs_store(&self) -> bool {
                !matches!(self, Self::Check(_) | Self::Doctor(_))
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
    /// Say what is wrong with a Containerfile, without building it
    Check = check,
    /// Copy an image between archives, folders and the store
    Copy = copy,
    /// Show what the store takes on disk, and what a prune would free
    Df = df,
    /// Show what changed between images or containers
    Diff = diff,
    /// Say what this machine can do, and what would mend what it can't
    Doctor = doctor,
    /// Say what of the store is damaged, and mend it
    Fsck = fsck,
    /// Show how an image was made, newest step first
    History = history,
    /// List images
    Images = images,
    /// Make an image of a root file system tar
    Import = import,
    /// Show all that is known of an image
    Inspect = inspect,
    /// Take images out of an archive or a folder
    Load = load,
    /// Remove what nothing needs
    Prune = prune,
    /// List containers
    Ps = ps,
    /// Remove containers
    Rm = rm,
    /// Remove images
    Rmi = rmi,
    /// Run a command in a new container
    Run = run,
    /// Write images to an archive or a folder
    Save = save,
    /// Give an image one more name
    Tag = tag,
    /// Show which images share which layers
    Tree = tree,
    /// Take names away from images
    Untag = untag,
}

pub(crate) use images::NoSuchImage;
pub(crate) use run::FAILED as RUN_FAILED;

/// An error with an exit status of its own.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    error: anyhow::Error,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Failure {
    pub(crate) fn new(status: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { status, error: error.into() }
    }
}

/// The exit status of an error: its own, or 1.
pub(crate) fn failure_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Failure>().map_or(1, |failure| failure.status)
}

/// Opens the store that the flags name.
pub(crate) fn open_store(global: &Global) -> anyhow::Result<Store> {
    let root = store_root(global)?;
    let store = Store::open(&root).with_context(|| format!("cannot open the store at {}", root.display()))?;
    for lease in store.dead_leases() {
        runner::clear(lease);
    }
    Ok(store)
}

/// `--root`, else `/var/lib/rbuild` as root, else the XDG data folder.
fn store_root(global: &Global) -> anyhow::Result<PathBuf> {
    use etcetera::BaseStrategy;
    if let Some(root) = &global.root {
        return Ok(root.clone());
    }
    if !global.rootless {
        return Ok(PathBuf::from("/var/lib/rbuild"));
    }
    let folders = etcetera::choose_base_strategy().context("cannot tell the data folder")?;
    Ok(folders.data_dir().join("rbuild"))
}
