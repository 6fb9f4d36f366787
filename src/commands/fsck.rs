//! `rbuild fsck`: say what of the store is damaged, which images that hits, and mend what can be mended.
//!
//! It may run beside other commands. `run` does not read all of an image before it starts one, so it
//! sees no flipped bit: this command does, and so do `save` and every build that packs a layer.

use store::fsck::{Finding, FsckOptions, FsckReport, Severity};

use crate::args::Global;
use crate::commands::open_store;
use crate::human;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the content of files unread: presence, sizes, modes, owners, times and the index only
    #[arg(long)]
    quick: bool,
    /// Make again what can be made again, from what is whole
    #[arg(long)]
    repair: bool,
    /// Print one line a finding (`text`) or one document (`json`)
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

/// The status is 1 when damage was found and is still there.
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let Args { quick, repair, format } = args;
    let store = open_store(global)?;
    let report = store.fsck(FsckOptions { quick, repair })?;
    if format == "json" {
        out.line(serde_json::to_string_pretty(&report)?)?;
    } else {
        for finding in &report.findings {
            out.line(line(finding))?;
        }
        out.line(summary(&report, quick))?;
    }
    Ok(u8::from(report.damage().next().is_some()))
}

/// `damage: layer sha256:…: etc/passwd: it has 3 bytes, not 5 (images: app:latest): made again …`
fn line(finding: &Finding) -> String {
    let word = match (finding.severity, finding.repaired, finding.outcome.is_some()) {
        (Severity::Damage, true, _) => "repaired",
        (Severity::Damage, false, true) => "lost",
        (Severity::Damage, false, false) => "damage",
        (Severity::Note, ..) => "note",
        (Severity::Garbage, ..) => "garbage",
    };
    let mut text = format!("{word}: {}", finding.subject);
    if let Some(path) = &finding.path {
        // A name may hold what a terminal takes for an order.
        text.push_str(&format!(": /{}", path.escape_debug()));
    }
    text.push_str(&format!(": {}", finding.why.escape_debug()));
    if !finding.images.is_empty() {
        text.push_str(&format!(" (images: {})", finding.images.join(", ")));
    }
    if let Some(outcome) = &finding.outcome {
        text.push_str(&format!(": {outcome}"));
    }
    text
}

fn summary(report: &FsckReport, quick: bool) -> String {
    let count = |is_one: fn(&Finding) -> bool| report.findings.iter().filter(|finding| is_one(finding)).count();
    let damage = count(|finding| finding.severity == Severity::Damage && !finding.repaired);
    let repaired = count(|finding| finding.repaired);
    let notes = count(|finding| finding.severity == Severity::Note);
    let garbage = count(|finding| finding.severity == Severity::Garbage);
    let read = if quick {
        "content left unread".to_owned()
    } else {
        format!("{} ({} bytes) read", human::size(report.checked_bytes), report.checked_bytes)
    };
    format!(
        "images: {}, layers: {}, blobs: {}, {read}; damage: {damage}, repaired: {repaired}, notes: {notes}, garbage: {garbage}",
        report.images, report.layers, report.blobs
    )
}
