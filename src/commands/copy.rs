//! `rbuild copy`: an image from one place to another, with the digests it has.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use store::oci::platform::Platform;
use store::transfer::{
    Copied, Format, LoadOptions, SaveOptions, Target, copy, copy_stored, load as take_in,
};
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
    /// Read the image there: NAME, store:NAME, dir:PATH, or oci:, oci-archive:, docker-archive: with PATH[:NAME]
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Write it there
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// A place, as skopeo writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Location {
    Store(String),
    Dir(PathBuf),
    Oci(PathBuf, Option<String>),
    OciArchive(PathBuf, Option<String>),
    DockerArchive(PathBuf, Option<String>),
}

impl Location {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let Some((transport, rest)) = text.split_once(':') else {
            return Ok(Self::Store(text.to_owned()));
        };
        let place = match transport {
            "store" => Self::Store(rest.to_owned()),
            "dir" => Self::Dir(PathBuf::from(rest)),
            "oci" | "oci-archive" | "docker-archive" => {
                let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
                let (path, name) = (PathBuf::from(path), name.filter(|name| !name.is_empty()));
                if name.is_some_and(|name| name.contains(|c: char| c.is_control() || c.is_whitespace())) {
                    bail!("`{}`: a name has no blanks", text.escape_debug());
                }
                let name = name.map(str::to_owned);
                match transport {
                    "oci" => Self::Oci(path, name),
                    "oci-archive" => Self::OciArchive(path, name),
                    _ => Self::DockerArchive(path, name),
                }
            }
            "docker" if rest.starts_with("//") => {
                bail!("`{}`: registries can't be reached yet", text.escape_debug());
            }
            "containers-storage" | "docker-daemon" | "ostree" | "sif" | "tarball" => {
                bail!(
                    "`{transport}:` is not known: expected store:, dir:, oci:, oci-archive: or docker-archive:"
                );
            }
            _ => Self::Store(text.to_owned()),
        };
        match &place {
            Self::Dir(path)
            | Self::Oci(path, _)
            | Self::OciArchive(path, _)
            | Self::DockerArchive(path, _)
                if path.as_os_str().is_empty() =>
            {
                bail!("`{}`: there is no path behind `{transport}:`", text.escape_debug())
            }
            _ => Ok(place),
        }
    }

    /// The path to read, and which image of those that lie there.
    fn file(&self) -> Option<(&Path, Option<&String>)> {
        match self {
            Self::Store(_) => None,
            Self::Dir(path) => Some((path, None)),
            Self::Oci(path, name) | Self::OciArchive(path, name) | Self::DockerArchive(path, name) => {
                Some((path, name.as_ref()))
            }
        }
    }
}

pub(crate) fn run(args: Args, global: &Global, out: &mut Output) -> anyhow::Result<u8> {
    let (source, destination) = (Location::parse(&args.source)?, Location::parse(&args.destination)?);
    let repack = args.packing.repack()?;
    let platform = args.platform.unwrap_or_else(Platform::here);
    let options = |name: Option<&String>| LoadOptions {
        platform: platform.clone(),
        only: name.cloned(),
        names: None,
    };
    let store = open_store(global)?;
    let from = |path: &Path| format!("cannot copy the image in {}", path.display());
    let image = match (source.file(), &destination) {
        (None, Location::Store(name)) => {
            let image = images::find(&store, stored(&source))?.id;
            name_it(&store, name, image, out)?;
            image
        }
        (Some((path, only)), Location::Store(name)) => {
            let names = if name.is_empty() { Vec::new() } else { vec![tag::parse(name)?] };
            let options = LoadOptions { names: Some(names), ..options(only) };
            let loaded = take_in(&store, load::open(path)?, &options).with_context(|| from(path))?;
            let loaded = loaded.into_iter().next().context("there is no image in it")?;
            loaded.names.iter().try_for_each(|set| load::note_move(&store, set, out))?;
            loaded.image
        }
        (None, _) => {
            let image = images::find(&store, stored(&source))?;
            write(&destination, |called, format, target| {
                copy_stored(&store, &image, called, SaveOptions { format, repack }, target)?;
                Ok(image.id)
            })?
        }
        (Some((path, only)), _) => write(&destination, |called, format, target| {
            let save = SaveOptions { format, repack };
            let source = load::open(path)?;
            copy(&store, source, &options(only), called, save, target).with_context(|| from(path))
        })?,
    };
    out.line(image)?;
    Ok(0)
}

fn stored(location: &Location) -> &str {
    if let Location::Store(name) = location { name } else { "" }
}

fn name_it(store: &Store, name: &str, image: ImageId, out: &mut Output) -> anyhow::Result<()> {
    let names = [tag::parse(name)?];
    let before = store.images().set_names(&names, image)?;
    load::note_moves(store, &names, &before, image, out)
}

/// Opens the destination, lets `copy` write there, and gives the image that it wrote.
fn write(
    destination: &Location,
    copy: impl FnOnce(Copied, Format, Target<'_>) -> anyhow::Result<ImageId>,
) -> anyhow::Result<ImageId> {
    let mut written = None;
    let tagged = |tag: &Option<String>| Copied { names: Vec::new(), tag: tag.clone() };
    match destination {
        Location::Store(_) => {}
        Location::Dir(path) => whole::make_folder(path, |folder| {
            written = Some(copy(Copied::default(), Format::Dir, Target::Folder(folder))?);
            Ok(())
        })?,
        Location::Oci(path, tag) if path.join("index.json").exists() => {
            written = Some(copy(tagged(tag), Format::Oci, Target::Layout(path))?);
        }
        Location::Oci(path, tag) => whole::make_folder(path, |folder| {
            written = Some(copy(tagged(tag), Format::Oci, Target::Folder(folder))?);
            Ok(())
        })?,
        Location::OciArchive(path, tag) => whole::write_file(path, |output| {
            written = Some(copy(tagged(tag), Format::Oci, Target::Archive(output))?);
            Ok(())
        })?,
        Location::DockerArchive(path, name) => {
            let names = name.iter().map(|name| tag::parse(name)).collect::<anyhow::Result<_>>()?;
            whole::write_file(path, |output| {
                let called = Copied { names, tag: None };
                written = Some(copy(called, Format::Docker, Target::Archive(output))?);
                Ok(())
            })?;
        }
    }
    written.context("nothing was written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_skopeo_writes_them() {
        let path = |text: &str| PathBuf::from(text);
        let name = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("app", Location::Store("app".to_owned())),
            ("app:1", Location::Store("app:1".to_owned())),
            ("localhost:5000/app:1", Location::Store("localhost:5000/app:1".to_owned())),
            ("store:oci:1", Location::Store("oci:1".to_owned())),
            ("dir:/a:b", Location::Dir(path("/a:b"))),
            ("oci:/a", Location::Oci(path("/a"), None)),
            ("oci:/a:1.0", Location::Oci(path("/a"), name("1.0"))),
            ("oci-archive:a.tar:quay.io/b:2", Location::OciArchive(path("a.tar"), name("quay.io/b:2"))),
            ("docker-archive:a.tar:b:2", Location::DockerArchive(path("a.tar"), name("b:2"))),
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
