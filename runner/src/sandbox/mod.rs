//! The sandbox: Plan → spawn → Sandbox → wait → Exit.
//!
//! ```text
//! caller (may have threads)                    child (pid 1 inside, one thread, no allocation)
//! limits: cgroups made            cgroup
//! plan → steps                    setup
//! clone3(mounts pids uts ipc net) ──────────▶  walk the steps            init
//! wait for the report pipe                     own session and keyring, umask 0
//!                                              v1 cgroups, then the cgroup namespace over them
//!                                              network: join, or loopback up; hostname
//!                                              mounts private; our root on top of the old one
//!                                              /proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /sys
//!                                              our files, the plan's mounts, the working directory
//!                                              settings, masked and read-only paths, root read-only
//!                                              pivot_root, the old root detached, chdir
//!                                              rlimits, standard descriptors or terminal
//!                                              bounding set, groups, gid, uid
//!                                              umask, signals, die with the parent
//!                                              no_new_privileges, seccomp, capabilities
//!                         ◀── closed by ─────  execve
//!                         ◀── place, errno ──  or what could not be done, and exit
//! Sandbox
//! ```
//!
//! Whatever is resolved inside the root is resolved by `openat2` and mounted on by descriptor, so a root
//! full of symbolic links reaches nothing outside. The child leaves the host's mounts only after
//! everything has been attached, and the filter comes last but for what every profile allows: it can't be
//! loaded without `no_new_privileges` once the capabilities are gone.
//!
//! A process that can't reach `execve` leaves a step's number in the pipe; the caller knows its name.
//!
//! May touch: the kernel. Knows nothing of the store, image JSON, threads.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub mod defaults;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
pub mod capabilities;
pub mod cgroup;
mod init;
pub mod plan;
pub mod probe;
mod rlimits;
mod seccomp;
mod setup;
mod step;
mod sys;
mod sysctl;
mod targets;
pub mod terminal;
pub mod user_ns;

use cgroup::Cgroup;
use init::{Inside, NO_INTERPRETER};
use step::Step;

pub use plan::Plan;
pub use targets::Targets;

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
    child: Child,
    cgroup: Cgroup,
}

/// A process of ours that is not reaped yet; dropping it kills and reaps it.
#[derive(Debug)]
struct Child {
    pid: u32,
    pidfd: OwnedFd,
    reaped: bool,
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
    /// The program is there, and what should run it is not (exit status 127).
    #[error("cannot execute `{program}`: its interpreter {interpreter} is not in the image")]
    NoInterpreter { program: String, interpreter: String },
    /// The plan asks for something that no sandbox can have.
    #[error("cannot use {thing}: {why}")]
    Plan { thing: String, why: &'static str },
    /// A limit was asked for that this host can't keep.
    #[error("cannot keep the limit {limit}: {lacks}")]
    Limit { limit: &'static str, lacks: String },
    #[error(
        "cannot use capability `{name}`: {}",
        nearest.as_ref().map_or("no such capability".to_owned(), |nearest| format!("did you mean {nearest}?"))
    )]
    UnknownCapability { name: String, nearest: Option<String> },
    /// A step of the set-up failed (exit status 125).
    #[error("cannot set up the sandbox: {call}")]
    Setup { call: String, source: std::io::Error },
}

/// Starts `plan` on the detached mount `root`.
///
/// The process dies with the *thread* that calls this, so that no sandbox outlives its owner.
pub fn spawn(plan: &Plan, root: BorrowedFd<'_>, stdio: Stdio) -> Result<Sandbox, SandboxError> {
    let cgroup = Cgroup::create(&plan.id, &plan.limits)?;
    let prepared = setup::prepare(plan, stdio, &cgroup)?;
    let (report, child_report) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed("make a pipe"))?;
    // It may have landed below 3 when the caller's standard descriptors are closed. The first one must be
    // gone before the report is read, or its end never comes.
    let child_report =
        { child_report }.try_clone().map_err(|source| SandboxError::Setup { call: "dup".into(), source })?;

    let (pid, pidfd) = start(plan, root, &cgroup, &prepared.steps, &report, &child_report)?;
    let mut child = Child { pid, pidfd, reaped: false };
    drop(child_report);
    if let Some((place, errno)) = read_report(&report)? {
        child.reap()?;
        return Err(explain(plan, root, &prepared.steps, place, errno));
    }
    Ok(Sandbox { terminal: prepared.terminal, child, cgroup })
}

