//! Networks: none, host, private.

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
    pub address: Option<std::net::Ipv4Addr>,
    /// The content of `/etc/resolv.conf` for processes in it.
    pub resolv_conf: Vec<u8>,
}

/// Why a network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot make a private network: {reason}")]
    Private { reason: String },
}

impl Network {
    /// Makes the network; `id` names its links and rules so that they can be found again.
    pub fn open(mode: Mode, id: &str) -> Result<Self, NetworkError> {
        let _ = (mode, id);
        todo!()
    }

    /// How a plan reaches this network.
    pub fn plan(&self) -> plan::Network {
        match (self.mode, &self.namespace) {
            (Mode::Host, _) => plan::Network::Host,
            (_, Some(namespace)) => plan::Network::Join(Arc::clone(namespace)),
            (_, None) => plan::Network::None,
        }
    }
}
