//! Copies a tree that others wrote, folder by folder through descriptors, following no link.
//!
//! Owner, mode, extended attributes and times come along; devices and sockets do not.
//!
//! May touch: the two folders given. Knows nothing of volumes and images.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, futimens, mkdirat, openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

/// Every level holds two descriptors; nobody's data lies deeper.
const DEPTH_MAX: usize = 200;

/// Copies what is in `from` into `to`, an empty folder, which becomes like `from` itself.
pub(super) fn tree(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    folder(from, to, 0)
}

fn folder(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("the folders are nested too deep"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            one(from, to, name, depth)?;
        }
    }
    attributes(from, to)
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let inner = openat(from, name, read | OFlags::DIRECTORY, Mode::empty())?;
            let copy = openat(to, name, read | OFlags::DIRECTORY, Mode::empty())?;
            folder(&inner, &copy, depth + 1)
        }
        FileType::RegularFile => {
            let source = openat(from, name, read, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            let (mut source, mut copy) = (File::from(source), File::from(copy));
            io::copy(&mut source, &mut copy)?;
            attributes(&source.into(), &copy.into())
        }
        FileType::Symlink => {
            symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
            let (uid, gid) = owner(&stat);
            Ok(chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        _ => Ok(()),
    }
}

/// The owner first: changing it clears the set-user bit and capabilities.
fn attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = owner(&stat);
    fchown(to, Some(uid), Some(gid))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    extended_attributes(from, to)?;
    let time = |seconds: i64, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(futimens(to, &times)?)
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn extended_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    // The kernel's limits of a list and of a value.
    let (mut names, mut value) = (vec![0; 65_536], Vec::new());
    let length = match flistxattr(from, &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(()),
        other => other?,
    };
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let is_overlays =
            [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|own| name.to_bytes().starts_with(own));
        if is_overlays {
            continue;
        }
        value.resize(65_536, 0);
        let length = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // Security labels of another host's kind can't be set here and mean nothing here.
            Err(Errno::NOTSUP | Errno::PERM) => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn a_copy_has_the_content_modes_and_times_and_follows_no_link() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("a/b/file"), "text").unwrap();
        std::fs::set_permissions(from.join("a/b/file"), std::fs::Permissions::from_mode(0o4751)).unwrap();
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc", from.join("a/link")).unwrap();

        tree(&open(&from), &open(&to)).unwrap();

        assert_eq!(std::fs::read_to_string(to.join("a/b/file")).unwrap(), "text");
        let (one, other) =
            (from.join("a/b/file").metadata().unwrap(), to.join("a/b/file").metadata().unwrap());
        assert_eq!((one.mode(), one.mtime_nsec()), (other.mode(), other.mtime_nsec()));
        assert_eq!(to.metadata().unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(std::fs::read_link(to.join("a/link")).unwrap(), Path::new("/etc"));
    }

    #[test]
    fn absurd_depth_ends_with_an_error() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        std::fs::create_dir_all(from.join("d/".repeat(DEPTH_MAX + 2))).unwrap();
        std::fs::create_dir(&to).unwrap();
        assert!(tree(&open(&from), &open(&to)).is_err());
    }
}
