//! Scratch: the writable top of a stack, sealed into a layer or dropped.
//!
//! ```text
//! scratch/<lease>-<n>/upper/   what is written
//! scratch/<lease>-<n>/work/    overlayfs's own
//! ```
//!
//! May touch: its own folder. Knows nothing of mounts.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::{Gid, Mode, Uid};

use crate::folder::Folder;
use crate::layers::Stack;
use crate::{Store, StoreError};

/// A writable top; dropping it deletes it.
#[derive(Debug)]
pub struct Scratch {
    /// `scratch/<lease>-<n>`.
    pub path: PathBuf,
    pub upper: OwnedFd,
    pub work: OwnedFd,
    pub(crate) folder: Folder,
    /// Mode, owner and group that the root had below; a change of them is a change of the layer.
    pub(crate) root_before: OnceLock<(u32, u32, u32)>,
}

impl Scratch {
    pub(crate) fn make(store: &Store) -> Result<Self, StoreError> {
        let lease = store.lease()?;
        let make = || -> io::Result<(Folder, OwnedFd, OwnedFd)> {
            let folder = Folder::make(&lease, "scratch")?;
            let upper = folder.make_inside("upper", Mode::from_raw_mode(0o755))?;
            let work = folder.make_inside("work", Mode::RWXU)?;
            Ok((folder, upper, work))
        };
        let (folder, upper, work) =
            make().map_err(StoreError::io("make a folder in", store.root.join("scratch")))?;
        Ok(Self { path: store.root.join(&folder.place), upper, work, folder, root_before: OnceLock::new() })
    }

    /// Gives the upper directory owner and mode of the stack's root, which an overlay shows as its own.
    pub fn take_root_of(&self, stack: &Stack) -> Result<(), StoreError> {
        let Some(root) = stack.root_tree.and_then(|position| stack.trees.get(position)) else {
            return Ok(());
        };
        let set = || -> io::Result<()> {
            let stat = rustix::fs::fstat(root)?;
            self.root_before.get_or_init(|| (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid));
            if stat.st_uid != 0 || stat.st_gid != 0 {
                rustix::fs::fchown(
                    &self.upper,
                    Some(Uid::from_raw(stat.st_uid)),
                    Some(Gid::from_raw(stat.st_gid)),
                )?;
            }
            Ok(rustix::fs::fchmod(&self.upper, Mode::from_raw_mode(stat.st_mode & 0o7777))?)
        };
        set().map_err(StoreError::io("set attributes of", self.path.join("upper")))
    }

    /// Whether the root directory got another mode or owner while this was written.
    pub(crate) fn root_changed(&self) -> io::Result<bool> {
        let stat = rustix::fs::fstat(&self.upper)?;
        let before = self.root_before.get().copied().unwrap_or((0o755, 0, 0));
        Ok(before != (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid))
    }
}
