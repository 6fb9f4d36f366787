//! `rbuild build`: a Containerfile and a context become an image.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use builder::step::StepError;
use builder::{BuildError, Cancel, Input, Options, Platform};
use clap::ValueEnum;
use runner::network::Mode;
use runner::sandbox::capabilities;
use runner::sandbox::plan::Limits;
use store::{Reference, Store};

use crate::args::Global;
use crate::commands::build_output::Destination;
use crate::commands::{Failure, load, open_store};
use crate::output::{Output, Style};
use crate::values;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read the Containerfile from FILE; - is stdin (default: Containerfile, then Dockerfile, in CONTEXT)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name the image; may be given several times
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<String>,
    /// Set an ARG; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    arguments: Vec<String>,
    /// Build up to this stage
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Do every step again
    #[arg(long)]
    no_cache: bool,
    /// Print the image ID only
    #[arg(short, long)]
    quiet: bool,
    /// Write the image ID to FILE
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Show the build as it goes
    #[arg(long, value_enum, default_value_t = ProgressArg::Auto, value_name = "HOW")]
    progress: ProgressArg,
    /// Write the result elsewhere: type=image|local|tar|oci|docker[,dest=PATH]
    #[arg(short, long = "output", value_name = "TYPE")]
    outputs: Vec<String>,
    /// Add a label to the image
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Network of RUN steps (default: private as root, else host)
    #[arg(long, value_enum)]
    network: Option<values::NetworkArg>,
    /// Add a line to /etc/hosts of RUN steps
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    add_hosts: Vec<String>,
    /// Give RUN --mount=type=secret a secret: id=ID[,src=FILE|,env=NAME]
    #[arg(long = "secret", value_name = "SPEC")]
    secrets: Vec<String>,
    /// Read ignore rules from FILE
    #[arg(long, value_name = "FILE")]
    ignorefile: Option<PathBuf>,
    /// Run at most N steps at once (default: the number of cores)
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Build for OS/ARCHITECTURE
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Limit the memory of RUN steps
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Limit the processors of RUN steps
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,
    /// Limit the processes of RUN steps; -1 is unlimited
    #[arg(long, value_name = "NUMBER", default_value = "2048", allow_hyphen_values = true)]
    pids_limit: i64,
    /// Size of /dev/shm in RUN steps
    #[arg(long, value_name = "BYTES", default_value = "64m")]
    shm_size: String,
    /// Resource limit of RUN steps: NAME=SOFT or NAME=SOFT:HARD
    #[arg(long = "ulimit", value_name = "LIMIT")]
    ulimits: Vec<String>,
    /// Add a capability to RUN steps
    #[arg(long = "cap-add", value_name = "CAP")]
    cap_add: Vec<String>,
    /// Take a capability from RUN steps
    #[arg(long = "cap-drop", value_name = "CAP")]
    cap_drop: Vec<String>,
    /// seccomp=unconfined turns the filter of RUN steps off
    #[arg(long = "security-opt", value_name = "OPTION")]
    security_opts: Vec<String>,
    /// Allow RUN --security=insecure: security.insecure
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Use SECONDS since 1970 as the time of everything that is made (default: SOURCE_DATE_EPOCH)
    #[arg(long, visible_alias = "source-date-epoch", value_name = "SECONDS")]
    timestamp: Option<i64>,
    /// Accepted for scripts; it changes nothing
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    rm: Option<Option<String>>,
    /// Accepted for scripts; it changes nothing
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    force_rm: Option<Option<String>>,
    /// Accepted for scripts; layers are always kept
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    layers: Option<Option<String>>,
    /// Accepted for scripts; the image is always in the store
    #[arg(long, hide = true)]
    load: bool,
    /// The build context: a folder, or - for a Containerfile on stdin
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProgressArg {
    Auto,
    Tty,
    Plain,
    Json,
    #[value(alias = "none")]
    Quiet,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes its arguments over")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let outputs = args.outputs.iter().map(|text| Destination::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let options = options(&args)?;
    let store = open_store(global)?;
    let input = input(&args, &store)?;
    let style = match (args.quiet, args.progress) {
        (true, _) | (_, ProgressArg::Quiet) => Style::Quiet,
        (_, ProgressArg::Auto) => Style::of_terminal(),
        (_, ProgressArg::Tty) => Style::Terminal,
        (_, ProgressArg::Plain) => Style::Plain,
        (_, ProgressArg::Json) => Style::Json,
    };
    let progress = out.progress(style);
    let cancel = Cancel::new().context("cannot prepare for signals")?;
    let result = values::with_signals(&cancel, || builder::build(&store, &input, &options, &progress, &cancel))?;
    progress.finish(result.is_err());
    let built = match result {
        Ok(built) => built,
        Err(error) => return fail(error, out),
    };
    if !matches!(style, Style::Quiet) {
        load::note_moves(&store, &options.names, &built.names_before, built.image, out)?;
    }
    for output in &outputs {
        output.write(&store, &built, &options.names, out)?;
    }
    if let Some(path) = &args.iidfile {
        fs::write(path, built.image.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    out.line(built.image)?;
    Ok(0)
}

/// Points at the place in the Containerfile; the exit status of a failed RUN is its command's.
fn fail(error: BuildError, out: &mut Output) -> anyhow::Result<u8> {
    match &error {
        BuildError::Syntax { file, text, diagnostics } => {
            for diagnostic in diagnostics {
                out.note(builder::containerfile::render(diagnostic, file, text));
            }
            return Ok(1);
        }
        BuildError::Step { file, line, source, .. } => {
            out.note(excerpt(file, *line));
            if let StepError::Failed { exit, .. } = **source {
                return Err(Failure::new(exit.status(), error).into());
            }
        }
        BuildError::Cancelled => return Err(Failure::new(130, error).into()),
        _ => {}
    }
    Err(error.into())
}

/// The failing line with its neighbours.
fn excerpt(file: &str, line: usize) -> String {
    let Ok(text) = fs::read_to_string(file) else { return String::new() };
    let first = line.saturating_sub(2).max(1);
    let mut shown = format!("{file}:{line}");
    for (number, content) in text.lines().enumerate().skip(first - 1).take(line + 2 - first) {
        let mark = if number + 1 == line { ">>>" } else { "   " };
        shown.push_str(&format!("\n{:4} | {mark} {content}", number + 1));
    }
    shown
}

fn input(args: &Args, store: &Store) -> anyhow::Result<Input> {
    let stdin = Path::new("-");
    if args.context == stdin {
        if args.file.is_some() {
            bail!("cannot read a context from stdin: give a folder, or leave `--file` away to read a Containerfile from stdin");
        }
        return Ok(Input::from_text(read_stdin()?, "<stdin>"));
    }
    let remembered = |path: &str| store.cache().context_memory(path).ok().flatten();
    let from_stdin = args.file.as_deref() == Some(stdin);
    let file = if from_stdin { Some(Path::new("/dev/null")) } else { args.file.as_deref() };
    let mut input = Input::from_folder(&args.context, file, args.ignorefile.as_deref(), &remembered)?;
    if from_stdin {
        input.containerfile = read_stdin()?;
        "<stdin>".clone_into(&mut input.file_name);
    }
    Ok(input)
}

fn read_stdin() -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(4 << 20).read_to_end(&mut bytes).context("cannot read stdin")?;
    Ok(bytes)
}

fn options(args: &Args) -> anyhow::Result<Options> {
    let names = args.tags.iter().map(|tag| Ok(tag.parse::<Reference>()?)).collect::<anyhow::Result<Vec<_>>>()?;
    let build_args = build_args(&args.arguments);
    let epoch = match (args.timestamp, build_args.get("SOURCE_DATE_EPOCH").cloned().or_else(|| std::env::var("SOURCE_DATE_EPOCH").ok())) {
        (Some(given), _) => Some(given),
        (None, Some(text)) if !text.is_empty() => {
            Some(text.parse().with_context(|| format!("SOURCE_DATE_EPOCH is no number of seconds: `{text}`"))?)
        }
        _ => None,
    };
    let platform = match &args.platform {
        None => Platform::host(),
        Some(text) => Platform::parse(text).with_context(|| format!("`{text}` is no platform: expected OS/ARCHITECTURE"))?,
    };
    Ok(Options {
        names,
        build_args,
        target: args.target.clone(),
        no_cache: args.no_cache,
        labels: args.labels.iter().map(|label| values::pair(label)).collect(),
        network: args.network.map_or_else(values::default_network, Mode::from),
        add_hosts: args.add_hosts.iter().map(|text| values::host(text)).collect::<anyhow::Result<_>>()?,
        secrets: args.secrets.iter().map(|text| secret(text)).collect::<anyhow::Result<_>>()?,
        limits: limits(args)?,
        seccomp: values::seccomp(&args.security_opts)?,
        capabilities: capabilities::choose(&args.cap_add, &args.cap_drop)?,
        shm_size_bytes: values::size(&args.shm_size)?,
        rlimits: args.ulimits.iter().map(|text| values::ulimit(text)).collect::<anyhow::Result<_>>()?,
        allow_insecure: args.allow.iter().any(|name| name == "security.insecure"),
        jobs: args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        source_date_epoch: epoch,
        platform,
    })
}

/// `NAME` alone takes its value from the environment, and is nothing when it is not set there.
fn build_args(given: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((text.clone(), std::env::var(text).ok()?)),
    };
    given.iter().filter_map(pair).collect()
}

