//! A namespace with a way out: a veth pair and NAT, or `pasta` where we may not touch the host's links.
//!
//! Two processes may pick the same block of addresses. Both put it on their link first and look
//! at the host's routes afterwards, so at least one of them sees the other, and who sees another
//! moves on. No lock, no file.
//!
//! May touch: the links, addresses and namespaces that it made, `ip_forward`. Knows nothing of containers.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};

use super::NetworkError;
use super::firewall::{self, Firewall};
use super::forward::Forward;
use super::netlink::{Block, LOOPBACK_INDEX, Route, Routes, Veth};
use super::pasta;

/// What makes a private network; all of it goes with this value.
#[derive(Debug)]
pub(super) struct Private {
    pub(super) namespace: Arc<OwnedFd>,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) notes: Vec<String>,
    _way_out: Option<WayOut>,
}

/// The host's half.
#[derive(Debug)]
struct WayOut {
    _firewall: Firewall,
    _forward: Option<Forward>,
}

/// The host's end of the pair. Nothing removes it: it goes with the namespace that holds the other
/// end, once the last descriptor and process of that are gone, without anyone waiting.
#[derive(Debug)]
struct Link {
    host: Routes,
    index: u32,
}

impl Private {
    pub(super) fn open(name: &str) -> Result<Self, NetworkError> {
        let (namespace, inside) =
            new_namespace().map_err(NetworkError::kernel("make a network namespace"))?;
        inside.set_up(LOOPBACK_INDEX).map_err(NetworkError::kernel("switch the loopback on"))?;
        let host = Routes::open().map_err(NetworkError::kernel("open a netlink socket"))?;
        let routes = host.list().map_err(NetworkError::kernel("list the host's routes"))?;
        let veth = Veth {
            name,
            peer_name: "eth0",
            peer_namespace: namespace.as_fd(),
            mtu_bytes: mtu_of_the_way_out(&host, &routes),
        };
        let index = match host.add_veth(&veth) {
            // The host's links are not ours to change: we are not root, or in a user namespace.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let address = pasta::start(&namespace)?;
                let namespace = Arc::new(namespace);
                return Ok(Self { namespace, address, gateway: None, notes: Vec::new(), _way_out: None });
            }
            other => other.map_err(NetworkError::kernel("make a pair of links"))?,
        };
        let link = Link { host, index };
        let block = take_block(&link, &inside, name, &routes)?;
        let mut notes = Vec::new();
        let way_out = WayOut::open(&link, name, block, &mut notes)?;
        Ok(Self {
            namespace: Arc::new(namespace),
            address: Some(inside_of(block).address),
            gateway: Some(block.address),
            notes,
            _way_out: Some(way_out),
        })
    }
}

impl WayOut {
    fn open(link: &Link, name: &str, block: Block, notes: &mut Vec<String>) -> Result<Self, NetworkError> {
        let others = firewall::others().map_err(NetworkError::kernel("list the firewall's chains"))?;
        let firewall = Firewall::open(name, link.index, inside_of(block).address)
            .map_err(NetworkError::kernel("put NAT rules into nf_tables"))?;
        forward_packets().map_err(NetworkError::kernel("switch on /proc/sys/net/ipv4/ip_forward"))?;
        let forward = Forward::open(name, &others, notes)?;
        Ok(Self { _firewall: firewall, _forward: forward })
    }
}

/// A new namespace by descriptor, with a socket in it.
///
/// A thread of its own makes it and ends, so that no other thread ever leaves the host's network.
fn new_namespace() -> io::Result<(OwnedFd, Routes)> {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let namespace = fs::File::open("/proc/thread-self/ns/net")?;
        Ok((OwnedFd::from(namespace), Routes::open()?))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, make)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that makes the namespace panicked")))
    })
}

/// Larger packets than the way out takes would be lost where path discovery is filtered.
fn mtu_of_the_way_out(host: &Routes, routes: &[Route]) -> u32 {
    const ETHERNET: u32 = 1500;
    let default = routes.iter().find(|route| route.to.prefix_length == 0);
    let mtu = default.and_then(|route| host.mtu_bytes(route.link).ok().flatten());
    mtu.unwrap_or(ETHERNET).clamp(576, 65_535)
}

/// Ranges that we take blocks of four addresses from, the first that the host does not use.
const RANGES: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 213, 0, 0), 16),
    (Ipv4Addr::new(10, 89, 0, 0), 16),
    (Ipv4Addr::new(172, 30, 0, 0), 16),
    (Ipv4Addr::new(192, 168, 192, 0), 18),
];
const BLOCK_PREFIX: u8 = 30;
const TRIES: u32 = 64;

