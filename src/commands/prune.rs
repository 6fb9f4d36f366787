//! `rbuild prune`: remove what nothing needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_: Args, _: &crate::args::Global, _: &mut crate::output::Output) -> anyhow::Result<u8> {
    anyhow::bail!("not yet")
}
