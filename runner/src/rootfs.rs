//! A root file system: a stack and a scratch, mounted as one overlay and owned by a descriptor.
//!
//! The mount is *detached*: it lies in no mount namespace, so no path of the host shows it, a killed
//! process takes it along, and there is nothing to clean up. The sandbox attaches it as its root; the
//! builder's COPY reads and writes through the same descriptor.
//!
//! ```text
//! scratch/upper          what is written (none: read-only)
//! stack's last tree      ⎫
//! …                      ⎬ lowerdir+, top to bottom, one call each; before 6.8 see `at_once`
//! stack's first tree     ⎭
//! mount-points/stubs     empty /proc /sys /dev /etc/{hosts,hostname,resolv.conf}
//! ```
//!
//! May touch: the store's `mount-points/`, detached mounts. Knows nothing of images and processes.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use store::{Scratch, Stack, Store};

use crate::sandbox::user_ns::Mapping;

mod at_once;

/// The kernel's `OVL_MAX_STACK`.
const MOST_LOWERS: usize = 500;
/// What a layer holds must be all that it means: no redirects into, no data from other layers.
const FIXED_OPTIONS: [(&CStr, &CStr); 3] =
    [(c"redirect_dir", c"nofollow"), (c"metacopy", c"off"), (c"index", c"off")];

/// How a stack is mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountOptions {
    /// Adds the bottom layer of mount points (`/proc /sys /dev /etc/{hosts,hostname,resolv.conf}`,
    /// all empty), so that a sandbox finds them without writing to the scratch.
    pub mount_points: bool,
}

/// A mounted stack; dropping it unmounts.
#[derive(Debug)]
pub struct Rootfs {
    pub mount: OwnedFd,
}

/// Why a stack could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("cannot mount overlay: {call}")]
    Mount { call: String, source: io::Error },
    #[error("cannot mount overlay: {count} layers, and the kernel stacks at most {MOST_LOWERS}")]
    TooManyLayers { count: usize },
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

/// Mounts `stack` under `scratch` (read-only without one) as a `volatile` overlay.
pub fn mount(
    store: &Store,
    stack: &Stack,
    scratch: Option<&Scratch>,
    options: MountOptions,
) -> Result<Rootfs, RootfsError> {
    mount_below(store.root(), stack, scratch, options)
}

/// Mounts as [`mount`] does, with the mount points kept below `folder`.
pub fn mount_below(
    folder: &Path,
    stack: &Stack,
    scratch: Option<&Scratch>,
    options: MountOptions,
) -> Result<Rootfs, RootfsError> {
    let mut lowers: Vec<BorrowedFd<'_>> = stack.trees.iter().rev().map(AsFd::as_fd).collect();
    let bottom = if options.mount_points { Some("stubs") } else { None };
    // The kernel wants two lowers where nothing can be written, and one otherwise.
    let fewest = if scratch.is_some() { 1 } else { 2 };
    let bottom = bottom.or((lowers.len() < fewest).then_some("empty"));
    let bottom = bottom.map(|name| bottom_layer(folder, name)).transpose()?;
    lowers.extend(bottom.as_ref().map(AsFd::as_fd));
    let spare = (lowers.len() < fewest).then(|| bottom_layer(folder, "empty")).transpose()?;
    lowers.extend(spare.as_ref().map(AsFd::as_fd));
    let uppers = scratch.map(|scratch| (scratch.upper.as_fd(), scratch.work.as_fd()));
    Ok(Rootfs { mount: overlay(&lowers, uppers)? })
}

