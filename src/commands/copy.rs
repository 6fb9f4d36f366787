//! `rbuild copy`: an image from one place to another, with the digests it has.

use std::path::PathBuf;

use anyhow::{Context, bail};
use store::oci::platform::Platform;
use store::transfer::{Copied, Format, LoadOptions, SaveOptions, Target, copy, copy_stored};
use store::{ImageId, Store};

use crate::args::Global;
use crate::commands::save::PackingArgs;
use crate::commands::{images, load, open_store, tag};
use crate::output::Output;
use crate::whole;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    packing: PackingArgs,
    /// Of several images, take the one for this platform
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(
        value_name = "SOURCE",
        help = "Read the image there: NAME, store:NAME, dir:PATH, or oci:, oci-archive:, docker-archive: with PATH[:NAME]"
    )]
    source: String,
    /// Write it there
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// Where an image lies, as skopeo writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Location {
    Store(String),
    Place(Place),
}

/// A file or a folder, and the image's name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    transport: Transport,
    path: PathBuf,
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Dir,
    Oci,
    OciArchive,
    DockerArchive,
}

impl Location {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let Some((transport, rest)) = text.split_once(':') else {
            return Ok(Self::Store(text.to_owned()));
        };
        let named = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
        let (transport, (path, name)) = match transport {
            "dir" => (Transport::Dir, (rest, None)),
            "oci" => (Transport::Oci, named),
            "oci-archive" => (Transport::OciArchive, named),
            "docker-archive" => (Transport::DockerArchive, named),
            "store" => return Ok(Self::Store(rest.to_owned())),
            "docker" if rest.starts_with("//") => {
                bail!("`{}`: registries can't be reached yet", text.escape_debug());
            }
            "containers-storage" | "docker-daemon" | "ostree" | "sif" | "tarball" => bail!(
                "`{transport}:` is not known: expected store:, dir:, oci:, oci-archive: or docker-archive:"
            ),
            _ => return Ok(Self::Store(text.to_owned())),
        };
        if path.is_empty() {
            bail!("`{}`: there is no path in it", text.escape_debug());
        }
        let name = name.filter(|name| !name.is_empty()).map(str::to_owned);
        if name.iter().any(|name| name.contains(|c: char| c.is_control() || c.is_whitespace())) {
            bail!("`{}`: a name has no blanks", text.escape_debug());
        }
        Ok(Self::Place(Place { transport, path: PathBuf::from(path), name }))
    }
}

pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let (source, destination) = (Location::parse(&args.source)?, Location::parse(&args.destination)?);
    let repack = args.packing.repack()?;
    let platform = args.platform.unwrap_or_else(Platform::here);
    let options = |only: &Option<String>| LoadOptions { platform, only: only.clone(), names: None };
    let store = open_store(global)?;
    let image = match (source, destination) {
        (Location::Store(source), Location::Store(name)) => name_it(&store, &source, &name, out)?,
        (Location::Place(source), Location::Store(name)) => {
            take_in(&store, &source, options(&source.name), &name, out)?
        }
        (Location::Store(source), Location::Place(to)) => {
            let image = images::find(&store, &source)?;
            write(&to, |called, format, target| {
                copy_stored(&store, &image, called, SaveOptions { format, repack }, target)?;
                Ok(image.id)
            })?
        }
        (Location::Place(from), Location::Place(to)) => {
            let source = load::open(&from.path)?;
            let failed = || format!("cannot copy the image in {}", from.path.display());
            write(&to, |called, format, target| {
                let save = SaveOptions { format, repack };
                copy(&store, source, &options(&from.name), called, save, target).with_context(failed)
            })?
        }
    };
    out.line(image)?;
    Ok(0)
}

/// Gives an image of the store one more name.
fn name_it(store: &Store, source: &str, name: &str, out: &mut Output) -> anyhow::Result<ImageId> {
    let image = images::find(store, source)?.id;
    let names = [tag::parse(name)?];
    let before = store.images().set_names(&names, image)?;
    load::note_moves(store, &names, &before, image, out)?;
    Ok(image)
}

/// Takes an image into the store under the name that was typed, or none.
fn take_in(
    store: &Store,
    from: &Place,
    options: LoadOptions,
    name: &str,
    out: &mut Output,
) -> anyhow::Result<ImageId> {
    let names = if name.is_empty() { Vec::new() } else { vec![tag::parse(name)?] };
    let options = LoadOptions { names: Some(names), ..options };
    let loaded = store::transfer::load(store, load::open(&from.path)?, &options)
        .with_context(|| format!("cannot copy the image in {}", from.path.display()))?;
    let loaded = loaded.into_iter().next().context("there is no image in it")?;
    loaded.names.iter().try_for_each(|set| load::note_move(store, set, out))?;
    Ok(loaded.image)
}

/// Opens the destination, lets `copy` write there, and gives the image that it wrote.
fn write(
    to: &Place,
    copy: impl FnOnce(Copied, Format, Target<'_>) -> anyhow::Result<ImageId>,
) -> anyhow::Result<ImageId> {
    let tagged = Copied { names: Vec::new(), tag: to.name.clone() };
    match to.transport {
        Transport::Dir => {
            whole::make_folder(&to.path, |folder| copy(tagged, Format::Dir, Target::Folder(folder)))
        }
        Transport::Oci if to.path.join("index.json").exists() => {
            copy(tagged, Format::Oci, Target::Layout(&to.path))
        }
        Transport::Oci => {
            whole::make_folder(&to.path, |folder| copy(tagged, Format::Oci, Target::Folder(folder)))
        }
        Transport::OciArchive => {
            whole::write_file(&to.path, |output| copy(tagged, Format::Oci, Target::Archive(output)))
        }
        Transport::DockerArchive => {
            let names = to.name.iter().map(|name| tag::parse(name)).collect::<anyhow::Result<_>>()?;
            let called = Copied { names, tag: None };
            whole::write_file(&to.path, |output| copy(called, Format::Docker, Target::Archive(output)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_skopeo_writes_them() {
        let place = |transport, path: &str, name: Option<&str>| {
            let (path, name) = (PathBuf::from(path), name.map(str::to_owned));
            Location::Place(Place { transport, path, name })
        };
        for (text, expected) in [
            ("app", Location::Store("app".to_owned())),
            ("app:1", Location::Store("app:1".to_owned())),
            ("localhost:5000/app:1", Location::Store("localhost:5000/app:1".to_owned())),
            ("store:oci:1", Location::Store("oci:1".to_owned())),
            ("dir:/a:b", place(Transport::Dir, "/a:b", None)),
            ("oci:/a", place(Transport::Oci, "/a", None)),
            ("oci:/a:1.0", place(Transport::Oci, "/a", Some("1.0"))),
            ("oci-archive:a.tar:quay.io/b:2", place(Transport::OciArchive, "a.tar", Some("quay.io/b:2"))),
            ("docker-archive:a.tar:b:2", place(Transport::DockerArchive, "a.tar", Some("b:2"))),
        ] {
            assert_eq!(Location::parse(text).unwrap(), expected, "{text}");
        }
        for wrong in
            ["docker://debian", "containers-storage:a", "docker-daemon:a:1", "dir:", "oci::1", "oci:a:b c"]
        {
            assert!(Location::parse(wrong).is_err(), "{wrong}");
        }
    }
}
