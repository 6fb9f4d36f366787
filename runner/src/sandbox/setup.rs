//! Plan → the steps of the child, in the order that `sandbox` explains.
//!
//! Runs in the caller, so it may allocate, and fails with a reason before any process is made. What needs
//! no new namespace is done here: mounts that are cloned from descriptors of the caller's, tmpfs, devpts.
//!
//! May touch: the kernel; makes only detached mounts. Knows nothing of how steps are walked.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{CWD, FileType};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};
use rustix::process::Resource;
use rustix::thread::CapabilitySet;
use store::ImagePath;

use super::cgroup::Cgroup;
use super::init::new_mount;
use super::plan::{Mount, MountSource, Network, Plan, Seccomp};
use super::step::{Filesystem, Missing, Step, Target};
use super::sys::Words;
use super::{SandboxError, Stdio, capabilities, rlimits, seccomp, sysctl, terminal, user_ns};

const NO_SUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NO_DEVICES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NO_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The two ends of the terminal; the slave is put in several places.
type Pty = (OwnedFd, Arc<OwnedFd>);

/// All that the child will do, and the master of its terminal.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) steps: Vec<Step>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// Makes the steps of `plan`.
pub(crate) fn prepare(plan: &Plan, stdio: Stdio, cgroup: &Cgroup) -> Result<Prepared, SandboxError> {
    check(plan)?;
    let mut steps = vec![Step::NewSession, Step::NewKeyring, Step::Umask(0)];
    steps.extend(cgroup.steps()?);
    steps.push(Step::NewCgroupNamespace);
    match &plan.network {
        Network::None => steps.push(Step::LoopbackUp),
        Network::Host => {}
        Network::Join(namespace) => steps.push(Step::JoinNetwork(Arc::clone(namespace))),
    }
    steps.extend([Step::SetHostname(plan.hostname.clone()), Step::MountsPrivate, Step::AttachRoot]);
    steps.push(Step::MountProc);
    let (devpts, terminal) = devices(plan, stdio.terminal, &mut steps)?;
    steps.extend(devpts);
    system_folders(plan, cgroup, &mut steps)?;
    own_files_and_mounts(plan, &mut steps)?;
    protect(plan, &mut steps)?;
    let cwd = path(&plan.process.cwd)?;
    steps.extend([Step::EnterRoot, Step::EnterFolder(cwd)]);
    let slave = terminal.as_ref().map(|(_, slave)| Arc::clone(slave));
    if let Some(limit) = cgroup.process_limit() {
        steps.push(Step::Limit { resource: Resource::Nproc, soft: limit, hard: limit });
    }
    identity(plan, stdio, slave, &mut steps)?;
    Ok(Prepared { steps, terminal: terminal.map(|(master, _)| master) })
}

fn check(plan: &Plan) -> Result<(), SandboxError> {
    let refuse = |thing: String, why| Err(SandboxError::Plan { thing, why });
    if plan.hostname.len() > 64 || plan.hostname.bytes().any(|byte| byte.is_ascii_control()) {
        return refuse(format!("hostname {:?}", plan.hostname), "it is too long or holds control characters");
    }
    let targets = plan.mounts.iter().map(|mount| &mount.target);
    for target in targets.chain(plan.files.iter().map(|file| &file.target)) {
        if target.is_root() || target.components().next() == Some(b"proc".as_slice()) {
            return refuse(format!("mount target {target}"), "the root and /proc are the sandbox's own");
        }
    }
    if plan.process.argv.is_empty() {
        return refuse("the command".into(), "it is empty");
    }
    Ok(())
}

