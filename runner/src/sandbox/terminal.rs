//! The terminal of a sandbox: a pty of its own `devpts`, so that no name in the image can stand in for it.
//!
//! May touch: the devpts mount and pty given. Knows nothing of what is shown.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;

/// A new pty of `devpts`: master and slave.
pub(crate) fn open(devpts: BorrowedFd<'_>) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(devpts, c"ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    // By descriptor: `/dev/pts/N` is a name that others may have put something else behind.
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

/// Tells the terminal its size; its foreground processes get SIGWINCH.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> std::io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
