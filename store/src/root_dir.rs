//! [`RootDir`]: the only door into trees that others wrote.
//!
//! A path inside an image is an [`ImagePath`], never a `Path`, and reaches a file only through
//! `openat2(2)` with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`: symlinks and `..` resolve as they
//! would after a chroot, and nothing outside the root can be named.
//!
//! May touch: the tree whose descriptor it was given. Knows nothing of layers or of the store.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

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

    /// The path of something inside: `names` came from listings (`a/b`), so nothing in them is settled.
    #[must_use]
    pub fn join_names(&self, names: &[u8]) -> Self {
        let mut out = Vec::with_capacity(self.0.len() + 1 + names.len());
        out.extend(&self.0);
        if !self.is_root() && !names.is_empty() {
            out.push(b'/');
        }
        out.extend(names);
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
    pub fn open(&self, path: &ImagePath, flags: OFlags) -> io::Result<OwnedFd> {
        let relative = path.relative();
        self.open_raw(if relative.is_empty() { b"." } else { relative }, flags)
    }

    /// Makes `path` and its missing parents with `mode`, and returns it opened `O_PATH`.
    ///
    /// `on_made` is called with each directory's descriptor right after it was made (to set an owner).
    /// A link to a directory counts as that directory; a dangling link's target is made.
    pub fn make_dirs(
        &self,
        path: &ImagePath,
        mode: u32,
        on_made: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let mut walked: Vec<u8> = Vec::new();
        let mut todo: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        todo.reverse();
        let mut here = self.open_raw(b".", DIRECTORY_PATH)?;
        let mut budget = LINK_BUDGET;
        while let Some(name) = todo.pop() {
            let parent_length = walked.len();
            walked.extend_from_slice(if walked.is_empty() { b"" } else { b"/" });
            walked.extend_from_slice(&name);
            here = match self.open_raw(&walked, DIRECTORY_PATH) {
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                    match make_one(&here, &name, mode, on_made)? {
                        Some(dir) => dir,
                        None => {
                            // Something came between, or a dangling link lies here: go where it points.
                            budget = budget.checked_sub(1).ok_or(Errno::LOOP)?;
                            walked.truncate(parent_length);
                            Self::follow(&here, &name, &mut walked, &mut todo)?;
                            self.open_raw(if walked.is_empty() { b"." } else { &walked }, DIRECTORY_PATH)?
                        }
                    }
                }
                other => other?,
            };
        }
        Ok(here)
    }

    /// Puts the parts of the link `name` in `dir` (whose path is `walked`) before what is still to do.
    fn follow(dir: &OwnedFd, name: &[u8], walked: &mut Vec<u8>, todo: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let target = match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            // No link: whatever came between is looked at again.
            Err(Errno::INVAL | Errno::NOENT) => name.to_vec(),
            Err(errno) => return Err(errno.into()),
        };
        if target.starts_with(b"/") {
            walked.clear();
        }
        let parts = target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        todo.extend(parts.rev().map(<[u8]>::to_vec));
        Ok(())
    }

    /// Deletes `path` and all below it; links are deleted, never followed.
    pub fn remove_all(&self, path: &ImagePath) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        crate::folder::remove_tree(parent.as_fd(), &std::ffi::CString::new(name.as_encoded_bytes())?)
    }

    /// Opens the parent of `path` (which must be there) and returns it with the last component.
    ///
    /// The last component itself is not looked at; open it with `O_NOFOLLOW`. The root has no parent.
    pub fn open_parent<'p>(&self, path: &'p ImagePath) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok((self.open(&path.parent(), DIRECTORY_PATH)?, name))
    }

    /// Reads a regular file whole; one that is longer than `limit_bytes` is refused.
    pub fn read_file(&self, path: &ImagePath, limit_bytes: u64) -> io::Result<Vec<u8>> {
        use std::io::Read;
        // Without O_NONBLOCK a fifo in an image would hang us.
        let file = std::fs::File::from(self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(limit_bytes + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit_bytes {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it is longer than {limit_bytes} bytes"),
            ));
        }
        Ok(bytes)
    }

    fn open_raw(&self, relative: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        open_by_rules(self.dir.as_fd(), relative, flags, resolve)
    }
}

