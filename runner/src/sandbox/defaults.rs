//! What a sandbox hides by default: the union of what moby and podman hide. Data only.
//!
//! Sources: moby `daemon/pkg/oci/defaults.go`, containers/common `pkg/config/default.go`.
//!
//! May touch: nothing. Knows nothing of anything else.

/// Paths that are covered: they tell of the host's hardware and keys, or let a process write firmware.
pub fn masked_paths() -> Vec<String> {
    let paths = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
        "/sys/fs/selinux",
        // `cpu*` stands for every processor that the host has.
        "/sys/devices/system/cpu/cpu*/thermal_throttle",
    ];
    paths.map(str::to_owned).to_vec()
}

/// Paths that can be read and not written.
pub fn read_only_paths() -> Vec<String> {
    let paths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    paths.map(str::to_owned).to_vec()
}
