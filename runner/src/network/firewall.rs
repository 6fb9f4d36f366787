//! The rules of one private network, put into the kernel's `nf_tables` as one transaction.
//!
//! ```text
//! table ip rbuild_<link>                          owned by our socket: the kernel removes it with us
//! ├── chain source   (hook postrouting, srcnat)   ip saddr <inside> oif != <link> masquerade
//! └── chain forward  (hook forward, filter)       iif <link> ip saddr != <inside> drop
//!                                                 oif <link> ct state != established,related drop
//! ```
//!
//! The table carries `NFT_TABLE_F_OWNER` (Linux 5.12): no one else can change it, a flush of the
//! ruleset leaves it alone, and it goes when the socket is closed, be it by `kill -9`. So there
//! is nothing to clean up after a crash. Messages are built by hand (nfnetlink, all numbers of
//! attributes in network order) because starting `nft` takes longer than all the rest of a run.
//!
//! May touch: `nf_tables`. Knows nothing of links' making, containers, other firewalls' tools.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::attributes::{Attributes, answers, nested};
use super::closing;

const FAMILY_NONE: u8 = 0;
const FAMILY_IPV4: u8 = 2;
const SUBSYSTEM_NF_TABLES: u16 = 10;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM_NF_TABLES << 8;
const NEW_CHAIN: u16 = NEW_TABLE + 3;
const GET_CHAIN: u16 = NEW_TABLE + 4;
const NEW_RULE: u16 = NEW_TABLE + 6;

const TABLE_OWNED: u32 = 2;
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_FILTER: u32 = 0;
const PRIORITY_SOURCE_NAT: u32 = 100;

const VERDICT_REGISTER: u32 = 0;
const REGISTER: u32 = 1;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const VERDICT_DROP: u32 = 0;
/// Bits of `ct state`: established and related.
const CT_KNOWN: u32 = 2 | 4;

/// The rules in place; closing the socket takes them away.
#[derive(Debug)]
pub(super) struct Firewall {
    owner: Socket,
}

impl Drop for Firewall {
    fn drop(&mut self) {
        // If it can't be left to the kernel, closing it waits, and that is all.
        let _ = closing::leave_to_the_kernel(self.owner.as_fd());
    }
}

/// A base chain of someone else that drops what is forwarded unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) table: String,
    pub(super) chain: String,
}

/// What other tables hold that concerns us.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Chains on the forward hook whose policy is to drop.
    pub(super) closed: Vec<Closed>,
    /// Docker's chain for the rules of others.
    pub(super) docker_user: bool,
}

impl Firewall {
    /// Lets packets of `inside`, which come by link `index`, out under the host's address, and no
    /// one in that was not asked.
    pub(super) fn open(name: &str, index: u32, inside: Ipv4Addr) -> io::Result<Self> {
        let owner = socket()?;
        let link = index.to_ne_bytes();
        let mut batch = Batch::new(&format!("rbuild_{name}"));
        batch.table();
        batch.chain("source", "nat", HOOK_POSTROUTING, PRIORITY_SOURCE_NAT);
        batch.chain("forward", "filter", HOOK_FORWARD, PRIORITY_FILTER);
        batch.rule(
            "source",
            &[
                load_source(),
                compare(EQUAL, &inside.octets()),
                load_meta(META_OIF),
                compare(NOT_EQUAL, &link),
                { masquerade() },
            ],
        );
        batch.rule(
            "forward",
            &[
                load_meta(META_IIF),
                compare(EQUAL, &link),
                load_source(),
                compare(NOT_EQUAL, &inside.octets()),
                { drop_packet() },
            ],
        );
        batch.rule(
            "forward",
            &[
                load_meta(META_OIF),
                compare(EQUAL, &link),
                load_ct_state(),
                mask(CT_KNOWN),
                { compare(EQUAL, &0_u32.to_ne_bytes()) },
                drop_packet(),
            ],
        );
        let (bytes, acknowledged) = batch.finish();
        owner.send(&bytes, 0)?;
        let mut missing = acknowledged;
        while missing > 0 {
            let (datagram, _) = owner.recv_from_full()?;
            for answer in answers(&datagram) {
                answer?;
                missing -= 1;
            }
        }
        Ok(Self { owner })
    }
}

/// Looks for what other tables do with forwarded packets.
pub(super) fn others() -> io::Result<Others> {
    let socket = socket()?;
    let mut request = Vec::new();
    let mark = start(&mut request, GET_CHAIN, NLM_F_REQUEST | NLM_F_DUMP, FAMILY_NONE, 0);
    finish(&mut request, mark);
    socket.send(&request, 0)?;
    let mut others = Others::default();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for answer in answers(&datagram) {
            match answer? {
                Some(chain) => note_chain(chain, &mut others),
                None => return Ok(others),
            }
        }
    }
}

