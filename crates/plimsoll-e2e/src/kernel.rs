//! What a node's kernel has at this moment, asked by netlink: cheap enough to ask every millisecond.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use plimsoll_dataplane::netlink::{Builder, DUMP, Error, Protocol, Socket, nfgenmsg};
use plimsoll_lab::namespace::Namespace;

/// Messages of nfnetlink's subsystem for nftables, and families.
const GET_CHAINS: u16 = 0x0a << 8 | 0x04;
const GET_ELEMENTS: u16 = 0x0a << 8 | 0x0d;
const INET: u8 = 1;
const IPV4: u8 = 2;

/// The kernel of a node.
pub(crate) struct Kernel(Socket);

impl Kernel {
    pub(crate) fn of(node: &Namespace) -> Result<Kernel> {
        Ok(Kernel(node.run(|| Socket::open(Protocol::Netfilter))?))
    }

    /// Whether a map of Plimsoll's has this endpoint.
    pub(crate) fn has(&mut self, map: &str, endpoint: Ipv4Addr) -> Result<bool> {
        let mut request = Builder::new();
        request.message(GET_ELEMENTS, DUMP, &nfgenmsg(INET, 0), |m| {
            m.text(1, "plimsoll");
            m.text(2, map);
        });
        self.finds(&request, &endpoint.octets())
    }

    /// Whether kube-proxy's nftables mode has a chain for this endpoint: their names end in `__ADDRESS/PORT`.
    pub(crate) fn proxy_has(&mut self, endpoint: Ipv4Addr) -> Result<bool> {
        let mut request = Builder::new();
        request.message(GET_CHAINS, DUMP, &nfgenmsg(IPV4, 0), |_| ());
        self.finds(&request, format!("__{endpoint}/").as_bytes())
    }

    fn finds(&mut self, request: &Builder, bytes: &[u8]) -> Result<bool> {
        let mut found = false;
        let dumped = self.0.dump(request.bytes(), |message| {
            found |= message.body.windows(bytes.len()).any(|window| window == bytes);
        });
        match dumped {
            Ok(()) => Ok(found),
            // Overtaken by a change, perhaps the one that is awaited.
            Err(Error::Interrupted) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// In which of Plimsoll's maps each endpoint is.
pub(crate) fn maps(node: &Namespace) -> Result<HashMap<Ipv4Addr, String>> {
    let listing = node.text("nft", &["list", "table", "inet", "plimsoll"])?;
    let mut maps = HashMap::new();
    let mut map = "";
    for line in listing.lines() {
        if let Some(rest) = line.trim().strip_prefix("map ") {
            map = rest.trim_end_matches(" {");
        }
        if map.starts_with("w_") {
            let words = line.split_whitespace().filter_map(|word| word.parse::<IpAddr>().ok());
            let addresses = words.filter_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
            maps.extend(addresses.map(|address| (address, map.to_owned())));
        }
    }
    Ok(maps)
}
