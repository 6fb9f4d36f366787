//! `rbuild check`: is this a Containerfile? Nothing is built and the store stays closed.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use builder::containerfile::{self, Containerfile, Diagnostic};
use builder::lint::{self, CheckDirective};

use crate::args::Global;
use crate::output::Output;

/// The names that are looked for, in order.
const NAMES: [&str; 3] = ["Containerfile", "Dockerfile", "dockerfile"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Check FILE, or standard input if it is `-` (default: Containerfile, else Dockerfile, in CONTEXT)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Look for the file in this folder
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: PathBuf,
}

pub(crate) fn run(args: Args, _: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let (name, bytes) = read(args)?;
    let text = String::from_utf8_lossy(&bytes);
    let print = |diagnostics: &[Diagnostic], out: &mut Output| {
        for diagnostic in diagnostics {
            out.note(containerfile::render(diagnostic, &name, &text));
            out.note("");
        }
    };
    let file = match containerfile::parse(&bytes) {
        Ok(file) => file,
        Err(errors) => {
            print(&errors, out);
            return Ok(1);
        }
    };
    let warnings = lint::check(&file);
    print(&warnings, out);
    let errors = containerfile::validate(&file);
    print(&errors, out);
    Ok(status(&file, &warnings, &errors))
}

fn status(file: &Containerfile, warnings: &[Diagnostic], errors: &[Diagnostic]) -> u8 {
    let strict = CheckDirective::of(file).error && !warnings.is_empty();
    u8::from(strict || !errors.is_empty())
}

/// Reads the file that is meant, and says what to call it.
fn read(args: Args) -> anyhow::Result<(String, Vec<u8>)> {
    if args.file.as_deref() == Some(Path::new("-")) {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut text).context("cannot read standard input")?;
        return Ok(("<stdin>".to_owned(), text));
    }
    let path = match args.file {
        Some(path) => path,
        None => find(&args.context)?,
    };
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((path.display().to_string(), text))
}

fn find(context: &Path) -> anyhow::Result<PathBuf> {
    match NAMES.iter().map(|name| context.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{} holds no {}", context.display(), NAMES[..2].join(" and no ")),
    }
}
