//! Cgroups: the limits of one sandbox, on v1, v2 and hosts that have both.
//!
//! ```text
//! <controller's mount>/[own cgroup when not root]/rbuild/<plan id>/
//! ```
//!
//! Only controllers that a limit needs get a folder. A limit whose controller the host lacks is an error
//! that names both, never ignored. On v2 the child is cloned into the folder; on v1 it writes `0` into
//! `tasks`, which, for a single thread moving itself, does not wait for the whole machine to be quiet as
//! `cgroup.procs` does.
//!
//! May touch: the cgroup file systems, below `rbuild/`. Knows nothing of processes beyond killing them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::plan::Limits;
use super::step::Step;
use super::user_ns::Mapping;
use super::{SandboxError, Usage};

mod layout;
mod v1;
mod v2;

pub use layout::Layout;

/// What a limit is enforced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    Cpu,
    Cpuset,
    Memory,
    Pids,
}

impl Controller {
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Cpuset, Self::Memory, Self::Pids];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// One file to write, and the option that it comes from.
#[derive(Debug)]
pub(crate) struct Setting {
    controller: Controller,
    file: &'static str,
    value: String,
    limit: &'static str,
    /// The user asked for it, so the host must be able to; otherwise it is set where it can be.
    asked: bool,
}

/// The folders of one sandbox; dropping it removes them.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// One per v1 controller.
    separate: Vec<PathBuf>,
    unified: Option<(PathBuf, OwnedFd)>,
    host_is_unified: bool,
    /// Without a pids controller the kernel counts by user instead (see `fall_back`).
    processes: Option<u64>,
}

impl Cgroup {
    /// Makes the folders that `limits` need and writes the limits.
    pub(crate) fn create(id: &str, limits: &Limits) -> Result<Self, SandboxError> {
        let layout = Layout::probe().map_err(|source| failed("read /proc/self/cgroup", source))?;
        let host_is_unified = layout.is_unified();
        let mut cgroup = Self { separate: Vec::new(), unified: None, host_is_unified, processes: None };
        if id.is_empty() || id.starts_with('.') || id.contains(['/', '\0', '\n']) {
            return Err(SandboxError::Plan { thing: format!("id {id:?}"), why: "it is not a file name" });
        }
        if *limits == Limits::default() {
            return Ok(cgroup);
        }
        for setting in v1::settings(limits) {
            if let Some(parent) = layout.separate(setting.controller) {
                let folder = cgroup.separate_folder(parent, id, &setting);
                cgroup.write_or_fall_back(folder, &setting)?;
            }
        }
        for setting in v2::settings(limits) {
            if layout.separate(setting.controller).is_none() {
                let folder = cgroup.unified_folder(layout, id, &setting);
                cgroup.write_or_fall_back(folder, &setting)?;
            }
        }
        Ok(cgroup)
    }

    /// Who is not root can be held to a number of processes without a cgroup: in a user namespace the
    /// kernel counts a user's processes and refuses the next one, root or not. Nothing else has such a way.
    fn write_or_fall_back(
        &mut self,
        folder: Result<PathBuf, SandboxError>,
        setting: &Setting,
    ) -> Result<(), SandboxError> {
        match folder {
            Err(SandboxError::Limit { .. })
                if setting.controller == Controller::Pids && !Mapping::current().is_initial() =>
            {
                self.processes = setting.value.parse().ok();
                Ok(())
            }
            folder => write_setting(&folder?, setting),
        }
    }

    /// What `RLIMIT_NPROC` must be where no cgroup counts processes.
    pub(crate) fn process_limit(&self) -> Option<u64> {
        self.processes
    }

    /// The steps by which the child enters its v1 cgroups.
    pub(crate) fn steps(&self) -> Result<Vec<Step>, SandboxError> {
        let enter = |folder: &PathBuf| {
            let path = folder.join("tasks");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let tasks = rustix::fs::open(&path, flags, Mode::empty())
                .map_err(|errno| failed(&format!("open {}", path.display()), errno.into()))?;
            Ok(Step::EnterCgroup { tasks, name: folder.display().to_string() })
        };
        self.separate.iter().map(enter).collect()
    }

