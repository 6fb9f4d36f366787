//! RUN: a command in a sandbox on a scratch over the stack so far; what it wrote becomes a layer.
//!
//! ```text
//! argv  shell form: SHELL + text · exec form: as it stands
//!       one heredoc: `#!` → the file /dev/pipes/NAME, run by SHELL · else its text is the command
//!       heredocs beside other words: the text with the bodies put back, for the shell to read
//! env   image's + ARG's + proxies (+ secrets, + HOME)        cwd WORKDIR        stdin /dev/null
//! ```
//!
//! The key holds all of it but proxies, secrets and what a cache mount holds. The network is the
//! build's one; `/etc/{hosts,hostname,resolv.conf}` are ours and never reach the layer.
//!
//! May touch: scratch, stack, sandbox. Knows nothing of other instructions, printing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use runner::network::Mode;
use runner::rootfs::{self, MountOptions, Rootfs};
use runner::sandbox::plan::{GeneratedFile, Mount, MountSource, Process};
use runner::sandbox::{self, Exit, Plan, Sandbox, Stdio, Targets};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::PipeFlags;
use store::{ImagePath, RootDir, Scratch, Stack};

use super::StepError;
use super::configure::{shell, value};
use super::mounts::{MountKind, RunMount};
use super::{cache_mount, owner};
use crate::build::Build;
use crate::cache_key::CacheKey;
use crate::containerfile::{Command, Heredoc, Run};
use crate::draft::Draft;
use crate::progress::{Event, StepId};
use crate::stage::{Stages, Tree};

/// A RUN made concrete.
#[derive(Debug)]
pub struct RunStep {
    argv: Vec<String>,
    env: Vec<String>,
    mounts: Vec<(RunMount, Option<Tree>)>,
    files: Vec<GeneratedFile>,
    network: Mode,
    insecure: bool,
    /// The command as history shows it.
    pub shown: String,
}

