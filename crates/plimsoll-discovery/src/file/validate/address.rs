//! Which addresses can be a Service's or an endpoint's.

use std::net::{IpAddr, Ipv4Addr};

use super::Check;
use crate::file::locate::Path;

impl Check<'_> {
    /// Tells if connections to this address cannot be balanced, or cannot arrive.
    pub(super) fn address(&mut self, at: &dyn Fn() -> Path, address: IpAddr) {
        if let Some(what) = objection(address) {
            self.find(at(), format!("{address} {what}"));
        }
    }
}

fn objection(address: IpAddr) -> Option<String> {
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Some(format!("is an IPv4 address in disguise; write {v4}"));
    }
    let kind = if address.is_unspecified() {
        "stands for no address at all"
    } else if address.is_loopback() {
        "is a loopback address, which no other node can reach"
    } else if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "is a multicast or broadcast address, which no connection can go to"
    } else if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        "is a link-local address, which means nothing without its link"
    } else {
        return None;
    };
    Some(format!("{kind}; write an address that every node can reach"))
}
