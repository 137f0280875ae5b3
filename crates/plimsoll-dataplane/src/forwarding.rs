//! Whether the node lets pass what it forwards: the policy of the chain in which iptables decides it.

use plimsoll_core::service::Family;

use crate::netlink::{Builder, Error, Protocol, Socket, messages, nfgenmsg};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`, and the attributes of a chain (`linux/netfilter/nf_tables.h`).
const GET_CHAIN: u16 = 10 << 8 | 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_POLICY: u16 = 5;
/// `NF_DROP`
const DROP: u32 = 0;

/// The families of which this node drops what comes through it, unless a rule of iptables accepts it. Where the kernel
/// does not tell (no nftables, no such chain, iptables-legacy, no right to ask) nothing is known to be dropped.
pub fn dropped() -> Vec<Family> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| policy(*family).is_ok_and(|p| p == Some(DROP)))
        .collect()
}

/// Asked for by its name, as there may be tens of thousands of chains.
fn policy(family: Family) -> Result<Option<u32>, Error> {
    let number = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    let mut request = Builder::new();
    request.message(GET_CHAIN, 0, &nfgenmsg(number as u8, 0), |m| {
        m.text(CHAIN_TABLE, "filter");
        m.text(CHAIN_NAME, "FORWARD");
    });
    let mut socket = Socket::open(Protocol::Netfilter)?;
    socket.send(request.bytes())?;
    // The kernel answers before `send` returns.
    let Some(answer) = socket.receive()? else { return Ok(None) };
    let mut found = None;
    for message in messages(answer) {
        if let Some(verdict) = message.verdict() {
            verdict.map_err(Error::Refused)?;
        } else {
            found = message.attributes(4).find(CHAIN_POLICY).and_then(|policy| policy.be32());
        }
    }
    Ok(found)
}