impl RunStep {
    /// Gives every word its value and finds what the mounts show.
    pub fn resolve(
        build: &Build<'_>,
        stages: &Stages<'_>,
        draft: &Draft,
        run: &Run,
    ) -> Result<Self, StepError> {
        let (argv, files) = command(draft, run)?;
        let mut mounts = Vec::new();
        for word in &run.mounts {
            let text = value(draft, word, build.escape)?;
            let mount = RunMount::parse(&text, &draft.working_dir())?;
            let tree = match &mount.kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from: from @ Some(_), .. } => {
                    Some(stages.tree(from.as_deref())?)
                }
                _ => None,
            };
            mounts.push((mount, tree));
        }
        Ok(Self {
            shown: format!("RUN {}{} # buildkit", draft.scope.history_prefix(), argv.join(" ")),
            argv,
            env: environment(build, draft),
            mounts,
            files,
            network: network(build, draft, run)?,
            insecure: is_insecure(build, draft, run)?,
        })
    }

    /// What the step depends on.
    pub fn key(&self, build: &Build<'_>, draft: &Draft) -> Result<CacheKey, StepError> {
        let mut key = CacheKey::new("run", draft.chain());
        key.add_list("argv", &self.argv);
        key.add_list("env", &draft.scope.env());
        key.add("working directory", draft.working_dir().to_string());
        key.add("user", &draft.config.config.user);
        key.add("platform", build.options.platform.to_string());
        key.add("network", format!("{:?}", self.network));
        if self.insecure {
            key.add("security", "insecure");
        }
        let hosts: Vec<String> = build.options.add_hosts.iter().map(|(name, _)| name.clone()).collect();
        key.add_list("hosts", &hosts);
        for file in &self.files {
            key.add("heredoc", String::from_utf8_lossy(&file.content));
        }
        for (mount, tree) in &self.mounts {
            key.add("mount", describe(mount));
            if let (MountKind::Bind { source, .. }, Some(tree)) = (&mount.kind, tree) {
                key.add("mount content", tree.content(build, std::slice::from_ref(source))?.to_string());
            }
        }
        Ok(key)
    }

    /// Runs the command on `scratch`.
    pub fn apply(
        &self,
        build: &Build<'_>,
        draft: &Draft,
        scratch: &Scratch,
        id: StepId,
    ) -> Result<(), StepError> {
        let stack = build.store.layers().open_stack(&draft.layers)?;
        scratch.take_root_of(&stack)?;
        let root = rootfs::mount(build.store, &stack, Some(scratch), MountOptions { mount_points: true })?;
        let view = RootDir::new(root.mount.try_clone().map_err(unshared)?);
        let network = build.networks.get(self.network)?;
        let Opened { mounts, files, env: secrets, held } = self.open_mounts(build)?;
        let user = owner::user(&view, &draft.config.config.user)?;
        let mut env = self.env.clone();
        env.extend(secrets);
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={}", user.home));
        }
        let process = Process {
            argv: self.argv.clone(),
            env,
            cwd: draft.working_dir(),
            user,
            umask: 0o022,
            capabilities: self.capabilities(build)?,
            ambient: Vec::new(),
            no_new_privileges: false,
            rlimits: build.options.rlimits.clone(),
        };
        let mut plan = self.plan(build, process, &network);
        plan.mounts = mounts;
        plan.files.extend(files);
        let targets = Targets::make(&plan, &view)?;
        let result = execute(build, &plan, &root, id);
        drop(held);
        targets.remove()?;
        result
    }

    fn plan(&self, build: &Build<'_>, process: Process, network: &runner::network::Network) -> Plan {
        let mut files = network_files(build, network);
        files.extend(self.files.iter().cloned());
        let insecure = self.insecure;
        Plan {
            id: build.networks.sandbox_id(),
            process,
            hostname: HOSTNAME.to_owned(),
            network: network.plan(),
            root_read_only: false,
            mounts: Vec::new(),
            files,
            limits: build.options.limits.clone(),
            seccomp: if insecure {
                sandbox::plan::Seccomp::Unconfined
            } else {
                build.options.seccomp.clone()
            },
            shm_size_bytes: build.options.shm_size_bytes,
            masked_paths: if insecure { Vec::new() } else { sandbox::defaults::masked_paths() },
            read_only_paths: if insecure { Vec::new() } else { sandbox::defaults::read_only_paths() },
            sysctls: Vec::new(),
        }
    }

    fn capabilities(&self, build: &Build<'_>) -> Result<Vec<String>, StepError> {
        if self.insecure {
            return Ok(sandbox::capabilities::choose(&["ALL".to_owned()], &[])?);
        }
        Ok(build.options.capabilities.clone())
    }

    /// The mounts, the secrets for the environment, and what must stay open while the command runs.
    fn open_mounts(&self, build: &Build<'_>) -> Result<Opened, StepError> {
        let mut opened = Opened::default();
        for (mount, tree) in &self.mounts {
            let source = match &mount.kind {
                MountKind::Bind { source, .. } => {
                    let tree = tree.as_ref().expect("resolve opens the tree of every bind");
                    let (folder, held) = tree.open_for_mount(build, source, !mount.read_only)?;
                    opened.held.extend(held);
                    MountSource::Bind(Arc::new(folder))
                }
                MountKind::Cache { id, sharing, mode, uid, gid, source, .. } => {
                    let seed = tree.as_ref().map(|tree| (tree, source.as_str()));
                    let (folder, lock) = cache_mount::open(build, id, *sharing, (*mode, *uid, *gid), seed)?;
                    opened.held.push(Held::Lock { _folder: lock });
                    MountSource::Bind(Arc::new(folder))
                }
                MountKind::Tmpfs { size_bytes, mode } => {
                    MountSource::Tmpfs { size_bytes: *size_bytes, mode: *mode }
                }
                MountKind::Secret { .. } => {
                    opened.add_secret(build, mount)?;
                    continue;
                }
            };
            let target = mount.target.clone().expect("every mount but a secret has a target");
            let read_only = mount.read_only;
            opened.mounts.push(Mount {
                target,
                source,
                read_only,
                no_exec: false,
                no_suid: false,
                no_dev: false,
            });
        }
        Ok(opened)
    }
}

/// What the mounts of a step come to.
#[derive(Debug, Default)]
struct Opened {
    mounts: Vec<Mount>,
    /// Secrets as files.
    files: Vec<GeneratedFile>,
    /// Secrets as variables.
    env: Vec<String>,
    /// Must stay open while the command runs.
    held: Vec<Held>,
}

