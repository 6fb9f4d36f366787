//! Targets: where a plan's mounts go in the root, made before the sandbox starts, so that the caller can
//! take away again what it did not want in a layer.
//!
//! May touch: the root given. Knows nothing of namespaces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use store::{ImagePath, RootDir};

use super::plan::{Mount, MountSource, Plan};
use super::{SandboxError, setup};

/// Makes the targets of `plan.mounts` that are missing in `root`, and returns what was made, outermost
/// first. The sandbox would make them too; a caller that seals the root afterwards removes these first.
pub fn prepare_targets(plan: &Plan, root: BorrowedFd<'_>) -> Result<Vec<ImagePath>, SandboxError> {
    let doing = |source| SandboxError::Setup { call: "dup(root)".into(), source };
    let root = RootDir::new(root.try_clone_to_owned().map_err(doing)?);
    let mut made = Vec::new();
    for mount in &plan.mounts {
        if !lies_in_a_mount(plan, mount) {
            let call = format!("make the mount target {}", mount.target);
            make(&root, mount, &mut made).map_err(|source| SandboxError::Setup { call, source })?;
        }
    }
    Ok(made)
}

/// A target below `/dev`, `/proc`, `/sys` or an earlier target is not the root's to hold.
fn lies_in_a_mount(plan: &Plan, mount: &Mount) -> bool {
    let below = |outer: &ImagePath| {
        let rest = mount.target.as_bytes().strip_prefix(outer.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let own = ["/dev", "/proc", "/sys"].iter().any(|path| below(&ImagePath::new(path)));
    let earlier = plan.mounts.iter().take_while(|each| !std::ptr::eq(*each, mount));
    own || earlier.into_iter().any(|each| below(&each.target))
}

fn make(root: &RootDir, mount: &Mount, made: &mut Vec<ImagePath>) -> std::io::Result<()> {
    let is_file = match &mount.source {
        MountSource::Tmpfs { .. } => false,
        MountSource::Bind(source) => {
            FileType::from_raw_mode(rustix::fs::fstat(source)?.st_mode) != FileType::Directory
        }
    };
    let mut path = ImagePath::root();
    let mut parent: OwnedFd = root.open(&path, OFlags::PATH)?;
    let count = mount.target.components().count();
    for (place, name) in mount.target.components().enumerate() {
        path = path.join(name);
        parent = match root.open(&path, OFlags::PATH) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                make_one(parent.as_fd(), name, is_file && place + 1 == count)?;
                made.push(path.clone());
                root.open(&path, OFlags::PATH)?
            }
            other => other?,
        };
    }
    Ok(())
}

fn make_one(parent: BorrowedFd<'_>, name: &[u8], is_file: bool) -> std::io::Result<()> {
    if is_file {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644))?;
        // The caller's umask must not show in an image.
        return Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(0o644))?);
    }
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    Ok(rustix::fs::fchmod(folder, Mode::from_raw_mode(0o755))?)
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
