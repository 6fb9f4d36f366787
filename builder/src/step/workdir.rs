//! WORKDIR: changes the config, and makes the folder when the image lacks it.
//!
//! A folder that is there already costs no layer. A missing one belongs to USER, as in BuildKit.
//!
//! May touch: scratch, stack. Knows nothing of sandboxes, printing.

use std::io;
use std::os::fd::BorrowedFd;

use runner::rootfs::{self, MountOptions};
use rustix::fs::{Gid, OFlags, Uid};
use store::{ImagePath, RootDir, Scratch};

use super::{StepError, owner};
use crate::build::Build;
use crate::cache_key::CacheKey;
use crate::context::walk::Stat;
use crate::draft::Draft;

/// What the step depends on.
pub fn key(draft: &Draft, path: &ImagePath) -> CacheKey {
    let mut key = CacheKey::new("workdir", draft.chain());
    key.add("path", path.to_string());
    key.add("user", &draft.config.config.user);
    key
}

/// Makes `path` on `scratch`.
pub fn apply(build: &Build<'_>, draft: &Draft, path: &ImagePath, scratch: &Scratch) -> Result<(), StepError> {
    let failed = |source: io::Error| StepError::Io { doing: format!("make the directory {path}"), source };
    let stack = build.store.layers().open_stack(&draft.layers)?;
    scratch.take_root_of(&stack)?;
    let root = rootfs::mount(build.store, &stack, Some(scratch), MountOptions::default())?;
    let root = RootDir::new(root.mount);
    match root.open(path, OFlags::PATH) {
        Ok(there) if Stat::of_open(&there).map_err(failed)?.is_dir() => return Ok(()),
        Ok(_) => return Err(failed(io::ErrorKind::NotADirectory.into())),
        Err(_) => {}
    }
    let user = owner::user(&root, &draft.config.config.user)?;
    let mut own = |made: BorrowedFd<'_>| {
        Ok(rustix::fs::fchown(made, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?)
    };
    root.make_dirs(path, 0o755, &mut own).map_err(failed)?;
    Ok(())
}