impl Opened {
    fn add_secret(&mut self, build: &Build<'_>, mount: &RunMount) -> Result<(), StepError> {
        let MountKind::Secret { id, env, required, mode, uid, gid } = &mount.kind else { return Ok(()) };
        let Some(secret) = build.options.secrets.get(id) else {
            if *required {
                let text = format!("secret `{id}` is required and was not given (--secret id={id},src=FILE)");
                return Err(StepError::Invalid(text));
            }
            return Ok(());
        };
        if let Some(name) = env {
            self.env.push(format!("{name}={}", String::from_utf8_lossy(secret)));
        }
        if env.is_none() || mount.target.is_some() {
            let target = mount.target.clone().unwrap_or_else(|| ImagePath::new(format!("/run/secrets/{id}")));
            self.files.push(GeneratedFile {
                target,
                content: secret.clone(),
                mode: *mode,
                uid: *uid,
                gid: *gid,
            });
        }
        Ok(())
    }
}

/// What must stay as it is while the command runs.
#[derive(Debug)]
pub enum Held {
    Lock { _folder: OwnedFd },
    Scratch { _root: Rootfs, _scratch: Scratch, _stack: Stack },
}

const HOSTNAME: &str = "rbuild";

fn unshared(source: io::Error) -> StepError {
    StepError::Io { doing: "share a descriptor".to_owned(), source }
}

/// Two mounts with the same text are the same; a cache mount's content and name are in no key.
fn describe(mount: &RunMount) -> String {
    let target = mount.target.as_ref().map(ToString::to_string).unwrap_or_default();
    match &mount.kind {
        MountKind::Bind { source, .. } => format!("bind {source} {target} {}", mount.read_only),
        MountKind::Cache { .. } => format!("cache {target}"),
        MountKind::Tmpfs { .. } => format!("tmpfs {target}"),
        MountKind::Secret { id, env, .. } => format!("secret {id} {target} {env:?}"),
    }
}

/// The command line, and the files that heredocs become.
fn command(draft: &Draft, run: &Run) -> Result<(Vec<String>, Vec<GeneratedFile>), StepError> {
    let text = match &run.command {
        Command::Exec(argv) if argv.is_empty() => {
            return Err(StepError::Invalid("RUN needs a command".to_owned()));
        }
        Command::Exec(argv) => return Ok((argv.clone(), Vec::new())),
        Command::Shell(text) => text,
    };
    let mut argv = shell(draft);
    let [only] = &run.heredocs[..] else {
        argv.push(with_bodies(text, &run.heredocs));
        return Ok((argv, Vec::new()));
    };
    if !is_whole_command(text, only) {
        argv.push(with_bodies(text, &run.heredocs));
    } else if only.content.starts_with("#!") {
        let target = ImagePath::new(format!("/dev/pipes/{}", only.name));
        argv.push(target.to_string());
        let content = only.content.clone().into_bytes();
        return Ok((argv, vec![GeneratedFile { target, content, mode: 0o755, uid: 0, gid: 0 }]));
    } else {
        argv.push(only.content.clone());
    }
    Ok((argv, Vec::new()))
}

/// Whether the command is nothing but `<<NAME`.
fn is_whole_command(text: &str, heredoc: &Heredoc) -> bool {
    let word = text.trim();
    let word = word.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let Some(name) = word.strip_prefix("<<") else { return false };
    let name = name.strip_prefix('-').unwrap_or(name);
    let name: String = name.chars().filter(|letter| !"'\"\\".contains(*letter)).collect();
    name == heredoc.name
}

/// The text with its heredocs' bodies below it, as a shell reads them.
fn with_bodies(text: &str, heredocs: &[Heredoc]) -> String {
    let mut out = text.to_owned();
    for heredoc in heredocs {
        out.push('\n');
        out.push_str(&heredoc.content);
        out.push_str(&heredoc.name);
    }
    if !heredocs.is_empty() {
        out.push('\n');
    }
    out
}