fn start(
    plan: &Plan,
    root: BorrowedFd<'_>,
    cgroup: &Cgroup,
    steps: &[Step],
    report: &OwnedFd,
    child_report: &OwnedFd,
) -> Result<(u32, OwnedFd), SandboxError> {
    let mut namespaces =
        sys::CLONE_NEW_MOUNTS | sys::CLONE_NEW_PIDS | sys::CLONE_NEW_HOSTNAME | sys::CLONE_NEW_IPC;
    if matches!(plan.network, plan::Network::None) {
        namespaces |= sys::CLONE_NEW_NETWORK;
    }
    let mut child = || -> Infallible {
        sys::close(report.as_fd());
        let mut inside = Inside { root, report: child_report.as_fd(), proc: None, mask: None };
        let (place, errno) = inside.walk(steps);
        let mut message = [0u8; 8];
        message[..4].copy_from_slice(&place.to_ne_bytes());
        message[4..].copy_from_slice(&errno.raw_os_error().to_ne_bytes());
        // With the parent gone there is nobody to tell.
        rustix::io::write(child_report, &message).unwrap_or_default();
        sys::exit_now(125)
    };
    sys::clone_process(namespaces, cgroup.clone_into(), &mut child).map_err(failed("clone3"))
}

/// What the child wrote: nothing when `execve` has closed its end.
fn read_report(report: &OwnedFd) -> Result<Option<(u32, Errno)>, SandboxError> {
    let mut message = [0u8; 8];
    let length = loop {
        match rustix::io::read(report, &mut message) {
            Err(Errno::INTR) => {}
            other => break other.map_err(failed("read the child's report"))?,
        }
    };
    if length != message.len() {
        return Ok(None);
    }
    let (place, errno) = message.split_at(4);
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_ne_bytes).unwrap_or_default();
    Ok(Some((number(place), Errno::from_raw_os_error(number(errno).cast_signed()))))
}

/// The error that a step's place and number mean.
fn explain(plan: &Plan, root: BorrowedFd<'_>, steps: &[Step], place: u32, errno: Errno) -> SandboxError {
    let program = || plan.process.argv.first().cloned().unwrap_or_default();
    let step = usize::try_from(place & !NO_INTERPRETER).ok().and_then(|place| steps.get(place));
    match (step, errno) {
        (Some(Step::Exec { .. }), Errno::NOENT) if place & NO_INTERPRETER != 0 => {
            let interpreter = targets::interpreter(plan, root);
            SandboxError::NoInterpreter { program: program(), interpreter }
        }
        (Some(Step::Exec { .. }), Errno::NOENT) => SandboxError::NotFound(program()),
        (Some(Step::Exec { .. }), _) => {
            SandboxError::NotExecutable { program: program(), source: errno.into() }
        }
        (step, _) => {
            let call = step.map_or_else(|| "an unknown step".into(), Step::describe);
            SandboxError::Setup { call, source: errno.into() }
        }
    }
}

impl Sandbox {
    /// The process's id in the caller's pid namespace.
    pub fn pid(&self) -> u32 {
        self.child.pid
    }

    /// Becomes readable when the process has ended; for `poll`.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Sends `signal` to the process.
    pub fn signal(&self, signal: i32) -> Result<(), SandboxError> {
        match sys::send_signal(self.pidfd(), signal) {
            // It has ended and is not waited for yet.
            Err(Errno::SRCH) => Ok(()),
            other => other.map_err(failed("pidfd_send_signal")),
        }
    }

    /// Waits for the process; every survivor dies with it, and the cgroups go.
    pub fn wait(mut self) -> Result<(Exit, Usage), SandboxError> {
        // The kernel kills the whole pid namespace before it lets us reap its first process.
        let ended = self.child.reap()?;
        let usage = self.cgroup.usage(ended.cpu_microseconds);
        let exit = match u8::try_from(ended.status & 0xff) {
            Ok(code) if ended.exited() => Exit::Code(code),
            _ => Exit::Signal(ended.status),
        };
        Ok((exit, usage))
    }
}

impl Child {
    fn reap(&mut self) -> Result<sys::Ended, SandboxError> {
        loop {
            match sys::wait(self.pidfd.as_fd()) {
                Err(Errno::INTR) => {}
                other => {
                    self.reaped = true;
                    return other.map_err(failed("waitid"));
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            // It may have ended already; then there is only a zombie to reap.
            sys::send_signal(self.pidfd.as_fd(), 9).unwrap_or_default();
            drop(self.reap());
        }
    }
}

fn failed(call: &'static str) -> impl FnOnce(Errno) -> SandboxError {
    move |errno| SandboxError::Setup { call: call.to_owned(), source: errno.into() }
}