/// Puts a free block onto both ends, and returns it with the host's address.
fn take_block(link: &Link, inside: &Routes, name: &str, routes: &[Route]) -> Result<Block, NetworkError> {
    let mut seen = routes.to_vec();
    for attempt in 0..TRIES {
        let block = free_block(name, attempt, &seen, link.index).ok_or(NetworkError::NoAddress)?;
        link.host.add_address(link.index, block).map_err(NetworkError::kernel("give the link an address"))?;
        if attempt == 0 {
            link.host.set_up(link.index).map_err(NetworkError::kernel("switch the link on"))?;
        }
        seen = link.host.list().map_err(NetworkError::kernel("list the host's routes"))?;
        if is_free(block, &seen, link.index) {
            join_inside(inside, block).map_err(NetworkError::kernel("set up eth0 in the namespace"))?;
            return Ok(block);
        }
        link.host
            .remove_address(link.index, block)
            .map_err(NetworkError::kernel("change the link's address"))?;
    }
    Err(NetworkError::NoAddress)
}

fn join_inside(inside: &Routes, block: Block) -> io::Result<()> {
    let index = inside.link("eth0")?.header.index;
    inside.add_address(index, inside_of(block))?;
    inside.set_up(index)?;
    inside.add_default_route(block.address)
}

/// The container's address is the one behind the host's.
fn inside_of(block: Block) -> Block {
    let address = Ipv4Addr::from_bits(block.address.to_bits() + 1);
    Block { address, prefix_length: block.prefix_length }
}

/// A block by the name's hash, so that two networks rarely try the same one.
fn free_block(name: &str, attempt: u32, routes: &[Route], own: u32) -> Option<Block> {
    let hash = store::Digest::of(format!("{name} {attempt}").as_bytes()).hex();
    let start = u32::from_str_radix(&hash[..8], 16).expect("hex digits");
    RANGES.iter().find_map(|(range, prefix)| {
        let count = 1_u32 << (BLOCK_PREFIX - prefix);
        (0..count).map(|step| start.wrapping_add(step) % count).find_map(|number| {
            let address = Ipv4Addr::from_bits(range.to_bits() + number * 4 + 1);
            let block = Block { address, prefix_length: BLOCK_PREFIX };
            is_free(block, routes, own).then_some(block)
        })
    })
}

/// Whether no link but `own` leads there. Routes as short as a default one (a VPN splits it into
/// halves) are for what has no other place.
fn is_free(block: Block, routes: &[Route], own: u32) -> bool {
    const SHORTEST: u8 = 4;
    let known = |route: &&Route| route.to.prefix_length >= SHORTEST && route.link != own;
    !routes.iter().filter(known).any(|route| route.to.overlaps(block))
}

fn forward_packets() -> io::Result<()> {
    const FILE: &str = "/proc/sys/net/ipv4/ip_forward";
    if fs::read(FILE)?.starts_with(b"0") {
        fs::write(FILE, "1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(address: [u8; 4], prefix_length: u8, link: u32) -> Route {
        Route { to: Block { address: address.into(), prefix_length }, link }
    }

    #[test]
    fn a_block_never_meets_a_route_of_the_host() {
        let own = 9;
        for (routes, range) in [
            (vec![], Some([10, 213])),
            (
                vec![route([0, 0, 0, 0], 0, 2), route([0, 0, 0, 0], 1, 3), route([128, 0, 0, 0], 1, 3)],
                Some([10, 213]),
            ),
            (vec![route([10, 213, 0, 0], 16, 2)], Some([10, 89])),
            (vec![route([10, 0, 0, 0], 8, 2)], Some([172, 30])),
            (vec![route([10, 0, 0, 0], 8, 2), route([172, 16, 0, 0], 12, 2)], Some([192, 168])),
            (
                vec![
                    route([10, 0, 0, 0], 8, 2),
                    route([172, 16, 0, 0], 12, 2),
                    route([192, 168, 0, 0], 16, 2),
                ],
                None,
            ),
            (vec![route([10, 0, 0, 0], 8, own)], Some([10, 213])),
        ] {
            let block = free_block("rb0", 0, &routes, own);
            assert_eq!(
                block.map(|block| block.address.octets()[..2].to_vec()),
                range.map(|range| range.to_vec())
            );
            assert!(block.is_none_or(|block| block.address.octets()[3] % 4 == 1));
        }
    }

    #[test]
    fn another_try_takes_another_block() {
        assert_ne!(free_block("rb0", 0, &[], 9), free_block("rb0", 1, &[], 9));
        assert_ne!(free_block("rb0", 0, &[], 9), free_block("rb1", 0, &[], 9));
    }
}
