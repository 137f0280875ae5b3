//! The part of the table that is the same for all Services: dispatch by key, masquerading, and their hooks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use plimsoll_core::service::{Family, Key, Place, Protocol};
use plimsoll_core::table::Masquerade;

use super::batch::{Batch, Hook, OUTPUT, POSTROUTING, PREROUTING};
use super::element::{Bytes, Data, Element, INTERVAL, Kind, Set, TIMEOUT};
use super::expression::{Meta, R, Verdict};
use super::notes::{self, Order};
use super::{Config, Scope};

/// Masquerading happens before the proxy's own (`srcnat` is 100): once we have, its chain is not consulted.
const SOURCE_NAT: i32 = 95;

pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const ALL_PROTOCOLS: [u8; 3] = [Protocol::Tcp.number(), Protocol::Udp.number(), Protocol::Sctp.number()];

/// Names of the sets and maps that exist once per family.
pub(super) fn of_family(family: Family, v4: &'static str, v6: &'static str) -> &'static str {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

fn hairpin(family: Family) -> &'static str {
    of_family(family, "hairpin4", "hairpin6")
}

fn node_addresses(family: Family) -> &'static str {
    of_family(family, "node_addresses4", "node_addresses6")
}

/// The map of leases that a key belongs to.
pub(super) fn lease_map(place: Place) -> &'static str {
    match place {
        Place::Internal(_) | Place::External(_) => of_family(place.family(), "services4", "services6"),
        Place::AnyLocal(family) => of_family(family, "node_ports4", "node_ports6"),
    }
}

/// All maps of leases.
pub(super) const LEASE_MAPS: [&str; 4] = ["services4", "services6", "node_ports4", "node_ports6"];

fn masquerade_map(place: Place) -> &'static str {
    match place {
        Place::Internal(_) | Place::External(_) => {
            of_family(place.family(), "masquerade_keys4", "masquerade_keys6")
        }
        Place::AnyLocal(family) => of_family(family, "masquerade_ports4", "masquerade_ports6"),
    }
}

fn masquerade_chain(config: &Config, key: &Key, masquerade: Masquerade) -> &'static str {
    match (masquerade, key.place) {
        (Masquerade::FromOutside, Place::Internal(_)) if config.masquerade_all => "always",
        (Masquerade::FromOutside, _) => "from_outside",
        (Masquerade::Always, _) => "always",
        (Masquerade::FromNode, _) => "from_node",
    }
}

fn key_bytes(key: &Key) -> Bytes {
    let port = Bytes::port(key.protocol.number(), key.port);
    match key.place {
        Place::Internal(address) | Place::External(address) => {
            Bytes::new(&[Bytes::address(address).as_slice(), port.as_slice()])
        }
        Place::AnyLocal(_) => port,
    }
}

/// A key that leads to `chain`.
pub(super) fn lease<'a>(key: &Key, chain: &'a str) -> Element<'a> {
    Element { key: key_bytes(key), data: Data::Verdict(Verdict::Goto(chain)) }
}

/// Writes the change of one key's masquerading.
pub(super) fn change_masquerade(
    batch: &mut Batch,
    config: &Config,
    key: &Key,
    before: Option<Masquerade>,
    after: Option<Masquerade>,
) {
    let map = masquerade_map(key.place);
    if let Some(before) = before {
        batch.delete(map, [lease(key, masquerade_chain(config, key, before))]);
    }
    if let Some(after) = after {
        batch.add(map, [lease(key, masquerade_chain(config, key, after))]);
    }
}

/// Writes that connections from these addresses to themselves are masqueraded, or not any more.
pub(super) fn change_hairpins(batch: &mut Batch, addresses: &[IpAddr], add: bool) {
    for family in FAMILIES {
        let of_family = addresses.iter().filter(|address| Family::of(**address) == family);
        let elements = of_family.map(|address| Element::member(Bytes::hairpin(*address)));
        if add {
            batch.add(hairpin(family), elements);
        } else {
            batch.delete(hairpin(family), elements);
        }
    }
}

/// Writes this node's addresses.
pub(super) fn set_node_addresses(batch: &mut Batch, addresses: &BTreeSet<IpAddr>) {
    for family in FAMILIES {
        let name = node_addresses(family);
        batch.flush_set(name);
        let of_family = addresses.iter().filter(|address| Family::of(**address) == family);
        batch.add(name, of_family.map(|address| Element::member(Bytes::address(*address))));
    }
}

/// Writes the parts that all Services share.
pub(super) fn make(batch: &mut Batch, scope: &Scope<'_>) {
    let config = scope.config;
    make_sources(batch, scope);
    make_dispatch(batch, config);
    make_masquerade(batch, scope);
}

/// The clients inside the cluster.
fn make_sources(batch: &mut Batch, scope: &Scope<'_>) {
    let notes = notes::key_order(Order::Network);
    let of = |family| {
        let all = scope.config.local_sources.iter();
        all.filter(move |net| Family::of(net.addr()) == family)
    };
    let v4: Vec<Ipv4Net> =
        of(Family::V4).filter_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None }).collect();
    let v6: Vec<Ipv6Net> =
        of(Family::V6).filter_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None }).collect();
    let v4 = Ipv4Net::aggregate(&v4).into_iter().map(|net| {
        let after = u32::from(net.broadcast()).checked_add(1);
        (Bytes::new(&[&net.network().octets()]), after.map(|after| Bytes::new(&[&after.to_be_bytes()])))
    });
    let v6 = Ipv6Net::aggregate(&v6).into_iter().map(|net| {
        let after = u128::from(net.broadcast()).checked_add(1);
        (Bytes::new(&[&net.network().octets()]), after.map(|after| Bytes::new(&[&after.to_be_bytes()])))
    });
    for (family, ranges) in [(Family::V4, v4.collect::<Vec<_>>()), (Family::V6, v6.collect())] {
        let name = Scope::local_sources(family);
        batch.set(&Set { flags: INTERVAL, notes: &notes, ..Set::new(name, Kind::address(family)) });
        batch.add(
            name,
            ranges.into_iter().flat_map(|(first, after)| {
                let end = after.map(|key| Element { key, data: Data::End });
                [Some(Element::member(first)), end].into_iter().flatten()
            }),
        );
    }
}

