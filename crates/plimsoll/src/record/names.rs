//! What Services and endpoints are called in a recording.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use plimsoll_core::service::{EndpointId, Family, Place, Protocol, Service};
use ring::hmac;

/// A salt shorter than this could be guessed.
const LEAST_SALT: usize = 16;
/// Longer than any salt.
const MOST_SALT: u64 = 4096;

/// Which connections belong to which Service.
pub(super) enum Services {
    /// Each address that connections are translated from is one.
    ByAddress,
    /// Those of a Services file, by the keys that lead to them, and by node port.
    Known(HashMap<(Protocol, SocketAddr), Arc<str>>, HashMap<(Protocol, Family, u16), Arc<str>>),
}

impl Services {
    /// Those of a Services file.
    pub(super) fn of_file(path: &Path) -> anyhow::Result<Services> {
        let file = plimsoll_discovery::file::Config { path: path.to_owned() };
        let services = plimsoll_discovery::check(&plimsoll_discovery::Config::File(file))?;
        Ok(Services::of(&services))
    }

    fn of(services: &[Arc<Service>]) -> Services {
        let (mut by_address, mut by_port) = (HashMap::new(), HashMap::new());
        for service in services {
            let name: Arc<str> = service.id.to_string().into();
            for key in &service.keys {
                match key.place {
                    Place::Internal(address) | Place::External(address) => {
                        by_address.insert((key.protocol, SocketAddr::new(address, key.port)), name.clone());
                    }
                    Place::AnyLocal(family) => {
                        by_port.insert((key.protocol, family, key.port), name.clone());
                    }
                }
            }
        }
        Services::Known(by_address, by_port)
    }

    /// The Service that a client reaches here; `None` if it is not to be recorded.
    pub(super) fn name(
        &self,
        protocol: Protocol,
        asked: SocketAddr,
        addresses: &Addresses,
    ) -> Option<Arc<str>> {
        match self {
            Services::ByAddress => Some(addresses.service(protocol, asked).into()),
            Services::Known(by_address, by_port) => by_address
                .get(&(protocol, asked))
                .or_else(|| by_port.get(&(protocol, Family::of(asked.ip()), asked.port())))
                .cloned(),
        }
    }
}

/// How addresses are told, and the host's name, in which there often is one.
pub(super) enum Addresses {
    /// As they are.
    Plain,
    /// By a keyed hash of them.
    Hashed(hmac::Key),
}

impl Addresses {
    /// Hashed with a salt that nobody will ever know.
    pub(super) fn with_random_salt() -> anyhow::Result<Addresses> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new());
        Ok(Addresses::Hashed(key.ok().context("the system has no random numbers to hash addresses with")?))
    }

    /// Hashed with what this file holds, apart from white space around it.
    pub(super) fn with_salt_of(path: &Path) -> anyhow::Result<Addresses> {
        use std::io::Read as _;
        let mut salt = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MOST_SALT + 1).read_to_end(&mut salt))
            .with_context(|| format!("cannot read the salt {}; is the path right?", path.display()))?;
        let salt = salt.trim_ascii();
        if salt.len() < LEAST_SALT || salt.len() as u64 > MOST_SALT {
            bail!(
                "{}: a salt has {LEAST_SALT} to {MOST_SALT} bytes, this one has {}; make one with `openssl rand \
                 -base64 32`",
                path.display(),
                salt.len()
            );
        }
        Ok(Addresses::Hashed(hmac::Key::new(hmac::HMAC_SHA256, salt)))
    }

    /// The same for recordings whose endpoints can be compared; `None` where their addresses are told.
    pub(super) fn salt(&self) -> Option<u64> {
        match self {
            Addresses::Plain => None,
            Addresses::Hashed(key) => Some(hash(key, "plimsoll: which salt")),
        }
    }

    pub(super) fn endpoint(&self, endpoint: EndpointId) -> String {
        self.told(&endpoint.to_string())
    }

    /// A Service that is known by its address alone. Its port is always told, for Services to be told apart by it.
    pub(super) fn service(&self, protocol: Protocol, asked: SocketAddr) -> String {
        match self {
            Addresses::Plain => format!("{protocol}/{asked}"),
            Addresses::Hashed(_) => {
                let hashed = self.told(&format!("the Service {}", asked.ip()));
                format!("{protocol}/{hashed}:{}", asked.port())
            }
        }
    }

    /// A node that is known by the host's name alone.
    pub(super) fn node(&self, host: &str) -> String {
        match self {
            Addresses::Plain => host.to_owned(),
            Addresses::Hashed(_) => self.told(&format!("the node {host}")),
        }
    }

    fn told(&self, what: &str) -> String {
        match self {
            Addresses::Plain => what.to_owned(),
            Addresses::Hashed(key) => format!("#{:016x}", hash(key, &format!("plimsoll: {what}"))),
        }
    }
}

