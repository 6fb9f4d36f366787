//! Steps: instructions made concrete. resolve → key → apply.
//!
//! A step is *configure* (changes the draft's config, no layer, free) or *layer* (RUN, COPY, ADD, a
//! WORKDIR that creates). A layer step first says what it depends on (its cache key); only when
//! nothing was sealed under that key before does it get a scratch and do its work.
//!
//! May touch: scratch, RootDir, Plan. Knows nothing of host paths outside the context, printing.

pub mod add;
pub mod cache_mount;
pub mod chmod;
pub mod configure;
pub mod copy;
pub mod mounts;
pub mod owner;
pub mod place;
pub mod run;
pub mod workdir;

use runner::rootfs::RootfsError;
use runner::sandbox::{Exit, SandboxError, Usage};
use store::StoreError;

use crate::containerfile::expand::ExpandError;
use crate::context::select::SelectError;
use place::PlaceError;

/// Why a step can't be done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("{0}")]
    Invalid(String),
    #[error("cannot expand `{word}`")]
    Expand { word: String, source: ExpandError },
    #[error("cannot find image `{0}` in the store")]
    UnknownImage(String),
    #[error(transparent)]
    Select(#[from] SelectError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Network(#[from] runner::network::NetworkError),
    #[error(transparent)]
    Process(#[from] runner::process::ProcessError),
    #[error("cannot {doing}")]
    Io { doing: String, source: std::io::Error },
    #[error("the command {}", describe(*exit, usage))]
    Failed { exit: Exit, usage: Usage },
    #[error("interrupted")]
    Cancelled,
}

fn describe(exit: Exit, usage: &Usage) -> String {
    let end = match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        Exit::Signal(signal) => format!("was killed by signal {signal}"),
    };
    if usage.out_of_memory {
        format!("{end}: it ran out of memory")
    } else if usage.pids_limit_hit {
        format!("{end}: it hit the limit of processes")
    } else {
        end
    }
}