/// `/dev`: a tmpfs with the six devices. Where none can be made, and where the process could make more
/// (`CAP_MKNOD`), they are mounts of the host's on a tmpfs where no device opens.
fn devices(
    plan: &Plan,
    with_terminal: bool,
    steps: &mut Vec<Step>,
) -> Result<(Vec<Step>, Option<Pty>), SandboxError> {
    let mapping = user_ns::Mapping::current();
    let wanted = capabilities::bits(&plan.process.capabilities)?;
    let could_make_more = wanted.contains(CapabilitySet::MKNOD) && !wanted.contains(CapabilitySet::SYS_ADMIN);
    let bound = !mapping.is_initial() || could_make_more;
    let flags = NO_SUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let attributes = if bound { flags | NO_DEVICES } else { flags };
    steps.push(tmpfs("dev", "65536k", "755", attributes));
    for (name, major, minor) in DEVICES {
        let path = text(&format!("dev/{name}"));
        steps.push(if bound {
            Step::BindDevice { mount: host_device(name)?, path }
        } else {
            Step::Device { path, major, minor }
        });
    }
    for (name, to) in [
        ("dev/ptmx", c"pts/ptmx"),
        ("dev/fd", c"/proc/self/fd"),
        ("dev/stdin", c"/proc/self/fd/0"),
        ("dev/stdout", c"/proc/self/fd/1"),
        ("dev/stderr", c"/proc/self/fd/2"),
        ("dev/core", c"/proc/kcore"),
    ] {
        steps.push(Step::Link { path: text(name), to });
    }
    for name in ["dev/pts", "dev/shm", "dev/mqueue"] {
        steps.push(Step::Folder { path: text(name), mode: 0o755 });
    }
    let terminal_group = mapping.maps_group(5).then_some(5);
    let devpts = devpts(terminal_group)?;
    let mut terminal = None;
    let mut last = Vec::new();
    if with_terminal {
        let (master, slave) = terminal::open(devpts.as_fd()).map_err(failed("open a terminal"))?;
        let slave = Arc::new(slave);
        let (uid, gid) = (plan.process.user.uid, terminal_group);
        last.push(Step::Console { slave: Arc::clone(&slave), uid, gid });
        terminal = Some((master, slave));
    }
    last.insert(0, attach(devpts, &ImagePath::new("/dev/pts"), Missing::Refuse)?);
    Ok((last, terminal))
}

fn host_device(name: &str) -> Result<OwnedFd, SandboxError> {
    let path = format!("/dev/{name}");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, path.as_str(), flags).map_err(failed(&format!("open_tree({path})")))
}

fn devpts(group: Option<u32>) -> Result<OwnedFd, SandboxError> {
    let mut options = vec![(c"ptmxmode", text("0666")), (c"mode", text("0620"))];
    options.extend(group.map(|gid| (c"gid", text(&gid.to_string()))));
    let attributes = NO_SUID | NO_EXEC;
    let filesystem = Filesystem { kind: c"devpts", options, read_only: false, attributes };
    new_mount(&filesystem).map_err(failed("mount devpts"))
}

/// `/dev/shm`, `/dev/mqueue`, `/sys` and the cgroups.
fn system_folders(plan: &Plan, cgroup: &Cgroup, steps: &mut Vec<Step>) -> Result<(), SandboxError> {
    let all = NO_SUID | NO_DEVICES | NO_EXEC;
    let shm = format!("{}", plan.shm_size_bytes);
    steps.push(tmpfs("dev/shm", &shm, "1777", all));
    steps.push(filesystem(c"mqueue", "dev/mqueue", all));
    let owns_network = !matches!(plan.network, Network::Host);
    if owns_network || user_ns::Mapping::current().is_initial() {
        steps.push(filesystem(c"sysfs", "sys", all | READ_ONLY));
        if cgroup.host_is_unified() {
            steps.push(filesystem(c"cgroup2", "sys/fs/cgroup", all | READ_ONLY));
        }
    } else {
        // sysfs belongs to a network namespace, and the host's is not ours to show: a copy of the host's.
        steps.push(attach(copy_of_host_sys()?, &ImagePath::new("/sys"), Missing::Refuse)?);
        steps.push(tmpfs("sys/fs/cgroup", "4k", "755", all | READ_ONLY));
    }
    Ok(())
}

fn copy_of_host_sys() -> Result<OwnedFd, SandboxError> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mount = rustix::mount::open_tree(CWD, c"/sys", flags).map_err(failed("open_tree(/sys)"))?;
    super::sys::mount_setattr(mount.as_fd(), true, READ_ONLY.bits().into(), true)
        .map_err(failed("mount_setattr(/sys, rdonly)"))?;
    Ok(mount)
}

fn own_files_and_mounts(plan: &Plan, steps: &mut Vec<Step>) -> Result<(), SandboxError> {
    for file in &plan.files {
        let target = target(&file.target)?;
        let (content, mode) = (file.content.clone(), file.mode);
        steps.push(Step::File { content, mode, uid: file.uid, gid: file.gid, target });
    }
    for mount in &plan.mounts {
        let (detached, missing) = source(mount)?;
        steps.push(attach(detached, &mount.target, missing)?);
    }
    let user = &plan.process.user;
    let target = target(&plan.process.cwd)?;
    steps.push(Step::MakeFolder { target, uid: user.uid, gid: user.gid });
    Ok(())
}

