//! `rbuild images`: what the store holds, by name.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::bail;
use jiff::Timestamp;
use serde::Serialize;
use store::{Image, Reference, Store};

use crate::args::Global;
use crate::commands::open_store;
use crate::human;
use crate::output::Output;

const NONE: &str = "<none>";

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Args {
    /// Show all images (images without a name are always shown)
    #[arg(short, long)]
    all: bool,
    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Print whole IDs
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Print one JSON object a line (`json`) or a table
    #[arg(long, value_parser = ["json", "table"], default_value = "table", hide_default_value = true)]
    format: String,
    /// Show what fits: `reference=PATTERN`, `dangling=true`, `label=KEY[=VALUE]`
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show the images of this repository or name
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Says that the store has no such image.
#[derive(Debug)]
pub(crate) struct NoSuchImage(pub(crate) String);

impl fmt::Display for NoSuchImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no image `{}`", self.0.escape_debug())
    }
}

impl std::error::Error for NoSuchImage {}

/// Finds an image by name or ID; that there is none is an error.
pub(crate) fn find(store: &Store, name: &str) -> anyhow::Result<Image> {
    store.images().find(name)?.ok_or_else(|| NoSuchImage(name.to_owned()).into())
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let store = open_store(global)?;
    let now = Timestamp::now();
    let images = store.images().list()?;
    let rows: Vec<Row> = images
        .iter()
        .filter(|image| filters.iter().all(|filter| filter.takes_image(image)))
        .flat_map(|image| Row::all_of(image, now, args.no_trunc))
        .filter(|row| filters.iter().all(|filter| filter.takes_row(row)))
        .filter(|row| args.name.as_ref().is_none_or(|name| row.is_called(name)))
        .collect();
    if args.quiet {
        let mut seen = BTreeSet::new();
        for row in rows.iter().filter(|row| seen.insert(&row.id)) {
            out.line(&row.id)?;
        }
    } else if args.format == "json" {
        for row in &rows {
            out.line(serde_json::to_string(row)?)?;
        }
    } else {
        print(&rows, args.digests, out)?;
    }
    Ok(0)
}

fn print(rows: &[Row], digests: bool, out: &mut Output) -> anyhow::Result<()> {
    let mut head = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    let mut cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| [&row.repository, &row.tag, &row.id, &row.created_since, &row.size].map(String::clone).into())
        .collect();
    if digests {
        head.insert(2, "DIGEST");
        for (cells, row) in cells.iter_mut().zip(rows) {
            cells.insert(2, row.digest.clone());
        }
    }
    Ok(out.table(&head, &cells)?)
}

/// One line: an image under one of its names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    repository: String,
    tag: String,
    digest: String,
    #[serde(rename = "ID")]
    id: String,
    created_at: String,
    created_since: String,
    size: String,
    #[serde(skip)]
    name: Option<Reference>,
}

impl Row {
    fn all_of(image: &Image, now: Timestamp, whole_id: bool) -> Vec<Self> {
        let row = |name: Option<&Reference>| Self {
            repository: name.map_or_else(|| NONE.to_owned(), Reference::familiar_repository),
            tag: name.and_then(|name| name.tag.clone()).unwrap_or_else(|| NONE.to_owned()),
            digest: digest(image, name),
            id: if whole_id { image.id.to_string() } else { short_id(image) },
            created_at: image.config.created.clone().unwrap_or_default(),
            created_since: since(image.config.created.as_deref(), now),
            size: human::size(image.size_bytes),
            name: name.cloned(),
        };
        if image.names.is_empty() { vec![row(None)] } else { image.names.iter().map(|name| row(Some(name))).collect() }
    }

    /// Whether `asked` is its repository or its whole name; `*` and `?` stand for others.
    fn is_called(&self, asked: &str) -> bool {
        let Some(name) = &self.name else {
            return false;
        };
        let familiar = [name.familiar_repository(), name.to_string()];
        let full = [name.repository(), name.full()];
        familiar.iter().chain(&full).any(|text| fits(asked.as_bytes(), text.as_bytes()))
    }
}

/// The first 12 digits, as docker shows IDs.
pub(crate) fn short_id(image: &Image) -> String {
    image.id.0.hex()[..12].to_owned()
}

/// How long ago an RFC 3339 time was, in words.
pub(crate) fn since(created: Option<&str>, now: Timestamp) -> String {
    let created = created.and_then(|text| text.parse::<Timestamp>().ok());
    created.map_or_else(|| "N/A".to_owned(), |then| human::age(now.as_second() - then.as_second()))
}

fn digest(image: &Image, name: Option<&Reference>) -> String {
    let named = name.and_then(|name| name.digest).map(|digest| digest.to_string());
    named.or_else(|| image.manifest.map(|id| id.to_string())).unwrap_or_else(|| NONE.to_owned())
}

#[derive(Debug)]
enum Filter {
    Reference(String),
    Dangling(bool),
    Label(String, Option<String>),
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match (key, value) {
            ("reference", _) => Ok(Self::Reference(value.to_owned())),
            ("dangling", "true" | "1") => Ok(Self::Dangling(true)),
            ("dangling", "false" | "0") => Ok(Self::Dangling(false)),
            ("label", _) => {
                let (name, wanted) =
                    value.split_once('=').map_or((value, None), |(name, wanted)| (name, Some(wanted.to_owned())));
                Ok(Self::Label(name.to_owned(), wanted))
            }
            _ => bail!("`{}` is no filter: there are reference=, dangling=true|false and label=", text.escape_debug()),
        }
    }

    fn takes_image(&self, image: &Image) -> bool {
        match self {
            Self::Reference(_) => true,
            Self::Dangling(wanted) => image.names.is_empty() == *wanted,
            Self::Label(name, wanted) => {
                let found = image.config.config.labels.get(name);
                found.is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
            }
        }
    }

    fn takes_row(&self, row: &Row) -> bool {
        match self {
            Self::Reference(pattern) => row.is_called(pattern),
            Self::Dangling(_) | Self::Label(..) => true,
        }
    }
}

/// Whether `text` fits `pattern`: `*` stands for anything but a slash, `?` for one such character.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    // Where the pattern went on behind its last `*`, and the text that this `*` has eaten so far.
    let mut star: Option<(usize, usize)> = None;
    let (mut at, mut read) = (0, 0);
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, read));
                at += 1;
                continue;
            }
            Some(b'?') if text[read] != b'/' => {}
            Some(&letter) if letter == text[read] => {}
            _ => match star {
                Some((behind, eaten)) if text[eaten] != b'/' => {
                    star = Some((behind, eaten + 1));
                    (at, read) = (behind, eaten + 1);
                    continue;
                }
                _ => return false,
            },
        }
        at += 1;
        read += 1;
    }
    pattern[at..].iter().all(|&letter| letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stop_at_slashes() {
        for (pattern, text, expected) in [
            ("debian", "debian", true),
            ("deb*", "debian", true),
            ("*", "me/app", false),
            ("*/*", "me/app", true),
            ("me/*:1", "me/app:1", true),
            ("me/*:1", "me/app:2", false),
            ("a?p", "app", true),
            ("a*b*c", "aXbYbZc", true),
            ("", "a", false),
            ("a**", "a", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
