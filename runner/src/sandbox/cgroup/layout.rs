//! Where the host keeps its cgroups: read once from `/proc/self/{mountinfo,cgroup}`.
//!
//! May touch: those two files and the unified tree's list of controllers. Knows nothing of limits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Controller;

/// The host's cgroup mounts, as far as this process sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    separate: Vec<(Controller, PathBuf)>,
    unified: Option<PathBuf>,
    /// The controllers that the unified tree offers here.
    offered: Vec<String>,
}

impl Layout {
    /// What this process sees; read at the first call.
    pub fn probe() -> io::Result<&'static Self> {
        static SEEN: OnceLock<Layout> = OnceLock::new();
        if let Some(seen) = SEEN.get() {
            return Ok(seen);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let is_root =
            super::super::user_ns::Mapping::current().is_initial() && rustix::process::geteuid().is_root();
        let mut layout = Self::parse(&mounts, &own, is_root);
        if let Some(unified) = &layout.unified {
            let offered = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
            layout.offered = offered.split_whitespace().map(str::to_owned).collect();
        }
        Ok(SEEN.get_or_init(|| layout))
    }

    /// Reads the two texts. Root works at the top of each tree, others below their own cgroup.
    fn parse(mounts: &str, own: &str, is_root: bool) -> Self {
        let mut layout = Self::default();
        for line in mounts.lines() {
            let Some(mount) = CgroupMount::parse(line) else { continue };
            let base = |name: &str| {
                let path = if is_root { "" } else { own_path(own, name).unwrap_or_default() };
                PathBuf::from(&mount.place).join(path.trim_start_matches('/'))
            };
            if mount.is_unified {
                layout.unified.get_or_insert_with(|| base(""));
                continue;
            }
            for controller in Controller::ALL {
                let known = layout.separate(controller).is_some();
                if !known && mount.options.split(',').any(|option| option == controller.name()) {
                    layout.separate.push((controller, base(controller.name())));
                }
            }
        }
        layout
    }

    /// The v1 tree of a controller.
    pub fn separate(&self, controller: Controller) -> Option<&Path> {
        let found = self.separate.iter().find(|(each, _)| *each == controller);
        found.map(|(_, path)| path.as_path())
    }

    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Whether the unified tree offers a controller to us.
    pub fn unified_has(&self, controller: Controller) -> bool {
        self.offered.iter().any(|name| name == controller.name())
    }

    /// Whether nothing of v1 is mounted.
    pub fn is_unified(&self) -> bool {
        self.separate.is_empty() && self.unified.is_some()
    }

    /// The `rbuild` folders that may hold cgroups of ours.
    pub(crate) fn parents(&self) -> impl Iterator<Item = PathBuf> {
        let separate = self.separate.iter().map(|(_, path)| path);
        separate.chain(self.unified.as_ref()).map(|path| path.join("rbuild"))
    }
}

/// A line of mountinfo that is a cgroup mount.
struct CgroupMount {
    place: String,
    is_unified: bool,
    options: String,
}

impl CgroupMount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let place = left.split(' ').nth(4)?;
        let mut right = right.split(' ');
        let is_unified = match right.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let options = right.nth(1)?.to_owned();
        Some(Self { place: place.replace("\\040", " "), is_unified, options })
    }
}

/// This process's path in the tree of a controller; `""` is the unified one.
fn own_path<'t>(own: &'t str, controller: &str) -> Option<&'t str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let names = parts.next()?;
        names.split(',').any(|name| name == controller).then(|| parts.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "22 27 0:21 / /proc rw - proc proc rw
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw shared:4 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    const UNIFIED: &str = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn a_hybrid_host_has_each_controller_where_it_is_mounted() {
        let layout = Layout::parse(HYBRID, "4:memory:/a\n0::/\n", true);
        assert_eq!(layout.separate(Controller::Cpu), Some(Path::new("/sys/fs/cgroup/cpu/")));
        assert_eq!(layout.separate(Controller::Memory), Some(Path::new("/sys/fs/cgroup/memory/")));
        assert_eq!(layout.separate(Controller::Pids), None);
        assert_eq!(layout.unified(), Some(Path::new("/sys/fs/cgroup/unified/")));
        assert!(!layout.is_unified());
    }

    #[test]
    fn who_is_not_root_works_below_its_own_cgroup() {
        let layout = Layout::parse(UNIFIED, "0::/user.slice/x.scope\n", false);
        assert_eq!(layout.unified(), Some(Path::new("/sys/fs/cgroup/user.slice/x.scope")));
        assert!(layout.is_unified());
    }
}
