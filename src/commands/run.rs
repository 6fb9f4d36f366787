//! `rbuild run`: a command in a new container, in the foreground.
//!
//! The exit status is the process's own; 125 says that rbuild failed, 126 that the program can't be
//! executed, 127 that it is not there, 128 + n that signal n ended it.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::{Context, bail};
use runner::container::{self, HostAddress, RunOptions, Tmpfs};
use runner::network::{Mode, Network};
use runner::sandbox::plan::Limits;
use runner::sandbox::{Exit, SandboxError};
use runner::volumes;
use store::ImagePath;

use crate::args::Global;
use crate::commands::{images, open_store};
use crate::output::Output;
use crate::terminal::Streams;
use crate::values::{self, NetworkArg};
use crate::hints;

/// The exit status of our own failures.
pub(crate) const FAILED: u8 = 125;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags")]
#[command(override_usage = "rbuild run [OPTIONS] IMAGE [COMMAND]...")]
pub(crate) struct Args {
    /// Remove the container, and its volumes without a name, when it ends
    #[arg(long)]
    rm: bool,
    /// Pass stdin on
    #[arg(short, long)]
    interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    tty: bool,
    #[arg(short, long, hide = true)]
    detach: bool,
    /// Call the container NAME
    #[arg(long)]
    name: Option<String>,
    /// Note a label on the container
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    security: SecurityArgs,
    /// Run this image, with this command instead of its own
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE COMMAND")]
    words: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Process")]
struct ProcessArgs {
    /// Set a variable; KEY alone takes the value from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Set the variables that FILE names, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Start in DIR
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Execute PROGRAM (or a JSON array of words) instead of the image's entrypoint and command
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Send SIGNAL to stop the container
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Files")]
struct FileArgs {
    /// Mount a path of the host, or a volume by name, at TARGET
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:ro]")]
    volume: Vec<String>,
    /// Mount a file system in memory at TARGET
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Let nothing be written but to volumes and memory
    #[arg(long)]
    read_only: bool,
    /// Give /dev/shm this size
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Network")]
struct NetworkArgs {
    /// Choose the network (default: private as root, else the host's)
    #[arg(long, value_name = "MODE", value_enum)]
    network: Option<NetworkArg>,
    /// Call the machine NAME inside
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Add a line to /etc/hosts; `host-gateway` is this host's address
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Ask this server for names
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<std::net::IpAddr>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Limit the memory
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Limit memory and swap together; -1 is unlimited
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Take memory back above this when the host runs short
    #[arg(long, value_name = "SIZE")]
    memory_reservation: Option<String>,
    /// Limit the processors, as 1.5
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpus: Option<f64>,
    /// Weigh the processor time against others (1024 is usual)
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// Run on these processors only, as 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Limit the number of processes; -1 is unlimited
    #[arg(long, value_name = "NUMBER", default_value_t = 2048, allow_hyphen_values = true)]
    pids_limit: i64,
    /// Set a limit of the process
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Security")]
struct SecurityArgs {
    /// Add a capability
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Take a capability away
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// `no-new-privileges`, `seccomp=unconfined`
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
}

/// Says by itself what went wrong: every failure of `run` has a status of its own.
#[expect(clippy::unnecessary_wraps, reason = "the form of all commands")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    match start(args, global, out) {
        Ok(status) => Ok(status),
        Err(error) => {
            out.error(&error, hints::hint(&error));
            Ok(failure_status(&error))
        }
    }
}

fn start(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    if args.detach {
        bail!("`--detach` is not there yet: `run` stays in the foreground");
    }
    if args.tty && args.interactive && !io::stdin().is_terminal() {
        bail!("stdin is not a terminal, and `-t` with `-i` needs one: leave `-t` away");
    }
    let (terminal, interactive) = (args.tty, args.interactive);
    let (name, command) = args.words.split_first().context("no image was named")?;
    let (name, command) = (name.clone(), command.to_vec());
    let options = RunOptions { command, ..options(args, out)? };
    let store = open_store(global)?;
    let image = images::find(&store, &name)?;
    let (streams, stdio) = Streams::open(terminal, interactive)?;
    let mut container = container::start(&store, &image, &name, &options, stdio)?;
    for note in container.notes() {
        out.note(format_args!("warning: {note}"));
    }
    streams.attend(&mut container)?;
    let ended = container.wait()?;
    if ended.usage.out_of_memory && ended.exit == Exit::Signal(container::signal::KILL) {
        out.note("warning: the kernel ended the container: it needed more memory than its limit");
    }
    Ok(container::exit_status(ended.exit))
}

fn failure_status(error: &anyhow::Error) -> u8 {
    let sandbox = error.chain().find_map(|cause| {
        let own = cause.downcast_ref::<SandboxError>();
        // Transparent variants are not in the chain themselves.
        own.or_else(|| match cause.downcast_ref::<container::ContainerError>() {
            Some(container::ContainerError::Sandbox(own)) => Some(own),
            _ => None,
        })
    });
    match sandbox {
        Some(SandboxError::NotFound(_) | SandboxError::NoInterpreter { .. }) => 127,
        Some(SandboxError::NotExecutable { .. }) => 126,
        _ => FAILED,
    }
}

fn options(args: Args, out: &mut Output) -> anyhow::Result<RunOptions> {
    let Args { process, files, network, limits, security, .. } = args;
    Ok(RunOptions {
        name: args.name,
        remove: args.rm,
        command: Vec::new(),
        entrypoint: process.entrypoint.as_deref().map(entrypoint).transpose()?,
        env: env(&process)?,
        working_dir: process.workdir,
        user: process.user,
        hostname: network.hostname,
        labels: args.label.iter().map(|text| values::pair(text)).collect(),
        volumes: files.volume.iter().map(|text| volumes::parse(text)).collect::<Result<_, _>>()?,
        tmpfs: files.tmpfs.iter().map(|text| tmpfs(text)).collect::<Result<_, _>>()?,
        network: mode(network.network, out),
        dns: network.dns,
        add_hosts: network.add_host.iter().map(|text| add_host(text)).collect::<Result<_, _>>()?,
        shm_size_bytes: match &files.shm_size {
            Some(text) => size("--shm-size", text)?,
            None => container::SHM_SIZE_BYTES,
        },
        rlimits: limits.ulimit.iter().map(|text| values::ulimit(text)).collect::<Result<_, _>>()?,
        limits: limits.read()?,
        capabilities_add: words_of(&security.cap_add),
        capabilities_drop: words_of(&security.cap_drop),
        no_new_privileges: no_new_privileges(&security.security_opt),
        seccomp: values::seccomp(&security.security_opt)?,
        read_only: files.read_only,
        stop_signal: process.stop_signal,
        terminal: args.tty,
    })
}

/// The network that was named, else a private one where one can be made.
fn mode(named: Option<NetworkArg>, out: &mut Output) -> Mode {
    match named.map(Mode::from) {
        Some(mode) => mode,
        None if values::default_network() == Mode::Private || Network::private_without_root() => Mode::Private,
        None => {
            out.note("note: the container shares the host's network: a private one without root needs `pasta` (package passt)");
            Mode::Host
        }
    }
}

/// A program, or a JSON array of words; empty means none at all.
fn entrypoint(text: &str) -> anyhow::Result<Vec<String>> {
    if text.starts_with('[') {
        return serde_json::from_str(text).with_context(|| format!("`--entrypoint {text}` is no JSON array of strings"));
    }
    Ok(if text.is_empty() { Vec::new() } else { vec![text.to_owned()] })
}

/// Files first, then flags: the later one counts.
fn env(args: &ProcessArgs) -> anyhow::Result<Vec<String>> {
    let mut env = Vec::new();
    for path in &args.env_file {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        env.extend(env_lines(&text).into_iter().filter_map(|line| variable(line, own_variable)));
    }
    env.extend(args.env.iter().filter_map(|entry| variable(entry, own_variable)));
    Ok(env)
}

fn own_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Lines of an env file: no comments, no empty ones, no blanks in front.
fn env_lines(text: &str) -> Vec<&str> {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_start);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// `KEY=VALUE` as it is; `KEY` takes the value from `own`, or is nothing.
fn variable(entry: &str, own: impl Fn(&str) -> Option<String>) -> Option<String> {
    if entry.is_empty() || entry.contains('=') {
        return Some(entry.to_owned());
    }
    own(entry).map(|value| format!("{entry}={value}"))
}

/// `TARGET[:size=64m,mode=1777,ro,exec,suid,dev]`.
fn tmpfs(text: &str) -> anyhow::Result<Tmpfs> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') || ImagePath::new(target).is_root() {
        bail!("`--tmpfs {text}`: expected an absolute path that is not the root");
    }
    let mut tmpfs = Tmpfs {
        target: ImagePath::new(target),
        size_bytes: None,
        mode: 0o1777,
        read_only: false,
        no_exec: true,
        no_suid: true,
        no_dev: true,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", size) => tmpfs.size_bytes = Some(values::size(size)?),
            ("mode", mode) => {
                let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
                tmpfs.mode = mode.with_context(|| format!("`--tmpfs {text}`: the mode is not octal"))?;
            }
            ("ro", "") => tmpfs.read_only = true,
            ("rw", "") => tmpfs.read_only = false,
            ("exec", "") => tmpfs.no_exec = false,
            ("noexec", "") => tmpfs.no_exec = true,
            ("suid", "") => tmpfs.no_suid = false,
            ("nosuid", "") => tmpfs.no_suid = true,
            ("dev", "") => tmpfs.no_dev = false,
            ("nodev", "") => tmpfs.no_dev = true,
            _ => bail!("`--tmpfs {text}`: `{option}` is not known: expected size, mode, ro, exec, suid or dev"),
        }
    }
    Ok(tmpfs)
}

