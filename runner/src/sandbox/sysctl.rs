//! Kernel settings that belong to a namespace; no other can be set for one container.
//!
//! May touch: its arguments. Knows nothing of procfs.

use super::SandboxError;
use super::plan::Network;

const IPC: [&str; 7] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// The path below `/proc` of a setting that may be set with this network, and its value, checked.
pub(crate) fn path(key: &str, value: &str, network: &Network) -> Result<String, SandboxError> {
    let refuse = |why| SandboxError::Plan { thing: format!("sysctl `{key}`"), why };
    let is_word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    if !key.split('.').all(is_word) {
        return Err(refuse("it is not a dotted name"));
    }
    if value.len() > 1024 || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(refuse("its value is too long or holds control characters"));
    }
    let of_network = key.starts_with("net.");
    if of_network && matches!(network, Network::Host) {
        return Err(refuse("it would change the host's network"));
    }
    let of_ipc = IPC.contains(&key) || key == "kernel.shm_rmid_forced" || key.starts_with("fs.mqueue.");
    if !of_network && !of_ipc {
        return Err(refuse("it belongs to the whole host"));
    }
    Ok(format!("sys/{}", key.replace('.', "/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaced_settings_pass() {
        let check = |key: &str, value: &str| path(key, value, &Network::None).ok();
        assert_eq!(
            check("net.ipv4.ip_unprivileged_port_start", "0").as_deref(),
            Some("sys/net/ipv4/ip_unprivileged_port_start")
        );
        assert_eq!(check("kernel.shmmax", "1").as_deref(), Some("sys/kernel/shmmax"));
        for (key, value) in [
            ("kernel.core_pattern", "|/x"),
            ("net..kernel.x", "1"),
            ("net.ipv4.ip_forward=1+kernel.core_pattern", "x"),
            ("../../kernel/core_pattern", "x"),
            ("net/../kernel/x", "x"),
            ("net.ipv4.ip_forward", "1\nx"),
            ("vm.swappiness", "1"),
            ("", ""),
        ] {
            assert_eq!(check(key, value), None, "{key}={value}");
        }
        assert!(path("net.ipv4.ip_forward", "1", &Network::Host).is_err());
    }
}
