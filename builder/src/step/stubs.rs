//! Mount points that a RUN step needs and its image lacks: made before, gone after.
//!
//! `/proc`, `/sys`, `/dev` and the files in `/etc` are in every root already (a layer of mount points
//! lies below the image). What is left are the targets of `--mount`. A missing one is made in the
//! scratch, and taken away again when it is still ours and empty; the parents that were there before
//! get their times back, so the layer does not show that anything was mounted (buildkit#3148).
//!
//! May touch: the mounted root, by descriptor. Knows nothing of mounts' content.

use std::io;
use std::os::fd::OwnedFd;

use runner::sandbox::Plan;
use runner::sandbox::plan::MountSource;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use store::{ImagePath, RootDir};

use super::StepError;
use crate::context::walk::Stat;

/// The mount points that were made for one step.
#[derive(Debug, Default)]
pub struct Stubs {
    /// Outermost first.
    made: Vec<Stub>,
    /// Folders that were there before, with their times.
    parents: Vec<(OwnedFd, Timestamps)>,
}

#[derive(Debug)]
struct Stub {
    parent: OwnedFd,
    name: Vec<u8>,
    is_dir: bool,
    identity: (u64, u64),
}

fn failed(path: &ImagePath) -> impl Fn(io::Error) -> StepError {
    let doing = format!("make the mount point {path}");
    move |source| StepError::Io { doing: doing.clone(), source }
}

impl Stubs {
    /// Makes what is missing of the targets of `plan`.
    pub fn make(root: &RootDir, plan: &Plan) -> Result<Self, StepError> {
        let mut stubs = Self::default();
        for mount in &plan.mounts {
            let is_dir = match &mount.source {
                MountSource::Bind(source) => Stat::of_open(source).map_err(failed(&mount.target))?.is_dir(),
                MountSource::Tmpfs { .. } => true,
            };
            stubs.make_one(root, &mount.target, is_dir).map_err(failed(&mount.target))?;
        }
        for file in &plan.files {
            stubs.make_one(root, &file.target, false).map_err(failed(&file.target))?;
        }
        Ok(stubs)
    }

    fn make_one(&mut self, root: &RootDir, target: &ImagePath, is_dir: bool) -> io::Result<()> {
        // What the sandbox mounts first covers whatever the root has there.
        if [&b"dev"[..], b"proc", b"sys"].contains(&target.components().next().unwrap_or_default()) {
            return Ok(());
        }
        let mut path = ImagePath::root();
        let parts: Vec<&[u8]> = target.components().collect();
        for (number, part) in parts.iter().enumerate() {
            let parent = path.clone();
            path = path.join(part);
            match root.open(&path, OFlags::PATH) {
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let last = number + 1 == parts.len();
            self.make_name(root, &parent, part, is_dir || !last)?;
        }
        Ok(())
    }

    fn make_name(&mut self, root: &RootDir, parent: &ImagePath, name: &[u8], is_dir: bool) -> io::Result<()> {
        let parent = root.open(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let before = Stat::of_open(&parent)?;
        if is_dir {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            drop(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?);
        }
        let made = Stat::of(&parent, name)?;
        if !self.made.iter().any(|stub| stub.is_dir && stub.identity == (before.device, before.inode)) {
            self.parents.push((parent.try_clone()?, times(&before)));
        }
        let identity = (made.device, made.inode);
        self.made.push(Stub { parent, name: name.to_vec(), is_dir, identity });
        Ok(())
    }

    /// Takes away what is still ours and empty, innermost first.
    pub fn remove(self) -> Result<(), StepError> {
        for stub in self.made.iter().rev() {
            stub.remove().map_err(failed(&ImagePath::new(&stub.name)))?;
        }
        for (parent, times) in self.parents.iter().rev() {
            rustix::fs::futimens(parent, times).map_err(|error| failed(&ImagePath::root())(error.into()))?;
        }
        Ok(())
    }
}

impl Stub {
    fn remove(&self) -> io::Result<()> {
        let Ok(now) = Stat::of(&self.parent, &self.name) else { return Ok(()) };
        let ours = (now.device, now.inode) == self.identity && now.is_dir() == self.is_dir;
        if !ours || (!self.is_dir && now.size_bytes > 0) {
            return Ok(());
        }
        let flags = if self.is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(&self.parent, &self.name[..], flags) {
            Err(rustix::io::Errno::NOTEMPTY) => Ok(()),
            other => Ok(other?),
        }
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.mtime.0, tv_nsec: i64::from(stat.mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}
