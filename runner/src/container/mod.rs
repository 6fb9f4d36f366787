//! Containers: a sandbox with a name and a record.
//!
//! ```text
//!            start                       the process ends              rm
//! (nothing) ───────▶ created ─▶ running ──────────────────▶ exited ────────▶ (nothing)
//!                                  └── with `remove` ─────────────────────▶ (nothing)
//! ```
//!
//! The process that starts a container owns it and waits for it: when it is killed, the kernel
//! ends the container and unmounts its root, and the record's free lock says so. What a failed
//! start has made goes with the values that hold it.
//!
//! May touch: `containers/` and `volumes/`, sandboxes, networks. Knows nothing of how layers and
//! blobs lie on disk, of command lines, of the user's terminal.

mod assemble;
mod command;
mod files;
pub mod name;
mod options;
mod record;
pub mod signal;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use store::{Image, ImagePath, RootDir, Scratch, Store, StoreError};

use crate::network::{Mode, Network, NetworkError};
use crate::process::ProcessError;
use crate::rootfs::{Rootfs, RootfsError};
use crate::sandbox::{self, Exit, Sandbox, SandboxError, Stdio, Usage};
use crate::volumes::{self, VolumeError};

pub use options::{HostAddress, PIDS, RunOptions, SHM_SIZE_BYTES, Tmpfs};
pub use record::{Record, Started, State, clear_dead, disk_size, find, hold, list, upper_of};

use assemble::Start;
use record::Folder;

/// Why a container could not be started, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("cannot run the image: it has no command, and none was given")]
    NoCommand,
    #[error("cannot run an empty program name")]
    EmptyProgram,
    #[error("cannot use {0}: it holds a NUL byte")]
    Nul(&'static str),
    #[error("`{0}` is not a variable of the form NAME=VALUE")]
    BadVariable(String),
    #[error("working directory `{0}` is not absolute")]
    RelativeWorkingDir(String),
    #[error("`{0}` is not a host name")]
    BadHostName(String),
    #[error(
        "`{0}` is not a container name: it starts with a letter or digit, then come letters, digits, `_`, `.` and `-`"
    )]
    BadName(String),
    #[error("`{0}` is not a signal")]
    BadSignal(String),
    #[error("cannot tell the host's address inside the container: it has no network that leads there")]
    NoGateway,
    #[error("the name `{name}` is taken by container {holder}")]
    NameTaken { name: String, holder: String },
    #[error("no container `{0}`")]
    Unknown(String),
    #[error("more than one container has an id that begins with `{0}`")]
    Ambiguous(String),
    #[error("container {0} is running")]
    Running(String),
    #[error("cannot read {path} of the image: it is not a plain file")]
    NotAFile { path: ImagePath },
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

impl ContainerError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// A running container of this process; dropping it kills it.
#[derive(Debug)]
pub struct Container<'s> {
    // Dropped in this order: the process, its root, what it wrote, its network, its record.
    sandbox: Sandbox,
    rootfs: Rootfs,
    scratch: Scratch,
    network: Network,
    belongings: Belongings<'s>,
    /// The signal whose default action, to end the process, we carried out ourselves.
    ended_by: Option<i32>,
}

/// Record, row and volumes of a container: gone when dropped, unless kept.
#[derive(Debug)]
struct Belongings<'s> {
    store: &'s Store,
    folder: Folder,
    record: Record,
    has_row: bool,
    keep: bool,
    /// As long as they are held, nobody takes the volumes for unused.
    volume_locks: Vec<OwnedFd>,
}

/// How a container ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub exit: Exit,
    pub usage: Usage,
}

