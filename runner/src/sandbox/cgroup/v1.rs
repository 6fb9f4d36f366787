//! Limits in the words of cgroup v1.
//!
//! May touch: its arguments. Knows nothing of mounts.

use super::{Controller, Setting, cpu_quota, memory_with_swap};
use crate::sandbox::plan::Limits;

/// The files to write, in an order that the kernel takes (memory before memory and swap).
pub(crate) fn settings(limits: &Limits) -> Vec<Setting> {
    use Controller::{Cpu, Cpuset, Memory, Pids};
    let mut settings = Vec::new();
    let mut set = |controller, file, value: Option<String>, limit, asked| {
        settings.extend(value.map(|value| Setting { controller, file, value, limit, asked }));
    };
    set(Memory, "memory.limit_in_bytes", number(limits.memory_bytes), "--memory", true);
    let (with_swap, asked) = memory_with_swap(limits);
    set(Memory, "memory.memsw.limit_in_bytes", number(with_swap), "--memory-swap", asked);
    let reservation = number(limits.memory_reservation_bytes);
    set(Memory, "memory.soft_limit_in_bytes", reservation, "--memory-reservation", true);
    if let Some((quota, period)) = cpu_quota(limits) {
        set(Cpu, "cpu.cfs_period_us", number(Some(period)), "--cpu-period", true);
        set(Cpu, "cpu.cfs_quota_us", Some(quota.to_string()), "--cpus", true);
    }
    set(Cpu, "cpu.shares", number(limits.cpu_shares), "--cpu-shares", true);
    set(Cpuset, "cpuset.cpus", limits.cpuset_cpus.clone(), "--cpuset-cpus", true);
    set(Cpuset, "cpuset.mems", limits.cpuset_mems.clone(), "--cpuset-mems", true);
    set(Pids, "pids.max", number(limits.pids), "--pids-limit", true);
    settings
}

fn number<N: ToString>(value: Option<N>) -> Option<String> {
    value.map(|number| number.to_string())
}
