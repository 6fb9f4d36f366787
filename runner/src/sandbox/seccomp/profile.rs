//! The profile: which system calls a container may make. Moby's semantics in a table of our own.
//!
//! A call is allowed always, with a capability, or for some arguments; a call that is known and not listed
//! gets EPERM. A number that no table knows is newer than the profile and gets ENOSYS, so that libraries
//! fall back as they do on an old kernel.
//!
//! May touch: its arguments. Knows nothing of filters.

use rustix::thread::CapabilitySet;

use super::Architecture;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    /// EPERM.
    Deny,
    /// ENOSYS.
    Unknown,
    /// By an argument's low 32 bits, which are all that the kernel looks at.
    Ask(Question),
}

/// What an argument is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// `socket`: not `AF_ALG` (38), `AF_VSOCK` (40) nor a family that nobody has used for long.
    SocketFamily,
    /// `socketcall` passes families by pointer, where no filter sees them: no `socket` through it.
    SocketcallNumber,
    /// `personality`: plain Linux, 32-bit uname, without ASLR off.
    Personality,
    /// `clone`: no new namespaces.
    CloneFlags,
}

/// The bits of `clone` that make namespaces: mount, cgroup, uts, ipc, user, pid, net.
pub(crate) const NAMESPACE_FLAGS: u32 = 0x7E02_0000;

impl Question {
    /// Where each range of values begins, and whether it is allowed; `None` for a test of bits.
    pub(crate) fn ranges(self) -> Option<&'static [(u32, bool)]> {
        match self {
            Self::SocketFamily => Some(&[
                (0, true),
                (12, false),
                (13, true),
                (19, false),
                (21, true),
                (23, false),
                (24, true),
                (25, false),
                (26, true),
                (34, false),
                (35, true),
                (37, false),
                (39, true),
                (40, false),
                (41, true),
                (46, false),
            ]),
            Self::SocketcallNumber => Some(&[(0, true), (1, false), (2, true)]),
            Self::Personality => Some(&[
                (0, true),
                (1, false),
                (8, true),
                (9, false),
                (0x2_0000, true),
                (0x2_0001, false),
                (0x2_0008, true),
                (0x2_0009, false),
                (u32::MAX, true),
            ]),
            Self::CloneFlags => None,
        }
    }
}

/// The verdict on a call by its name.
pub(crate) fn judge(name: &str, architecture: Architecture, capabilities: CapabilitySet) -> Verdict {
    if ALWAYS.binary_search(&name).is_ok() {
        return Verdict::Allow;
    }
    let with = |(needed, names): &(CapabilitySet, &[&str])| {
        capabilities.intersects(*needed) && names.contains(&name)
    };
    if WITH_CAPABILITY.iter().any(with) {
        return Verdict::Allow;
    }
    let x86 = architecture != Architecture::Aarch64;
    match name {
        "socket" => Verdict::Ask(Question::SocketFamily),
        "socketcall" => Verdict::Ask(Question::SocketcallNumber),
        "personality" => Verdict::Ask(Question::Personality),
        "clone" => Verdict::Ask(Question::CloneFlags),
        // A filter can't read its arguments; libraries fall back to `clone`.
        "clone3" => Verdict::Unknown,
        "arch_prctl" if architecture == Architecture::X86_64 => Verdict::Allow,
        "modify_ldt" if x86 => Verdict::Allow,
        _ => Verdict::Deny,
    }
}

/// Calls that a capability brings; one of the set is enough.
const WITH_CAPABILITY: &[(CapabilitySet, &[&str])] = &[
    (CapabilitySet::DAC_READ_SEARCH, &["open_by_handle_at"]),
    (
        CapabilitySet::SYS_ADMIN,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (CapabilitySet::SYS_BOOT, &["reboot"]),
    (CapabilitySet::SYS_CHROOT, &["chroot"]),
    (CapabilitySet::SYS_MODULE, &["delete_module", "finit_module", "init_module"]),
    (CapabilitySet::SYS_PACCT, &["acct"]),
    (CapabilitySet::SYS_PTRACE, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (CapabilitySet::SYS_RAWIO, &["ioperm", "iopl"]),
    (CapabilitySet::SYS_TIME, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (CapabilitySet::SYS_TTY_CONFIG, &["vhangup"]),
    (CapabilitySet::SYS_NICE, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (CapabilitySet::SYSLOG, &["syslog"]),
    (CapabilitySet::BPF, &["bpf"]),
    (CapabilitySet::PERFMON, &["perf_event_open"]),
];

/// Calls that every process may make, sorted. `ptrace` and its like are safe since Linux 4.8.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    "_llseek", "_newselect", "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk", "cachestat",
    "capget", "capset", "chdir", "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64",
    "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
    "clock_nanosleep_time64", "close", "close_range", "connect", "copy_file_range", "creat", "dup", "dup2",
    "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2",
    "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group",
    "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fanotify_mark", "fchdir",
    "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync",
    "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstat64",
    "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex", "futex_requeue",
    "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futimesat", "get_robust_list",
    "get_thread_area", "getcpu", "getcwd", "getdents", "getdents64", "getegid", "getegid32", "geteuid",
    "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getitimer", "getpeername", "getpgid",
    "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid", "getresgid32", "getresuid",
    "getresuid32", "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt", "gettid",
    "gettimeofday", "getuid", "getuid32", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init",
    "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents",
    "io_pgetevents_time64", "io_setup", "io_submit", "ioctl", "ioprio_get", "ioprio_set", "ipc", "kill",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lchown32",
    "lgetxattr", "link", "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr",
    "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2",
    "mlockall", "mmap", "mmap2", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive",
    "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal",
    "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at",
    "nanosleep", "newfstatat", "open", "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal",
    "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl",
    "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease", "process_vm_readv",
    "process_vm_writev", "pselect6", "pselect6_time64", "ptrace", "pwrite64", "pwritev", "pwritev2", "read",
    "readahead", "readlink", "readlinkat", "readv", "recv", "recvfrom", "recvmmsg", "recvmmsg_time64",
    "recvmsg", "remap_file_pages", "removexattr", "removexattrat", "rename", "renameat", "renameat2",
    "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop",
    "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg", "sendto",
    "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsgid32", "setfsuid",
    "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer", "setpgid", "setpriority",
    "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid",
    "setreuid32", "setrlimit", "setsid", "setsockopt", "setuid", "setuid32", "setxattr", "setxattrat",
    "shmat", "shmctl", "shmdt", "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4", "sigprocmask",
    "sigreturn", "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx",
    "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time",
    "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime",
    "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64", "times", "tkill", "truncate", "truncate64", "ugetrlimit", "umask", "uname",
    "unlink", "unlinkat", "uretprobe", "utime", "utimensat", "utimensat_time64", "utimes", "vfork",
    "vmsplice", "wait4", "waitid", "waitpid", "write", "writev",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_for_the_search_and_says_nothing_twice() {
        assert!(ALWAYS.is_sorted_by(|left, right| left < right));
    }
}
