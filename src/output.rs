//! The only file that writes to the terminal. Results go to stdout, everything else to stderr.

mod progress;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::bail;

pub(crate) use progress::{BuildProgress, Style};

/// Where results and messages go.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: std::io::Stdout,
    stderr: std::io::Stderr,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { stdout: std::io::stdout(), stderr: std::io::stderr() }
    }

    /// Prints a line of the result.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> std::io::Result<()> {
        writeln!(self.stdout.lock(), "{text}")
    }

    /// Stdout for bytes that are no text; refused when it is a terminal.
    pub(crate) fn binary(&mut self) -> anyhow::Result<impl Write> {
        if self.stdout.is_terminal() {
            bail!("refusing to write binary data to the terminal: name a file, or redirect stdout");
        }
        Ok(self.stdout.lock())
    }

    /// Shows a build as it goes.
    #[expect(clippy::unused_self, reason = "whoever shows progress holds the output")]
    pub(crate) fn progress(&self, style: Style) -> BuildProgress {
        BuildProgress::new(style)
    }

    /// Prints a message that is no result.
    pub(crate) fn note(&mut self, text: impl std::fmt::Display) {
        // A closed stderr must not end the command.
        drop(writeln!(self.stderr.lock(), "{text}"));
    }

    /// Prints rows under a head, columns aligned.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let head: Vec<String> = head.iter().map(|&text| text.to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(rows) {
            for (cell, width) in row.iter().zip(&widths) {
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 3));
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        self.text(&text)
    }

    /// Prints many lines at once: each line alone is a system call.
    pub(crate) fn text(&mut self, text: &str) -> std::io::Result<()> {
        self.stdout.lock().write_all(text.as_bytes())
    }

    pub(crate) fn error(&mut self, error: &anyhow::Error, hint: Option<String>) {
        self.note(format_args!("error: {error:#}"));
        if let Some(hint) = hint {
            self.note(format_args!("\nhint: {hint}"));
        }
    }

    /// Prints help to stdout (status 0) or a usage error to stderr (status `failed`).
    pub(crate) fn usage(&mut self, error: &clap::Error, failed: u8) -> ExitCode {
        let text = error.render();
        // What can't be printed has no other place to be said.
        drop(if error.use_stderr() { write!(self.stderr, "{text}") } else { write!(self.stdout, "{text}") });
        ExitCode::from(if error.use_stderr() { failed } else { 0 })
    }
}