/// Starts a container of `image` (called `image_name` by the user). Dies with the calling thread.
pub fn start<'s>(
    store: &'s Store,
    image: &Image,
    image_name: &str,
    options: &RunOptions,
    stdio: Stdio,
) -> Result<Container<'s>, ContainerError> {
    if !store.dead_leases().is_empty() {
        clear_dead(store)?;
    }
    let config = &image.config.config;
    let argv = command::argv(config, options)?;
    let cwd = command::working_dir(config, options)?;
    let mut belongings = Belongings::take(store, image, image_name, options, &argv)?;
    let id = belongings.record.id.clone();
    let hostname = assemble::hostname(options, &id)?;
    let env = command::env(config, options, &hostname)?;

    // A private network takes longest and needs nothing of the others.
    let (network, mounted) = std::thread::scope(|scope| {
        let open = || Network::open(options.network, &id);
        let ahead = (options.network == Mode::Private).then(|| scope.spawn(open));
        let mounted = assemble::mount(store, image);
        let network = ahead.map_or_else(open, |thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        (network, mounted)
    });
    let (network, (rootfs, scratch)) = (network?, mounted?);

    let root = RootDir::new(rootfs.mount.try_clone().map_err(ContainerError::io("open", Path::new("/")))?);
    let user = assemble::user(&root, options.user.as_deref().unwrap_or(&config.user))?;
    let mounts = assemble::mounts(&mut belongings, &root, image, options)?;
    let process = assemble::process(options, Start { argv, cwd, env, user })?;
    // Named after the lease, so that what a killed process leaves of it is found.
    let sandbox_id = format!("{}-{}", store.lease_name()?, name::short(&id));
    let plan = assemble::plan(options, &network, process, mounts, (&sandbox_id, &hostname))?;
    // Who sees what the process does shall find it running.
    let since = now_seconds();
    belongings.set_state(State::Running { process: None, since })?;
    let sandbox = sandbox::spawn(&plan, rootfs.mount.as_fd(), stdio)?;
    let mut container = Container { sandbox, rootfs, scratch, network, belongings, ended_by: None };
    container.note_process(since)?;
    Ok(container)
}

impl Container<'_> {
    pub fn record(&self) -> &Record {
        &self.belongings.record
    }

    /// What does not work and why, for the user to read.
    pub fn notes(&self) -> &[String] {
        &self.network.notes
    }

    /// The master of its terminal, when it has one.
    pub fn terminal(&self) -> Option<&OwnedFd> {
        self.sandbox.terminal.as_ref()
    }

    /// Becomes readable when the process has ended; for `poll`.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.sandbox.pidfd()
    }

    /// Sends `signal` to the process.
    ///
    /// The kernel spares the first process of a pid namespace the default action of a signal. A
    /// user who presses Ctrl-C expects it; so where the process neither handles nor ignores a
    /// signal that ends processes, it is ended, and the exit is by that signal.
    pub fn signal(&mut self, signal: i32) -> Result<(), ContainerError> {
        if signal::ends(signal) && signal::is_default(self.sandbox.pid(), signal) {
            self.ended_by.get_or_insert(signal);
            return Ok(self.sandbox.signal(signal::KILL)?);
        }
        Ok(self.sandbox.signal(signal)?)
    }

    /// Waits for the process. What it wrote is kept or removed, as the options said.
    pub fn wait(self) -> Result<Ended, ContainerError> {
        let Self { sandbox, rootfs, scratch, network, mut belongings, ended_by } = self;
        let (mut exit, usage) = sandbox.wait()?;
        if let (Exit::Signal(signal::KILL), Some(signal)) = (exit, ended_by) {
            exit = Exit::Signal(signal);
        }
        drop(network);
        drop(rootfs);
        let out_of_memory = usage.out_of_memory;
        let code = Some(exit_status(exit));
        belongings.record.state = State::Exited { code, out_of_memory, at: Some(now_seconds()) };
        belongings.end(scratch)?;
        Ok(Ended { exit, usage })
    }

    fn note_process(&mut self, since: u64) -> Result<(), ContainerError> {
        let pid = self.sandbox.pid();
        // A process that has ended already has no start time: nobody will look for it.
        let ticks = signal::start_ticks(pid).unwrap_or(0);
        self.belongings.set_state(State::Running { process: Some(Started { pid, ticks }), since })
    }
}