fn environment(build: &Build<'_>, draft: &Draft) -> Vec<String> {
    let mut env = draft.scope.env();
    for (name, value) in build.globals.proxies() {
        if draft.scope.value(name).is_none() {
            env.push(format!("{name}={value}"));
        }
    }
    env
}

fn network(build: &Build<'_>, draft: &Draft, run: &Run) -> Result<Mode, StepError> {
    let Some(word) = &run.network else { return Ok(build.options.network) };
    match value(draft, word, build.escape)?.as_str() {
        "default" => Ok(build.options.network),
        "none" => Ok(Mode::None),
        "host" => Ok(Mode::Host),
        other => {
            Err(StepError::Invalid(format!("unknown network `{other}`: expected default, none or host")))
        }
    }
}

fn is_insecure(build: &Build<'_>, draft: &Draft, run: &Run) -> Result<bool, StepError> {
    let Some(word) = &run.security else { return Ok(false) };
    match value(draft, word, build.escape)?.as_str() {
        "sandbox" => Ok(false),
        "insecure" if build.options.allow_insecure => Ok(true),
        "insecure" => Err(StepError::Invalid(
            "`--security=insecure` is not allowed: build with --allow security.insecure".to_owned(),
        )),
        other => Err(StepError::Invalid(format!("unknown security `{other}`: expected sandbox or insecure"))),
    }
}

fn network_files(build: &Build<'_>, network: &runner::network::Network) -> Vec<GeneratedFile> {
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in &build.options.add_hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    if let Some(address) = network.address {
        hosts.push_str(&format!("{address}\t{HOSTNAME}\n"));
    }
    let file = |path: &str, content: Vec<u8>| GeneratedFile {
        target: ImagePath::new(path),
        content,
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    vec![
        file("/etc/hosts", hosts.into_bytes()),
        file("/etc/hostname", format!("{HOSTNAME}\n").into_bytes()),
        file("/etc/resolv.conf", network.resolv_conf.clone()),
    ]
}

/// Starts the sandbox, passes its output on and waits for its end.
fn execute(build: &Build<'_>, plan: &Plan, root: &Rootfs, id: StepId) -> Result<(), StepError> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| unshared(error.into()));
    let (out, stdout) = pipe()?;
    let (err, stderr) = pipe()?;
    let stdio = Stdio { stdin: None, stdout: Some(stdout), stderr: Some(stderr), terminal: false };
    let sandbox = sandbox::spawn(plan, root.mount.as_fd(), stdio)?;
    pass_output(build, &sandbox, [out, err], id)?;
    let (exit, usage) = sandbox.wait()?;
    match exit {
        Exit::Code(0) => Ok(()),
        exit => Err(StepError::Failed { exit, usage }),
    }
}

/// Reads both pipes to their ends. Dropping the sandbox on the way out kills what runs in it.
fn pass_output(
    build: &Build<'_>,
    sandbox: &Sandbox,
    pipes: [OwnedFd; 2],
    id: StepId,
) -> Result<(), StepError> {
    let mut pipes = pipes.map(Some);
    let mut buffer = vec![0; 64 * 1024];
    while pipes.iter().any(Option::is_some) {
        let mut waiting = vec![PollFd::new(build.cancel, PollFlags::IN)];
        waiting.extend(pipes.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut waiting, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(|error| StepError::Io {
                doing: "wait for the command".to_owned(),
                source: error.into(),
            })?,
        };
        let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(waiting);
        if ready[0] {
            sandbox.signal(9)?;
            return Err(StepError::Cancelled);
        }
        let mut ready = ready[1..].iter();
        for (number, pipe) in pipes.iter_mut().enumerate() {
            let Some(open) = pipe else { continue };
            if !ready.next().copied().unwrap_or(false) {
                continue;
            }
            match rustix::io::read(open.as_fd(), &mut buffer) {
                Ok(0) => *pipe = None,
                Ok(count) => build.progress.event(Event::Output {
                    step: id,
                    stderr: number == 1,
                    bytes: &buffer[..count],
                }),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(error) => {
                    return Err(StepError::Io {
                        doing: "read the command's output".to_owned(),
                        source: error.into(),
                    });
                }
            }
        }
    }
    Ok(())
}
