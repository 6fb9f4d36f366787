//! `rbuild rmi`: take names away, and images that have no name left.
//!
//! ```text
//! by name   the name goes; the image goes with its last name
//! by ID     the image goes with its name; with several names only by force
//! ```
//! An image that a container was made from stays; by force it loses its names, so that the container
//! still starts.

use anyhow::bail;
use store::images::Removal;
use store::{Image, Reference, Store};

use crate::args::Global;
use crate::commands::{images, open_store};
use crate::hints;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove images that have several names or that containers use
    #[arg(short, long)]
    force: bool,
    /// Pass over images that are not there
    #[arg(long)]
    ignore: bool,
    /// Remove these images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes what was typed")]
pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let store = open_store(global)?;
    let mut status = 0;
    for name in &args.images {
        match remove(&store, name, args.force, out) {
            Err(error) if args.ignore && error.is::<images::NoSuchImage>() => {}
            Err(error) => {
                out.error(&error, hints::hint(&error));
                status = 1;
            }
            Ok(()) => {}
        }
    }
    Ok(status)
}

fn remove(store: &Store, typed: &str, force: bool, out: &mut Output) -> anyhow::Result<()> {
    let image = images::find(store, typed)?;
    let name = own_name(&image, typed);
    if let Some(name) = &name
        && image.names.len() > 1
    {
        store.images().remove_name(name)?;
        out.line(format_args!("Untagged: {name}"))?;
        return Ok(());
    }
    let containers = store.images().containers(image.id)?;
    if !force {
        if !containers.is_empty() {
            bail!("image {} is used by container {}", image.id, containers.join(", "));
        }
        if name.is_none() && image.names.len() > 1 {
            let names: Vec<String> = image.names.iter().map(Reference::to_string).collect();
            bail!("image {} has several names ({}): remove it by name or with --force", image.id, names.join(", "));
        }
    }
    let stays_for = if containers.is_empty() {
        match store.images().remove_as_seen(&image)? {
            Removal::Done => None,
            Removal::UsedBy(containers) if force => Some(containers),
            Removal::UsedBy(containers) => {
                bail!("image {} is used by container {}", image.id, containers.join(", "))
            }
            Removal::Renamed => bail!("image {} got another name meanwhile: try again", image.id),
        }
    } else {
        Some(containers)
    };
    if stays_for.is_some() && store.images().remove_names(&image.names)?.is_some() {
        bail!("image {} lost a name meanwhile: try again", image.id);
    }
    for name in &image.names {
        out.line(format_args!("Untagged: {name}"))?;
    }
    match stays_for {
        None => out.line(format_args!("Deleted: {}", image.id))?,
        Some(containers) => {
            out.note(format_args!("note: image {} stays for container {}", image.id, containers.join(", ")));
        }
    }
    Ok(())
}

/// The image's name that was typed, when a name was typed and not an ID or a digest.
fn own_name(image: &Image, typed: &str) -> Option<Reference> {
    let name = typed.parse::<Reference>().ok()?.or_latest();
    image.names.contains(&name).then_some(name)
}
