//! Extended attributes of what a walk meets, openable or not.
//!
//! May touch: the one file given. Knows nothing of what attributes mean.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Where extended attributes are read from.
pub(crate) enum Place<'p> {
    Open(BorrowedFd<'p>),
    /// What can't be opened: a link, a device, a fifo.
    Named(BorrowedFd<'p>, &'p [u8]),
}

impl Place<'_> {
    fn path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        path
    }

    pub(crate) fn xattrs(&self) -> io::Result<Vec<Vec<u8>>> {
        let list = grow(|buffer| match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Named(dir, name) => rustix::fs::llistxattr(&Self::path(*dir, name)[..], buffer),
        });
        match list {
            Ok(list) => Ok(list
                .split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
                .map(<[u8]>::to_vec)
                .collect()),
            Err(Errno::NOTSUP) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(grow(|buffer| match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Named(dir, entry) => rustix::fs::lgetxattr(&Self::path(*dir, entry)[..], name, buffer),
        })?)
    }

    pub(super) fn remove(&self, name: &[u8]) -> io::Result<()> {
        match self {
            Self::Open(fd) => Ok(rustix::fs::fremovexattr(fd, name)?),
            Self::Named(dir, entry) => Ok(rustix::fs::lremovexattr(&Self::path(*dir, entry)[..], name)?),
        }
    }
}

/// Calls with a small buffer, and with the largest there can be when that is too small.
fn grow(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 512];
    match call(&mut small) {
        Ok(count) => Ok(small[..count].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; 64 << 10];
            let count = call(&mut large)?;
            large.truncate(count);
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}
