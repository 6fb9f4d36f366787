//! `RUN --mount=type=cache`: a folder that outlives the build.
//!
//! Named by the hash of its id, so no id can name a path (CVE-2024-9675). *shared* folders are used
//! by any number of builds at once, *locked* ones by one after the other, *private* ones by the first
//! and, while it is busy, by a further folder each. Busy is a lock on the folder itself, which the
//! kernel lets go when a build dies.
//!
//! May touch: the store's `cache-mounts/`. Knows nothing of cache keys, sandboxes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid};
use store::{Digest, ImagePath, RootDir};

use super::StepError;
use super::mounts::Sharing;
use super::place::{Placer, Placing};
use crate::build::Build;
use crate::stage::Tree;

/// Opens the folder of `id`, and returns it with the lock that must be held while it is used.
pub fn open(
    build: &Build<'_>,
    id: &str,
    sharing: Sharing,
    (mode, uid, gid): (u32, u32, u32),
    seed: Option<(&Tree, &str)>,
) -> Result<(OwnedFd, OwnedFd), StepError> {
    let failed = |source: io::Error| StepError::Io { doing: format!("open the cache mount `{id}`"), source };
    let name = Digest::of(id.as_bytes()).hex();
    for number in 0_u32.. {
        let name = if number == 0 { name.clone() } else { format!("{name}-{number}") };
        let (folder, is_new) = make(build, &name, mode).map_err(failed)?;
        let operation = match sharing {
            Sharing::Shared => FlockOperation::LockShared,
            Sharing::Locked => FlockOperation::LockExclusive,
            Sharing::Private => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&folder, operation) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => continue,
            Err(error) => return Err(failed(error.into())),
        }
        if is_new {
            fill(build, &folder, seed)?;
            rustix::fs::fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .and_then(|()| rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode)))
                .map_err(|error| failed(error.into()))?;
        }
        let shown = folder.try_clone().map_err(failed)?;
        return Ok((shown, folder));
    }
    unreachable!("some number is free")
}

fn make(build: &Build<'_>, name: &str, mode: u32) -> io::Result<(OwnedFd, bool)> {
    let all = build.store.cache_mounts()?;
    let is_new = match rustix::fs::mkdirat(&all, name, Mode::from_raw_mode(mode)) {
        Ok(()) => true,
        Err(rustix::io::Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((rustix::fs::openat(&all, name, flags, Mode::empty())?, is_new))
}

/// A new folder starts with what `from=` and `source=` name.
fn fill(build: &Build<'_>, folder: &OwnedFd, seed: Option<(&Tree, &str)>) -> Result<(), StepError> {
    let Some((tree, source)) = seed else { return Ok(()) };
    let selected =
        tree.select(build, &[source.to_owned()], &crate::context::ignore::IgnoreRules::default())?;
    let to = folder
        .try_clone()
        .map_err(|source| StepError::Io { doing: "fill a cache mount".to_owned(), source })?;
    let to = RootDir::new(to);
    let placing = Placing::default();
    let mut placer = Placer::new(&tree.source().root, &to, &placing);
    selected.iter().try_for_each(|one| placer.place(one, &ImagePath::root()))?;
    Ok(())
}
