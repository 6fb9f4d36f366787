//! Targets: where a plan's mounts go in the root. Made before the sandbox starts, gone after it.
//!
//! `/proc`, `/sys`, `/dev` and the files in `/etc` are in every root that is mounted for a step (a layer of
//! mount points lies below the image). What is left are the mounts of the plan. A missing target is made
//! in the root and taken away again when it is still ours and empty; the folders that were there before
//! get their times back, so a layer sealed afterwards does not show that anything was mounted
//! (buildkit#3148).
//!
//! May touch: the root given. Knows nothing of namespaces, and of what is mounted.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use store::{ImagePath, RootDir};

use super::plan::{MountSource, Plan};
use super::{SandboxError, setup};

/// The targets that were made for one sandbox.
#[derive(Debug, Default)]
pub struct Targets {
    /// Outermost first.
    made: Vec<Made>,
    /// Folders that were there before, with their times.
    parents: Vec<(OwnedFd, Timestamps)>,
}

#[derive(Debug)]
struct Made {
    parent: OwnedFd,
    path: ImagePath,
    is_dir: bool,
    identity: (u64, u64),
}

fn failed(path: &ImagePath) -> impl Fn(io::Error) -> SandboxError {
    let call = format!("make the mount target {path}");
    move |source| SandboxError::Setup { call: call.clone(), source }
}

impl Targets {
    /// Makes the targets of `plan` that are missing in `root`. The sandbox would make them too; a caller that
    /// seals the root afterwards calls [`Self::remove`] first.
    pub fn make(plan: &Plan, root: &RootDir) -> Result<Self, SandboxError> {
        let mut targets = Self::default();
        let mut earlier: Vec<&ImagePath> = Vec::new();
        for mount in &plan.mounts {
            let is_dir = match &mount.source {
                MountSource::Tmpfs { .. } => true,
                MountSource::Bind(source) => {
                    is_dir(&rustix::fs::fstat(source).map_err(|error| failed(&mount.target)(error.into()))?)
                }
            };
            targets.make_one(root, &mount.target, is_dir, &earlier).map_err(failed(&mount.target))?;
            earlier.push(&mount.target);
        }
        for file in &plan.files {
            targets.make_one(root, &file.target, false, &earlier).map_err(failed(&file.target))?;
        }
        Ok(targets)
    }

    /// What was made, outermost first.
    pub fn paths(&self) -> impl Iterator<Item = &ImagePath> {
        self.made.iter().map(|made| &made.path)
    }

    /// Takes away what is still ours and empty, innermost first.
    pub fn remove(self) -> Result<(), SandboxError> {
        for made in self.made.iter().rev() {
            made.remove().map_err(failed(&made.path))?;
        }
        for (parent, times) in self.parents.iter().rev() {
            rustix::fs::futimens(parent, times).map_err(|error| failed(&ImagePath::root())(error.into()))?;
        }
        Ok(())
    }

    fn make_one(
        &mut self,
        root: &RootDir,
        target: &ImagePath,
        is_dir: bool,
        earlier: &[&ImagePath],
    ) -> io::Result<()> {
        if lies_in_a_mount(target, earlier) {
            return Ok(());
        }
        let mut path = ImagePath::root();
        let count = target.components().count();
        for (place, name) in target.components().enumerate() {
            let parent = path.clone();
            path = path.join(name);
            match root.open(&path, OFlags::PATH) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_name(root, &parent, path.clone(), is_dir || place + 1 < count)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn make_name(
        &mut self,
        root: &RootDir,
        parent: &ImagePath,
        path: ImagePath,
        is_dir: bool,
    ) -> io::Result<()> {
        let parent = root.open(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let before = rustix::fs::fstat(&parent)?;
        let name = path.file_name().unwrap_or_default();
        let made = if is_dir {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, flags, Mode::empty())?
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?
        };
        // The caller's umask must not show in an image.
        rustix::fs::fchmod(&made, Mode::from_raw_mode(if is_dir { 0o755 } else { 0o644 }))?;
        if !self.made.iter().any(|made| made.is_dir && made.identity == identity(&before)) {
            self.parents.push((parent.try_clone()?, times(&before)));
        }
        let identity = identity(&rustix::fs::fstat(&made)?);
        self.made.push(Made { parent, path, is_dir, identity });
        Ok(())
    }
}

impl Made {
    fn remove(&self) -> io::Result<()> {
        let name = self.path.file_name().unwrap_or_default();
        let Ok(now) = rustix::fs::statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(());
        };
        let is_ours = identity(&now) == self.identity && is_dir(&now) == self.is_dir;
        if !is_ours || (!self.is_dir && now.st_size > 0) {
            return Ok(());
        }
        let flags = if self.is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(&self.parent, name, flags) {
            Err(rustix::io::Errno::NOTEMPTY) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// A target below `/dev`, `/proc`, `/sys` or an earlier target is not the root's to hold.
fn lies_in_a_mount(target: &ImagePath, earlier: &[&ImagePath]) -> bool {
    let below = |outer: &ImagePath| {
        let rest = target.as_bytes().strip_prefix(outer.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let own = ["/dev", "/proc", "/sys"].iter().any(|path| below(&ImagePath::new(path)));
    own || earlier.iter().any(|each| below(each))
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or_default() };
    Timestamps { last_access: time, last_modification: time }
}

/// The interpreter that the program names: the word behind `#!`, or the loader of a binary.
pub(crate) fn interpreter(plan: &Plan, root: BorrowedFd<'_>) -> String {
    let unknown = || "or loader".to_owned();
    let Ok(root) = root.try_clone_to_owned().map(RootDir::new) else { return unknown() };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    for candidate in setup::candidates(plan) {
        let Ok(file) = root.open(&plan.process.cwd.join(candidate), flags) else { continue };
        let mut start = [0u8; 256];
        let Ok(length) = rustix::io::read(&file, &mut start) else { continue };
        let line = start[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
        return match line.strip_prefix(b"#!") {
            Some(rest) => {
                let words = String::from_utf8_lossy(rest).into_owned();
                format!("`{}`", words.trim_end_matches('\r').split_whitespace().next().unwrap_or_default())
            }
            None => unknown(),
        };
    }
    unknown()
}
