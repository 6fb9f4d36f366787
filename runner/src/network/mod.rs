//! Networks: what a sandbox can reach.
//!
//! ```text
//! none      a namespace of the sandbox's own with a loopback
//! host      the caller's namespace
//! private   as root                                       otherwise
//!           namespace ─ eth0 ═ rb<id> ─ nf_tables NAT     namespace ─ tap ─ pasta, a user program
//! ```
//!
//! Whatever a private network consists of hangs on descriptors of this process: the namespace
//! (its links go with it) and the socket that owns the rules. A killed process takes all of it
//! along; only rules in Docker's chain outlive it, which `Network::clear` finds by their tag.
//!
//! May touch: links, addresses, rules and namespaces that it made; the host's `resolv.conf`.
//! Knows nothing of containers, images, the store.

mod attributes;
mod closing;
mod firewall;
mod forward;
mod netlink;
mod pasta;
mod private;
mod resolv_conf;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::sandbox::plan;

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    None,
    Host,
    /// A namespace of its own with a way out: NAT as root, `pasta` otherwise.
    Private,
}

/// An open network; dropping it takes every link and rule away.
#[derive(Debug)]
pub struct Network {
    pub mode: Mode,
    pub namespace: Option<Arc<OwnedFd>>,
    /// The address inside, when there is one; for `/etc/hosts`.
    pub address: Option<Ipv4Addr>,
    /// The host, as it is reached from inside.
    pub gateway: Option<Ipv4Addr>,
    /// The content of `/etc/resolv.conf` for processes in it.
    pub resolv_conf: Vec<u8>,
    /// What does not work and why, for the user to read.
    pub notes: Vec<String>,
    // Dropped last: links and rules go after the descriptor of the namespace.
    _private: Option<private::Private>,
}

/// Why a network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot make a private network: {reason}")]
    Private { reason: String },
    /// Neither `CAP_NET_ADMIN` over the host's network nor `pasta`.
    #[error("cannot make a private network without root: `pasta` (package passt) is not installed")]
    PastaMissing,
    #[error("cannot make a private network: pasta says: {output}")]
    Pasta { output: String },
    #[error("cannot make a private network: cannot {doing}")]
    Kernel { doing: &'static str, source: io::Error },
    #[error(
        "cannot make a private network: every range of addresses that it could take is in use on this host"
    )]
    NoAddress,
}

impl NetworkError {
    fn kernel(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Kernel { doing, source }
    }
}

impl Network {
    /// Makes the network; `id` names its links and rules so that they can be found again.
    pub fn open(mode: Mode, id: &str) -> Result<Self, NetworkError> {
        match mode {
            Mode::None => Ok(Self::without_link(mode, Vec::new())),
            Mode::Host => Ok(Self::without_link(mode, read_or_empty(HOST_FILE))),
            Mode::Private => Self::open_private(id),
        }
    }

    /// How a plan reaches this network.
    pub fn plan(&self) -> plan::Network {
        match (self.mode, &self.namespace) {
            (Mode::Host, _) => plan::Network::Host,
            (_, Some(namespace)) => plan::Network::Join(Arc::clone(namespace)),
            (_, None) => plan::Network::None,
        }
    }

    /// Whether a private network can be made without root: `pasta` is installed.
    pub fn private_without_root() -> bool {
        pasta::find().is_some()
    }

    /// Removes the rules of networks whose owner was killed and whose link's name begins with
    /// `prefix`. Links, tables and namespaces need no clearing: they die with their owner.
    pub fn clear(prefix: &str) -> Result<(), NetworkError> {
        forward::clear(prefix).map_err(NetworkError::kernel("clear the rules of killed networks"))
    }

    fn without_link(mode: Mode, resolv_conf: Vec<u8>) -> Self {
        Self {
            mode,
            namespace: None,
            address: None,
            gateway: None,
            resolv_conf,
            notes: Vec::new(),
            _private: None,
        }
    }

    /// A name can be taken: by an id that begins alike, or by a network of the same id that the
    /// kernel is still taking apart.
    fn first_free(id: &str) -> Result<private::Private, NetworkError> {
        let mut names = (1..4).map(|attempt| link_name(&format!("{id} {attempt}")));
        let mut name = link_name(id);
        loop {
            match (private::Private::open(&name), names.next()) {
                (Err(NetworkError::Kernel { source, .. }), Some(next))
                    if source.kind() == io::ErrorKind::AlreadyExists =>
                {
                    name = next;
                }
                (other, _) => return other,
            }
        }
    }

    fn open_private(id: &str) -> Result<Self, NetworkError> {
        let mut private = Self::first_free(id)?;
        let mut notes = std::mem::take(&mut private.notes);
        let resolv_conf = resolv_conf().unwrap_or_else(|| {
            notes.push(format!(
                "names can't be resolved: {HOST_FILE} names only servers on this host's loopback"
            ));
            Vec::new()
        });
        Ok(Self {
            mode: Mode::Private,
            namespace: Some(Arc::clone(&private.namespace)),
            address: private.address,
            gateway: private.gateway,
            resolv_conf,
            notes,
            _private: Some(private),
        })
    }
}

const HOST_FILE: &str = "/etc/resolv.conf";
/// Where systemd-resolved names the servers behind its own on 127.0.0.53.
const RESOLVED_FILE: &str = "/run/systemd/resolve/resolv.conf";

fn resolv_conf() -> Option<Vec<u8>> {
    [HOST_FILE, RESOLVED_FILE].iter().find_map(|path| resolv_conf::without_loopback(&read_or_empty(path)))
}

/// A missing file is how a host says "no nameserver".
fn read_or_empty(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

/// The name of the host's end: 15 bytes at most, unique by the id's first ten digits.
fn link_name(id: &str) -> String {
    let is_hex = id.len() >= 10 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex {
        format!("rb{}", &id[..10])
    } else {
        format!("rb{}", &store::Digest::of(id.as_bytes()).hex()[..10])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_named_after_its_id_and_fits() {
        assert_eq!(link_name("0123456789abcdef"), "rb0123456789");
        for odd in ["", "b1", "../../../x", "0123456789ABCDEF", "build 7"] {
            let name = link_name(odd);
            assert!(name.len() <= 15 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{name}");
        }
        assert_ne!(link_name("build 7"), link_name("build 8"));
    }
}
