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
use std::os::fd::{AsFd, OwnedFd};
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
    /// It has said why on standard error.
    #[error("cannot map users: {helper} refuses")]
    Helper { helper: &'static str },
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
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let entered = match Ranges::read(own.0) {
        Ok(ranges) => enter_with_ranges(own, &ranges)?,
        Err(note) => {
            leave_namespaces()?;
            map_one_id(own)?;
            Entered::OneId { note }
        }
    };
    let (user, group) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_res_gid(group, group, group).map_err(failed("setresgid(0)"))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(failed("setresuid(0)"))?;
    Ok(entered)
}

fn failed<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> UserNamespaceError {
    move |source| UserNamespaceError::Call { call, source: source.into() }
}

fn leave_namespaces() -> Result<(), UserNamespaceError> {
    sys::unshare(sys::CLONE_NEW_USERS | sys::CLONE_NEW_MOUNTS).map_err(failed("unshare(user, mounts)"))
}

fn map_one_id((uid, gid): (u32, u32)) -> Result<(), UserNamespaceError> {
    fs::write("/proc/self/setgroups", "deny").map_err(failed("write /proc/self/setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(failed("write /proc/self/uid_map"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(failed("write /proc/self/gid_map"))
}

fn enter_with_ranges(own: (u32, u32), ranges: &Ranges) -> Result<Entered, UserNamespaceError> {
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe"))?;
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let mut ends = (Some(wait), Some(go));
    let mut child = || map_from_outside(&mut ends, pid, own, ranges);
    let (_, helper) = sys::clone_process(0, None, &mut child).map_err(failed("clone3"))?;
    let (wait, go) = ends;
    drop(wait);
    let left = leave_namespaces();
    if left.is_ok()
        && let Some(go) = &go
    {
        rustix::io::write(go, b"g").map_err(failed("write to the helper"))?;
    }
    drop(go);
    let ended = sys::wait(helper.as_fd()).map_err(failed("waitid"))?;
    left?;
    match u8::try_from(ended.status) {
        Ok(MAPPED) => Ok(Entered::Ranges),
        Ok(NO_HELPER) => {
            map_one_id(own)?;
            Ok(Entered::OneId { note: "newuidmap is not installed: install the package uidmap".into() })
        }
        Ok(GROUPS_REFUSED) => Err(UserNamespaceError::Helper { helper: "newgidmap" }),
        _ => Err(UserNamespaceError::Helper { helper: "newuidmap" }),
    }
}

/// How the helper ends.
const MAPPED: u8 = 0;
const NO_HELPER: u8 = 1;
const USERS_REFUSED: u8 = 2;
const GROUPS_REFUSED: u8 = 3;

/// Runs in a process of its own that stays in the host's namespace; it has one thread, as we had.
fn map_from_outside(
    ends: &mut (Option<OwnedFd>, Option<OwnedFd>),
    pid: i32,
    (uid, gid): (u32, u32),
    ranges: &Ranges,
) -> Infallible {
    // Our own copy of the writing end would keep the pipe open for ever.
    ends.1 = None;
    let mut byte = [0u8; 1];
    let told = ends.0.as_ref().is_some_and(|wait| rustix::io::read(wait, &mut byte) == Ok(1));
    let map = |program: &str, id: u32, range: (u32, u32)| {
        let words = [pid.to_string(), "0".into(), id.to_string(), "1".into(), "1".into()];
        let words = words.into_iter().chain([range.0.to_string(), range.1.to_string()]);
        Command::new(program).args(words).status()
    };
    let end = if told {
        match map("newuidmap", uid, ranges.users) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => NO_HELPER,
            Ok(users) if users.success() => match map("newgidmap", gid, ranges.groups) {
                Ok(groups) if groups.success() => MAPPED,
                _ => GROUPS_REFUSED,
            },
            _ => USERS_REFUSED,
        }
    } else {
        USERS_REFUSED
    };
    sys::exit_now(end.into())
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
        let name = user_name(&passwd, uid)
            .ok_or_else(|| format!("no user has the id {uid} in /etc/passwd, and newuidmap wants a name"))?;
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