fn add_host(text: &str) -> anyhow::Result<(String, HostAddress)> {
    let gateway = text.strip_suffix("host-gateway").and_then(|name| name.strip_suffix([':', '=']));
    if let Some(name) = gateway {
        return Ok((name.to_owned(), HostAddress::Gateway));
    }
    let (name, address) = values::host(text)?;
    Ok((name, HostAddress::Address(address.parse().context("an address that was read before")?)))
}

impl LimitArgs {
    fn read(&self) -> anyhow::Result<Limits> {
        let size_of = |flag, text: &Option<String>| text.as_deref().map(|text| size(flag, text)).transpose();
        let memory_bytes = size_of("--memory", &self.memory)?;
        let memory_swap_bytes = match self.memory_swap.as_deref() {
            None => None,
            Some("-1") => Some(-1),
            Some(text) => Some(i64::try_from(size("--memory-swap", text)?).context("`--memory-swap` is too large")?),
        };
        match (memory_bytes, memory_swap_bytes) {
            (None, Some(_)) => bail!("`--memory-swap` needs `--memory`: it limits memory and swap together"),
            (Some(memory), Some(both @ 0..)) if u64::try_from(both).is_ok_and(|both| both < memory) => {
                bail!("`--memory-swap` is memory and swap together and can't be less than `--memory`")
            }
            _ => {}
        }
        if let Some(cpus) = self.cpus
            && !(cpus.is_finite() && cpus >= 0.01)
        {
            bail!("`--cpus {cpus}`: expected a number of processors from 0.01 on");
        }
        Ok(Limits {
            memory_bytes,
            memory_swap_bytes,
            memory_reservation_bytes: size_of("--memory-reservation", &self.memory_reservation)?,
            cpus: self.cpus,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            pids: u64::try_from(self.pids_limit).ok().filter(|pids| *pids > 0),
            ..Limits::default()
        })
    }
}

