//! Inside: walks the steps, from `clone3` to `execve`.
//!
//! All of this runs as pid 1 inside the new namespaces, in a copy of a process that may have had threads.
//! So nothing here allocates, takes a lock or panics: only system calls on what the parent prepared.
//! Every path into the root is resolved by `openat2` inside the root and used as a descriptor.
//!
//! May touch: the kernel. Knows nothing of plans, stores, images.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::step::{Filesystem, Missing, Step, Target};
use super::sys;

/// What the child holds while it walks.
#[derive(Debug)]
pub(crate) struct Inside<'p> {
    /// The root's mount.
    pub(crate) root: BorrowedFd<'p>,
    /// Where errors go; its other end closes when the parent dies.
    pub(crate) report: BorrowedFd<'p>,
    /// Our own `/proc`, once it is mounted.
    pub(crate) proc: Option<OwnedFd>,
    /// A folder that is masked already: the next ones are copies of its mount.
    pub(crate) mask: Option<OwnedFd>,
}

/// A program that is there and whose interpreter is not, marked in the report.
pub(crate) const NO_INTERPRETER: u32 = 1 << 31;

impl Inside<'_> {
    /// Walks the steps; returns the place and the error of the one that could not be done.
    pub(crate) fn walk(&mut self, steps: &[Step]) -> (u32, Errno) {
        let mut place = 0;
        for step in steps {
            if let Step::Exec { candidates, words, environment } = step {
                let (errno, mark) = exec(candidates, words, environment);
                return (place | mark, errno);
            }
            if let Err(errno) = self.take(step) {
                return (place, errno);
            }
            place += 1;
        }
        (place, Errno::NOEXEC)
    }

    fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::NewSession => rustix::process::setsid().map(drop),
            Step::NewKeyring => new_keyring(),
            Step::EnterCgroup { tasks, .. } => rustix::io::write(tasks, b"0").map(drop),
            Step::NewCgroupNamespace => sys::unshare(sys::CLONE_NEW_CGROUP),
            Step::JoinNetwork(namespace) => rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            ),
            Step::LoopbackUp => loopback_up(),
            Step::SetHostname(name) => rustix::system::sethostname(name.as_bytes()),
            Step::MountsPrivate => mounts_private(),
            Step::AttachRoot => attach(self.root, CWD, c"/"),
            Step::MountProc => self.mount_proc(),
            Step::MountNew { filesystem, target } => self.mount_new(filesystem, target).map(drop),
            Step::Attach { mount, target, missing } => self.attach_at(mount.as_fd(), target, *missing),
            Step::Folder { path, mode } => rustix::fs::mkdirat(self.root, path, Mode::from_raw_mode(*mode)),
            Step::Device { path, major, minor } => self.device(path, *major, *minor),
            Step::BindDevice { mount, path } => self.bind_device(mount.as_fd(), path),
            Step::Link { path, to } => rustix::fs::symlinkat(*to, self.root, path),
            Step::Console { slave, uid, gid } => self.console(slave.as_fd(), *uid, *gid),
            Step::File { content, mode, uid, gid, target } => self.file(content, *mode, (*uid, *gid), target),
            Step::Sysctl { path, value } => self.sysctl(path, value),
            Step::ReadOnlyPath(path) => self.read_only_path(path),
            Step::MaskPath(path) => self.mask_path(path),
            Step::MakeFolder { target, uid, gid } => {
                self.make(target, Missing::Folder, Some((*uid, *gid))).map(drop)
            }
            Step::RootReadOnly => {
                sys::mount_setattr(self.root, false, MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), false)
            }
            Step::EnterRoot => self.enter_root(),
            Step::EnterFolder(path) => enter_folder(path),
            Step::Terminal(slave) => terminal(slave.as_fd()),
            Step::Stdio(descriptors) => stdio(descriptors),
            other => self.take_identity(other),
        }
    }

    /// The steps that change who the process is rather than what it sees.
    fn take_identity(&self, step: &Step) -> Result<()> {
        match step {
            Step::Limit { resource, soft, hard } => limit(*resource, *soft, *hard),
            Step::LimitBoundingSet(keep) => limit_bounding_set(*keep),
            Step::KeepCapabilities => rustix::thread::set_keep_capabilities(true),
            Step::SetGroups(groups) => rustix::thread::set_thread_groups(groups),
            Step::SetGroup(gid) => {
                let gid = Gid::from_raw(*gid);
                rustix::thread::set_thread_res_gid(gid, gid, gid)
            }
            Step::SetUser(uid) => {
                let uid = Uid::from_raw(*uid);
                rustix::thread::set_thread_res_uid(uid, uid, uid)
            }
            Step::RaiseCapabilities => raise_capabilities(),
            Step::Umask(mask) => {
                rustix::process::umask(Mode::from_raw_mode(*mask));
                Ok(())
            }
            Step::ResetSignals => sys::reset_signals(),
            Step::DieWithParent => self.die_with_parent(),
            Step::NoNewPrivileges => rustix::thread::set_no_new_privs(true),
            Step::Filter(program) => sys::load_seccomp(program),
            Step::SetCapabilities { sets, ambient } => set_capabilities(*sets, *ambient),
            Step::CloseOnExec => sys::close_on_exec_from(3),
            _ => Err(Errno::NOSYS),
        }
    }

    /// Opens a path below the root, symbolic links resolved inside it.
    fn open(&self, path: &CStr, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd> {
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Opens a target, which is made if it is missing.
    fn make(&self, target: &Target, missing: Missing, owner: Option<(u32, u32)>) -> Result<OwnedFd> {
        let resolve =
            if missing == Missing::Refuse { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
        match self.open(&target.path, OFlags::PATH, resolve) {
            Err(Errno::NOENT) if missing != Missing::Refuse => {}
            other => return other,
        }
        let mut parent = self.open(c".", OFlags::PATH, ResolveFlags::empty())?;
        for (place, (prefix, name)) in target.prefixes.iter().enumerate() {
            parent = match self.open(prefix, OFlags::PATH, ResolveFlags::empty()) {
                Err(Errno::NOENT) => {
                    let is_file = missing == Missing::File && place + 1 == target.prefixes.len();
                    make_one(parent.as_fd(), name, is_file, owner)?;
                    self.open(prefix, OFlags::PATH, ResolveFlags::empty())?
                }
                other => other?,
            };
        }
        Ok(parent)
    }

    fn attach_at(&self, mount: BorrowedFd<'_>, target: &Target, missing: Missing) -> Result<()> {
        let place = self.make(target, missing, None)?;
        // A volume over or inside /proc would redirect what is written there later.
        if rustix::fs::fstatfs(&place)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
            return Err(Errno::PERM);
        }
        attach(mount, &place, c"")
    }

    /// `/proc` and `/sys` must be real folders: no component of the target may be a symbolic link.
    fn mount_new(&self, filesystem: &Filesystem, target: &CStr) -> Result<OwnedFd> {
        let mount = new_mount(filesystem)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let place = self.open(target, flags, ResolveFlags::NO_SYMLINKS)?;
        attach(mount.as_fd(), &place, c"")?;
        Ok(mount)
    }

    fn mount_proc(&mut self) -> Result<()> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let filesystem = Filesystem { kind: c"proc", options: Vec::new(), read_only: false, attributes };
        self.proc = Some(self.mount_new(&filesystem, c"proc")?);
        Ok(())
    }

    fn device(&self, path: &CStr, major: u32, minor: u32) -> Result<()> {
        let number = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(self.root, path, FileType::CharacterDevice, mode, number)
    }

    fn bind_device(&self, mount: BorrowedFd<'_>, path: &CStr) -> Result<()> {
        make_one_file(self.root, path)?;
        let place = self.open(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)?;
        attach(mount, &place, c"")
    }

    fn console(&self, slave: BorrowedFd<'_>, uid: u32, gid: Option<u32>) -> Result<()> {
        rustix::fs::fchown(slave, Some(Uid::from_raw(uid)), gid.map(Gid::from_raw))?;
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = rustix::mount::open_tree(slave, c"", flags)?;
        self.bind_device(mount.as_fd(), c"dev/console")
    }

    /// Our file lives on the `/dev` tmpfs, without a name: only its mount on the target reaches it. A
    /// symbolic link at the target is covered, not followed.
    fn file(&self, content: &[u8], mode: u32, (uid, gid): (u32, u32), target: &Target) -> Result<()> {
        let name = c"dev/.file";
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.root, name, flags, Mode::from_raw_mode(mode))?;
        let mut rest = content;
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        if (uid, gid) != (0, 0) {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        let mount = copy_mount(self.root, name, false)?;
        let place = match self.open(&target.path, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::empty()) {
            Err(Errno::NOENT) => self.make(target, Missing::File, None)?,
            other => other?,
        };
        attach(mount.as_fd(), &place, c"")?;
        // Only now: what has no name can't be mounted.
        rustix::fs::unlinkat(self.root, name, AtFlags::empty())
    }

    /// Written through our own `/proc`, which nothing can have redirected.
    fn sysctl(&self, path: &CStr, value: &[u8]) -> Result<()> {
        let proc = self.proc.as_ref().ok_or(Errno::NOENT)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = rustix::fs::openat2(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        rustix::io::write(file, value).map(drop)
    }

    fn read_only_path(&self, path: &CStr) -> Result<()> {
        let Some(place) = self.find(path)? else { return Ok(()) };
        let mount = copy_mount(place.as_fd(), c"", true)?;
        let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
        sys::mount_setattr(mount.as_fd(), true, read_only, false)?;
        attach(mount.as_fd(), &place, c"")
    }

    /// A file is covered by our own `/dev/null`, a folder by an empty read-only one.
    fn mask_path(&mut self, path: &CStr) -> Result<()> {
        let Some(place) = self.find(path)? else { return Ok(()) };
        let mode = rustix::fs::fstat(&place)?.st_mode;
        if FileType::from_raw_mode(mode) != FileType::Directory {
            let null = copy_mount(self.root, c"dev/null", false)?;
            return attach(null.as_fd(), &place, c"");
        }
        if let Some(mask) = &self.mask {
            let copy = copy_mount(mask.as_fd(), c"", false)?;
            return attach(copy.as_fd(), &place, c"");
        }
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let filesystem = Filesystem { kind: c"tmpfs", options: Vec::new(), read_only: true, attributes };
        let mount = new_mount(&filesystem)?;
        attach(mount.as_fd(), &place, c"")?;
        self.mask = Some(mount);
        Ok(())
    }

    fn find(&self, path: &CStr) -> Result<Option<OwnedFd>> {
        match self.open(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS) {
            // A host that lacks it has nothing to hide there.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Both places are `.`: the old root ends up below the new one and is detached with all its mounts.
    fn enter_root(&self) -> Result<()> {
        rustix::process::fchdir(self.root)?;
        rustix::process::pivot_root(c".", c".")?;
        rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")
    }

    /// A parent that died before the signal was asked for has closed its end of the report.
    fn die_with_parent(&self) -> Result<()> {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        let mut report =
            [rustix::event::PollFd::from_borrowed_fd(self.report, rustix::event::PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut report, Some(&now))? {
            0 => Ok(()),
            _ => Err(Errno::PIPE),
        }
    }
}

/// Attaches a detached mount at a place.
fn attach(mount: BorrowedFd<'_>, at: impl AsFd, path: &CStr) -> Result<()> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    rustix::mount::move_mount(mount, c"", at, path, flags)
}

/// Makes a file system and a detached mount of it.
pub(crate) fn new_mount(filesystem: &Filesystem) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(filesystem.kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in &filesystem.options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, value.as_c_str())?;
    }
    if filesystem.read_only {
        rustix::mount::fsconfig_set_flag(context.as_fd(), c"ro")?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, filesystem.attributes)
}

/// A detached copy of the mount at a path, or of the descriptor's own when the path is empty.
fn copy_mount(at: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(at, path, flags)
}

fn new_keyring() -> Result<()> {
    match sys::join_new_session_keyring() {
        // A kernel without keyrings, or one that forbids them here, has no session keys to hide.
        Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        other => other,
    }
}

fn mounts_private() -> Result<()> {
    rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sys::loopback_up(socket.as_fd())
}

fn make_one(parent: BorrowedFd<'_>, name: &CStr, is_file: bool, owner: Option<(u32, u32)>) -> Result<()> {
    if is_file {
        make_one_file(parent, name)?;
    } else {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    }
    let Some((uid, gid)) = owner else { return Ok(()) };
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
}

fn make_one_file(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// The root is the process's own by now; still resolved by descriptor, and checked to lie inside.
fn enter_folder(path: &CStr) -> Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve)?;
    rustix::process::fchdir(&folder)?;
    if sys::working_directory_is_reachable()? { Ok(()) } else { Err(Errno::NOENT) }
}

fn terminal(slave: BorrowedFd<'_>) -> Result<()> {
    rustix::process::ioctl_tiocsctty(slave)?;
    rustix::stdio::dup2_stdin(slave)?;
    rustix::stdio::dup2_stdout(slave)?;
    rustix::stdio::dup2_stderr(slave)
}

/// The descriptors are all above 2 (`setup`), so no `dup2` covers one that is still needed.
fn stdio(descriptors: &[Option<OwnedFd>; 3]) -> Result<()> {
    let null = rustix::fs::openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let [stdin, stdout, stderr] = descriptors;
    rustix::stdio::dup2_stdin(stdin.as_ref().unwrap_or(&null))?;
    rustix::stdio::dup2_stdout(stdout.as_ref().unwrap_or(&null))?;
    rustix::stdio::dup2_stderr(stderr.as_ref().unwrap_or(&null))?;
    // With standard descriptors closed, `null` itself may have landed below 3.
    if std::os::fd::AsRawFd::as_raw_fd(&null) < 3 {
        std::mem::forget(null);
    }
    Ok(())
}

/// What the host does not allow is clamped to what it does.
fn limit(resource: Resource, soft: u64, hard: u64) -> Result<()> {
    let wanted = Rlimit { current: finite(soft), maximum: finite(hard) };
    match rustix::process::setrlimit(resource, wanted) {
        Err(Errno::PERM) => {}
        other => return other,
    }
    let most = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let clamped = Rlimit { current: finite(soft.min(most)), maximum: finite(hard.min(most)) };
    rustix::process::setrlimit(resource, clamped)
}

fn finite(limit: u64) -> Option<u64> {
    (limit != u64::MAX).then_some(limit)
}

fn limit_bounding_set(keep: CapabilitySet) -> Result<()> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The first number that this kernel does not know.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

fn raise_capabilities() -> Result<()> {
    let held = rustix::thread::capabilities(None)?.permitted;
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

fn set_capabilities(sets: CapabilitySet, ambient: CapabilitySet) -> Result<()> {
    let sets = CapabilitySets { effective: sets, permitted: sets, inheritable: ambient };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::clear_ambient_capability_set()?;
    for one in ambient.iter() {
        rustix::thread::configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

/// Tries the candidates in the order of `PATH`, as a shell does.
fn exec(candidates: &[std::ffi::CString], words: &sys::Words, environment: &sys::Words) -> (Errno, u32) {
    let mut worst = Errno::NOENT;
    for candidate in candidates {
        match sys::execve(candidate, words, environment) {
            Errno::NOENT if rustix::fs::access(candidate.as_c_str(), rustix::fs::Access::EXISTS).is_ok() => {
                return (Errno::NOENT, NO_INTERPRETER);
            }
            Errno::NOENT | Errno::NOTDIR => {}
            // A later folder of PATH may hold one that can be executed.
            Errno::ACCESS => worst = Errno::ACCESS,
            other => return (other, 0),
        }
    }
    (worst, 0)
}
