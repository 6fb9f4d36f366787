//! `rbuild doctor`: what this machine can do, and what would mend what it can't.

use runner::sandbox::probe::{self, Finding};

use crate::args::Global;
use crate::commands::store_root;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print as `table` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

/// The status is 1 when nothing can be run here.
pub(crate) fn run(Args { format }: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let mut global = global.clone();
    global.rootless = !rustix::process::geteuid().is_root();
    let path = std::env::var("PATH").unwrap_or_default();
    let findings = probe::machine(&store_root(&global)?, &path);
    if format == "json" {
        out.line(serde_json::to_string_pretty(&findings)?)?;
    } else {
        out.table(&["CHECK", "STATE", "DETAIL"], &findings.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(u8::from(findings.iter().any(|finding| finding.essential && !finding.present)))
}

fn row(finding: &Finding) -> Vec<String> {
    let state = match (finding.present, finding.essential) {
        (true, _) => "ok",
        (false, true) => "missing, needed",
        (false, false) => "missing",
    };
    let detail = finding.mend.as_ref().unwrap_or(&finding.detail);
    vec![finding.name.to_owned(), state.to_owned(), detail.clone()]
}