const DIRECTORY_PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// As many links as the kernel follows in one path.
const LINK_BUDGET: u32 = 40;

/// `openat2` that asks again when a rename raced with the walk, as the kernel wants it (openat2(2)).
pub(crate) fn open_by_rules(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    loop {
        match rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Makes one directory; `None` when something of that name is there.
fn make_one(
    parent: &OwnedFd,
    name: &[u8],
    mode: u32,
    on_made: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => return Ok(None),
        other => other?,
    }
    let dir = rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // The process's umask has no say in what an image holds.
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
    on_made(dir.as_fd())?;
    Ok(Some(open_by_rules(dir.as_fd(), b".", DIRECTORY_PATH, ResolveFlags::BENEATH)?))
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn root_of(path: &Path) -> RootDir {
        RootDir::new(std::fs::File::open(path).unwrap().into())
    }

    #[test]
    fn names_are_joined_as_they_are() {
        assert_eq!(ImagePath::root().join_names(b"a/b"), ImagePath::new("/a/b"));
        assert_eq!(ImagePath::new("x").join_names(b"a"), ImagePath::new("/x/a"));
        assert_eq!(ImagePath::new("x").join_names(b""), ImagePath::new("/x"));
    }

    #[test]
    fn paths_are_normalised_and_clamped() {
        for (base, text, expected) in [
            ("/", "a/b", "/a/b"),
            ("/a", "../..", "/"),
            ("/a", "/x//y/.", "/x/y"),
            ("/a/b", "../c", "/a/c"),
            ("/", "../../etc", "/etc"),
            ("/a", "", "/a"),
        ] {
            assert_eq!(ImagePath::new(base).join(text).to_string(), expected, "{base} + {text}");
        }
    }

    #[test]
    fn links_resolve_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("outside"), b"secret").unwrap();
        let top = dir.path().join("root");
        std::fs::create_dir_all(top.join("etc")).unwrap();
        std::fs::write(top.join("etc/inside"), b"fine").unwrap();
        symlink("/etc/inside", top.join("absolute")).unwrap();
        symlink("../../../../etc/inside", top.join("dots")).unwrap();
        symlink("../outside", top.join("escape")).unwrap();
        symlink(format!("{}/outside", dir.path().display()), top.join("host")).unwrap();
        let root = root_of(&top);
        for good in ["absolute", "dots", "etc/../etc/inside"] {
            assert_eq!(root.read_file(&ImagePath::new(good), 100).unwrap(), b"fine", "{good}");
        }
        for bad in ["escape", "host", "../outside"] {
            let error = root.read_file(&ImagePath::new(bad), 100).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{bad}");
        }
        let error = root.read_file(&ImagePath::new("absolute"), 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn missing_directories_are_made_where_links_point_inside() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("root");
        std::fs::create_dir_all(top.join("run")).unwrap();
        std::fs::create_dir_all(top.join("real/deep")).unwrap();
        symlink("/run", top.join("var")).unwrap();
        symlink("../../../new/place", top.join("dangling")).unwrap();
        symlink("../side", top.join("real/deep/up")).unwrap();
        symlink("/real/deep", top.join("short")).unwrap();
        symlink("loop-b", top.join("loop-a")).unwrap();
        symlink("loop-a", top.join("loop-b")).unwrap();
        let root = root_of(&top);
        let mut count = 0;
        let mut make = |path: &str| {
            root.make_dirs(&ImagePath::new(path), 0o750, &mut |_| {
                count += 1;
                Ok(())
            })
        };
        make("var/a/b").unwrap();
        make("dangling/x").unwrap();
        make("short/up/y").unwrap();
        assert!(make("loop-a/z").is_err());
        assert_eq!(count, 2 + 3 + 2);
        for there in ["run/a/b", "new/place/x", "real/side/y"] {
            assert!(top.join(there).is_dir(), "{there}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