impl<'s> Belongings<'s> {
    fn take(
        store: &'s Store,
        image: &Image,
        image_name: &str,
        options: &RunOptions,
        argv: &[String],
    ) -> Result<Self, ContainerError> {
        let id = name::new_id().map_err(ContainerError::io("draw", Path::new("random numbers")))?;
        if let Some(bad) = options.name.as_ref().filter(|text| !name::is_name(text)) {
            return Err(ContainerError::BadName(bad.escape_debug().to_string()));
        }
        let config = &image.config.config;
        let stop_signal = options.stop_signal.clone().unwrap_or_else(|| config.stop_signal.clone());
        if !stop_signal.is_empty() && options.stop_signal.is_some() {
            signal::number(&stop_signal).ok_or_else(|| ContainerError::BadSignal(stop_signal.clone()))?;
        }
        let mut labels = config.labels.clone();
        labels.extend(options.labels.clone());
        let record = Record {
            name: options.name.clone().unwrap_or_else(|| name::made_up(&id)),
            image: image.id,
            image_name: image_name.to_owned(),
            command: argv.to_vec(),
            created: now_seconds(),
            state: State::Created,
            remove: options.remove,
            labels,
            anonymous_volumes: Vec::new(),
            named_volumes: Some(Vec::new()),
            stop_signal,
            id,
        };
        let folder = Folder::make(store, &record.id)?;
        let mut belongings =
            Self { store, folder, record, has_row: false, keep: false, volume_locks: Vec::new() };
        // A container that is gone in a moment and has no name of its own needs no row.
        if !options.remove || options.name.is_some() {
            belongings.add_row()?;
            belongings.folder.write(&belongings.record)?;
        }
        Ok(belongings)
    }

    fn add_row(&mut self) -> Result<(), ContainerError> {
        let Record { id, name, image, .. } = &self.record;
        if let Some(holder) = self.store.containers().add(id, name, *image)? {
            let name = name.clone();
            return Err(ContainerError::NameTaken { name, holder: name::short(&holder).to_owned() });
        }
        self.has_row = true;
        Ok(())
    }

    fn set_state(&mut self, state: State) -> Result<(), ContainerError> {
        self.record.state = state;
        self.folder.write(&self.record)
    }

    /// The end of a container that ran.
    fn end(mut self, scratch: Scratch) -> Result<(), ContainerError> {
        if self.record.remove {
            drop(scratch);
            self.keep = true;
            return self.take_away();
        }
        let place = self.folder.path.join(record::SCRATCH);
        std::fs::rename(&scratch.path, &place).map_err(ContainerError::io("keep", &place))?;
        self.keep = true;
        self.folder.write(&self.record)
    }

    fn take_away(&self) -> Result<(), ContainerError> {
        if self.has_row {
            self.store.containers().remove(&self.record.id)?;
        }
        for volume in &self.record.anonymous_volumes {
            volumes::remove(self.store, volume)?;
        }
        self.folder.remove()
    }
}

impl Drop for Belongings<'_> {
    fn drop(&mut self) {
        if !self.keep {
            // What can't be removed now is cleared by the next process that finds the lock free.
            drop(self.take_away());
        }
    }
}

/// Removes a container; one that runs only with `force`, which kills it.
pub fn remove(store: &Store, record: &Record, force: bool) -> Result<(), ContainerError> {
    let Some(now) = record::settled(store, &record.id)? else { return Ok(()) };
    if let State::Running { process: Some(process), .. } = now.state {
        if !force {
            return Err(ContainerError::Running(name::short(&record.id).to_owned()));
        }
        let killed = signal::kill(process.pid, process.ticks);
        killed.map_err(ContainerError::io("kill the process of", Path::new(&record.name)))?;
    }
    // Its own process writes the record once more, or removes all itself.
    record::wait_until_free(store, &record.id)?;
    record::take_away(store, &now)
}

/// The exit status that a shell would tell.
pub fn exit_status(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128_u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
