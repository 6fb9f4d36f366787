//! `--output`: where a build's result goes beside the store.
//!
//! ```text
//! type=image                     nothing more (the image is in the store)
//! type=local,dest=DIR | DIR      the files, below DIR
//! type=tar,dest=FILE | -         the files, as a tar
//! type=docker|oci,dest=FILE      the image, as an archive
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use builder::Built;
use builder::context::Source;
use builder::context::ignore::IgnoreRules;
use builder::context::select::{Request, select};
use builder::step::place::{Placer, Placing};
use runner::rootfs::{self, MountOptions};
use store::transfer::{Format, Repack, SaveOptions, Saved, Target, save};
use store::{ImagePath, Reference, RootDir, Store};

use crate::output::Output;
use crate::whole;

/// One `--output`.
#[derive(Debug)]
pub(crate) enum Destination {
    Store,
    Folder(PathBuf),
    /// `None` is stdout.
    Tar(Option<PathBuf>),
    Archive(Format, Option<PathBuf>),
}

impl Destination {
    /// Reads `type=…,dest=…`, or a bare folder.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let (mut kind, mut dest) = (None, None);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("type", value)) => kind = Some(value),
                Some(("dest" | "destination", value)) => dest = Some(PathBuf::from(value)),
                Some(("name" | "push" | "compression", _)) => {}
                _ if text == "-" => return Ok(Self::Tar(None)),
                None if !text.contains(',') => return Ok(Self::Folder(PathBuf::from(text))),
                _ => bail!("`--output {text}`: unknown field `{field}`: expected type=…,dest=…"),
            }
        }
        let file = dest.clone().filter(|path| path != Path::new("-"));
        Ok(match kind {
            Some("image") => Self::Store,
            Some("local") => Self::Folder(dest.with_context(|| format!("`--output {text}` needs dest=DIR"))?),
            Some("tar") => Self::Tar(file),
            Some("docker") => Self::Archive(Format::Docker, file),
            Some("oci") => Self::Archive(Format::Oci, file),
            _ => bail!("`--output {text}`: unknown type: expected image, local, tar, oci or docker"),
        })
    }

    /// Writes the result of a build.
    pub(crate) fn write(
        &self,
        store: &Store,
        built: &Built,
        names: &[Reference],
        out: &mut Output,
    ) -> anyhow::Result<()> {
        match self {
            Self::Store => Ok(()),
            Self::Folder(folder) => write_folder(store, built, folder),
            Self::Tar(path) => {
                let tree = mounted(store, built)?;
                write_file(path.as_deref(), out, |to| {
                    store::archive::pack_tree(&tree, to).context("cannot pack the files")
                })
            }
            Self::Archive(format, path) => {
                let image = store
                    .images()
                    .find(&built.image.to_string())?
                    .context("the image that was built is gone")?;
                let images = [Saved { image, names: names.to_vec() }];
                let options = SaveOptions { format: *format, repack: Repack::Keep };
                write_file(path.as_deref(), out, |to| Ok(save(store, &images, options, Target::Archive(to))?))
            }
        }
    }
}

/// The built files, mounted read-only.
fn mounted(store: &Store, built: &Built) -> anyhow::Result<OwnedFd> {
    let stack = store.layers().open_stack(&built.layers)?;
    Ok(rootfs::mount(store, &stack, None, MountOptions::default())?.mount)
}

/// Copies the files below `folder`; nothing outside it can be named (SEC-C04).
fn write_folder(store: &Store, built: &Built, folder: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot write the files to {}", folder.display());
    fs::create_dir_all(folder).with_context(failed)?;
    let to = RootDir::new(File::open(folder).with_context(failed)?.into());
    let source = Source::of_stack(RootDir::new(mounted(store, built)?));
    let exclude = IgnoreRules::default();
    let selected = select(&source, Request { words: &["/".to_owned()], exclude: &exclude })?;
    let placing = Placing::default();
    let mut placer = Placer::new(&source.root, &to, &placing);
    selected.iter().try_for_each(|one| placer.place(one, &ImagePath::root())).with_context(failed)
}

/// Writes to a file that appears whole, or to stdout.
fn write_file(
    path: Option<&Path>,
    out: &mut Output,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(path) = path else {
        return write(&mut out.binary()?);
    };
    whole::write_file(path, write)
}
