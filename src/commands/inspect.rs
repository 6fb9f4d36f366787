//! `rbuild inspect`: all that is known of a container or an image, in docker's words.
//!
//! A name that both have means the container, as with docker.
//!
//! May touch: nothing. Knows nothing of how they are kept.

use jiff::Timestamp;
use runner::container::{self, ContainerError, Record, State};
use serde::Serialize;
use serde_json::{Value, json};
use store::oci::config::ContainerConfig;
use store::{Image, Reference, Store};

use crate::args::Global;
use crate::commands::{images, open_store};
use crate::form;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Look for this kind of thing only
    #[arg(long, value_parser = ["image", "container"])]
    r#type: Option<String>,
    /// Print all as JSON (`json`), one field (`Config.Env`), or a line by a template (`{{.Id}} {{.State.Status}}`)
    #[arg(short, long, value_name = "FORM")]
    format: Option<String>,
    /// Say what containers take on disk
    #[arg(short, long)]
    size: bool,
    /// Show these containers and images
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    let found = args.names.iter().map(|name| inspect(&store, name, &args)).collect::<anyhow::Result<Vec<_>>>()?;
    match args.format.as_deref() {
        None | Some("json") => out.line(pretty(&found)?)?,
        Some(format) => {
            let parts = form::parts(&template(format))?;
            for value in &found {
                out.line(form::filled(&parts, &serde_json::to_value(value)?)?)?;
            }
        }
    }
    Ok(0)
}

fn inspect(store: &Store, name: &str, args: &Args) -> anyhow::Result<Inspected> {
    let kind = args.r#type.as_deref();
    if kind != Some("image") {
        match container::find(store, name) {
            Ok(record) => return Ok(Inspected::Container(ContainerFacts::of(store, &record, args.size)?)),
            Err(ContainerError::Unknown(_) | ContainerError::Ambiguous(_)) if kind.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Inspected::Image(ImageFacts::of(&images::find(store, name)?)))
}

/// Either, as a list holds both.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Inspected {
    Container(ContainerFacts),
    Image(ImageFacts),
}

/// A container as `docker container inspect` describes it, so far as its record says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerFacts {
    id: String,
    created: String,
    path: String,
    args: Vec<String>,
    state: Value,
    image: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    config: Value,
}

impl ContainerFacts {
    fn of(store: &Store, record: &Record, with_size: bool) -> anyhow::Result<Self> {
        let size_rw = with_size.then(|| container::disk_size(store, record)).transpose()?;
        Ok(Self {
            id: record.id.clone(),
            created: time(Some(record.created)),
            path: record.command.first().cloned().unwrap_or_default(),
            args: record.command.iter().skip(1).cloned().collect(),
            state: state(&record.state),
            image: record.image.to_string(),
            name: format!("/{}", record.name),
            size_rw,
            config: json!({
                "Image": record.image_name,
                "Labels": record.labels,
                "StopSignal": record.stop_signal,
            }),
        })
    }
}

/// What an exit status is when the process that would know it was killed, as by SIGKILL.
const UNKNOWN_CODE: u8 = 137;

fn state(state: &State) -> Value {
    let (pid, code, out_of_memory, started, finished) = match *state {
        State::Created => (0, 0, false, None, None),
        State::Running { process, since } => (process.map_or(0, |process| process.pid), 0, false, Some(since), None),
        State::Exited { code, out_of_memory, at } => (0, code.unwrap_or(UNKNOWN_CODE), out_of_memory, None, at),
    };
    let is_lost = matches!(state, State::Exited { code: None, .. });
    json!({
        "Status": state.word(),
        "Running": matches!(state, State::Running { .. }),
        "Paused": false,
        "Restarting": false,
        "OOMKilled": out_of_memory,
        "Dead": false,
        "Pid": pid,
        "ExitCode": code,
        "Error": if is_lost { "the rbuild that ran it was killed" } else { "" },
        "StartedAt": time(started),
        "FinishedAt": time(finished),
    })
}

