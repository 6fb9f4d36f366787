//! The `resolv.conf` of a network of its own. Pure.
//!
//! A nameserver on the host's loopback can't be reached from another namespace: inside, the same
//! address is the container's own. Such lines are left out; the rest is passed on as it is.
//!
//! May touch: its arguments. Knows nothing of disk, links, containers.

use std::net::IpAddr;

/// The host's file without nameservers on the loopback; `None` when no nameserver is left.
pub(super) fn without_loopback(host: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(host.len());
    let mut nameservers = 0;
    for line in host.split_inclusive(|byte| *byte == b'\n') {
        match nameserver(line) {
            Some(address) if is_loopback(address) => {}
            Some(_) => {
                nameservers += 1;
                kept.extend_from_slice(line);
            }
            None => kept.extend_from_slice(line),
        }
    }
    (nameservers > 0).then_some(kept)
}

/// The address of a `nameserver` line; a link-local address may carry a `%zone`.
fn nameserver(line: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(line).ok()?;
    let mut words = text.split_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    words.next()?.split('%').next()?.parse().ok()
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nameservers_on_the_loopback_go() {
        for (host, expected) in [
            ("nameserver 10.0.0.1\n", Some("nameserver 10.0.0.1\n")),
            ("search lan\nnameserver 127.0.0.53\nnameserver 1.1.1.1\noptions edns0", {
                Some("search lan\nnameserver 1.1.1.1\noptions edns0")
            }),
            ("nameserver\t127.0.0.1\n", None),
            ("nameserver ::1\nnameserver ::ffff:127.0.0.1\n", None),
            ("nameserver fe80::1%eth0\n", Some("nameserver fe80::1%eth0\n")),
            ("# nameserver 1.1.1.1\n", None),
            ("nameserver nonsense\n", None),
            ("", None),
        ] {
            let kept = without_loopback(host.as_bytes());
            assert_eq!(kept.as_deref(), expected.map(str::as_bytes), "{host:?}");
        }
    }
}
