//! The user namespace of a caller that is not root: entered once, first thing in `main`.
//!
//! ```text
//! this process                       helper (stays outside)
//! clone ───────────────────────────▶ wait for a byte
//! unshare(user, mounts)
//! write a byte ────────────────────▶ newuidmap, newgidmap  (ranges of /etc/subuid, /etc/subgid)
//! wait for the helper ◀───────────── exit status
//! one-id map if there are no ranges
//! become uid 0 inside
//! ```
//!
//! After that "I am root over my own files" holds, and nothing below asks again.
//!
//! May touch: the namespaces of this process, `/etc/sub{u,g}id`. Knows nothing of sandboxes.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::OnceLock;

use super::sys;

/// How ids inside are ids outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// `(inside, outside, count)` of the user and the group map.
    users: Vec<(u32, u32, u32)>,
    groups: Vec<(u32, u32, u32)>,
    setgroups_allowed: bool,
}

/// What `enter` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// Ids from the ranges that the host gives this user.
    Ranges,
    /// Only the caller's own id, as root; every other owner is lost. The text says what would mend it.
    OneId { note: String },
}

/// Why no user namespace could be entered.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    #[error("cannot enter a user namespace: {call}")]
    Call { call: &'static str, source: io::Error },
    #[error("cannot map users: {helper} ended with {status}")]
    Helper { helper: &'static str, status: String },
}

impl Mapping {
    /// This process's; read at the first call, so `enter` must come before.
    pub fn current() -> &'static Self {
        static SEEN: OnceLock<Mapping> = OnceLock::new();
        SEEN.get_or_init(|| {
            let read = |path| fs::read_to_string(path).unwrap_or_default();
            Self {
                users: parse_map(&read("/proc/self/uid_map")),
                groups: parse_map(&read("/proc/self/gid_map")),
                setgroups_allowed: read("/proc/self/setgroups").trim() != "deny",
            }
        })
    }

    /// Whether every id is mapped to itself: the host's own namespace.
    pub fn is_initial(&self) -> bool {
        self.users == [(0, 0, u32::MAX)]
    }

    pub fn maps_user(&self, uid: u32) -> bool {
        maps(&self.users, uid)
    }

    pub fn maps_group(&self, gid: u32) -> bool {
        maps(&self.groups, gid)
    }

    /// Whether the kernel allows `setgroups` here.
    pub fn allows_groups(&self) -> bool {
        self.setgroups_allowed
    }
}

fn maps(map: &[(u32, u32, u32)], id: u32) -> bool {
    map.iter().any(|(inside, _, count)| id >= *inside && id - inside < *count)
}

fn parse_map(text: &str) -> Vec<(u32, u32, u32)> {
    let line = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse().ok());
        Some((words.next()??, words.next()??, words.next()??))
    };
    text.lines().filter_map(line).collect()
}

/// Enters a new user and mount namespace as its root. The process must have one thread.
pub fn enter() -> Result<Entered, UserNamespaceError> {
    let failed = |call| move |source: io::Error| UserNamespaceError::Call { call, source };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let ranges = Ranges::read(uid);
    let entered = match ranges {
        Ok(ranges) => {
            enter_with_ranges(uid, gid, &ranges)?;
            Entered::Ranges
        }
        Err(note) => {
            sys::unshare(sys::CLONE_NEW_USERS | sys::CLONE_NEW_MOUNTS)
                .map_err(|errno| failed("unshare(user, mounts)")(errno.into()))?;
            fs::write("/proc/self/setgroups", "deny").map_err(failed("write /proc/self/setgroups"))?;
            fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
                .map_err(failed("write /proc/self/uid_map"))?;
            fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
                .map_err(failed("write /proc/self/gid_map"))?;
            Entered::OneId { note }
        }
    };
    let (root_user, root_group) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_res_gid(root_group, root_group, root_group)
        .map_err(|errno| failed("setresgid(0)")(errno.into()))?;
    rustix::thread::set_thread_res_uid(root_user, root_user, root_user)
        .map_err(|errno| failed("setresuid(0)")(errno.into()))?;
    Ok(entered)
}

