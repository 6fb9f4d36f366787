//! The system calls that no library wraps safely: the only room with `unsafe`.
//!
//! Each wrapper makes one call, checks nothing but its result, allocates nothing and takes no lock, so
//! that a child of `clone3` in a process with threads may use it.
//!
//! May touch: the kernel. Knows nothing of policy.
#![expect(unsafe_code, reason = "this room holds the calls that no library wraps safely")]

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

pub(crate) const CLONE_NEW_MOUNTS: u64 = libc::CLONE_NEWNS as u64;
pub(crate) const CLONE_NEW_HOSTNAME: u64 = libc::CLONE_NEWUTS as u64;
pub(crate) const CLONE_NEW_IPC: u64 = libc::CLONE_NEWIPC as u64;
pub(crate) const CLONE_NEW_PIDS: u64 = libc::CLONE_NEWPID as u64;
pub(crate) const CLONE_NEW_NETWORK: u64 = libc::CLONE_NEWNET as u64;
pub(crate) const CLONE_NEW_CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
pub(crate) const CLONE_NEW_USERS: u64 = libc::CLONE_NEWUSER as u64;

/// One instruction of a classic BPF program, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) if_true: u8,
    pub(crate) if_false: u8,
    pub(crate) operand: u32,
}

/// How a child ended: `si_code`, `si_status` and the processor time it and its children took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) status: i32,
    pub(crate) cpu_microseconds: u64,
}

impl Ended {
    /// Whether `status` is an exit status; it is a signal otherwise.
    pub(crate) fn exited(self) -> bool {
        self.code == libc::CLD_EXITED
    }
}

fn check(result: libc::c_long) -> rustix::io::Result<libc::c_long> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Copies this process as `fork` does, into new namespaces and, on cgroup v2, into a cgroup.
///
/// The copy has one thread and runs `child` until it ends: memory locked by other threads stays locked.
pub(crate) fn clone_process(
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: &mut dyn FnMut() -> Infallible,
) -> rustix::io::Result<(u32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces | libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child runs on its own copy of this stack, and never returns from here.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    let pid = u32::try_from(check(pid)?).map_err(|_| Errno::OVERFLOW)?;
    if pid == 0 {
        child();
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Ends the process at once, without any clean-up of the copied memory.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Leaves namespaces for new ones.
pub(crate) fn unshare(namespaces: u64) -> rustix::io::Result<()> {
    // SAFETY: the constants above hold only namespace flags, never CLONE_FILES.
    check(unsafe { libc::syscall(libc::SYS_unshare, namespaces) }).map(drop)
}

/// Sets and clears attributes of a mount (and of those below), and makes it private.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    private: bool,
) -> rustix::io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let propagation = if private { libc::MS_PRIVATE } else { 0 };
    let attributes: [u64; 4] = [set, 0, propagation, 0];
    let (fd, empty) = (mount.as_raw_fd(), c"".as_ptr());
    // SAFETY: `attributes` has the layout and size of `struct mount_attr` (VER0: four u64).
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, attributes.as_ptr(), 32usize) })
        .map(drop)
}

/// Gives the process a new, empty session keyring.
pub(crate) fn join_new_session_keyring() -> rustix::io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name makes an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) }).map(drop)
}

/// Installs a seccomp filter on this thread for ever.
pub(crate) fn load_seccomp(program: &[Instruction]) -> rustix::io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `Instruction` has the layout of `sock_filter`; the kernel only reads and checks the program.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0usize, &raw const filter)
    })
    .map(drop)
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub(crate) fn close_on_exec_from(first: u32) -> rustix::io::Result<()> {
    // SAFETY: changes flags of descriptors, closes none.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Unblocks every signal and gives each its default disposition.
pub(crate) fn reset_signals() -> rustix::io::Result<()> {
    // `struct sigaction` of the kernel: handler (0 is SIG_DFL), flags, restorer, mask.
    let action = [0u64; 4];
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: sets the default handler; `action` is as large as the kernel's struct.
            check(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), 0usize, 8usize) })?;
        }
    }
    let none = 0u64;
    // SAFETY: replaces the mask of this thread by the empty one.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0usize, 8usize)
    })
    .map(drop)
}

/// Words in the form that `execve` takes: pointers ended by a null one.
#[derive(Debug)]
pub(crate) struct Words {
    /// Owns what `pointers` points into; never read.
    _words: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Words {
    pub(crate) fn new(words: Vec<CString>) -> Self {
        let ends = std::iter::once(std::ptr::null());
        let pointers = words.iter().map(|word| word.as_ptr()).chain(ends).collect();
        Self { _words: words, pointers }
    }
}

/// Replaces the program; returns only when that can't be done.
pub(crate) fn execve(path: &CStr, words: &Words, environment: &Words) -> Errno {
    // SAFETY: both lists are ended by null and point to strings that their `Words` own.
    unsafe { libc::execve(path.as_ptr(), words.pointers.as_ptr(), environment.pointers.as_ptr()) };
    last_error()
}

/// Whether the working directory can be reached from the root (`getcwd` gives an absolute path).
pub(crate) fn working_directory_is_reachable() -> rustix::io::Result<bool> {
    let mut buffer = [0u8; 4096];
    // SAFETY: the kernel writes at most the length given.
    check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(buffer[0] == b'/')
}

/// Sets the loopback interface up in the network namespace of `socket`.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    /// `IFF_UP | IFF_RUNNING`.
    const UP_AND_RUNNING: libc::c_short = 0x41;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    (request.ifr_name[0], request.ifr_name[1]) = (b'l'.cast_signed(), b'o'.cast_signed());
    request.ifr_ifru.ifru_flags = UP_AND_RUNNING;
    // SAFETY: `request` is the struct that this ioctl reads.
    check(i64::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }))
        .map(drop)
}

/// Waits for the child and reaps it.
pub(crate) fn wait(pidfd: BorrowedFd<'_>) -> rustix::io::Result<Ended> {
    // SAFETY: both are plain data, for which zero is a value.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
    let (fd, info_at, usage_at) = (pidfd.as_raw_fd(), &raw mut info, &raw mut usage);
    // SAFETY: the kernel fills the two structs.
    check(unsafe { libc::syscall(libc::SYS_waitid, libc::P_PIDFD, fd, info_at, libc::WEXITED, usage_at) })?;
    let microseconds = |time: libc::timeval| (time.tv_sec * 1_000_000 + time.tv_usec).cast_unsigned();
    let cpu_microseconds = microseconds(usage.ru_utime) + microseconds(usage.ru_stime);
    // SAFETY: `waitid` has filled the fields of a SIGCHLD.
    Ok(Ended { code: info.si_code, status: unsafe { info.si_status() }, cpu_microseconds })
}

/// Sends any signal, real-time ones too.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> rustix::io::Result<()> {
    let fd = pidfd.as_raw_fd();
    // SAFETY: a null info means what `kill` would fill in.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, 0usize, 0usize) }).map(drop)
}

/// Closes a descriptor of a copied process, whose owner lives on in the original.
pub(crate) fn close(descriptor: BorrowedFd<'_>) {
    // SAFETY: called in a copy that never runs the owner's destructor.
    unsafe { libc::close(descriptor.as_raw_fd()) };
}
