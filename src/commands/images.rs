//! `rbuild images`: what the store holds, by name.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use anyhow::{Context, bail};
use jiff::Timestamp;
use runner::container::Record;
use serde::Serialize;
use store::{Image, ImageId, Listed, Reference, Store};

use crate::args::Global;
use crate::commands::open_store;
use crate::form::Form;
use crate::human;
use crate::output::Output;
use crate::values;

pub(crate) const NONE: &str = "<none>";

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
    /// Print one JSON object a line (`json`), a table, or a line by a template (`{{.ID}} {{.Size}}`)
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Form,
    /// Show what fits: `reference=PATTERN`, `dangling=true`, `label=KEY[=VALUE]`, `before=IMAGE`, `since=IMAGE`,
    /// `until=TIME`
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
    let now = Timestamp::now();
    let filters = args.filter.iter().map(|text| Filter::parse(text, now)).collect::<Result<Vec<_>, _>>()?;
    let store = open_store(global)?;
    let filters =
        filters.into_iter().map(|filter| filter.resolve(&store)).collect::<anyhow::Result<Vec<_>>>()?;
    // A table and IDs do not show it.
    let shared = if args.quiet || args.format.is_table() { None } else { Some(store.images().shared_sizes()?) };
    let mut rows = Vec::new();
    for image in store.images().listed()? {
        if !takes_all(&filters, &store, &image)? {
            continue;
        }
        let of_image = Row::all_of(&image, now, args.no_trunc, shared.as_ref());
        rows.extend(
            of_image
                .into_iter()
                .filter(|row| filters.iter().all(|filter| filter.takes_row(row)))
                .filter(|row| args.name.as_ref().is_none_or(|name| row.is_called(name))),
        );
    }
    if args.quiet {
        let mut seen = BTreeSet::new();
        let ids: String = rows
            .iter()
            .filter(|row| seen.insert(&row.id))
            .flat_map(|row| [row.id.as_str(), "\n"])
            .collect();
        out.text(&ids)?;
    } else {
        let mut head = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
        if args.digests {
            head.insert(2, "DIGEST");
        }
        args.format.print(&rows, &head, |row| row.cells(args.digests), out)?;
    }
    Ok(0)
}

fn takes_all(filters: &[Filter], store: &Store, image: &Listed) -> anyhow::Result<bool> {
    for filter in filters {
        if !filter.takes_image(store, image)? {
            return Ok(false);
        }
    }
    Ok(true)
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
    /// Of layers that another image has too.
    shared_size: String,
    /// Of layers that no other image has.
    unique_size: String,
    #[serde(skip)]
    name: Option<Reference>,
}

impl Row {
    fn all_of(
        image: &Listed,
        now: Timestamp,
        whole_id: bool,
        shared: Option<&HashMap<ImageId, u64>>,
    ) -> Vec<Self> {
        let shared = shared.map(|sizes| sizes.get(&image.id).copied().unwrap_or(0));
        let said = |size: Option<u64>| size.map_or_else(|| "N/A".to_owned(), human::size);
        let row = |name: Option<&Reference>| Self {
            repository: name.map_or_else(|| NONE.to_owned(), Reference::familiar_repository),
            tag: name.and_then(|name| name.tag.clone()).unwrap_or_else(|| NONE.to_owned()),
            digest: digest(image, name),
            id: if whole_id { image.id.to_string() } else { short_id(image.id) },
            created_at: image.created.clone().unwrap_or_default(),
            created_since: since(image.created.as_deref(), now),
            size: human::size(image.size_bytes),
            shared_size: said(shared),
            unique_size: said(shared.map(|shared| image.size_bytes.saturating_sub(shared))),
            name: name.cloned(),
        };
        if image.names.is_empty() { vec![row(None)] } else { image.names.iter().map(|name| row(Some(name))).collect() }
    }

    fn cells(&self, digests: bool) -> Vec<String> {
        let mut cells = vec![&self.repository, &self.tag, &self.id, &self.created_since, &self.size];
        if digests {
            cells.insert(2, &self.digest);
        }
        cells.into_iter().cloned().collect()
    }

    /// Whether `asked` is its repository or its whole name; `*` and `?` stand for others.
    fn is_called(&self, asked: &str) -> bool {
        self.name.as_ref().is_some_and(|name| is_called(name, asked))
    }
}