/// The detached mount of what the plan names, with its flags, and what it is mounted on.
fn source(mount: &Mount) -> Result<(OwnedFd, Missing), SandboxError> {
    let flags = [
        (mount.read_only, READ_ONLY),
        (mount.no_exec, NO_EXEC),
        (mount.no_suid, NO_SUID),
        (mount.no_dev, NO_DEVICES),
    ];
    let attributes = flags.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| *flag).collect();
    match &mount.source {
        MountSource::Tmpfs { size_bytes, mode } => {
            let mut options = vec![(c"mode", text(&format!("{mode:o}")))];
            options.extend(size_bytes.map(|size| (c"size", text(&size.to_string()))));
            let filesystem = Filesystem { kind: c"tmpfs", options, read_only: false, attributes };
            let made = new_mount(&filesystem).map_err(failed("mount tmpfs"))?;
            Ok((made, Missing::Folder))
        }
        MountSource::Bind(origin) => {
            let name = format!("open_tree(source of {})", mount.target);
            let detached = copy_of(origin).map_err(failed(&name))?;
            super::sys::mount_setattr(detached.as_fd(), true, attributes.bits().into(), true)
                .map_err(failed(&format!("mount_setattr(source of {})", mount.target)))?;
            let mode = rustix::fs::fstat(&detached).map_err(failed(&name))?.st_mode;
            let is_folder = FileType::from_raw_mode(mode) == FileType::Directory;
            Ok((detached, if is_folder { Missing::Folder } else { Missing::File }))
        }
    }
}

/// A copy with everything mounted below. Kernels before 6.15 can't copy a mount that is detached already:
/// there the mount itself is taken, which is right once.
fn copy_of(origin: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    match rustix::mount::open_tree(origin, c"", flags) {
        Err(rustix::io::Errno::INVAL) => rustix::io::fcntl_dupfd_cloexec(origin, 3),
        other => other,
    }
}

/// Settings, then the paths that are masked or read-only, then the root itself.
fn protect(plan: &Plan, steps: &mut Vec<Step>) -> Result<(), SandboxError> {
    for (key, value) in &plan.sysctls {
        let path = text(&sysctl::path(key, value, &plan.network)?);
        steps.push(Step::Sysctl { path, value: value.clone().into_bytes() });
    }
    for masked in plan.masked_paths.iter().flat_map(|masked| each_processor(masked)) {
        steps.push(Step::MaskPath(path(&ImagePath::new(masked))?));
    }
    for read_only in &plan.read_only_paths {
        steps.push(Step::ReadOnlyPath(path(&ImagePath::new(read_only))?));
    }
    if plan.root_read_only {
        steps.push(Step::RootReadOnly);
    }
    Ok(())
}

/// A path with `cpu*` in it, once for each processor that has such a file; others as they are.
fn each_processor(path: &str) -> Vec<String> {
    let Some((before, after)) = path.split_once("cpu*") else { return vec![path.to_owned()] };
    let numbers = 0..4096;
    let paths = numbers.map(|number| format!("{before}cpu{number}{after}"));
    paths.take_while(|path| rustix::fs::access(path.as_str(), rustix::fs::Access::EXISTS).is_ok()).collect()
}

/// Who the process is. The filter comes while the thread may still load one without `no_new_privileges`,
/// and before the capabilities go; what follows it is allowed by every profile.
fn identity(
    plan: &Plan,
    stdio: Stdio,
    slave: Option<Arc<OwnedFd>>,
    steps: &mut Vec<Step>,
) -> Result<(), SandboxError> {
    let process = &plan.process;
    for (name, soft, hard) in &process.rlimits {
        let resource = rlimits::resource(name)
            .ok_or_else(|| SandboxError::Plan { thing: format!("limit `{name}`"), why: "no such limit" })?;
        steps.push(Step::Limit { resource, soft: *soft, hard: (*hard).max(*soft) });
    }
    steps.push(match slave {
        Some(slave) => Step::Terminal(slave),
        None => Step::Stdio(above_standard(stdio)?),
    });
    let held = capabilities::held().map_err(failed("capget"))?;
    let bounding = capabilities::bits(&process.capabilities)? & held;
    let ambient = capabilities::bits(&process.ambient)? & held;
    steps.extend([Step::LimitBoundingSet(bounding | ambient), Step::KeepCapabilities]);
    let user = &process.user;
    // With a map of one id the kernel denies setgroups: there are no groups to set.
    if user_ns::Mapping::current().allows_groups() {
        let mut groups = vec![user.gid];
        groups.extend(user.groups.iter().filter(|gid| **gid != user.gid));
        steps.push(Step::SetGroups(groups.into_iter().map(rustix::process::Gid::from_raw).collect()));
    }
    steps.extend([Step::SetGroup(user.gid), Step::SetUser(user.uid), Step::RaiseCapabilities]);
    steps.extend([Step::Umask(process.umask), Step::ResetSignals, Step::DieWithParent]);
    if process.no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    let sets = if user.uid == 0 { bounding | ambient } else { ambient };
    if plan.seccomp == Seccomp::Default {
        steps.push(Step::Filter(seccomp::program(bounding | ambient)));
    }
    steps.extend([Step::SetCapabilities { sets, ambient }, Step::CloseOnExec, exec(plan)?]);
    Ok(())
}

