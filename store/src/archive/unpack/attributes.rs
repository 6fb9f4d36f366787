//! Owners, modes, extended attributes and times of what was made, with as few calls as can be.
//!
//! May touch: the tree. Knows nothing of where entries come from.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::tree::TreeWriter;
use crate::archive::read::{Entry, Kind};

/// Where a device stands that this user may not make: `c 1 3`, on an empty file.
pub(crate) const DEVICE_XATTR: &str = "user.rbuild.device";

const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Whether an attribute of an archive (or of an upper directory) is the content's own.
///
/// Overlay's would forge its bookkeeping, ours our own, and the kernel's labels are this machine's.
pub(crate) fn is_carried(name: &[u8]) -> bool {
    const DROPPED: [&[u8]; 5] =
        [b"trusted.", b"user.overlay.", b"user.rbuild.", b"security.selinux", b"security.evm"];
    !DROPPED.iter().any(|prefix| name.starts_with(prefix)) && name != b"security.ima"
}

impl TreeWriter<'_> {
    /// Sets owner, mode and attributes of a file or directory that was just made with `made` as mode.
    pub(super) fn finish_by_fd(
        &mut self,
        fd: &OwnedFd,
        entry: &Entry,
        made: u32,
        fresh: bool,
    ) -> io::Result<()> {
        let changed_owner = self.chown_if_needed(fd, entry.uid, entry.gid, !fresh)?;
        // A change of owner clears set-id bits.
        let made = if fresh { made & !self.umask } else { !0 };
        if entry.mode != made || (changed_owner && entry.mode & 0o6000 != 0) {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))?;
        }
        Self::set_xattrs(fd.as_fd(), entry)
    }

    /// Changes the owner unless a fresh file has it already; returns whether it did.
    pub(super) fn chown_if_needed(&self, fd: &OwnedFd, uid: u32, gid: u32, always: bool) -> io::Result<bool> {
        let passes_group = self.parent.as_ref().is_none_or(|parent| parent.passes_group);
        if !always && !passes_group && (uid, gid) == self.own_ids {
            return Ok(false);
        }
        rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        Ok(true)
    }

    fn set_xattrs(fd: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_carried(name)) {
            // A default ACL would change what is made below; it is set with the times.
            if entry.kind == Kind::Directory && name == DEFAULT_ACL {
                continue;
            }
            let key = std::ffi::OsStr::from_bytes(name);
            tolerate(name, rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()))?;
        }
        Ok(())
    }

    /// Owner, mode, attributes and times of a link, device or fifo, by name in the current directory.
    pub(super) fn finish_by_name(&mut self, name: &[u8], entry: &Entry) -> io::Result<()> {
        let parent = self.parent.as_ref().expect("the entry was made in it");
        let dir = parent.dir.as_fd();
        if parent.passes_group || (entry.uid, entry.gid) != self.own_ids {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if entry.kind != Kind::Symlink {
            // The name was made a moment ago, is no link, and the tree is private.
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        if entry.xattrs.iter().any(|(name, _)| is_carried(name)) {
            let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            for (key, value) in entry.xattrs.iter().filter(|(key, _)| is_carried(key)) {
                let os = std::ffi::OsStr::from_bytes(key);
                tolerate(key, rustix::fs::lsetxattr(&path[..], os, value, XattrFlags::empty()))?;
            }
        }
        rustix::fs::utimensat(dir, name, &entry.mtime.timestamps(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    pub(super) fn make_opaque(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        Ok(rustix::fs::fsetxattr(dir, self.overlay.opaque_xattr(), b"y", XattrFlags::empty())?)
    }

    /// Makes the device or fifo itself.
    pub(super) fn make_node(dir: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), Errno> {
        let kind = match entry.kind {
            Kind::Character => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        match rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device) {
            Err(Errno::PERM) if kind != FileType::Fifo => Self::make_placeholder(dir, name, entry),
            other => other,
        }
    }

    /// Only root of the machine makes devices; what a sandbox may use of them it gets from us anyway.
    fn make_placeholder(dir: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), Errno> {
        use rustix::fs::OFlags;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        let letter = if entry.kind == Kind::Block { 'b' } else { 'c' };
        let text = format!("{letter} {} {}", entry.device.0, entry.device.1);
        rustix::fs::fsetxattr(&file, DEVICE_XATTR, text.as_bytes(), XattrFlags::CREATE)
    }

    /// Times of directories, and default ACLs: what the making of children would have spoilt.
    pub(super) fn finish_directories(&mut self) -> io::Result<()> {
        for (path, time, acl) in std::mem::take(&mut self.directories) {
            let Some(dir) = self.reopen_if_there(&path)? else { continue };
            if let Some(acl) = acl {
                let name = std::ffi::OsStr::from_bytes(DEFAULT_ACL);
                tolerate(DEFAULT_ACL, rustix::fs::fsetxattr(&dir, name, &acl, XattrFlags::empty()))?;
            }
            rustix::fs::futimens(&dir, &time.timestamps())?;
        }
        Ok(())
    }
}

/// The default ACL of a directory's entry.
pub(super) fn default_acl(entry: &Entry) -> Option<Vec<u8>> {
    entry.xattrs.iter().find(|(name, _)| name == DEFAULT_ACL).map(|(_, value)| value.clone())
}

/// A file system without an attribute's kind is no error (the recipe keeps it); a lost capability is.
fn tolerate(name: &[u8], result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::NOTSUP | Errno::PERM) if name != b"security.capability" => Ok(()),
        other => Ok(other?),
    }
}