fn hash(key: &hmac::Key, text: &str) -> u64 {
    let tag = hmac::sign(key, text.as_bytes());
    let first = tag.as_ref().first_chunk().expect("SHA-256 has more than eight bytes");
    u64::from_be_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = "services:
  - name: shop/web
    addresses: [10.96.0.1, \"fd96::1\"]
    ports: [{name: http, port: 80, node_port: 30080}]
    endpoints: [{address: 10.1.0.11}, {address: \"fd01::11\"}]
";

    #[test]
    fn a_services_file_gives_names_and_selects() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.yaml");
        std::fs::write(&path, SERVICES).unwrap();
        let services = Services::of_file(&path).unwrap();
        let plain = Addresses::Plain;
        let name = |protocol, asked: &str| services.name(protocol, asked.parse().unwrap(), &plain);
        assert_eq!(name(Protocol::Tcp, "10.96.0.1:80").as_deref(), Some("shop/web:http/ipv4"));
        assert_eq!(name(Protocol::Tcp, "192.0.2.1:30080").as_deref(), Some("shop/web:http/ipv4"));
        assert_eq!(name(Protocol::Tcp, "[fd96::1]:80").as_deref(), Some("shop/web:http/ipv6"));
        assert_eq!(name(Protocol::Udp, "10.96.0.1:80"), None);
        assert_eq!(name(Protocol::Tcp, "10.96.0.2:80"), None);
        let all = Services::ByAddress;
        let asked = "10.96.0.2:80".parse().unwrap();
        assert_eq!(all.name(Protocol::Udp, asked, &plain).as_deref(), Some("udp/10.96.0.2:80"));
    }

    #[test]
    fn without_asking_no_address_is_told() {
        let addresses = Addresses::with_random_salt().unwrap();
        let asked: SocketAddr = "[fd96::1]:80".parse().unwrap();
        let name = |port| addresses.service(Protocol::Tcp, SocketAddr::new(asked.ip(), port));
        assert!(name(80).starts_with("tcp/#") && name(80).ends_with(":80") && !name(80).contains("fd96"));
        assert_eq!(name(80).strip_suffix(":80"), name(443).strip_suffix(":443"), "one address, two ports");
        let node = addresses.node("ip-10-0-1-11");
        assert!(node.starts_with('#') && !node.contains("10-0"), "{node}");
        assert_ne!(node, addresses.node("ip-10-0-1-12"));
        assert_eq!(Addresses::Plain.node("n1"), "n1");
    }

    #[test]
    fn endpoints_are_the_same_under_the_same_salt_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("salt");
        let endpoint = EndpointId { address: [10, 1, 0, 11].into(), port: 8080, protocol: Protocol::Tcp };
        assert_eq!(Addresses::Plain.endpoint(endpoint), "tcp/10.1.0.11:8080");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let [a, b] = [(), ()].map(|()| Addresses::with_salt_of(&path).unwrap());
        assert_eq!((a.endpoint(endpoint), a.salt()), (b.endpoint(endpoint), b.salt()));
        let random = Addresses::with_random_salt().unwrap();
        assert_ne!(random.endpoint(endpoint), a.endpoint(endpoint));
        assert_ne!(random.salt(), a.salt());
        assert!(random.endpoint(endpoint).len() == 17 && !random.endpoint(endpoint).contains("10.1"));
        std::fs::write(&path, "short\n").unwrap();
        let error = Addresses::with_salt_of(&path).err().unwrap().to_string();
        assert!(error.contains("has 5") && error.contains("openssl"), "{error}");
    }
}
