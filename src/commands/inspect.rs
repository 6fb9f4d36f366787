//! `rbuild inspect`: all that is known of an image, in docker's words.

use anyhow::bail;
use serde::Serialize;
use serde_json::{Value, json};
use store::oci::config::ContainerConfig;
use store::{Image, Reference};

use crate::args::Global;
use crate::commands::{images, open_store};
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Look for this kind of thing only
    #[arg(long, value_parser = ["image"])]
    r#type: Option<String>,
    /// Print all as JSON (`json`) or one field (`Config.Env`, `{{.Id}}`)
    #[arg(short, long, value_name = "FIELD")]
    format: Option<String>,
    /// Show these images
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    let mut found = Vec::new();
    for name in &args.names {
        found.push(Inspected::of(&images::find(&store, name)?));
    }
    match args.format.as_deref() {
        None | Some("json") => out.line(pretty(&found)?)?,
        Some(format) => {
            let path = field_path(format);
            for value in &found {
                out.line(field(&serde_json::to_value(value)?, path)?)?;
            }
        }
    }
    Ok(0)
}

/// An image as `docker image inspect` describes it, in its order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
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

impl Inspected {
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

/// The path in `Config.Env`, `.Config.Env`, `{{.Config.Env}}` or `{{json .Config.Env}}`.
fn field_path(format: &str) -> &str {
    let inner = format.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")).unwrap_or(format).trim();
    inner.strip_prefix("json ").unwrap_or(inner).trim().trim_start_matches('.')
}

/// One field: text as it is, all else as JSON.
fn field(value: &Value, path: &str) -> anyhow::Result<String> {
    let mut found = value;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let next = match found {
            Value::Array(values) => step.parse::<usize>().ok().and_then(|place| values.get(place)),
            _ => found.get(step),
        };
        match next {
            Some(next) => found = next,
            None => bail!("there is no field `{}` in it", path.escape_debug()),
        }
    }
    Ok(match found {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_in_several_ways() {
        let value = json!({"Config": {"Env": ["A=1", "B=2"], "User": "me"}, "Size": 5});
        for (format, expected) in [
            ("Config.User", "me"),
            (".Config.User", "me"),
            ("{{.Config.User}}", "me"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{ .Size }}", "5"),
            ("Config.Env.1", "B=2"),
        ] {
            assert_eq!(field(&value, field_path(format)).unwrap(), expected, "{format}");
        }
        for missing in ["Nope", "Config.Env.7", "Config.User.x", "Size.0"] {
            assert!(field(&value, missing).is_err(), "{missing}");
        }
    }
}
