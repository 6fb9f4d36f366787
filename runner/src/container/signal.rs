//! Signals: their names, and what a process does with them.
//!
//! May touch: `/proc`, other processes by descriptor. Knows nothing of records and sandboxes.

use std::io;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

pub const KILL: i32 = 9;

/// In the order of their numbers on Linux, from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
pub fn number(text: &str) -> Option<i32> {
    const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
    if let Ok(number) = text.parse::<i32>() {
        return (1..=*REAL_TIME.end()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(place) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(place + 1).ok();
    }
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME.start() + offset(rest)?,
        (_, Some(rest)) => REAL_TIME.end() + offset(rest)?,
        _ => return None,
    };
    REAL_TIME.contains(&number).then_some(number)
}

/// Whether a user who sends it means to end the process.
pub(super) fn ends(signal: i32) -> bool {
    ["HUP", "INT", "QUIT", "TERM"].iter().any(|name| number(name) == Some(signal))
}

/// Whether the process leaves `signal` to its default action; `false` when it can't be told.
pub(super) fn is_default(pid: u32, signal: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    is_default_by(&status, signal)
}

/// By the masks of `/proc/<pid>/status`: neither caught nor ignored nor blocked.
fn is_default_by(status: &str, signal: i32) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let masks = [mask("SigBlk"), mask("SigIgn"), mask("SigCgt")];
    masks.iter().all(|mask| mask.is_some_and(|mask| mask & (1 << (signal - 1)) == 0))
}

/// When the process started, in clock ticks since boot.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, spaces and parentheses too. Field 22 is the time.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Kills a process if it is still the one that started then; one that is gone is fine.
pub(super) fn kill(pid: u32, started: u64) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // The descriptor holds one process: if its time is right now, it is the right one.
    if start_ticks(pid.as_raw_nonzero().get().unsigned_abs()) != Some(started) {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        for (text, expected) in [
            ("TERM", Some(15)),
            ("SIGTERM", Some(15)),
            ("sigint", Some(2)),
            ("9", Some(9)),
            ("WINCH", Some(28)),
            ("SYS", Some(31)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN+31", None),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("SIG", None),
            ("", None),
            ("TERMINATE", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn a_signal_is_at_its_default_when_no_mask_has_it() {
        let status = |blocked: &str, ignored: &str, caught: &str| {
            format!("Name:\tx\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n")
        };
        let none = "0000000000000000";
        assert!(is_default_by(&status(none, none, none), 15));
        assert!(is_default_by(&status(none, none, "0000000000000002"), 15));
        for masks in
            [status("0000000000004000", none, none), status(none, "4000", none), status(none, none, "4000")]
        {
            assert!(!is_default_by(&masks, 15), "{masks}");
        }
        assert!(!is_default_by("", 15));
    }

    #[test]
    fn only_the_process_that_is_meant_is_killed() {
        let own = std::process::id();
        let ticks = start_ticks(own).unwrap();
        kill(own, ticks + 1).unwrap();
        kill(u32::MAX, 1).unwrap();
    }
}
