//! `rbuild rm`: take containers away, with what they wrote.

use runner::container;

use crate::args::Global;
use crate::commands::open_store;
use crate::hints;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kill containers that run, and pass over those that are not there
    #[arg(short, long)]
    force: bool,
    /// Remove volumes without a name too (that always happens)
    #[arg(short, long, hide = true)]
    volumes: bool,
    /// Remove these containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "the form of all commands")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    container::clear_dead(&store)?;
    let mut status = 0;
    for name in &args.containers {
        let removed = container::find(&store, name)
            .and_then(|record| container::remove(&store, &record, args.force));
        match removed {
            Ok(()) => out.line(name)?,
            Err(container::ContainerError::Unknown(_)) if args.force => {}
            Err(error) => {
                let error = error.into();
                out.error(&error, hints::hint(&error));
                status = 1;
            }
        }
    }
    Ok(status)
}