fn limits(args: &Args) -> anyhow::Result<Limits> {
    Ok(Limits {
        memory_bytes: args.memory.as_deref().map(values::size).transpose()?,
        cpus: args.cpus,
        pids: u64::try_from(args.pids_limit).ok().filter(|limit| *limit > 0),
        ..Limits::default()
    })
}

/// `id=ID[,src=FILE][,env=NAME][,type=file|env]`.
fn secret(spec: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
    for field in spec.split(',') {
        match field.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => file = Some(value.to_owned()),
            Some(("env", value)) => env = Some(value.to_owned()),
            Some(("type", value)) => kind = Some(value.to_owned()),
            _ => bail!("`--secret {spec}`: unknown field `{field}`: expected id, src or env"),
        }
    }
    let id = id.with_context(|| format!("`--secret {spec}` needs an id"))?;
    if kind.as_deref() == Some("env") {
        env = env.or(file.take());
    }
    let value = match (file, env) {
        (Some(file), _) => fs::read(&file).with_context(|| format!("cannot read the secret `{id}` from {file}"))?,
        (None, Some(name)) => {
            std::env::var(&name).with_context(|| format!("cannot read the secret `{id}` from ${name}"))?.into_bytes()
        }
        (None, None) => match std::env::var(&id) {
            Ok(value) => value.into_bytes(),
            Err(_) => fs::read(&id).with_context(|| format!("cannot read the secret `{id}`: no file or variable of that name"))?,
        },
    };
    Ok((id, value))
}

