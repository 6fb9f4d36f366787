//! Seccomp: the profile as a filter that the kernel runs before every system call.
//!
//! ```text
//! architecture? ── native ──▶ number: binary search over ranges ──▶ verdict, or a look at an argument
//!              └── i386 ────▶ the same with its own numbers (x86_64 only)
//!              └── other ───▶ kill
//! ```
//!
//! x32 numbers are a range of their own and denied: they name the same calls a second time.
//!
//! May touch: its arguments. Knows nothing of how a filter is loaded.

use std::sync::Arc;

use rustix::thread::CapabilitySet;

use super::sys::Instruction;

mod filter;
mod profile;

use filter::{Leaf, Range};
use profile::Verdict;

/// A table of call numbers that the kernel may be entered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86_64,
    X86,
    Aarch64,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Architecture] = &[Architecture::X86_64, Architecture::X86];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Architecture] = &[Architecture::Aarch64];

/// Where the numbers of x32 begin.
const X32: u32 = 0x4000_0000;

impl Architecture {
    /// `AUDIT_ARCH_*`, as the kernel tells a filter.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xC000_003E,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xC000_00B7,
        }
    }

    /// The name of a call; `None` where the table has a hole or ends.
    pub(crate) fn name(self, number: u32) -> Option<&'static str> {
        let number = usize::try_from(number).ok()?;
        match self {
            Self::X86_64 => syscalls::x86_64::Sysno::new(number).map(|call| call.name()),
            Self::X86 => syscalls::x86::Sysno::new(number).map(|call| call.name()),
            Self::Aarch64 => syscalls::aarch64::Sysno::new(number).map(|call| call.name()),
        }
    }

    /// The first number past the table.
    fn end(self) -> u32 {
        let last = match self {
            Self::X86_64 => syscalls::x86_64::Sysno::last().id(),
            Self::X86 => syscalls::x86::Sysno::last().id(),
            Self::Aarch64 => syscalls::aarch64::Sysno::last().id(),
        };
        last.unsigned_abs() + 1
    }

    fn verdict(self, number: u32, capabilities: CapabilitySet) -> Verdict {
        match self.name(number) {
            Some(name) => profile::judge(name, self, capabilities),
            None if self == Self::X86_64 && (X32..2 * X32).contains(&number) => Verdict::Deny,
            None => Verdict::Unknown,
        }
    }
}

/// The filter for a process with these capabilities.
pub(crate) fn program(capabilities: CapabilitySet) -> Arc<[Instruction]> {
    let sections = ARCHITECTURES.iter().map(|each| (each.audit(), ranges(*each, capabilities)));
    filter::compile(&sections.collect::<Vec<_>>()).into()
}

/// The numbers of an architecture as ranges of equal verdict, covering all 32 bits.
fn ranges(architecture: Architecture, capabilities: CapabilitySet) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let mut last = None;
    for number in (0..=architecture.end()).chain([X32, 2 * X32]) {
        let verdict = architecture.verdict(number, capabilities);
        if last != Some(verdict) {
            ranges.push(Range { start: number, leaf: Leaf::of(verdict) });
            last = Some(verdict);
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::filter::run;
    use super::profile::{NAMESPACE_FLAGS, Question};
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    /// The profile, evaluated without any program.
    fn plain(architecture: Architecture, number: u32, argument: u32, capabilities: CapabilitySet) -> u32 {
        let allowed = match architecture.verdict(number, capabilities) {
            Verdict::Allow => true,
            Verdict::Deny => false,
            Verdict::Unknown => return ENOSYS,
            Verdict::Ask(Question::SocketFamily) => {
                argument < 46 && ![12, 19, 20, 23, 25, 34, 37, 38, 40].contains(&argument)
            }
            Verdict::Ask(Question::SocketcallNumber) => argument != 1,
            Verdict::Ask(Question::Personality) => [0, 8, 0x2_0000, 0x2_0008, u32::MAX].contains(&argument),
            Verdict::Ask(Question::CloneFlags) => argument & NAMESPACE_FLAGS == 0,
        };
        if allowed { ALLOW } else { EPERM }
    }

    fn sets() -> [CapabilitySet; 5] {
        [
            CapabilitySet::empty(),
            CapabilitySet::CHOWN | CapabilitySet::SYS_CHROOT | CapabilitySet::SETUID,
            CapabilitySet::SYS_ADMIN,
            CapabilitySet::SYS_PTRACE | CapabilitySet::SYSLOG | CapabilitySet::BPF,
            CapabilitySet::all(),
        ]
    }

    #[test]
    fn the_program_says_what_the_table_says_for_every_number() {
        let arguments: Vec<u64> = (0..64)
            .chain([0x2_0000, 0x2_0001, 0x2_0008, 0x2_0009, 0x0120_0011, 0x7E02_0000, 0x1000_0000])
            .chain([0x2000_0000, 0xffff_fffe, 0xffff_ffff])
            .flat_map(|low| [low, low | 0xdead_0000_0000])
            .collect();
        for capabilities in sets() {
            let program = program(capabilities);
            for architecture in ARCHITECTURES {
                for number in (0..1024).chain([X32, X32 + 59, X32 + 547, 0x7fff_ffff, 2 * X32, u32::MAX]) {
                    for argument in &arguments {
                        #[expect(clippy::cast_possible_truncation, reason = "the low word is meant")]
                        let expected = plain(*architecture, number, *argument as u32, capabilities);
                        let got = run(&program, architecture.audit(), number, *argument);
                        assert_eq!(got, expected, "{architecture:?} {number} {argument:#x} {capabilities:?}");
                    }
                }
            }
            assert_eq!(run(&program, 0x4000_0028, 0, 0), 0x8000_0000, "arm on x86 is killed");
        }
    }

    #[test]
    fn calls_are_judged_as_containers_expect() {
        let default = sets()[1];
        let check = |name: &str, argument: u64, capabilities| {
            let architecture = ARCHITECTURES[0];
            let number = (0..1024).find(|number| architecture.name(*number) == Some(name)).unwrap();
            run(&program(capabilities), architecture.audit(), number, argument)
        };
        for name in ["read", "openat", "execve", "chroot", "ptrace", "getrandom", "statx", "futex"] {
            assert_eq!(check(name, 0, default), ALLOW, "{name}");
        }
        for name in [
            "keyctl",
            "add_key",
            "unshare",
            "mount",
            "setns",
            "bpf",
            "io_uring_setup",
            "init_module",
            "kexec_load",
        ] {
            assert_eq!(check(name, 0, default), EPERM, "{name}");
        }
        assert_eq!(check("clone3", 0, default), ENOSYS);
        assert_eq!(check("clone3", 0, CapabilitySet::SYS_ADMIN), ALLOW);
        assert_eq!(check("clone", 0x1000_0000, default), EPERM, "a user namespace");
        assert_eq!(check("clone", 17, default), ALLOW, "a fork");
        for (family, expected) in [(1, ALLOW), (2, ALLOW), (10, ALLOW), (17, ALLOW), (38, EPERM), (40, EPERM)]
        {
            assert_eq!(check("socket", family, default), expected, "family {family}");
        }
    }

    #[test]
    fn the_program_fits_and_is_found_in_few_steps() {
        let program = program(sets()[1]);
        assert!(program.len() < 1200, "{} instructions", program.len());
    }
}
