//! What a node's kernel has at this moment, asked by netlink: a map is cheap enough to ask for every millisecond.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use plimsoll_dataplane::netlink::{Attribute, Builder, DUMP, Error, Message, Protocol, Socket, nfgenmsg};
use plimsoll_lab::namespace::Namespace;

/// Messages of nfnetlink's subsystem for nftables, and families.
const GET_CHAINS: u16 = 0x0a << 8 | 0x04;
const GET_SETS: u16 = 0x0a << 8 | 0x0a;
const GET_ELEMENTS: u16 = 0x0a << 8 | 0x0d;
const INET: u8 = 1;
const IPV4: u8 = 2;
/// `ENOENT`.
const NO_ENTRY: i32 = 2;
/// Bytes of the header of these messages.
const NFGENMSG: usize = 4;

/// The kernel of a node.
pub(crate) struct Kernel(Socket);

impl Kernel {
    pub(crate) fn of(node: &Namespace) -> Result<Kernel> {
        Ok(Kernel(node.run(|| Socket::open(Protocol::Netfilter))?))
    }

    /// Whether a map of Plimsoll's has this endpoint.
    pub(crate) fn has(&mut self, map: &str, endpoint: Ipv4Addr) -> Result<bool> {
        self.finds(&elements(map), &endpoint.octets())
    }

    /// Whether kube-proxy's nftables mode has a chain for this endpoint: their names end in `__ADDRESS/PORT`.
    pub(crate) fn proxy_has(&mut self, endpoint: Ipv4Addr) -> Result<bool> {
        let mut request = Builder::new();
        request.message(GET_CHAINS, DUMP, &nfgenmsg(IPV4, 0), |_| ());
        self.finds(&request, format!("__{endpoint}/").as_bytes())
    }

    /// In which of Plimsoll's maps each endpoint is. By nft a listing of thousands of maps takes minutes.
    pub(crate) fn maps(&mut self) -> Result<HashMap<Ipv4Addr, String>> {
        let mut request = Builder::new();
        request.message(GET_SETS, DUMP, &nfgenmsg(INET, 0), |m| m.text(1, "plimsoll"));
        let mut names = Vec::new();
        self.dump(&request, |message| {
            let name = message.attributes(NFGENMSG).find(2).map(|name| name.payload.to_owned());
            names.extend(name.and_then(|bytes| String::from_utf8(bytes).ok()));
        })?;
        let mut maps = HashMap::new();
        for name in names.iter().map(|name| name.trim_end_matches('\0')) {
            if name.starts_with("w_") {
                let is_whole = self.dump(&elements(name), |message| {
                    for element in message.attributes(NFGENMSG).find(3).iter().flat_map(Attribute::attributes)
                    {
                        maps.extend(endpoint(element).map(|endpoint| (endpoint, name.to_owned())));
                    }
                })?;
                ensure!(is_whole, "map {name} changed while it was read");
            }
        }
        Ok(maps)
    }

    fn finds(&mut self, request: &Builder, bytes: &[u8]) -> Result<bool> {
        let mut found = false;
        // What an answer has is there, even if the answer is not whole.
        self.dump(request, |message| {
            found |= message.body.windows(bytes.len()).any(|window| window == bytes);
        })?;
        Ok(found)
    }

    /// Whether the answer is whole: else it was overtaken by a change, perhaps the one that is awaited.
    fn dump(&mut self, request: &Builder, message: impl FnMut(Message<'_>)) -> Result<bool> {
        match self.0.dump(request.bytes(), message) {
            Ok(()) => Ok(true),
            Err(Error::Interrupted) => Ok(false),
            // A map that is replaced.
            Err(error) if error.errno() == Some(NO_ENTRY) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn elements(map: &str) -> Builder {
    let mut request = Builder::new();
    request.message(GET_ELEMENTS, DUMP, &nfgenmsg(INET, 0), |m| {
        m.text(1, "plimsoll");
        m.text(2, map);
    });
    request
}

/// The address that an element of a map of endpoints leads to.
fn endpoint(element: Attribute<'_>) -> Option<Ipv4Addr> {
    let value = element.attributes().find(2)?.attributes().find(1)?;
    let address: [u8; 4] = value.payload.get(..4)?.try_into().ok()?;
    Some(address.into())
}
