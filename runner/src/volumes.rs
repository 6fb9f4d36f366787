//! Volumes: files that outlive a container's own.
//!
//! ```text
//! volumes/<name>/data/    a named volume, or a container's own with 64 hex digits for a name
//! volumes/.<random>/      half-made
//! ```
//!
//! A new volume starts with what the image has at its target, owner and mode too. It appears by one
//! rename, so two containers that make it at once end with one whole volume.
//!
//! May touch: `volumes/`, the image's files through its `RootDir`, the host paths a user names.
//! Knows nothing of sandboxes and records.

mod copy;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock};
use rustix::rand::{GetRandomFlags, getrandom};
use store::{ImagePath, RootDir, Store};

use crate::sandbox::plan::{Mount, MountSource};

/// Files that a container is to see at `target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub source: VolumeSource,
    pub target: ImagePath,
    pub read_only: bool,
    /// A new volume starts with the image's files.
    pub copy: bool,
}

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A path of the host.
    Host(PathBuf),
    Named(String),
    /// A volume of the container's own, which goes with it.
    Anonymous,
}

/// Why a volume can't be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("`{text}` is not a volume: {why}")]
    Invalid { text: String, why: &'static str },
    #[error("cannot mount {path} of the host: it is not there")]
    NoSuchPath { path: PathBuf },
    #[error("cannot copy {path} of the image into a new volume")]
    Copy { path: ImagePath, source: io::Error },
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl VolumeError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// A volume ready to be mounted.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) mount: Mount,
    /// The name of a volume that was made for this container alone.
    pub(crate) anonymous: Option<String>,
    /// Of a volume of the store: while it is held, [`remove_unused`] leaves the volume alone.
    pub(crate) lock: Option<OwnedFd>,
}

/// A volume of the store.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    /// As `du` counts.
    pub size_bytes: u64,
    /// Containers that use it, running or not, and half-made ones (an empty name).
    pub users: Vec<String>,
}

impl Volume {
    /// What `VOLUME` in an image asks for.
    pub fn anonymous(target: ImagePath) -> Self {
        Self { source: VolumeSource::Anonymous, target, read_only: false, copy: true }
    }
}

/// Reads docker's `-v`: `target`, `source:target` or `source:target:options`.
pub fn parse(text: &str) -> Result<Volume, VolumeError> {
    let invalid = |why| VolumeError::Invalid { text: text.escape_debug().to_string(), why };
    if text.contains('\0') {
        return Err(invalid("it holds a NUL byte"));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (VolumeSource::Anonymous, target, ""),
        [source, target] => (source_of(source).map_err(invalid)?, target, ""),
        [source, target, options] => (source_of(source).map_err(invalid)?, target, options),
        _ => return Err(invalid("it has more than source, target and options")),
    };
    if !target.starts_with('/') {
        return Err(invalid("the path in the container is not absolute"));
    }
    let mut volume = Volume { source, target: ImagePath::new(target), read_only: false, copy: true };
    if volume.target.is_root() {
        return Err(invalid("the container's root can't be a volume"));
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            "rw" => volume.read_only = false,
            "nocopy" => volume.copy = false,
            // Labels of SELinux, of which there are none here, and propagation as it is anyway.
            "z" | "Z" | "rprivate" | "private" => {}
            _ => return Err(invalid("options are `ro`, `rw` and `nocopy`")),
        }
    }
    Ok(volume)
}

fn source_of(text: &str) -> Result<VolumeSource, &'static str> {
    if text.starts_with('/') || text.starts_with('.') {
        return Ok(VolumeSource::Host(PathBuf::from(text)));
    }
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let is_name = (1..=128).contains(&text.len())
        && text.bytes().all(is_known)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric());
    if is_name {
        return Ok(VolumeSource::Named(text.to_owned()));
    }
    Err("the source is neither a path nor a name of letters, digits, `_`, `.` and `-`")
}

/// Opens a volume for a container whose files are `root`; a volume that is not there is made.
pub(crate) fn open(store: &Store, volume: &Volume, root: &RootDir) -> Result<Opened, VolumeError> {
    let mut anonymous = None;
    let (source, lock) = match &volume.source {
        VolumeSource::Host(path) => (open_host(path)?, None),
        VolumeSource::Named(name) => open_named(store, name, volume, root)?,
        VolumeSource::Anonymous => {
            let name = random_name()?;
            let opened = open_named(store, &name, volume, root)?;
            anonymous = Some(name);
            opened
        }
    };
    let mount = Mount {
        target: volume.target.clone(),
        source: MountSource::Bind(Arc::new(source)),
        read_only: volume.read_only,
        no_exec: false,
        no_suid: false,
        no_dev: true,
    };
    Ok(Opened { mount, anonymous, lock })
}

/// Deletes a volume; one that is not there is fine.
pub fn remove(store: &Store, name: &str) -> Result<(), VolumeError> {
    let place = folder(store).join(name);
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(VolumeError::io("remove", &place)),
    }
}

fn open_host(path: &Path) -> Result<OwnedFd, VolumeError> {
    match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => Err(VolumeError::NoSuchPath { path: path.to_owned() }),
        other => other.map_err(|errno| VolumeError::io("open", path)(errno.into())),
    }
}

fn open_named(
    store: &Store,
    name: &str,
    volume: &Volume,
    root: &RootDir,
) -> Result<(OwnedFd, Option<OwnedFd>), VolumeError> {
    let place = folder(store).join(name);
    loop {
        let lock = match open_to_lock(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(store, &place, volume, root)?;
                continue;
            }
            other => other.map_err(VolumeError::io("open", &place))?,
        };
        flock(&lock, FlockOperation::LockShared)
            .map_err(|errno| VolumeError::io("lock", &place)(errno.into()))?;
        // Whoever pruned it while we waited has taken it away; then it is made anew.
        let is_there = match rustix::fs::stat(&place) {
            Ok(there) => rustix::fs::fstat(&lock).is_ok_and(|ours| ours.st_ino == there.st_ino),
            Err(_) => false,
        };
        if is_there {
            let data = place.join("data");
            return Ok((open_folder(&data).map_err(VolumeError::io("open", &data))?, Some(lock)));
        }
    }
}

