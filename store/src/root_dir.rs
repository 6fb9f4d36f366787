//! [`RootDir`]: the only door into trees that others wrote.
//!
//! A path inside an image is an [`ImagePath`], never a `Path`, and reaches a file only through
//! `openat2(2)` with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`: symlinks and `..` resolve as they
//! would after a chroot, and nothing outside the root can be named.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A path inside an image: absolute, normalised (`/a/b`), any bytes but NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePath(Vec<u8>);

impl ImagePath {
    /// The root itself.
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// Normalises `text` lexically: relative to `/`, `.` dropped, `..` clamped at the root.
    pub fn new(text: impl AsRef<[u8]>) -> Self {
        Self::root().join(text)
    }

    /// Resolves `text` against this path, lexically; an absolute `text` replaces it.
    #[must_use]
    pub fn join(&self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let start: &[u8] = if text.starts_with(b"/") { b"" } else { &self.0 };
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in start.split(|byte| *byte == b'/').chain(text.split(|byte| *byte == b'/')) {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                _ => parts.push(part),
            }
        }
        let mut out = vec![b'/'];
        out.extend(parts.join(&b'/'));
        Self(out)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Without the leading slash; empty for the root.
    pub fn relative(&self) -> &[u8] {
        &self.0[1..]
    }

    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&OsStr> {
        use std::os::unix::ffi::OsStrExt;
        let name = self.0.rsplit(|byte| *byte == b'/').next()?;
        (!name.is_empty()).then(|| OsStr::from_bytes(name))
    }

    /// The path without its last component; the root is its own parent.
    #[must_use]
    pub fn parent(&self) -> Self {
        self.join("..")
    }

    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }
}

impl std::fmt::Display for ImagePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// A directory that is the root of a tree: a layer, a mounted stack, a build context.
#[derive(Debug)]
pub struct RootDir {
    dir: OwnedFd,
}

impl RootDir {
    /// Takes the descriptor of the root directory (`O_PATH` or readable).
    pub fn new(dir: OwnedFd) -> Self {
        Self { dir }
    }

    /// Opens `path` with `flags` (`O_CLOEXEC` is added), all links resolved inside the root.
    pub fn open(&self, path: &ImagePath, flags: rustix::fs::OFlags) -> io::Result<OwnedFd> {
        use rustix::fs::{Mode, OFlags, ResolveFlags};
        let relative = path.relative();
        let name: &[u8] = if relative.is_empty() { b"." } else { relative };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.dir, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // The kernel asks for another try when a rename raced with the walk (openat2(2)).
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Makes `path` and its missing parents with `mode`, and returns it opened `O_PATH`.
    ///
    /// `made` is called with each directory's descriptor right after it was made (to set an owner).
    pub fn make_dirs(
        &self,
        path: &ImagePath,
        mode: u32,
        made: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let _ = (path, mode, made);
        todo!()
    }

    /// Opens the parent of `path` (which must be there) and returns it with the last component.
    pub fn open_parent<'p>(&self, path: &'p ImagePath) -> io::Result<(OwnedFd, &'p OsStr)> {
        let _ = path;
        todo!()
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