fn is_called(name: &Reference, asked: &str) -> bool {
    let familiar = [name.familiar_repository(), name.to_string()];
    let full = [name.repository(), name.full()];
    familiar.iter().chain(&full).any(|text| fits(asked.as_bytes(), text.as_bytes()))
}

/// The first 12 digits, as docker shows IDs.
pub(crate) fn short_id(id: ImageId) -> String {
    id.0.hex()[..12].to_owned()
}

/// How long ago an RFC 3339 time was, in words.
pub(crate) fn since(created: Option<&str>, now: Timestamp) -> String {
    let created = created.and_then(|text| text.parse::<Timestamp>().ok());
    created.map_or_else(|| "N/A".to_owned(), |then| human::age(now.as_second() - then.as_second()))
}

fn digest(image: &Listed, name: Option<&Reference>) -> String {
    let named = name.and_then(|name| name.digest).map(|digest| digest.to_string());
    named.or_else(|| image.manifest.map(|id| id.to_string())).unwrap_or_else(|| NONE.to_owned())
}

/// One `--filter`.
#[derive(Debug)]
pub(crate) enum Filter {
    Reference(String),
    Dangling(bool),
    Label { name: String, value: Option<String>, is_wanted: bool },
    /// An image whose time is to be looked up, and on which side of it.
    Beside(String, Side),
    /// A time that is known.
    At(Timestamp, Side),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Before,
    After,
}

impl Filter {
    pub(crate) fn parse(text: &str, now: Timestamp) -> anyhow::Result<Self> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match (key, value) {
            ("reference", _) => Ok(Self::Reference(value.to_owned())),
            ("dangling", "true" | "1") => Ok(Self::Dangling(true)),
            ("dangling", "false" | "0") => Ok(Self::Dangling(false)),
            ("label" | "label!", _) => {
                let (name, wanted) =
                    value.split_once('=').map_or((value, None), |(name, wanted)| (name, Some(wanted.to_owned())));
                Ok(Self::Label { name: name.to_owned(), value: wanted, is_wanted: key == "label" })
            }
            ("before", _) => Ok(Self::Beside(value.to_owned(), Side::Before)),
            ("since" | "after", _) => Ok(Self::Beside(value.to_owned(), Side::After)),
            ("until", _) => {
                let at = values::moment(value, now).with_context(|| format!("cannot read the filter `{text}`"))?;
                Ok(Self::At(at, Side::Before))
            }
            _ => bail!(
                "`{}` is no filter: there are reference=, dangling=true|false, label=, label!=, before=, since= and until=",
                text.escape_debug()
            ),
        }
    }

    /// Looks up what the filter names.
    pub(crate) fn resolve(self, store: &Store) -> anyhow::Result<Self> {
        let Self::Beside(name, side) = &self else { return Ok(self) };
        let image = find(store, name)?;
        let at = time_of(image.config.created.as_deref());
        Ok(Self::At(at.with_context(|| format!("the config of image `{name}` does not say when it was made"))?, *side))
    }

    /// Whether an image fits, by what is true of it under any of its names.
    pub(crate) fn takes_image(&self, store: &Store, image: &Listed) -> anyhow::Result<bool> {
        Ok(match self {
            Self::Reference(pattern) => image.names.iter().any(|name| is_called(name, pattern)),
            Self::Beside(..) => true,
            Self::Dangling(wanted) => image.names.is_empty() == *wanted,
            Self::Label { name, value, is_wanted } => {
                let whole = store.images().get(image.id)?;
                let found = whole.as_ref().and_then(|image| image.config.config.labels.get(name));
                let fits = found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found));
                whole.is_some() && fits == *is_wanted
            }
            Self::At(at, side) => time_of(image.created.as_deref()).is_some_and(|created| match side {
                Side::Before => created < *at,
                Side::After => created > *at,
            }),
        })
    }

    /// Whether a container fits; what is said of images only fits none.
    pub(crate) fn takes_container(&self, record: &Record) -> bool {
        match self {
            Self::Label { name, value, is_wanted } => {
                let found = record.labels.get(name);
                let fits = found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found));
                fits == *is_wanted
            }
            Self::At(at, Side::Before) => i64::try_from(record.created).is_ok_and(|made| made < at.as_second()),
            _ => false,
        }
    }

    fn takes_row(&self, row: &Row) -> bool {
        match self {
            Self::Reference(pattern) => row.is_called(pattern),
            _ => true,
        }
    }
}

fn time_of(created: Option<&str>) -> Option<Timestamp> {
    created?.parse().ok()
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