/// The descriptors moved above 2, so that giving one its place never covers another.
fn above_standard(stdio: Stdio) -> Result<[Option<OwnedFd>; 3], SandboxError> {
    let above = |descriptor: Option<OwnedFd>| match descriptor {
        Some(low) if low.as_raw_fd() < 3 => {
            rustix::io::fcntl_dupfd_cloexec(&low, 3).map(Some).map_err(failed("dup"))
        }
        other => Ok(other),
    };
    Ok([above(stdio.stdin)?, above(stdio.stdout)?, above(stdio.stderr)?])
}

fn exec(plan: &Plan) -> Result<Step, SandboxError> {
    let process = &plan.process;
    let words = |texts: &[String]| -> Result<Words, SandboxError> {
        Ok(Words::new(texts.iter().map(|text| c_string(text.as_bytes())).collect::<Result<_, _>>()?))
    };
    let candidates =
        candidates(plan).iter().map(|path| c_string(path.as_bytes())).collect::<Result<_, _>>()?;
    Ok(Step::Exec { candidates, words: words(&process.argv)?, environment: words(&process.env)? })
}

/// Where the program may be: its own path, or each folder of the process's `PATH`.
pub(crate) fn candidates(plan: &Plan) -> Vec<String> {
    const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let program = &plan.process.argv[0];
    if program.contains('/') || program.is_empty() {
        return vec![program.clone()];
    }
    // The last entry counts, as it does for `execvpe` after a later `ENV`.
    let folders = plan.process.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(PATH);
    let inside =
        |folder: &str| if folder.is_empty() { format!("./{program}") } else { format!("{folder}/{program}") };
    folders.split(':').map(inside).collect()
}

fn tmpfs(target: &str, size: &str, mode: &str, attributes: MountAttrFlags) -> Step {
    let options = vec![(c"mode", text(mode)), (c"size", text(size))];
    let filesystem = Filesystem { kind: c"tmpfs", options, read_only: false, attributes };
    Step::MountNew { filesystem, target: text(target) }
}

fn filesystem(kind: &'static std::ffi::CStr, target: &str, attributes: MountAttrFlags) -> Step {
    let filesystem = Filesystem { kind, options: Vec::new(), read_only: false, attributes };
    Step::MountNew { filesystem, target: text(target) }
}

fn attach(mount: OwnedFd, at: &ImagePath, missing: Missing) -> Result<Step, SandboxError> {
    Ok(Step::Attach { mount, target: target(at)?, missing })
}

fn target(path: &ImagePath) -> Result<Target, SandboxError> {
    let mut prefix = Vec::new();
    let mut prefixes = Vec::new();
    for component in path.components() {
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        prefix.extend_from_slice(component);
        prefixes.push((c_string(&prefix)?, c_string(component)?));
    }
    let whole = if prefix.is_empty() { c".".to_owned() } else { c_string(&prefix)? };
    Ok(Target { path: whole, prefixes })
}

fn path(path: &ImagePath) -> Result<CString, SandboxError> {
    target(path).map(|target| target.path)
}

fn c_string(bytes: &[u8]) -> Result<CString, SandboxError> {
    CString::new(bytes).map_err(|_| SandboxError::Plan {
        thing: format!("{:?}", String::from_utf8_lossy(bytes)),
        why: "it holds a NUL byte",
    })
}

/// Of our own words, none of which holds a NUL byte.
fn text(word: &str) -> CString {
    CString::new(word).expect("our own words and numbers hold no NUL")
}

fn failed(call: &str) -> impl FnOnce(rustix::io::Errno) -> SandboxError {
    let call = call.to_owned();
    move |errno| SandboxError::Setup { call, source: errno.into() }
}