fn enter_with_ranges(uid: u32, gid: u32, ranges: &Ranges) -> Result<(), UserNamespaceError> {
    let failed =
        |call| move |errno: rustix::io::Errno| UserNamespaceError::Call { call, source: errno.into() };
    let (go_read, go_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe"))?;
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let mut go = (Some(go_read), Some(go_write));
    let (_, helper) = sys::clone_process(0, None, &mut || map_from_outside(&mut go, pid, (uid, gid), ranges))
        .map_err(failed("clone3"))?;
    let (go_read, go_write) = go;
    drop(go_read);
    let unshared = sys::unshare(sys::CLONE_NEW_USERS | sys::CLONE_NEW_MOUNTS);
    if unshared.is_ok()
        && let Some(go_write) = &go_write
    {
        rustix::io::write(go_write, b"g").map_err(failed("write"))?;
    }
    drop(go_write);
    let ended = sys::wait(std::os::fd::AsFd::as_fd(&helper)).map_err(failed("waitid"))?;
    unshared.map_err(failed("unshare(user, mounts)"))?;
    match ended.status {
        0 => Ok(()),
        status => {
            let helper = if status == 2 { "newgidmap" } else { "newuidmap" };
            Err(UserNamespaceError::Helper { helper, status: format!("an error (see above, {status})") })
        }
    }
}

/// Runs in a process of its own that stays in the host's namespace; it has one thread, as we had.
fn map_from_outside(
    go: &mut (Option<OwnedFd>, Option<OwnedFd>),
    pid: i32,
    (uid, gid): (u32, u32),
    ranges: &Ranges,
) -> Infallible {
    go.1 = None;
    let mut byte = [0u8; 1];
    let told = go.0.as_ref().is_some_and(|pipe| rustix::io::read(pipe, &mut byte) == Ok(1));
    if !told {
        sys::exit_now(0);
    }
    let map = |program: &str, id: u32, range: (u32, u32)| {
        let words = [pid.to_string(), "0".into(), id.to_string(), "1".into(), "1".into()];
        let words = words.into_iter().chain([range.0.to_string(), range.1.to_string()]);
        Command::new(program).args(words).status().is_ok_and(|status| status.success())
    };
    if !map("newuidmap", uid, ranges.users) {
        sys::exit_now(1);
    }
    sys::exit_now(if map("newgidmap", gid, ranges.groups) { 0 } else { 2 })
}

/// The first range of users and of groups that the host gives a user: start and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ranges {
    users: (u32, u32),
    groups: (u32, u32),
}

impl Ranges {
    /// Reads the host's tables; the error is the line that would mend it.
    fn read(uid: u32) -> Result<Self, String> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = user_name(&passwd, uid).unwrap_or_else(|| uid.to_string());
        let find = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            find_range(&text, &name, uid).ok_or_else(|| {
                format!("no entry for `{name}` in {path}: add the line `{name}:100000:65536` to it")
            })
        };
        Ok(Self { users: find("/etc/subuid")?, groups: find("/etc/subgid")? })
    }
}

/// The line that would give this user ranges, when it has none; for `rbuild doctor`.
pub fn missing_ranges(uid: u32) -> Option<String> {
    Ranges::read(uid).err()
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields.get(2) == Some(&uid.to_string().as_str())).map(|fields| fields[0].to_owned())
}

fn find_range(text: &str, name: &str, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        if who != name && who != uid.to_string() {
            return None;
        }
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (range.1 > 0).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_number() {
        let text = "# x\nbob:1:1\nann:100000:65536\n1001:7:8\n";
        assert_eq!(find_range(text, "ann", 1000), Some((100_000, 65536)));
        assert_eq!(find_range(text, "eve", 1001), Some((7, 8)));
        assert_eq!(find_range(text, "eve", 1002), None);
    }

    #[test]
    fn a_map_tells_which_ids_are_in_it() {
        let map = parse_map("0 1000 1\n         1     100000      65536\n");
        assert!(maps(&map, 0) && maps(&map, 65536) && !maps(&map, 65537));
        let all = Mapping {
            users: parse_map("         0          0 4294967295\n"),
            groups: Vec::new(),
            setgroups_allowed: true,
        };
        assert!(all.is_initial() && all.maps_user(5) && !all.maps_group(5));
    }
}