fn size(flag: &str, text: &str) -> anyhow::Result<u64> {
    values::size(text).with_context(|| format!("cannot read `{flag} {text}`"))
}

/// docker takes several names in one flag, with commas.
fn words_of(flags: &[String]) -> Vec<String> {
    flags.iter().flat_map(|flag| flag.split(',')).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn no_new_privileges(options: &[String]) -> bool {
    let last = options.iter().rev().find_map(|option| option.strip_prefix("no-new-privileges"));
    last.is_some_and(|rest| matches!(rest, "" | ":true" | "=true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_taken_from_files_and_from_here() {
        let text = "\u{feff}# comment\nA=1\n\n  B=2 \nHERE\nMISSING\nC=\n";
        let own = |name: &str| (name == "HERE").then(|| "yes".to_owned());
        let env: Vec<String> = env_lines(text).into_iter().filter_map(|line| variable(line, own)).collect();
        assert_eq!(env, ["A=1", "B=2 ", "HERE=yes", "C="]);
    }

    #[test]
    fn a_tmpfs_has_dockers_defaults_and_known_options() {
        let plain = tmpfs("/run").unwrap();
        assert!(plain.no_exec && plain.no_suid && plain.no_dev && !plain.read_only);
        assert_eq!((plain.mode, plain.size_bytes), (0o1777, None));
        let given = tmpfs("/run:size=64m,mode=755,exec,ro").unwrap();
        assert_eq!((given.mode, given.size_bytes), (0o755, Some(64 << 20)));
        assert!(!given.no_exec && given.read_only);
        for bad in ["run", "/", "/run:mode=9", "/run:mode=17777", "/run:size=x", "/run:what", "/run:ro=1"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entrypoint_is_a_word_or_a_list() {
        assert_eq!(entrypoint("/bin/env x").unwrap(), ["/bin/env x"]);
        assert_eq!(entrypoint(r#"["a", "b"]"#).unwrap(), ["a", "b"]);
        assert!(entrypoint("").unwrap().is_empty());
        assert!(entrypoint("[a]").is_err());
    }

    #[test]
    fn the_last_word_on_privileges_counts() {
        let given = |options: &[&str]| no_new_privileges(&options.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert!(given(&["no-new-privileges"]) && given(&["no-new-privileges=true", "seccomp=unconfined"]));
        assert!(!given(&[]) && !given(&["no-new-privileges", "no-new-privileges=false"]));
    }
}
