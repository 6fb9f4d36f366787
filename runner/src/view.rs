//! Views: the files of an image or of a container that has ended, mounted to be read.
//!
//! ```text
//! containers/<id>/scratch/upper    of a container: one more layer on top, never written
//! image's layers
//! ```
//! While a view lives no collector takes its layers, and nobody removes its container.
//!
//! May touch: detached mounts, records' folders (reading). Knows nothing of who reads the files.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use store::{Image, Stack, Store, StoreError};

use crate::container::{self, ContainerError, Record, State};
use crate::rootfs::{self, MountOptions, Rootfs, RootfsError};

/// A mounted view; dropping it unmounts.
#[derive(Debug)]
pub struct View {
    rootfs: Rootfs,
    _stack: Stack,
    _lock: Option<File>,
}

/// Why files can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("container {0} is running: its files are shown when it has ended")]
    Running(String),
    #[error("container {0} left no files: its rbuild was killed")]
    NothingLeft(String),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
}

impl View {
    /// Of an image without its `without_top` last layers.
    pub fn of_image(store: &Store, image: &Image, without_top: usize) -> Result<Self, ViewError> {
        let count = image.layers.len().saturating_sub(without_top);
        let stack = store.layers().open_stack(&image.layers[..count])?;
        Self::mount(store, stack, None)
    }

    /// Of a container over its image.
    pub fn of_container(store: &Store, record: &Record, image: &Image) -> Result<Self, ViewError> {
        let name = || record.name.clone();
        let lock = container::hold(store, record)?.ok_or_else(|| ViewError::Running(name()))?;
        if !matches!(record.state, State::Exited { .. }) {
            return Err(ViewError::Running(name()));
        }
        let place = container::upper_of(store, record);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let upper = match rustix::fs::open(&place, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Err(ViewError::NothingLeft(name())),
            other => other.map_err(failed(&place))?,
        };
        let mut stack = store.layers().open_stack(&image.layers)?;
        stack.put_on_top(upper);
        Self::mount(store, stack, Some(lock))
    }

    fn mount(store: &Store, stack: Stack, lock: Option<File>) -> Result<Self, ViewError> {
        let rootfs = rootfs::mount(store, &stack, None, MountOptions::default())?;
        Ok(Self { rootfs, _stack: stack, _lock: lock })
    }

    /// The root directory of the mount.
    pub fn tree(&self) -> &OwnedFd {
        &self.rootfs.mount
    }
}

fn failed<E: Into<std::io::Error>>(path: &Path) -> impl FnOnce(E) -> RootfsError {
    let path = path.to_owned();
    move |source| RootfsError::Io { doing: "open", path, source: source.into() }
}
