//! The `rbuild` command: enter the user namespace if not root, parse, dispatch, report.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod form;
mod hints;
mod human;
mod output;
mod terminal;
mod values;
mod whole;

use std::process::ExitCode;

use runner::sandbox::user_ns::{self, Entered};

use crate::args::Cli;
use crate::output::Output;

fn main() -> ExitCode {
    let mut out = Output::new();
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let own_status = args::is_run(&words).then_some(commands::RUN_FAILED);
    let cli = match args::parse(words) {
        Ok(cli) => cli,
        Err(usage) => return out.usage(&usage, own_status.unwrap_or(2)),
    };
    match start(cli, &mut out) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            out.error(&error, hints::hint(&error));
            ExitCode::from(own_status.unwrap_or_else(|| commands::failure_code(&error)))
        }
    }
}

/// Lets this process open as many files as it may: each layer that is in use is an open folder.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // A limit that stays low fails later, at the file that can't be opened, and says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Becomes root over its own files, before there is any thread, and runs the command.
fn start(mut cli: Cli, out: &mut Output) -> anyhow::Result<u8> {
    raise_open_files();
    if !rustix::process::geteuid().is_root() && cli.command.needs_store() {
        cli.global.rootless = true;
        if let Entered::OneId { note } = user_ns::enter()? {
            out.note(format_args!("warning: files keep no owner but yours: {note}"));
        }
    }
    commands::run(cli, out)
}
