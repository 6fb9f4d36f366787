//! `rbuild ps`: the containers, in docker's columns.

use anyhow::bail;
use jiff::Timestamp;
use runner::container::{self, Record, State, name};
use serde::Serialize;

use crate::args::Global;
use crate::commands::open_store;
use crate::human;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show containers that do not run too
    #[arg(short, long)]
    all: bool,
    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Cut nothing off
    #[arg(long)]
    no_trunc: bool,
    /// Print one JSON object a line (`json`) or a table
    #[arg(long, value_parser = ["json", "table"], default_value = "table", hide_default_value = true)]
    format: String,
    /// Show what fits: `id=`, `name=`, `status=`, `label=KEY[=VALUE]`, `ancestor=IMAGE`, `exited=CODE`
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "the form of all commands")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let store = open_store(global)?;
    container::clear_dead(&store)?;
    // Who asks for a state wants to see it.
    let all = args.all || filters.iter().any(|filter| matches!(filter.key, Key::Status | Key::Exited));
    let now = Timestamp::now().as_second();
    let mut rows = Vec::new();
    for record in container::list(&store)? {
        let is_shown = all || matches!(record.state, State::Running { .. });
        if is_shown && filters.iter().all(|filter| filter.takes(&record)) {
            rows.push(Row::of(&record, now, args.no_trunc));
        }
    }
    if args.quiet {
        rows.iter().try_for_each(|row| out.line(&row.id))?;
    } else if args.format == "json" {
        rows.iter().try_for_each(|row| anyhow::Ok(out.line(serde_json::to_string(row)?)?))?;
    } else {
        let cells: Vec<Vec<String>> = rows.into_iter().map(Row::cells).collect();
        out.table(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"], &cells)?;
    }
    Ok(0)
}

/// One line, under docker's names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    image: String,
    command: String,
    created_at: String,
    running_for: String,
    status: String,
    state: &'static str,
    ports: String,
    names: String,
    labels: String,
}

impl Row {
    fn of(record: &Record, now: i64, whole: bool) -> Self {
        let cut = |text: &str, length: usize| {
            if whole || text.chars().count() <= length {
                return text.to_owned();
            }
            let mut cut: String = text.chars().take(length - 1).collect();
            cut.push('…');
            cut
        };
        // What a program is called is the user's text: control characters stay out of the table.
        let command = record.command.join(" ").escape_debug().to_string();
        let labels: Vec<String> = record.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Self {
            id: if whole { record.id.clone() } else { name::short(&record.id).to_owned() },
            image: record.image_name.clone(),
            command: format!("\"{}\"", cut(&command, 20)),
            created_at: time(record.created),
            running_for: human::age(since(record.created, now)),
            status: status(&record.state, now),
            state: record.state.word(),
            ports: String::new(),
            names: record.name.clone(),
            labels: labels.join(","),
        }
    }

    fn cells(self) -> Vec<String> {
        vec![self.id, self.image, self.command, self.running_for, self.status, self.ports, self.names]
    }
}

fn status(state: &State, now: i64) -> String {
    match state {
        State::Created => "Created".to_owned(),
        State::Running { since: start, .. } => {
            let age = human::age(since(*start, now));
            format!("Up {}", age.trim_end_matches(" ago"))
        }
        State::Exited { code: Some(code), at: Some(at), .. } => {
            format!("Exited ({code}) {}", human::age(since(*at, now)))
        }
        State::Exited { .. } => "Exited (its rbuild was killed)".to_owned(),
    }
}

fn since(seconds: u64, now: i64) -> i64 {
    now.saturating_sub_unsigned(seconds).max(0)
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// One `--filter`.
#[derive(Debug)]
struct Filter {
    key: Key,
    value: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Key {
    Id,
    Name,
    Status,
    Label,
    Ancestor,
    Exited,
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let Some((key, value)) = text.split_once('=') else {
            bail!("`--filter {text}`: expected KEY=VALUE");
        };
        let key = match key {
            "id" => Key::Id,
            "name" => Key::Name,
            "status" if ["created", "running", "exited"].contains(&value) => Key::Status,
            "status" => bail!("`--filter {text}`: a container is created, running or exited"),
            "label" => Key::Label,
            "ancestor" => Key::Ancestor,
            "exited" if value.parse::<u8>().is_ok() => Key::Exited,
            "exited" => bail!("`--filter {text}`: `{value}` is no exit status"),
            _ => bail!("`--filter {text}`: `{key}` is not known: expected id, name, status, label, ancestor or exited"),
        };
        Ok(Self { key, value: value.to_owned() })
    }

    fn takes(&self, record: &Record) -> bool {
        let value = self.value.as_str();
        match self.key {
            Key::Id => record.id.starts_with(value),
            Key::Name => record.name.contains(value),
            Key::Status => record.state.word() == value,
            Key::Label => match value.split_once('=') {
                Some((key, wanted)) => record.labels.get(key).is_some_and(|have| have == wanted),
                None => record.labels.contains_key(value),
            },
            Key::Ancestor => {
                let id = record.image.to_string();
                record.image_name == value || id.trim_start_matches("sha256:").starts_with(value.trim_start_matches("sha256:"))
            }
            Key::Exited => {
                matches!(record.state, State::Exited { code: Some(code), .. } if code.to_string() == value)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_in_dockers_words() {
        for (state, expected) in [
            (State::Created, "Created"),
            (State::Running { process: None, since: 880 }, "Up 2 minutes"),
            (State::Exited { code: Some(3), out_of_memory: false, at: Some(995) }, "Exited (3) 5 seconds ago"),
            (State::Exited { code: None, out_of_memory: false, at: None }, "Exited (its rbuild was killed)"),
        ] {
            assert_eq!(status(&state, 1000), expected);
        }
    }

    #[test]
    fn filters_that_mean_nothing_are_refused() {
        for bad in ["", "name", "status=dead", "exited=x", "colour=red"] {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
    }
}
