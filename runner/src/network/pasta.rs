//! `pasta`, the program that gives a namespace a way out without root.
//!
//! It is started on the descriptor of a namespace, returns when the namespace is configured, and
//! ends by itself when the descriptor's path is no more: when we close it or are killed.
//!
//! May touch: that one process. Knows nothing of links, rules, containers.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::NetworkError;
use super::forward;

pub(super) fn find() -> Option<PathBuf> {
    forward::find("pasta")
}

/// Starts it and returns the address inside. No port of either side is forwarded to the other.
pub(super) fn start(namespace: &OwnedFd) -> Result<Option<Ipv4Addr>, NetworkError> {
    let program = find().ok_or(NetworkError::PastaMissing)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let output = Command::new(program)
        .args(["--config-net", "--no-map-gw", "--quiet", "--ipv4-only"])
        .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
        .args(["--netns", &path])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(NetworkError::kernel("start pasta"))?;
    if output.status.success() {
        return Ok(None);
    }
    Err(NetworkError::Pasta { output: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}