fn open_to_lock(place: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(place, flags, Mode::empty())?)
}

/// The store's volumes by name, and which containers use each.
pub fn list(store: &Store) -> Result<Vec<Stored>, crate::container::ContainerError> {
    let records = crate::container::list(store)?;
    let mut volumes = Vec::new();
    for name in names(store)? {
        let place = folder(store).join(&name);
        let uses = |record: &&crate::container::Record| {
            let named = record.named_volumes.as_ref();
            record.anonymous_volumes.contains(&name) || named.is_none_or(|named| named.contains(&name))
        };
        let mut users: Vec<String> = records.iter().filter(uses).map(|record| record.name.clone()).collect();
        if users.is_empty() && lock_unused(&place)?.is_none() {
            // A container that keeps no record, or one that is being made.
            users.push(String::new());
        }
        let size_bytes = disk_size(store, &name)?;
        volumes.push(Stored { name, size_bytes, users });
    }
    Ok(volumes)
}

/// What a volume takes on disk, as `du` counts; nothing when it is not there.
pub fn disk_size(store: &Store, name: &str) -> Result<u64, VolumeError> {
    let place = folder(store).join(name);
    crate::disk::size_of(&place).map_err(VolumeError::io("measure", &place))
}

/// Takes a volume away if no living container has it; tells whether it did.
pub fn remove_unused(store: &Store, name: &str) -> Result<bool, VolumeError> {
    let place = folder(store).join(name);
    let Some(_lock) = lock_unused(&place)? else { return Ok(false) };
    let gone = folder(store).join(format!(".{}", random_name()?));
    fs::rename(&place, &gone).map_err(VolumeError::io("remove", &place))?;
    fs::remove_dir_all(&gone).map_err(VolumeError::io("remove", &gone))?;
    Ok(true)
}

/// The volume's lock, if no container has it.
fn lock_unused(place: &Path) -> Result<Option<OwnedFd>, VolumeError> {
    let lock = match open_to_lock(place) {
        // Somebody was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(VolumeError::io("open", place))?,
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(VolumeError::io("lock", place)(errno.into())),
        Ok(()) => Ok(Some(lock)),
    }
}

fn names(store: &Store) -> Result<Vec<String>, VolumeError> {
    let place = folder(store);
    let entries = fs::read_dir(&place).map_err(VolumeError::io("list", &place))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(VolumeError::io("list", &place))?.file_name();
        names.extend(name.into_string().ok().filter(|name| !name.starts_with('.')));
    }
    names.sort();
    Ok(names)
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn make(store: &Store, place: &Path, volume: &Volume, root: &RootDir) -> Result<(), VolumeError> {
    let half = folder(store).join(format!(".{}", random_name()?));
    let data = half.join("data");
    let make = |path: &Path, mode| {
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(VolumeError::io("make", path))
    };
    make(&half, 0o700)?;
    make(&data, 0o755)?;
    if volume.copy {
        let copied = copy_from_image(root, &volume.target, &data);
        copied.map_err(|source| VolumeError::Copy { path: volume.target.clone(), source })?;
    }
    match fs::rename(&half, place) {
        // Another container was faster.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            fs::remove_dir_all(&half).map_err(VolumeError::io("remove", &half))
        }
        other => other.map_err(VolumeError::io("make", place)),
    }
}

/// The image's folder at `target` becomes the volume's content; where there is none, it stays empty.
fn copy_from_image(root: &RootDir, target: &ImagePath, data: &Path) -> io::Result<()> {
    let place = match root.open(target, OFlags::PATH) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        other => other?,
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) != FileType::Directory {
        return Ok(());
    }
    let from = root.open(target, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let to = rustix::fs::open(data, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    copy::tree(&from, &to)
}

fn folder(store: &Store) -> PathBuf {
    store.root().join("volumes")
}

fn random_name() -> Result<String, VolumeError> {
    let mut bytes = [0; 32];
    let drawn = getrandom(&mut bytes, GetRandomFlags::empty());
    drawn.map_err(|errno| VolumeError::io("draw", Path::new("random numbers"))(errno.into()))?;
    Ok(store::Digest::of(&bytes).hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(source: VolumeSource, target: &str, read_only: bool, copy: bool) -> Volume {
        Volume { source, target: ImagePath::new(target), read_only, copy }
    }

    #[test]
    fn sources_targets_and_options_are_told_apart() {
        let host = |path: &str| VolumeSource::Host(path.into());
        let named = |name: &str| VolumeSource::Named(name.to_owned());
        for (text, expected) in [
            ("/data", volume(VolumeSource::Anonymous, "/data", false, true)),
            ("/srv:/data", volume(host("/srv"), "/data", false, true)),
            ("./x:/data:ro", volume(host("./x"), "/data", true, true)),
            ("db:/var/lib/db:nocopy,rw", volume(named("db"), "/var/lib/db", false, false)),
            ("db:/a/../b/:z", volume(named("db"), "/b", false, true)),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        for text in [
            "",
            "data",
            "/srv:data",
            "/srv:/",
            "/srv:/x/..",
            "a:/b:c",
            "a:b:c:d",
            "-x:/data",
            "a b:/data",
            ":/data",
            "../..",
            "a/b:/data",
            "/a\0:/b",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