fn make_dispatch(batch: &mut Batch, config: &Config) {
    let notes = notes::verdicts();
    let lease = config.lease.0.as_millis() as u64;
    for family in FAMILIES {
        let address = match family {
            Family::V4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        for (place, key) in
            [(Place::Internal(address), Kind::endpoint(family)), (Place::AnyLocal(family), Kind::PORT_KEY)]
        {
            let map = Set::map(lease_map(place), key, Kind::VERDICT);
            batch.set(&Set { flags: TIMEOUT, timeout: lease, notes: &notes, ..map });
        }
    }
    let single = notes::key_order(Order::Network);
    for family in FAMILIES {
        batch.set(&Set { notes: &single, ..Set::new(node_addresses(family), Kind::address(family)) });
    }
    batch.chain("dispatch");
    for family in FAMILIES {
        batch.rule("dispatch", |r| {
            let map = of_family(family, "services4", "services6");
            r.family(family).key(family).verdict_map(map);
        });
    }
    // Only addresses for which the way back is known too: another that the node has by now, or that is routed to it, is
    // the proxy's below. And never loopback, which is none of them: packets from there could not come back.
    for family in FAMILIES {
        let map = lease_map(Place::AnyLocal(family));
        batch.rule("dispatch", |r| {
            r.family(family).destination_into(family, R).member(node_addresses(family));
            r.destination_is_here().port_key().verdict_map(map);
        });
    }
    for (name, number) in [("nat_prerouting", PREROUTING), ("nat_output", OUTPUT)] {
        batch.base_chain(name, Hook { kind: "nat", number, priority: config.priority });
        batch.rule(name, |r| {
            r.verdict(Verdict::Jump("dispatch"));
        });
    }
}

fn make_masquerade(batch: &mut Batch, scope: &Scope<'_>) {
    let (pairs, verdicts) = (notes::concatenation(), notes::verdicts());
    for family in FAMILIES {
        batch.set(&Set { notes: &pairs, ..Set::new(hairpin(family), Kind::hairpin(family)) });
        let keys = of_family(family, "masquerade_keys4", "masquerade_keys6");
        let keys = Set::map(keys, Kind::endpoint(family), Kind::VERDICT);
        batch.set(&Set { notes: &verdicts, ..keys });
        let ports = Set::map(masquerade_map(Place::AnyLocal(family)), Kind::PORT_KEY, Kind::VERDICT);
        batch.set(&Set { notes: &verdicts, ..ports });
    }
    batch.chain("from_outside");
    if let Some(interface) = &scope.config.local_interface {
        batch.rule("from_outside", |r| {
            r.came_by(interface).verdict(Verdict::Return);
        });
        batch.rule("from_outside", |r| {
            r.masquerade();
        });
    }
    for family in FAMILIES.into_iter().filter(|family| scope.has_local_sources(*family)) {
        batch.rule("from_outside", |r| {
            r.family(family).source(family).member(Scope::local_sources(family)).verdict(Verdict::Return);
        });
    }
    for family in FAMILIES.into_iter().filter(|family| scope.has_local_sources(*family)) {
        batch.rule("from_outside", |r| {
            r.family(family).masquerade();
        });
    }
    batch.chain("always");
    batch.rule("always", |r| {
        r.masquerade();
    });
    batch.chain("from_node");
    batch.rule("from_node", |r| {
        r.source_is_here().masquerade();
    });
    make_source_nat(batch);
}

/// What is masqueraded is decided by what the client asked for: conntrack's original tuple.
fn make_source_nat(batch: &mut Batch) {
    batch.chain("source_nat");
    for family in FAMILIES {
        batch.rule("source_nat", |r| {
            r.family(family).source_and_destination(family).member(hairpin(family)).masquerade();
        });
    }
    for family in FAMILIES {
        let map = of_family(family, "masquerade_keys4", "masquerade_keys6");
        // TCP, the most frequent, is not looked up in a set of protocols.
        batch.rule("source_nat", |r| {
            r.protocol(Protocol::Tcp).original_key(family).verdict_map(map);
        });
        let others = batch.protocols(&ALL_PROTOCOLS[1..]);
        batch.rule("source_nat", |r| {
            r.protocols(others).original_key(family).verdict_map(map);
        });
    }
    for family in FAMILIES {
        let protocols = batch.protocols(&ALL_PROTOCOLS);
        batch.rule("source_nat", |r| {
            r.protocols(protocols).original_destination(family).member(node_addresses(family));
            r.original_port_key().verdict_map(masquerade_map(Place::AnyLocal(family)));
        });
    }
    batch.base_chain("nat_postrouting", Hook { kind: "nat", number: POSTROUTING, priority: SOURCE_NAT });
    // The step must not leave the node with the first packet, the only one that comes here: queueing disciplines look
    // at the priority.
    batch.rule("nat_postrouting", |r| {
        r.translated().immediate(&[0; 4]).set_meta(Meta::Priority, R).verdict(Verdict::Jump("source_nat"));
    });
}
