//! `rbuild df`: what the store takes on disk, and what a prune would free.
//!
//! ```text
//! Images        reclaimable: what `prune -a` frees
//! Containers    reclaimable: what `--containers` adds by itself
//! Local Volumes reclaimable: what `--volumes` adds
//! Build Cache   reclaimable: what `--build-cache` adds
//! ```
//! The numbers are those of a prune's dry run, so they are what the prune then frees.
//!
//! May touch: nothing. Knows nothing of how things are removed.

use jiff::Timestamp;
use runner::container::{self, State, name};
use runner::volumes;
use serde::Serialize;
use serde_json::json;
use store::Store;

use crate::args::Global;
use crate::commands::{images, open_store, prune};
use crate::form::Form;
use crate::human;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show each image, container, volume and cached step
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON object a line (`json`), a table, or a line by a template (`{{.Type}} {{.Size}}`)
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Form,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    container::clear_dead(&store)?;
    if args.verbose {
        return details(&store, &args.format, out).map(|()| 0);
    }
    let (rows, all_bytes) = rows(&store)?;
    let head = ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"];
    args.format.print(&rows, &head, Row::cells, out)?;
    if args.format.is_table() {
        let space = store.space()?;
        out.note(format_args!(
            "\n{} layers take {}; {} of it is shared blocks, which take nothing.",
            space.layers,
            human::size(space.layers_bytes),
            human::size(space.cloned_bytes)
        ));
        out.note(format_args!(
            "`rbuild prune -a --containers --volumes --build-cache` would free {}.",
            human::size(all_bytes)
        ));
    }
    Ok(0)
}

/// One kind of thing, under docker's names and podman's `Raw…`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    r#type: &'static str,
    total_count: u64,
    active: u64,
    size: String,
    reclaimable: String,
    /// Bytes.
    raw_size: u64,
    /// Bytes.
    raw_reclaimable: u64,
    /// Bytes on disk that share the blocks of others, and so take nothing.
    raw_saved: u64,
}

impl Row {
    fn new(r#type: &'static str, total_count: u64, active: u64, size_bytes: u64, reclaimable: u64) -> Self {
        let percent = reclaimable.saturating_mul(100).checked_div(size_bytes).unwrap_or(0).min(100);
        Self {
            r#type,
            total_count,
            active,
            size: human::size(size_bytes),
            reclaimable: format!("{} ({percent}%)", human::size(reclaimable)),
            raw_size: size_bytes,
            raw_reclaimable: reclaimable,
            raw_saved: 0,
        }
    }

