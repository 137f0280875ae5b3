//! Who served a connection, by a table of the rig's own between Plimsoll's (-105) and kube-proxy's (-100): a packet
//! that Plimsoll has translated skips all later `nat` chains, so only what is left to kube-proxy is counted here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plimsoll_lab::namespace::Namespace;
use serde_json::Value;

use crate::table::Protocol;

/// Who dialled what: the source, the Service's address, protocol and port.
pub(crate) type Key = (IpAddr, IpAddr, Protocol, u16);

const TABLE: &str = "
table inet witness
delete table inet witness
table inet witness {
  set passed4 { typeof ip saddr . ip daddr . meta l4proto . th dport; flags dynamic; size 65535; counter; }
  set passed6 { typeof ip6 saddr . ip6 daddr . meta l4proto . th dport; flags dynamic; size 65535; counter; }
  chain note {
    meta l4proto { tcp, udp, sctp } update @passed4 { ip saddr . ip daddr . meta l4proto . th dport }
    meta l4proto { tcp, udp, sctp } update @passed6 { ip6 saddr . ip6 daddr . meta l4proto . th dport }
  }
  chain from_others { type nat hook prerouting priority -103; jump note; }
  chain from_here { type nat hook output priority -103; jump note; }
}
";

/// Begins anew in a node's namespace.
pub(crate) fn begin(node: &Namespace) -> Result<()> {
    Ok(node.nft(TABLE)?)
}

/// Removes all that may be removed from a node's ruleset and begins anew, at once: no packet passes in between.
pub(crate) fn flush_and_begin(node: &Namespace) -> Result<()> {
    Ok(node.nft(&format!("flush ruleset\n{TABLE}"))?)
}

/// What was left to kube-proxy since it began, in packets.
pub(crate) fn passed(node: &Namespace) -> Result<BTreeMap<Key, u64>> {
    let mut passed = BTreeMap::new();
    for set in ["passed4", "passed6"] {
        let text = node.text("nft", &["-j", "-n", "list", "set", "inet", "witness", set])?;
        let json: Value = serde_json::from_str(&text).context("nft -j wrote something that is not JSON")?;
        let sets = json["nftables"].as_array().into_iter().flatten();
        for element in sets.filter_map(|object| object["set"]["elem"].as_array()).flatten() {
            let element = &element["elem"];
            let key =
                key(&element["val"]["concat"]).with_context(|| format!("an element of nft: {element}"))?;
            *passed.entry(key).or_default() += element["counter"]["packets"].as_u64().unwrap_or_default();
        }
    }
    Ok(passed)
}

/// Waits until a count of connections does not grow any more; whether that came about in time.
pub(crate) fn stands_still(limit: Duration, count: impl Fn() -> Result<u64>) -> Result<bool> {
    /// With dozens of connections per second nothing for so long means that none comes any more.
    const QUIET: Duration = Duration::from_secs(1);
    let began = Instant::now();
    let (mut last, mut since) = (count()?, Instant::now());
    while began.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(50));
        let now = count()?;
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > QUIET {
            return Ok(true);
        }
    }
    Ok(false)
}

fn key(parts: &Value) -> Option<Key> {
    let address = |part: &Value| part.as_str()?.parse().ok();
    let protocol = match &parts[2] {
        Value::String(name) if name == "tcp" => Protocol::Tcp,
        Value::String(name) if name == "udp" => Protocol::Udp,
        Value::String(name) if name == "sctp" => Protocol::Sctp,
        number => match number.as_u64()? {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            _ => return None,
        },
    };
    Some((address(&parts[0])?, address(&parts[1])?, protocol, parts[3].as_u64()?.try_into().ok()?))
}
