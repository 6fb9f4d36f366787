//! What was typed: the command line as clap reads it, and the flags that commands share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use crate::commands::Command;

/// Build container images from Containerfiles, keep their layers and run them, without a daemon
#[derive(Debug, Parser)]
#[command(name = "rbuild", version, infer_long_args = false, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// Keep images, layers and containers below DIR
    #[arg(long, global = true, env = "RBUILD_ROOT", value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// The caller is not root; `main` entered a user namespace for it.
    #[arg(skip)]
    pub(crate) rootless: bool,
}

/// Parses the command line. `build` is what happens when no command is named.
pub(crate) fn parse(mut words: Vec<OsString>) -> Result<Cli, clap::Error> {
    if let Some(place) = place_of_implied_build(&words) {
        words.insert(place, "build".into());
    }
    Cli::try_parse_from(words)
}

/// Whether the command line is of `run`, whose own failures have a status of their own.
pub(crate) fn is_run(words: &[OsString]) -> bool {
    words.get(place_of_command(words)).is_some_and(|word| word == "run")
}

/// Where `build` goes when no command was named: behind the flags of every command.
fn place_of_implied_build(words: &[OsString]) -> Option<usize> {
    let place = place_of_command(words);
    match words.get(place)?.to_str().unwrap_or_default() {
        "-h" | "--help" | "-V" | "--version" => None,
        text => (!Command::is_name(text)).then_some(place),
    }
}

/// Behind the program's name and the flags of every command.
fn place_of_command(words: &[OsString]) -> usize {
    let mut place = 1;
    while let Some(word) = words.get(place) {
        match word.to_str().unwrap_or_default() {
            "--root" => place += 2,
            text if text.starts_with("--root=") => place += 1,
            _ => break,
        }
    }
    place
}
