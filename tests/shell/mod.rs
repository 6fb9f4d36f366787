//! The shell of the end-to-end tests: runs the `rbuild` binary on a store of its own.
//!
//! ```text
//! Rbuild::with_busybox()                          a fresh store that holds the image `busybox`
//!     .build("FROM busybox\nCOPY a /a", &[("a", "text")])
//!     .expect_ok()                                an Outcome: status, stdout, stderr
//!     .last_line()                                the image ID
//! ```
//!
//! Everything a test makes lies below one temporary folder that goes when `Rbuild` goes; a mount that is left
//! below it then fails the test.
//!
//! May touch: a temporary folder, the binary under test, cargo's folder for test files. Knows nothing of the
//! libraries behind the binary.
#![allow(
    clippy::allow_attributes,
    dead_code,
    unused_imports,
    reason = "each test file uses another part of it"
)]

pub(crate) mod base;
pub(crate) mod needs;
pub(crate) mod outcome;
pub(crate) mod tree;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

pub(crate) use outcome::Outcome;
pub(crate) use tree::{Saved, Tree};

/// A test that takes longer is stuck; the command is killed and its test fails.
const PATIENCE: Duration = Duration::from_mins(15);

/// The binary under test with a store of its own.
#[derive(Debug)]
pub(crate) struct Rbuild {
    home: tempfile::TempDir,
    contexts: AtomicUsize,
}

impl Rbuild {
    /// An empty store.
    pub(crate) fn new() -> Self {
        let home = tempfile::Builder::new().prefix("rbuild-test-").tempdir().expect("a temporary folder");
        Self { home, contexts: AtomicUsize::new(0) }
    }

    /// A store that holds the image `busybox`.
    pub(crate) fn with_busybox() -> Self {
        let rbuild = Self::new();
        rbuild.import_busybox("busybox");
        rbuild
    }

    /// Imports the busybox base under a name.
    pub(crate) fn import_busybox(&self, name: &str) {
        let tar = base::busybox_base();
        let tar = tar.to_str().expect("a path in UTF-8");
        self.run(&["import", "--change", r#"CMD ["/bin/sh"]"#, tar, name]).expect_ok();
    }

    /// The folder that goes with this value: a place for the test's files.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// A path below [`Self::home`], as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.home().join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    /// The store's folder.
    pub(crate) fn root(&self) -> PathBuf {
        self.home().join("store")
    }

    /// `rbuild --root STORE WORDS…`, ready to be changed and started.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command.arg("--root").arg(self.root()).args(words).current_dir(self.home());
        command.env_remove("RBUILD_ROOT").env_remove("SOURCE_DATE_EPOCH").env("NO_COLOR", "1");
        command
    }

    /// Runs `rbuild WORDS…` to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Outcome {
        run(self.command(words), b"")
    }

    /// Runs `rbuild WORDS…` with `input` on its standard input.
    pub(crate) fn run_with_input(&self, words: &[&str], input: &[u8]) -> Outcome {
        run(self.command(words), input)
    }

    /// Builds a Containerfile in a fresh context that holds `files` (see [`write_files`]).
    pub(crate) fn build(&self, containerfile: &str, files: &[(&str, &str)]) -> Outcome {
        self.build_with(&[], containerfile, files)
    }

    /// As [`Self::build`], with flags.
    pub(crate) fn build_with(&self, flags: &[&str], containerfile: &str, files: &[(&str, &str)]) -> Outcome {
        let context = self.context(containerfile, files);
        let mut words = vec!["build"];
        words.extend(flags);
        words.push(context.to_str().expect("a path in UTF-8"));
        self.run(&words)
    }

    /// Makes a fresh context folder: a Containerfile and files.
    pub(crate) fn context(&self, containerfile: &str, files: &[(&str, &str)]) -> PathBuf {
        let number = self.contexts.fetch_add(1, Ordering::Relaxed);
        let folder = self.home().join(format!("context-{number}"));
        fs::create_dir(&folder).expect("a fresh folder");
        write_files(&folder, &[("Containerfile", containerfile)]);
        write_files(&folder, files);
        folder
    }

    /// Builds and returns what came out: the image's files and config.
    pub(crate) fn built(&self, containerfile: &str, files: &[(&str, &str)]) -> Saved {
        self.built_with(&[], containerfile, files)
    }

    /// As [`Self::built`], with flags.
    pub(crate) fn built_with(&self, flags: &[&str], containerfile: &str, files: &[(&str, &str)]) -> Saved {
        let id = self.build_with(flags, containerfile, files).expect_ok().last_line();
        self.saved(&id)
    }

    /// The files and the config of an image, as `save` writes them.
    pub(crate) fn saved(&self, image: &str) -> Saved {
        let number = self.contexts.fetch_add(1, Ordering::Relaxed);
        let archive = self.path(&format!("saved-{number}.tar"));
        self.run(&["save", "--format", "docker-archive", "-o", &archive, image]).expect_ok();
        Saved::read(Path::new(&archive))
    }

    /// Runs a command in an image: `run --rm --network none IMAGE COMMAND…`.
    pub(crate) fn run_in(&self, image: &str, command: &[&str]) -> Outcome {
        let mut words = vec!["run", "--rm", "--network", "none", image];
        words.extend(command);
        self.run(&words)
    }
}

impl Drop for Rbuild {
    fn drop(&mut self) {
        let left = mounts_below(self.home());
        for mount in left.iter().rev() {
            // Best effort: the folder could not be removed with the mount in place.
            drop(Command::new("umount").args(["-l", mount]).status());
        }
        assert!(left.is_empty() || std::thread::panicking(), "mounts are left behind: {left:?}");
    }
}

/// Runs any command to its end with `input` on its standard input.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Outcome {
    let what = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
    let process = rustix::process::Pid::from_child(&child);
    let process =
        rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).expect("a pidfd");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let (ended, end) = mpsc::channel::<()>();
    let output = std::thread::scope(|scope| {
        // A command that does not read its input closes the pipe; that is its business.
        scope.spawn(move || drop(stdin.write_all(input)));
        scope.spawn(move || {
            if end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let kill = rustix::process::Signal::KILL;
                rustix::process::pidfd_send_signal(&process, kill).expect("the process can be killed");
            }
        });
        let output = child.wait_with_output().expect("the process can be waited for");
        drop(ended);
        output
    });
    Outcome::new(what, &output)
}

/// Runs a program of this machine, for instance `host("podman", &["load", "-i", path])`.
pub(crate) fn host(program: &str, words: &[&str]) -> Outcome {
    let mut command = Command::new(program);
    command.args(words);
    run(command, b"")
}

/// Writes files below a folder.
///
/// A name that ends in `/` is a folder; `link -> target` is a symbolic link; a text that starts with `#!` makes
/// an executable file.
pub(crate) fn write_files(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let (name, target) = name.split_once(" -> ").map_or((*name, None), |(name, to)| (name, Some(to)));
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a name below the folder")).expect("parent folders");
        match target {
            Some(target) => symlink(target, &path).expect("a fresh link"),
            None if name.ends_with('/') => fs::create_dir_all(&path).expect("a folder"),
            None => write_file(&path, text),
        }
    }
}

fn write_file(path: &Path, text: &str) {
    fs::write(path, text).expect("a writable file");
    let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a file of our own");
}

/// The mount points below a folder that this process sees.
pub(crate) fn mounts_below(folder: &Path) -> Vec<String> {
    let folder = format!("{}/", folder.display());
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| point.starts_with(&folder)).map(str::to_owned).collect()
}
