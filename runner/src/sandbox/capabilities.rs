//! Capabilities: names ↔ numbers, and the list that a process gets.
//!
//! May touch: its arguments; `held` reads this thread's own. Knows nothing of plans or users.

use rustix::thread::CapabilitySet;

use super::SandboxError;

/// All names in the order of their numbers (capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container's root may do when nothing else is asked for: podman's eleven.
pub const DEFAULT: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The list after `--cap-add` and `--cap-drop`, as `CAP_CHOWN`. Case and the `CAP_` are free; `ALL` is
/// all. With `ALL` dropped only what is added stays, with `ALL` added everything that is not dropped.
pub fn choose(add: &[String], drop: &[String]) -> Result<Vec<String>, SandboxError> {
    let (add_all, added) = split(add)?;
    let (drop_all, dropped) = split(drop)?;
    let start = match (add_all, drop_all) {
        (true, _) => all(),
        (false, true) => 0,
        (false, false) => bits(&DEFAULT)?.bits(),
    };
    let chosen = if drop_all && add_all { 0 } else { start & !dropped } | added;
    Ok(names(chosen))
}

/// The set that `names` make; an unknown one is an error.
pub(crate) fn bits<S: AsRef<str>>(names: &[S]) -> Result<CapabilitySet, SandboxError> {
    let mut set = 0;
    for name in names {
        set |= bit(name.as_ref())?;
    }
    Ok(CapabilitySet::from_bits_retain(set))
}

/// What this thread may give away.
pub(crate) fn held() -> rustix::io::Result<CapabilitySet> {
    rustix::thread::capabilities(None).map(|sets| sets.permitted)
}

fn all() -> u64 {
    (1 << NAMES.len()) - 1
}

fn names(bits: u64) -> Vec<String> {
    let chosen = NAMES.iter().enumerate().filter(|(number, _)| bits & (1 << number) != 0);
    chosen.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// Whether `ALL` is among the names, and the set of the others.
fn split(names: &[String]) -> Result<(bool, u64), SandboxError> {
    let mut set = 0;
    let mut has_all = false;
    for name in names {
        if name.eq_ignore_ascii_case("all") {
            has_all = true;
        } else {
            set |= bit(name)?;
        }
    }
    Ok((has_all, set))
}

fn bit(name: &str) -> Result<u64, SandboxError> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match NAMES.iter().position(|known| *known == bare) {
        Some(number) => Ok(1 << number),
        None => Err(SandboxError::UnknownCapability { name: name.to_owned(), nearest: nearest(bare) }),
    }
}

/// The known name with the fewest edits; none when every one is far.
fn nearest(name: &str) -> Option<String> {
    let (distance, best) = NAMES.iter().map(|known| (edits(name, known), known)).min()?;
    (distance <= 3).then(|| format!("CAP_{best}"))
}

/// The edit distance of two short words, one row of the table at a time.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, b) in right.bytes().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn adding_and_dropping_work_from_the_default() {
        let default = choose(&[], &[]).unwrap();
        assert_eq!(bits(&default).unwrap(), bits(&DEFAULT).unwrap());
        for (add, drop, expected) in [
            ("", "ALL", ""),
            ("net_raw", "all", "CAP_NET_RAW"),
            ("CAP_SYS_PTRACE Chown", "ALL", "CAP_CHOWN CAP_SYS_PTRACE"),
            ("ALL", "ALL", ""),
        ] {
            assert_eq!(choose(&words(add), &words(drop)).unwrap(), words(expected), "+{add} -{drop}");
        }
        assert_eq!(choose(&words("ALL"), &words("MKNOD")).unwrap().len(), 40);
        assert_eq!(choose(&[], &words("KILL")).unwrap().len(), 10);
        assert_eq!(choose(&words("NET_RAW"), &[]).unwrap().len(), 12);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_the_nearest() {
        let error = choose(&words("NET_ADMN"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot use capability `NET_ADMN`: did you mean CAP_NET_ADMIN?");
        let error = choose(&[], &words("frobnicate")).unwrap_err();
        assert_eq!(error.to_string(), "cannot use capability `frobnicate`: no such capability");
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (name, set) in [
            ("CHOWN", CapabilitySet::CHOWN),
            ("SYS_ADMIN", CapabilitySet::SYS_ADMIN),
            ("MKNOD", CapabilitySet::MKNOD),
            ("SYSLOG", CapabilitySet::SYSLOG),
            ("CHECKPOINT_RESTORE", CapabilitySet::CHECKPOINT_RESTORE),
        ] {
            assert_eq!(bits(&[name]).unwrap(), set, "{name}");
        }
    }
}