    /// The v2 cgroup that the child is cloned into.
    pub(crate) fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|(_, folder)| folder.as_fd())
    }

    /// Whether every controller of the host is v2.
    pub(crate) fn host_is_unified(&self) -> bool {
        self.host_is_unified
    }

    /// What was used, as far as the host counts it.
    pub(crate) fn usage(&self, cpu_microseconds: u64) -> Usage {
        let mut usage = Usage { cpu_microseconds: Some(cpu_microseconds), ..Usage::default() };
        for folder in self.folders() {
            let number = |file| read(folder, file).and_then(|text| text.trim().parse::<u64>().ok());
            let peak = number("memory.max_usage_in_bytes").or_else(|| number("memory.peak"));
            usage.memory_peak_bytes = usage.memory_peak_bytes.or(peak);
            let oom = |file| count(folder, file, "oom_kill").is_some_and(|kills| kills > 0);
            usage.out_of_memory |= oom("memory.oom_control") || oom("memory.events");
            usage.pids_limit_hit |= count(folder, "pids.events", "max").is_some_and(|refused| refused > 0);
            if let Some(counted) = count(folder, "cpu.stat", "usage_usec") {
                usage.cpu_microseconds = Some(counted);
            }
        }
        usage
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        let unified = self.unified.as_ref().map(|(path, _)| path.as_path());
        self.separate.iter().map(PathBuf::as_path).chain(unified)
    }

    fn separate_folder(
        &mut self,
        mount: &Path,
        id: &str,
        setting: &Setting,
    ) -> Result<PathBuf, SandboxError> {
        let parent = mount.join("rbuild");
        let folder = parent.join(id);
        if self.separate.contains(&folder) {
            return Ok(folder);
        }
        if setting.controller == Controller::Cpuset {
            make(&parent).map_err(|source| cannot_make(&parent, setting, source))?;
            inherit_cpuset(mount, &parent)?;
        }
        make_below(&parent, &folder).map_err(|source| cannot_make(&folder, setting, source))?;
        self.separate.push(folder.clone());
        if setting.controller == Controller::Cpuset {
            inherit_cpuset(&parent, &folder)?;
        }
        Ok(folder)
    }

    fn unified_folder(
        &mut self,
        layout: &Layout,
        id: &str,
        setting: &Setting,
    ) -> Result<PathBuf, SandboxError> {
        let name = setting.controller.name();
        let lacks = |lacks: String| SandboxError::Limit { limit: setting.limit, lacks };
        let root = layout.unified().filter(|_| layout.unified_has(setting.controller));
        let root = root.ok_or_else(|| lacks(format!("this cgroup has no `{name}` controller")))?;
        let parent = root.join("rbuild");
        make(&parent).map_err(|source| cannot_make(&parent, setting, source))?;
        for level in [root, &parent] {
            delegate(level, name).map_err(|source| match source.raw_os_error() {
                Some(number) if number == rustix::io::Errno::BUSY.raw_os_error() => lacks(format!(
                    "{} holds other processes: start rbuild in a cgroup of its own that is delegated to it",
                    root.display()
                )),
                _ => cannot_make(level, setting, source),
            })?;
        }
        let folder = parent.join(id);
        if self.unified.is_none() {
            make_below(&parent, &folder).map_err(|source| cannot_make(&folder, setting, source))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&folder, flags, Mode::empty())
                .map_err(|errno| failed(&format!("open {}", folder.display()), errno.into()))?;
            self.unified = Some((folder.clone(), opened));
        }
        Ok(folder)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in self.folders() {
            remove(folder, Duration::from_millis(500));
        }
    }
}

/// Kills what runs in the cgroups whose name starts with `name_prefix`, and removes them: what owners that
/// are dead have left. The caller knows that they are dead.
pub fn clear(name_prefix: &str) -> Result<(), SandboxError> {
    let layout = Layout::probe().map_err(|source| failed("read /proc/self/cgroup", source))?;
    for parent in layout.parents() {
        let entries = match fs::read_dir(&parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|source| failed(&format!("list {}", parent.display()), source))?,
        };
        for entry in entries.flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && entry.file_name().to_string_lossy().starts_with(name_prefix) {
                kill_all(&entry.path());
                remove(&entry.path(), Duration::from_secs(2));
            }
        }
        remove_parent(&parent);
    }
    Ok(())
}

