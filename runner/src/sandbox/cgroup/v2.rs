//! Limits in the words of cgroup v2.
//!
//! May touch: its arguments. Knows nothing of mounts.

use super::{Controller, Setting, cpu_quota, memory_with_swap};
use crate::sandbox::plan::Limits;

/// The files to write.
pub(crate) fn settings(limits: &Limits) -> Vec<Setting> {
    use Controller::{Cpu, Cpuset, Memory, Pids};
    let mut settings = Vec::new();
    let mut set = |controller, file, value: Option<String>, limit, asked| {
        settings.extend(value.map(|value| Setting { controller, file, value, limit, asked }));
    };
    set(Memory, "memory.max", limits.memory_bytes.map(|bytes| bytes.to_string()), "--memory", true);
    // Half a killed build is of no use: what shares the limit dies together.
    set(Memory, "memory.oom.group", limits.memory_bytes.map(|_| "1".into()), "--memory", false);
    let (with_swap, asked) = memory_with_swap(limits);
    set(Memory, "memory.swap.max", with_swap.map(|total| swap(total, limits)), "--memory-swap", asked);
    let reservation = limits.memory_reservation_bytes.map(|bytes| bytes.to_string());
    set(Memory, "memory.low", reservation, "--memory-reservation", true);
    if let Some((quota, period)) = cpu_quota(limits) {
        let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
        set(Cpu, "cpu.max", Some(format!("{quota} {period}")), "--cpus", true);
    }
    set(Cpu, "cpu.weight", limits.cpu_shares.map(weight), "--cpu-shares", true);
    set(Cpuset, "cpuset.cpus", limits.cpuset_cpus.clone(), "--cpuset-cpus", true);
    set(Cpuset, "cpuset.mems", limits.cpuset_mems.clone(), "--cpuset-mems", true);
    set(Pids, "pids.max", limits.pids.map(|count| count.to_string()), "--pids-limit", true);
    settings
}

/// v2 counts swap alone, the option memory and swap together.
fn swap(total: i64, limits: &Limits) -> String {
    match u64::try_from(total) {
        Ok(total) => total.saturating_sub(limits.memory_bytes.unwrap_or(0)).to_string(),
        Err(_) => "max".into(),
    }
}

/// Shares run from 2 to 262144 with 1024 as the middle, weights from 1 to 10000.
fn weight(shares: u64) -> String {
    (1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_onto_the_whole_range_of_weights() {
        for (shares, expected) in [(0, "1"), (2, "1"), (1024, "39"), (262_144, "10000"), (1 << 40, "10000")] {
            assert_eq!(weight(shares), expected);
        }
    }

    #[test]
    fn swap_is_what_is_left_of_both_after_memory() {
        let limits = Limits { memory_bytes: Some(100), memory_swap_bytes: Some(150), ..Limits::default() };
        let written = |name| settings(&limits).into_iter().find(|s| s.file == name).map(|s| s.value);
        assert_eq!(written("memory.max").as_deref(), Some("100"));
        assert_eq!(written("memory.swap.max").as_deref(), Some("50"));
        let unlimited = Limits { memory_bytes: Some(100), memory_swap_bytes: Some(-1), ..Limits::default() };
        let last = settings(&unlimited).into_iter().find(|s| s.file == "memory.swap.max");
        assert_eq!(last.map(|s| s.value).as_deref(), Some("max"));
    }
}