/// `chain` is an `nfgenmsg` (family first) and the chain's attributes.
fn note_chain(chain: &[u8], others: &mut Others) {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    const INET: u8 = 1;
    let Some((head, attributes)) = chain.split_at_checked(4) else { return };
    if head[0] != FAMILY_IPV4 && head[0] != INET {
        return;
    }
    let find = |kind| nested(attributes).find(|found| found.0 == kind).map(|found| found.1);
    let text = |kind| {
        let bytes: &[u8] = find(kind).unwrap_or_default();
        String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
    };
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).ok();
    if head[0] == FAMILY_IPV4 && text(NAME) == "DOCKER-USER" {
        others.docker_user = true;
    }
    let hook = find(HOOK).and_then(|hook| nested(hook).find(|found| found.0 == HOOK_NUMBER));
    let on_forward = hook.and_then(|found| number(found.1)) == Some(HOOK_FORWARD);
    if on_forward && find(POLICY).and_then(number) == Some(VERDICT_DROP) {
        others.closed.push(Closed { table: text(TABLE), chain: text(NAME) });
    }
}

fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// A transaction: between its begin and its end all is done or nothing.
struct Batch {
    bytes: Vec<u8>,
    table: String,
    acknowledged: u32,
}

impl Batch {
    fn new(table: &str) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        let mark = start(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, FAMILY_NONE, SUBSYSTEM_NF_TABLES);
        finish(&mut bytes, mark);
        Self { bytes, table: table.to_owned(), acknowledged: 0 }
    }

    fn table(&mut self) {
        let mut attributes = Attributes::default();
        attributes.text(1, &self.table).number(2, TABLE_OWNED);
        self.message(NEW_TABLE, NLM_F_EXCL, &attributes);
    }

    fn chain(&mut self, name: &str, kind: &str, hook: u32, priority: u32) {
        let mut place = Attributes::default();
        place.number(1, hook).number(2, priority);
        let mut attributes = Attributes::default();
        attributes.text(1, &self.table).text(3, name).nest(4, &place).text(7, kind);
        self.message(NEW_CHAIN, 0, &attributes);
    }

    fn rule(&mut self, chain: &str, expressions: &[Attributes]) {
        let mut list = Attributes::default();
        for expression in expressions {
            list.nest(1, expression);
        }
        let mut attributes = Attributes::default();
        attributes.text(1, &self.table).text(2, chain).nest(4, &list);
        self.message(NEW_RULE, NLM_F_APPEND, &attributes);
    }

    fn message(&mut self, kind: u16, flags: u16, attributes: &Attributes) {
        let flags = flags | NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK;
        let mark = start(&mut self.bytes, kind, flags, FAMILY_IPV4, 0);
        self.bytes.extend_from_slice(attributes.as_bytes());
        finish(&mut self.bytes, mark);
        self.acknowledged += 1;
    }

    /// The bytes to send, and how many answers they get.
    fn finish(mut self) -> (Vec<u8>, u32) {
        let mark = start(&mut self.bytes, BATCH_END, NLM_F_REQUEST, FAMILY_NONE, SUBSYSTEM_NF_TABLES);
        finish(&mut self.bytes, mark);
        (self.bytes, self.acknowledged)
    }
}

/// Begins a message: `nlmsghdr` (its length comes with `finish`) and `nfgenmsg`.
fn start(bytes: &mut Vec<u8>, kind: u16, flags: u16, family: u8, resource: u16) -> usize {
    let mark = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family, 0]);
    bytes.extend_from_slice(&resource.to_be_bytes());
    mark
}

fn finish(bytes: &mut [u8], mark: usize) {
    let length = u32::try_from(bytes.len() - mark).expect("a few rules are short");
    bytes[mark..mark + 4].copy_from_slice(&length.to_ne_bytes());
}

fn expression(name: &str, data: &Attributes) -> Attributes {
    let mut expression = Attributes::default();
    expression.text(1, name).nest(2, data);
    expression
}

/// Loads the IPv4 source address: 4 bytes at 12 in the network header.
fn load_source() -> Attributes {
    let mut data = Attributes::default();
    data.number(1, REGISTER).number(2, 1).number(3, 12).number(4, 4);
    expression("payload", &data)
}

fn load_meta(key: u32) -> Attributes {
    let mut data = Attributes::default();
    data.number(1, REGISTER).number(2, key);
    expression("meta", &data)
}

fn load_ct_state() -> Attributes {
    let mut data = Attributes::default();
    data.number(1, REGISTER).number(2, 0);
    expression("ct", &data)
}

fn compare(operator: u32, value: &[u8]) -> Attributes {
    let mut data = Attributes::default();
    data.number(1, REGISTER).number(2, operator).nest(3, &literal(value));
    expression("cmp", &data)
}

fn mask(bits: u32) -> Attributes {
    let mut data = Attributes::default();
    data.number(1, REGISTER).number(2, REGISTER).number(3, 4);
    data.nest(4, &literal(&bits.to_ne_bytes())).nest(5, &literal(&[0; 4]));
    expression("bitwise", &data)
}

fn masquerade() -> Attributes {
    expression("masq", &Attributes::default())
}

fn drop_packet() -> Attributes {
    let (mut code, mut verdict, mut data) = <(Attributes, Attributes, Attributes)>::default();
    code.number(1, VERDICT_DROP);
    verdict.nest(2, &code);
    data.number(1, VERDICT_REGISTER).nest(2, &verdict);
    expression("immediate", &data)
}

fn literal(value: &[u8]) -> Attributes {
    let mut data = Attributes::default();
    data.bytes(1, value);
    data
}
