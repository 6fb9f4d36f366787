//! `rbuild history`: how an image was made, newest step first.

use jiff::Timestamp;
use serde::Serialize;
use store::oci::config::History;
use store::{DiffId, Image, Store};

use crate::args::Global;
use crate::commands::{images, open_store};
use crate::form::Form;
use crate::human;
use crate::output::Output;

const MISSING: &str = "<missing>";
const SHOWN_LETTERS: usize = 45;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Print whole IDs and commands
    #[arg(long)]
    no_trunc: bool,
    /// Print one JSON object a line (`json`), a table, or a line by a template (`{{.ID}} {{.Size}}`)
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Form,
    /// Print sizes and times for people to read
    #[arg(
        short = 'H', long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set
    )]
    human: bool,
    /// Show how this image was made
    #[arg(value_name = "IMAGE")]
    image: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    created_at: String,
    created_since: String,
    created_by: String,
    size: String,
    comment: String,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    let image = images::find(&store, &args.image)?;
    let rows = rows(&store, &image, &args)?;
    if args.quiet {
        rows.iter().try_for_each(|row| out.line(&row.id))?;
    } else {
        let created = if args.human { "CREATED" } else { "CREATED AT" };
        let cells = |row: &Row| {
            let created = if args.human { &row.created_since } else { &row.created_at };
            [&row.id, created, &row.created_by, &row.size, &row.comment].map(String::clone).into()
        };
        args.format.print(&rows, &["IMAGE", created, "CREATED BY", "SIZE", "COMMENT"], cells, out)?;
    }
    Ok(0)
}

/// One row for each step; layers that no step accounts for stand on top.
fn rows(store: &Store, image: &Image, args: &Args) -> anyhow::Result<Vec<Row>> {
    let now = Timestamp::now();
    let mut layers = image.layers.iter();
    let mut steps: Vec<(History, Option<&DiffId>)> = Vec::new();
    for step in &image.config.history {
        let layer = if step.empty_layer { None } else { layers.next() };
        steps.push((step.clone(), layer));
    }
    steps.extend(layers.map(|layer| (History::default(), Some(layer))));
    let mut rows = Vec::new();
    for (step, layer) in steps.into_iter().rev() {
        let layer = layer.map(|layer| store.layers().find(*layer)).transpose()?.flatten();
        let size_bytes = layer.map_or(0, |layer| layer.tar_size_bytes);
        let id = match (rows.is_empty(), args.no_trunc) {
            (true, true) => image.id.to_string(),
            (true, false) => images::short_id(image.id),
            (false, _) => MISSING.to_owned(),
        };
        rows.push(Row {
            id,
            created_since: images::since(step.created.as_deref(), now),
            created_at: step.created.unwrap_or_default(),
            created_by: shortened(&step.created_by.unwrap_or_default(), args.no_trunc),
            size: if args.human { human::size(size_bytes) } else { size_bytes.to_string() },
            comment: step.comment.unwrap_or_default(),
        });
    }
    Ok(rows)
}

/// One line, and no longer than a table bears.
fn shortened(text: &str, whole: bool) -> String {
    let line: String =
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect::<String>().trim().to_owned();
    if whole || line.chars().count() <= SHOWN_LETTERS {
        return line;
    }
    line.chars().take(SHOWN_LETTERS - 1).chain(['…']).collect()
}
