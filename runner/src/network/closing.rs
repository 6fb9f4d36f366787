//! Closing a descriptor without waiting for what the kernel does at its end.
//!
//! Closing the socket that owns rules takes the kernel up to ten milliseconds, most of a short run:
//! it waits until no processor looks at the rules any more. The wait must not be ours:
//!
//! ```text
//! ┌─▶ unix socket ─ its queue: [ the descriptor, the unix socket itself ] ─┐
//! └────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A unix socket that is held by nothing but its own queue is garbage (unix(7), `SCM_RIGHTS`), and
//! the kernel's collector closes what is in it, in the background. Where the collector runs in the
//! foreground (before Linux 6.10), and where a step fails, closing only takes as long as it does.
//!
//! May touch: the descriptor given. Knows nothing of what it is.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};

/// Lets the kernel hold `descriptor` until its collector comes by; the caller drops its own then.
pub(super) fn leave_to_the_kernel(descriptor: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let (sender, queue) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let both = [descriptor, queue.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    message.push(SendAncillaryMessage::ScmRights(&both));
    sendmsg(&sender, &[IoSlice::new(b"x")], &mut message, SendFlags::empty()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_left_to_the_kernel_is_closed_in_the_end() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        leave_to_the_kernel(writer.as_fd()).unwrap();
        drop(writer);
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let start = Instant::now();
        // End of file comes when the last writer is closed; until then there is nothing to read.
        while rustix::io::read(&reader, &mut [0; 1]) != Ok(0) {
            assert!(start.elapsed() < Duration::from_secs(10), "the collector does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
