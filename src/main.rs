//! The `rbuild` command: enter the user namespace if not root, parse, dispatch, report.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod hints;
mod human;
mod output;
mod values;

use std::process::ExitCode;

use crate::output::Output;

fn main() -> ExitCode {
    let mut out = Output::new();
    let command = match args::parse(std::env::args_os().collect()) {
        Ok(command) => command,
        Err(usage) => return out.usage(&usage),
    };
    match commands::run(command, &mut out) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            out.error(&error, hints::hint(&error));
            ExitCode::from(commands::failure_code(&error))
        }
    }
}
