//! Links, addresses and routes by rtnetlink(7): one request, its answers, no other program.
//!
//! A socket belongs to the network namespace of the thread that opened it, for ever; so a socket
//! opened inside a new namespace configures that namespace from any thread later.
//!
//! May touch: the links of its own namespace. Knows nothing of names, firewalls, containers.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// The loopback interface is the first of every namespace.
pub(super) const LOOPBACK_INDEX: u32 = 1;

/// A connection to the kernel's tables of one network namespace.
#[derive(Debug)]
pub(super) struct Routes {
    socket: Socket,
}

/// One IPv4 route: what it leads to, by which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: Block,
    pub(super) link: u32,
}

/// Addresses that share their first `prefix_length` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) address: Ipv4Addr,
    pub(super) prefix_length: u8,
}

impl Block {
    /// Whether the two have an address in common.
    pub(super) fn overlaps(self, other: Self) -> bool {
        let length = u32::from(self.prefix_length.min(other.prefix_length)).min(32);
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        (u32::from(self.address) ^ u32::from(other.address)) & mask == 0
    }
}

/// A pair of links to be made: one end here, the other in the namespace `peer_namespace`.
pub(super) struct Veth<'n> {
    pub(super) name: &'n str,
    pub(super) peer_name: &'n str,
    pub(super) peer_namespace: BorrowedFd<'n>,
    pub(super) mtu_bytes: u32,
}

impl Routes {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Makes a pair of links and returns the index of the near end.
    pub(super) fn add_veth(&self, veth: &Veth<'_>) -> io::Result<u32> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer_name.to_owned()),
            LinkAttribute::Mtu(veth.mtu_bytes),
            LinkAttribute::NetNsFd(veth.peer_namespace.as_raw_fd()),
        ];
        let mut near = LinkMessage::default();
        near.attributes = vec![
            LinkAttribute::IfName(veth.name.to_owned()),
            LinkAttribute::Mtu(veth.mtu_bytes),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.change(RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)?;
        Ok(self.link(veth.name)?.header.index)
    }

    /// Finds a link by name.
    pub(super) fn link(&self, name: &str) -> io::Result<LinkMessage> {
        let mut wanted = LinkMessage::default();
        wanted.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(wanted)
    }

    /// The largest packet that a link carries.
    pub(super) fn mtu_bytes(&self, index: u32) -> io::Result<Option<u32>> {
        let mut wanted = LinkMessage::default();
        wanted.header.index = index;
        let mtu = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::Mtu(bytes) => Some(*bytes),
            _ => None,
        };
        Ok(self.one_link(wanted)?.attributes.iter().find_map(mtu))
    }

    /// Switches a link on.
    pub(super) fn set_up(&self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives a link an address (and the route to its block, once the link is up).
    pub(super) fn add_address(&self, index: u32, block: Block) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.change(RouteNetlinkMessage::NewAddress(address_message(index, block)), flags)
    }

    pub(super) fn remove_address(&self, index: u32, block: Block) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelAddress(address_message(index, block)), 0)
    }

    /// Sends everything that has no route of its own to `gateway`.
    pub(super) fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Static;
        route.header.scope = RouteScope::Universe;
        route.header.kind = RouteType::Unicast;
        route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        self.change(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Lists the IPv4 routes of all tables that lead through a link.
    pub(super) fn list(&self) -> io::Result<Vec<Route>> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = AddressFamily::Inet;
        let mut routes = Vec::new();
        self.ask(RouteNetlinkMessage::GetRoute(wanted), NLM_F_DUMP, &mut |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                routes.extend(route_of(&route));
            }
        })?;
        Ok(routes)
    }

    fn one_link(&self, wanted: LinkMessage) -> io::Result<LinkMessage> {
        let mut found = None;
        self.ask(RouteNetlinkMessage::GetLink(wanted), NLM_F_ACK, &mut |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some(link);
            }
        })?;
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(message, flags | NLM_F_ACK, &mut |_| {})
    }

    /// Sends one request and hands its answers to `each`, until the kernel says that it is done.
    fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        each: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => {}
                }
            }
        }
    }
}

fn address_message(index: u32, block: Block) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = block.prefix_length;
    message.header.index = index;
    let address = IpAddr::V4(block.address);
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// Routes that lead nowhere (local, broadcast, blackhole without a link) are none.
fn route_of(message: &RouteMessage) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let link = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    let to = Block {
        address: address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        prefix_length: message.header.destination_prefix_length,
    };
    Some(Route { to, link: link.unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_overlap_when_one_holds_the_other() {
        let block = |text: &str| {
            let (address, length) = text.split_once('/').unwrap();
            Block { address: address.parse().unwrap(), prefix_length: length.parse().unwrap() }
        };
        for (left, right, expected) in [
            ("10.213.0.0/30", "10.213.0.0/30", true),
            ("10.213.0.0/30", "10.213.0.4/30", false),
            ("10.0.0.0/8", "10.213.7.8/30", true),
            ("10.213.7.8/30", "10.0.0.0/8", true),
            ("172.30.0.0/16", "10.213.7.8/30", false),
            ("0.0.0.0/0", "10.213.7.8/30", true),
            ("10.213.7.9/32", "10.213.7.8/30", true),
        ] {
            assert_eq!(block(left).overlaps(block(right)), expected, "{left} {right}");
        }
    }
}