    fn cells(&self) -> Vec<String> {
        let [total, active] = [self.total_count, self.active].map(|count| count.to_string());
        vec![self.r#type.to_owned(), total, active, self.size.clone(), self.reclaimable.clone()]
    }
}

/// The rows, and what a prune of everything would free.
fn rows(store: &Store) -> anyhow::Result<(Vec<Row>, u64)> {
    let space = store.space()?;
    let foreseen = |args: prune::Args| prune::foresee(store, &args, &[]).map(|gone| gone.size_bytes);
    let all_images = foreseen(prune::Args { all: true, ..prune::Args::default() })?;
    let and_cache = foreseen(prune::Args { all: true, build_cache: true, ..prune::Args::default() })?;
    let everything = prune::Args {
        all: true,
        build_cache: true,
        containers: true,
        volumes: true,
        ..prune::Args::default()
    };
    let everything = foreseen(everything)?;

    let mut images =
        Row::new("Images", space.images, space.images_in_use, space.images_bytes, all_images);
    images.raw_saved = space.cloned_bytes;
    let cache = and_cache.saturating_sub(all_images);
    let cache = Row::new("Build Cache", space.cache_steps, space.cache_steps_in_use, space.cache_bytes, cache);
    Ok((vec![images, containers(store)?, local_volumes(store)?, cache], everything))
}

fn containers(store: &Store) -> anyhow::Result<Row> {
    let (mut count, mut running, mut size_bytes, mut reclaimable) = (0, 0, 0, 0);
    for record in container::list(store)? {
        let own = container::disk_size(store, &record)?;
        count += 1;
        size_bytes += own;
        match record.state {
            State::Exited { .. } => reclaimable += own,
            _ => running += 1,
        }
    }
    Ok(Row::new("Containers", count, running, size_bytes, reclaimable))
}

fn local_volumes(store: &Store) -> anyhow::Result<Row> {
    let (mut count, mut used, mut size_bytes, mut reclaimable) = (0, 0, 0, 0);
    for volume in volumes::list(store)? {
        count += 1;
        size_bytes += volume.size_bytes;
        if volume.users.is_empty() {
            reclaimable += volume.size_bytes;
        } else {
            used += 1;
        }
    }
    Ok(Row::new("Local Volumes", count, used, size_bytes, reclaimable))
}

/// Tables under a title each, or one object with a list for each.
type Details = (&'static str, &'static str, Vec<&'static str>, Vec<Vec<String>>);

fn details(store: &Store, form: &Form, out: &mut Output) -> anyhow::Result<()> {
    let all = [image_details(store)?, container_details(store)?, volume_details(store)?, cache_details(store)?];
    if form.is_table() {
        for (number, (_, title, head, rows)) in all.iter().enumerate() {
            let gap = if number > 0 { "\n" } else { "" };
            out.line(format_args!("{gap}{title} space usage:\n"))?;
            out.table(head, rows)?;
        }
        return Ok(());
    }
    let key = |title: &str| -> String {
        let capital = |word: &str| match word {
            "ID" => "ID".to_owned(),
            _ => word[..1].to_owned() + &word[1..].to_lowercase(),
        };
        title.split(' ').map(capital).collect()
    };
    let object = |head: &[&str], row: &[String]| -> serde_json::Map<String, serde_json::Value> {
        head.iter().zip(row).map(|(title, cell)| (key(title), json!(cell))).collect()
    };
    let lists: serde_json::Map<String, serde_json::Value> = all
        .iter()
        .map(|(name, _, head, rows)| {
            let objects: Vec<_> = rows.iter().map(|row| object(head, row)).collect();
            ((*name).to_owned(), json!(objects))
        })
        .collect();
    form.print(&[lists], &[], |_| Vec::new(), out)
}

fn image_details(store: &Store) -> anyhow::Result<Details> {
    let now = Timestamp::now();
    let shared = store.images().shared_sizes()?;
    let mut rows = Vec::new();
    for image in store.images().listed()? {
        let shared = shared.get(&image.id).copied().unwrap_or(0);
        let containers = store.images().containers(image.id)?.len();
        let mut names: Vec<(String, String)> = image
            .names
            .iter()
            .map(|name| (name.familiar_repository(), name.tag.clone().unwrap_or_else(|| images::NONE.to_owned())))
            .collect();
        if names.is_empty() {
            names.push((images::NONE.to_owned(), images::NONE.to_owned()));
        }
        for (repository, tag) in names {
            rows.push(vec![
                repository,
                tag,
                images::short_id(image.id),
                images::since(image.created.as_deref(), now),
                human::size(image.size_bytes),
                human::size(shared),
                human::size(image.size_bytes.saturating_sub(shared)),
                containers.to_string(),
            ]);
        }
    }
    let head =
        vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"];
    Ok(("Images", "Images", head, rows))
}

fn container_details(store: &Store) -> anyhow::Result<Details> {
    let mut rows = Vec::new();
    for record in container::list(store)? {
        let volumes = record.anonymous_volumes.len() + record.named_volumes.as_ref().map_or(0, Vec::len);
        rows.push(vec![
            name::short(&record.id).to_owned(),
            record.image_name.clone(),
            record.command.join(" ").escape_debug().to_string(),
            volumes.to_string(),
            human::size(container::disk_size(store, &record)?),
            record.state.word().to_owned(),
            record.name,
        ]);
    }
    let head = vec!["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "STATUS", "NAMES"];
    Ok(("Containers", "Containers", head, rows))
}

fn volume_details(store: &Store) -> anyhow::Result<Details> {
    let row = |volume: volumes::Stored| {
        vec![volume.name, volume.users.len().to_string(), human::size(volume.size_bytes)]
    };
    let rows = volumes::list(store)?.into_iter().map(row).collect();
    Ok(("Volumes", "Local volumes", vec!["VOLUME NAME", "LINKS", "SIZE"], rows))
}

fn cache_details(store: &Store) -> anyhow::Result<Details> {
    let now = Timestamp::now().as_second();
    let row = |step: store::CachedStep| {
        let id = step.key.trim_start_matches("sha256:").chars().take(12).collect();
        let [created, used] = [step.created, step.used].map(|then| human::age(now - then));
        let (size, shared) = (human::size(step.size_bytes), step.in_use.to_string());
        vec![id, step.place.escape_debug().to_string(), size, created, used, shared]
    };
    let rows = store.cached_steps()?.into_iter().map(row).collect();
    let head = vec!["CACHE ID", "DESCRIPTION", "SIZE", "CREATED", "LAST USED", "SHARED"];
    Ok(("BuildCache", "Build cache", head, rows))
}
