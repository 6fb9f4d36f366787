//! Progress goes down as `&dyn Progress` and comes out as [`Event`] values.

use std::time::Duration;

/// Names a step of this build, in the order of the Containerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub usize);

/// What happens in a build.
#[derive(Clone, Debug)]
pub enum Event<'e> {
    /// The plan is made: how many steps will be looked at.
    Planned {
        steps: usize,
    },
    /// A step begins: `[stage 2/5] RUN make`.
    Started {
        step: StepId,
        name: &'e str,
    },
    /// Bytes that the step's process wrote; `stderr` tells from where.
    Output {
        step: StepId,
        stderr: bool,
        bytes: &'e [u8],
    },
    Cached {
        step: StepId,
    },
    Finished {
        step: StepId,
        elapsed: Duration,
    },
    Failed {
        step: StepId,
        elapsed: Duration,
    },
    /// A thing the user should know and that stops nothing.
    Warning {
        text: &'e str,
    },
}

/// Whoever watches a build: a terminal, a log, a test.
pub trait Progress: Sync {
    fn event(&self, event: Event<'_>);
}
