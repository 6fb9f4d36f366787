//! The sandbox: Plan → spawn → Sandbox → wait → Exit.

use std::os::fd::{BorrowedFd, OwnedFd};

pub mod defaults;
pub mod plan;

pub use plan::Plan;

/// The three descriptors that the process gets; `None` is `/dev/null`.
#[derive(Debug, Default)]
pub struct Stdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// A terminal is wanted: the sandbox makes a pty, gives its slave to the process as its
    /// controlling terminal and `/dev/console`, and `Sandbox::terminal` is the master.
    pub terminal: bool,
}

/// A running process shut in; dropping it kills all that is left in it and removes its cgroups.
#[derive(Debug)]
pub struct Sandbox {
    pub terminal: Option<OwnedFd>,
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    Signal(i32),
}

impl Exit {
    /// The exit status that a shell would show: 128 + n for a signal.
    pub fn status(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// What the process used, read before its cgroups went (`None` where the host does not tell).
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub memory_peak_bytes: Option<u64>,
    pub cpu_microseconds: Option<u64>,
    /// The kernel killed a process for want of memory.
    pub out_of_memory: bool,
    /// A fork was refused by the pids limit.
    pub pids_limit_hit: bool,
}

/// Why a sandbox could not be set up or its process not started.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The program is not in the image (exit status 127).
    #[error("cannot find `{0}` in the image")]
    NotFound(String),
    /// The program is there and can't be executed (exit status 126).
    #[error("cannot execute `{program}`")]
    NotExecutable { program: String, source: std::io::Error },
    /// A step of the set-up failed (exit status 125).
    #[error("cannot set up the sandbox: {call}")]
    Setup { call: String, source: std::io::Error },
}

/// Starts `plan` on the detached mount `root`.
pub fn spawn(plan: &Plan, root: BorrowedFd<'_>, stdio: Stdio) -> Result<Sandbox, SandboxError> {
    let _ = (plan, root, stdio);
    todo!()
}

impl Sandbox {
    /// The process's id in the caller's pid namespace.
    pub fn pid(&self) -> u32 {
        todo!()
    }

    /// Becomes readable when the process has ended; for `poll`.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        todo!()
    }

    /// Sends `signal` to the process.
    pub fn signal(&self, signal: i32) -> Result<(), SandboxError> {
        todo!("{signal}")
    }

    /// Waits for the process; every survivor dies with it, and the cgroups go.
    pub fn wait(self) -> Result<(Exit, Usage), SandboxError> {
        todo!()
    }
}
