//! The mesh: nodes that tell each other what they know, without a leader or a database.
//!
//! [`machine`] is the mesh itself, pure; [`Mesh`] gives it a socket and a clock. The wire format is described in
//! `docs/mesh-wire.md`. Modules are declared in reading order and name only modules above them.

mod pack;
mod key;
mod seal;
mod session;
mod membership;
mod part;
mod wire;
mod outgoing;
mod incoming;
pub mod machine;
mod udp;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use key::KeyError;
pub(crate) use key::exposed;
pub use membership::{Identity, Membership};
pub use pack::Malformed;
pub use part::{List, Part, Position, Record};
pub use seal::{KeyRing, MAX_DATAGRAM, Start};
pub use udp::Mesh;
pub use wire::Message;

use crate::Error;

/// The port nodes use unless told otherwise.
pub const DEFAULT_PORT: u16 = 9653;

/// Reads the inside of a datagram, as a holder of the key would have sealed it. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
    Message::decode(bytes)
}

/// The mesh's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where this node receives datagrams.
    pub bind: SocketAddr,
    /// Where the others reach it, if that is not `bind`. Must be given if `bind` is unspecified and the node has
    /// several addresses, unless the discovery knows this node's: in Kubernetes that is the `InternalIP` of its Node. A
    /// port of 0 means that of `bind`.
    pub advertise: Option<SocketAddr>,
    /// Nodes to join, as `host:port` or `host`. Any one that answers is enough; a name may stand for many
    /// addresses. What does not resolve or answer is retried. In Kubernetes none are needed: see
    /// `discovery.kubernetes.agents`.
    pub peers: Vec<String>,
    /// A file with the mesh's keys, one a line, 32 bytes each in hex or base64. The first seals, all open. It is
    /// read again when it changes.
    pub key_file: Option<PathBuf>,
    /// Lets the mesh leave loopback without a key.
    pub insecure: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            bind: SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)),
            advertise: None,
            peers: Vec::new(),
            key_file: None,
            insecure: false,
        }
    }
}

impl Config {
    /// Checks what can be checked without touching the system.
    pub fn check(&self) -> Result<(), Error> {
        let address = self.advertise.unwrap_or(self.bind);
        let exposed = [self.bind, address].into_iter().find(|address| !address.ip().is_loopback());
        if let Some(address) = exposed.filter(|_| self.key_file.is_none() && !self.insecure) {
            return Err(Error::NoKey { address });
        }
        if self.advertise.is_some_and(|address| address.ip().is_unspecified()) {
            let reason = "others cannot send to an unspecified address: give the node's own".to_owned();
            return Err(Error::Setting { setting: "advertise", reason });
        }
        if let Some(peer) = self.peers.iter().find(|peer| with_port(peer).is_none()) {
            let reason = format!("`{peer}` is neither host:port nor host");
            return Err(Error::Setting { setting: "peers", reason });
        }
        Ok(())
    }

    /// Reads the key file, if there is one.
    pub(crate) fn check_files(&self) -> Result<(), Error> {
        self.key_file.as_deref().map_or(Ok(()), |path| Ok(key::read(path).map(drop)?))
    }
}

/// A peer as `host:port`; `None` if it is neither that nor a host.
pub fn with_port(peer: &str) -> Option<String> {
    if let Ok(ip) = peer.parse::<std::net::IpAddr>() {
        return Some(SocketAddr::new(ip, DEFAULT_PORT).to_string());
    }
    let (host, port) = match peer.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok().filter(|port| *port > 0)?),
        None => (peer, DEFAULT_PORT),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plausible = !host.is_empty() && (bracketed || !host.contains([':', '/', ' ']));
    plausible.then(|| format!("{host}:{port}"))
}