fn overlay(
    lowers: &[BorrowedFd<'_>],
    uppers: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
) -> Result<OwnedFd, RootfsError> {
    if lowers.len() > MOST_LOWERS {
        return Err(RootfsError::TooManyLayers { count: lowers.len() });
    }
    let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen"))?;
    let context = context.as_fd();
    if !add_lowers(context, lowers)? {
        return at_once::mount(lowers, uppers);
    }
    if let Some((upper, work)) = uppers {
        set_folder(context, c"upperdir", upper)?;
        set_folder(context, c"workdir", work)?;
        flag(context, c"volatile")?;
    }
    for (key, value) in FIXED_OPTIONS {
        rustix::mount::fsconfig_set_string(context, key, value).map_err(failed(&describe(key)))?;
    }
    if !Mapping::current().is_initial() {
        flag(context, c"userxattr")?;
    }
    rustix::mount::fsconfig_create(context).map_err(failed("fsconfig(create)"))?;
    // No device opens from a layer: the sandbox mounts its own.
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    if uppers.is_none() {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount"))
}

/// One call per layer, by descriptor (6.13) or by its name in procfs (6.8); `false` where the kernel knows neither.
fn add_lowers(context: BorrowedFd<'_>, lowers: &[BorrowedFd<'_>]) -> Result<bool, RootfsError> {
    let mut by_descriptor = true;
    for (place, lower) in lowers.iter().enumerate() {
        if by_descriptor {
            match rustix::mount::fsconfig_set_fd(context, c"lowerdir+", *lower) {
                Ok(()) => continue,
                // Before 6.5 the kernel takes strings without a look at them and no descriptor at all.
                Err(Errno::OPNOTSUPP) => return Ok(false),
                Err(Errno::INVAL | Errno::BADF) => by_descriptor = false,
                Err(errno) => return Err(failed("fsconfig(lowerdir+)")(errno)),
            }
        }
        match rustix::mount::fsconfig_set_string(context, c"lowerdir+", proc_name(*lower)) {
            Ok(()) => {}
            Err(Errno::INVAL) if place == 0 => return Ok(false),
            Err(errno) => return Err(failed("fsconfig(lowerdir+)")(errno)),
        }
    }
    Ok(true)
}

fn set_folder(context: BorrowedFd<'_>, key: &CStr, folder: BorrowedFd<'_>) -> Result<(), RootfsError> {
    match rustix::mount::fsconfig_set_fd(context, key, folder) {
        Err(Errno::INVAL | Errno::BADF) => {
            rustix::mount::fsconfig_set_string(context, key, proc_name(folder))
        }
        other => other,
    }
    .map_err(failed(&describe(key)))
}

fn flag(context: BorrowedFd<'_>, key: &CStr) -> Result<(), RootfsError> {
    rustix::mount::fsconfig_set_flag(context, key).map_err(failed(&describe(key)))
}

fn proc_name(folder: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", folder.as_raw_fd())
}

fn describe(key: &CStr) -> String {
    format!("fsconfig({})", key.to_string_lossy())
}

fn failed(call: &str) -> impl FnOnce(Errno) -> RootfsError {
    let call = call.to_owned();
    move |errno| RootfsError::Mount { call, source: errno.into() }
}

/// Opens `<folder>/mount-points/<name>`, made at the first use.
fn bottom_layer(folder: &Path, name: &str) -> Result<OwnedFd, RootfsError> {
    let points = folder.join("mount-points");
    let place = points.join(name);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || rustix::fs::open(&place, flags, Mode::empty());
    match open() {
        Err(Errno::NOENT) => make_bottom_layers(folder, &points)?,
        other => return other.map_err(|errno| at("open", &place)(errno.into())),
    }
    open().map_err(|errno| at("open", &place)(errno.into()))
}

/// Whole or not at all: made aside, then renamed; who comes second throws its own away.
fn make_bottom_layers(folder: &Path, points: &Path) -> Result<(), RootfsError> {
    let unique = format!("mount-points.{}.{:?}", std::process::id(), std::thread::current().id());
    let staging = folder.join(unique.replace(['(', ')'], "-"));
    make_folder(&staging)?;
    for name in ["empty", "stubs", "stubs/proc", "stubs/sys", "stubs/dev", "stubs/etc"] {
        make_folder(&staging.join(name))?;
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        let path = staging.join("stubs/etc").join(name);
        fs::write(&path, b"").map_err(at("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(at("chmod", &path))?;
    }
    match fs::rename(&staging, points) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            fs::remove_dir_all(&staging).map_err(at("remove", &staging))
        }
        Err(error) => Err(at("make", points)(error)),
    }
}

fn make_folder(path: &Path) -> Result<(), RootfsError> {
    fs::create_dir(path).map_err(at("make", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(at("chmod", path))
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootfsError {
    move |source| RootfsError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_layers_than_the_kernel_stacks_are_refused_with_both_numbers() {
        let folder = rustix::fs::open(c"/", OFlags::PATH, Mode::empty()).unwrap();
        let refused = overlay(&[folder.as_fd(); MOST_LOWERS + 1], None).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "cannot mount overlay: 501 layers, and the kernel stacks at most 500"
        );
    }
}