/// docker's form of a time that is not known is that of Go's zero.
fn time(seconds: Option<u64>) -> String {
    let time = seconds.and_then(|seconds| i64::try_from(seconds).ok());
    let time = time.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}

/// An image as `docker image inspect` describes it, in its order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageFacts {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: String,
    comment: String,
    created: String,
    author: String,
    config: Value,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    os: String,
    size: u64,
    #[serde(rename = "RootFS")]
    root_fs: Value,
    metadata: Value,
}

impl ImageFacts {
    fn of(image: &Image) -> Self {
        let config = &image.config;
        let comment = config.history.last().and_then(|step| step.comment.clone());
        let tagged = image.names.iter().filter(|name| name.tag.is_some());
        Self {
            id: image.id.to_string(),
            repo_tags: tagged.map(Reference::to_string).collect(),
            repo_digests: repo_digests(image),
            parent: String::new(),
            comment: comment.unwrap_or_default(),
            created: config.created.clone().unwrap_or_default(),
            author: config.author.clone().unwrap_or_default(),
            config: container_config(&config.config),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            os: config.os.clone(),
            size: image.size_bytes,
            root_fs: json!({ "Type": "layers", "Layers": image.layers }),
            metadata: json!({ "LastTagTime": "0001-01-01T00:00:00Z" }),
        }
    }
}

/// `repository@digest` for each repository that the image has a name in.
fn repo_digests(image: &Image) -> Vec<String> {
    let with_digest = |name: &Reference| {
        let digest = name.digest.or(image.manifest.map(|id| id.0))?;
        Some(format!("{}@{digest}", name.familiar_repository()))
    };
    let mut digests: Vec<String> = image.names.iter().filter_map(with_digest).collect();
    digests.sort();
    digests.dedup();
    digests
}

/// The config with the keys that scripts read even when the image does not say them.
fn container_config(config: &ContainerConfig) -> Value {
    let mut value = json!({
        "User": "", "Env": null, "Cmd": null, "Volumes": null, "WorkingDir": "", "Entrypoint": null,
        "OnBuild": null, "Labels": null,
    });
    let said = serde_json::to_value(config).expect("a config has string keys only");
    if let (Value::Object(value), Value::Object(said)) = (&mut value, said) {
        value.extend(said);
    }
    value
}

fn pretty(value: &impl Serialize) -> anyhow::Result<String> {
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, indent))?;
    Ok(String::from_utf8(text)?)
}

/// `Config.Env` and `.Config.Env` are short for `{{.Config.Env}}`.
fn template(format: &str) -> String {
    if format.contains("{{") {
        return format.to_owned();
    }
    format!("{{{{.{}}}}}", format.trim().trim_start_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_in_several_ways() {
        let value = json!({"Config": {"Env": ["A=1", "B=2"], "User": "me"}, "Size": 5});
        let filled = |format: &str| form::filled(&form::parts(&template(format))?, &value);
        for (format, expected) in [
            ("Config.User", "me"),
            (".Config.User", "me"),
            ("{{.Config.User}}", "me"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{ .Size }}", "5"),
            ("Config.Env.1", "B=2"),
            ("{{.Size}} of {{.Config.User}}", "5 of me"),
        ] {
            assert_eq!(filled(format).unwrap(), expected, "{format}");
        }
        for missing in ["Nope", "Config.Env.7", "Config.User.x", "Size.0", "{{range .Config}}"] {
            assert!(filled(missing).is_err(), "{missing}");
        }
    }

    #[test]
    fn a_state_is_told_in_dockers_words() {
        let ended = state(&State::Exited { code: Some(3), out_of_memory: true, at: Some(60) });
        assert_eq!((&ended["ExitCode"], &ended["OOMKilled"]), (&json!(3), &json!(true)));
        assert_eq!(ended["FinishedAt"], "1970-01-01T00:01:00Z");
        assert_eq!(ended["StartedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(state(&State::Exited { code: None, out_of_memory: false, at: None })["ExitCode"], 137);
    }
}