/// Kills every process of a cgroup: at once on v2, one by one on v1, by descriptors, so that a number
/// that is used again meanwhile is not hit.
fn kill_all(folder: &Path) {
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for _ in 0..100 {
        let pids = processes(folder);
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
            let Ok(pidfd) = pidfd else { continue };
            if processes(folder).contains(&pid) {
                // A process that has just ended is what was wanted.
                let killed = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
                killed.unwrap_or_default();
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn processes(folder: &Path) -> Vec<rustix::process::Pid> {
    let text = read(folder, "cgroup.procs").unwrap_or_default();
    text.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?)).collect()
}

/// Removes a folder; the kernel may take a moment to let go of one whose last process has just ended.
fn remove(folder: &Path, patience: Duration) {
    let end = Instant::now() + patience;
    let mut pause = Duration::from_micros(50);
    while let Err(error) = fs::remove_dir(folder) {
        // Whatever else is wrong, `clear` finds the folder again.
        if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() > end {
            break;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Others may be at work below it, or just about to be: then it stays.
fn remove_parent(parent: &Path) {
    drop(fs::remove_dir(parent));
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Another process may take the empty parent away between the two calls; then it is made again.
fn make_below(parent: &Path, folder: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        make(parent)?;
        match make(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 100 => tries += 1,
            other => return other,
        }
    }
}

/// A tree that is not ours to write in is a limit that can't be kept; anything else went wrong.
fn cannot_make(folder: &Path, setting: &Setting, source: io::Error) -> SandboxError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            let lacks = format!("the cgroup {} is not delegated to this user", folder.display());
            SandboxError::Limit { limit: setting.limit, lacks }
        }
        _ => failed(&format!("make the cgroup {}", folder.display()), source),
    }
}

/// A v1 cpuset takes no process before both its lists are set.
fn inherit_cpuset(from: &Path, to: &Path) -> Result<(), SandboxError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(to, file).is_none_or(|text| text.trim().is_empty()) {
            let value = read(from, file).unwrap_or_default();
            let path = to.join(file);
            fs::write(&path, value.trim())
                .map_err(|source| failed(&format!("write {}", path.display()), source))?;
        }
    }
    Ok(())
}

/// Lets the children of `folder` use a controller. Below the host's root a cgroup either holds processes or
/// gives controllers to its children: where ours is the only process, it moves aside.
///
/// The kernel lets one case pass that is of no use: some controllers (`pids`, `cpu`) may be given on beside
/// processes, but then the children take threads only and can't be made cgroups of their own.
fn delegate(folder: &Path, controller: &str) -> io::Result<()> {
    let enabled = read(folder, "cgroup.subtree_control").unwrap_or_default();
    if enabled.split_whitespace().any(|name| name == controller) {
        return Ok(());
    }
    let is_host_root = !folder.join("cgroup.type").exists();
    let held = read(folder, "cgroup.procs").unwrap_or_default();
    if !is_host_root && !held.is_empty() {
        let own = rustix::process::getpid().as_raw_nonzero().to_string();
        if held.lines().any(|pid| pid != own) {
            return Err(rustix::io::Errno::BUSY.into());
        }
        let aside = folder.join("rbuild-commands");
        make(&aside)?;
        fs::write(aside.join("cgroup.procs"), "0")?;
    }
    fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))
}

fn write_setting(folder: &Path, setting: &Setting) -> Result<(), SandboxError> {
    let path = folder.join(setting.file);
    match fs::write(&path, &setting.value) {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::PermissionDenied =>
        {
            if setting.asked {
                let lacks = format!("this kernel offers no `{}`", setting.file);
                return Err(SandboxError::Limit { limit: setting.limit, lacks });
            }
            Ok(())
        }
        other => other.map_err(|source| {
            failed(&format!("write `{}` to {} ({})", setting.value, path.display(), setting.limit), source)
        }),
    }
}

/// Quota and period in microseconds; a negative quota is unlimited.
fn cpu_quota(limits: &Limits) -> Option<(i64, u64)> {
    let period = limits.cpu_period_microseconds.unwrap_or(100_000);
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "whole microseconds")]
    let from_cpus = limits.cpus.map(|cpus| (cpus * period as f64).round() as i64);
    let asked = limits.cpu_quota_microseconds.or(from_cpus);
    match (asked, limits.cpu_period_microseconds) {
        (None, None) => None,
        (quota, _) => Some((quota.unwrap_or(-1), period)),
    }
}

/// Memory and swap together, and whether the user asked; without a word, as much swap as memory.
fn memory_with_swap(limits: &Limits) -> (Option<i64>, bool) {
    let double = limits.memory_bytes.and_then(|bytes| i64::try_from(bytes.saturating_mul(2)).ok());
    match limits.memory_swap_bytes {
        Some(asked) => (Some(asked), true),
        None => (double, false),
    }
}

fn read(folder: &Path, file: &str) -> Option<String> {
    fs::read_to_string(folder.join(file)).ok()
}

/// The number behind `key` in a file of `key number` lines.
fn count(folder: &Path, file: &str, key: &str) -> Option<u64> {
    let text = read(folder, file)?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

fn failed(call: &str, source: io::Error) -> SandboxError {
    SandboxError::Setup { call: call.to_owned(), source }
}
