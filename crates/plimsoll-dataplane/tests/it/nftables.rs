//! The nftables dataplane's table: what nft makes of it, whose it is, how it goes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use expect_test::expect_file;
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Key, Place, Protocol, ServiceId};
use plimsoll_core::table::{Choose, KeyEntry, Masquerade, ServiceTable, Weighted};
use plimsoll_core::time::Span;
use plimsoll_dataplane::netlink::{self, Builder, DUMP, Socket, nfgenmsg};
use plimsoll_dataplane::nftables::{Config, Nftables, Setup, Slot};

use crate::namespace::{in_namespace, list, load, run};
use crate::stage::SOON;

fn endpoint(protocol: Protocol, address: &str) -> EndpointId {
    let address: SocketAddr = address.parse().unwrap();
    EndpointId { address: address.ip(), port: address.port(), protocol }
}

fn weighted(protocol: Protocol, endpoints: &[(&str, u32)]) -> Vec<Weighted> {
    let one = |&(address, weight): &(&str, u32)| Weighted { endpoint: endpoint(protocol, address), weight };
    endpoints.iter().map(one).collect()
}

pub(crate) fn id(name: &str, family: Family) -> ServiceId {
    ServiceId { name: name.into(), port: "".into(), family }
}

pub(crate) fn key(
    protocol: Protocol,
    place: Place,
    port: u16,
    choose: Choose,
    masquerade: Masquerade,
) -> KeyEntry {
    KeyEntry { key: Key { place, port, protocol }, choose, masquerade }
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn config() -> Config {
    Config {
        local_sources: ["10.0.0.0/12", "fd01::/16"].map(|net| net.parse().unwrap()).to_vec(),
        ..Config::default()
    }
}

fn setup() -> Setup {
    Setup { node_offset: 5, ..Setup::default() }
}

/// Two Services in both families: `web` with a NodePort and Local for outside clients, `dns` with affinity.
fn plan() -> Plan {
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let web = |cluster, local, internal: &str, external: &str, family| ServiceTable {
        protocol: tcp,
        keys: vec![
            key(tcp, Place::Internal(ip(internal)), 80, Choose::Cluster, Masquerade::FromOutside),
            key(tcp, Place::External(ip(external)), 80, Choose::LocalForOutside, Masquerade::FromNode),
            key(tcp, Place::AnyLocal(family), 30080, Choose::Cluster, Masquerade::Always),
        ],
        affinity: None,
        cluster,
        local,
    };
    let web4 = web(
        weighted(tcp, &[("10.1.0.11:8080", 4), ("10.1.0.12:8080", 3), ("10.2.0.12:8080", 1)]),
        weighted(tcp, &[("10.1.0.11:8080", 1), ("10.1.0.12:8080", 1)]),
        "10.96.0.1",
        "192.0.2.1",
        Family::V4,
    );
    let web6 = web(
        weighted(tcp, &[("[fd01:1::11]:8080", 1), ("[fd01:2::12]:8080", 1)]),
        weighted(tcp, &[("[fd01:1::11]:8080", 1)]),
        "fd96::1",
        "2001:db8::1",
        Family::V6,
    );
    let dns = |cluster, internal| ServiceTable {
        protocol: udp,
        keys: vec![key(udp, Place::Internal(ip(internal)), 53, Choose::Cluster, Masquerade::FromOutside)],
        affinity: Some(Duration::from_hours(3)),
        cluster,
        local: Vec::new(),
    };
    let dns4 = dns(weighted(udp, &[("10.1.0.13:53", 1), ("10.2.0.13:53", 3)]), "10.96.0.2");
    let dns6 = dns(weighted(udp, &[("[fd01:1::13]:53", 1)]), "fd96::2");
    Plan {
        fresh: true,
        changes: vec![
            Change::Replace(id("dns", Family::V4), dns4),
            Change::Replace(id("dns", Family::V6), dns6),
            Change::Replace(id("web", Family::V4), web4),
            Change::Replace(id("web", Family::V6), web6),
        ],
        host: BTreeSet::from([endpoint(tcp, "10.1.0.11:8080"), endpoint(tcp, "[fd01:1::11]:8080")]),
        know: BTreeSet::from([endpoint(tcp, "10.1.0.11:8080"), endpoint(tcp, "10.2.0.12:8080")]),
        ..Plan::default()
    }
}

/// Without the pairs of age slots that are like the first, and without the middle of long lists.
fn shortened(listing: &str) -> String {
    let is_like_another = |block: &&str| {
        let name = block.split_whitespace().nth(1).unwrap_or_default();
        let pair = name.rsplit_once('_').and_then(|(_, pair)| pair.parse::<u32>().ok());
        let counts = ["open_", "close_", "hosted_", "sent_"].iter().any(|prefix| name.starts_with(prefix));
        counts && pair.is_some_and(|pair| pair > 0)
    };
    let shorten = |block: &str| {
        let lines: Vec<&str> = block.lines().collect();
        if block.contains("chain ") || lines.len() < 40 {
            return block.to_owned();
        }
        let (first, last) = (lines[..16].join("\n"), lines[lines.len() - 4..].join("\n"));
        format!("{first}\n\t\t\t     ... {} more\n{last}", lines.len() - 20)
    };
    listing
        .split("\n\n")
        .filter(|block| !is_like_another(block))
        .map(shorten)
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// The blocks of a listing, sorted; `flags owner` cannot be loaded from text.
fn blocks(listing: &str) -> Vec<String> {
    let body =
        listing.split_once('{').unwrap().1.trim_end().trim_end_matches('}').replace("\tflags owner\n", "");
    let mut blocks: Vec<String> = body.trim().split("\n\n").map(|block| block.trim().to_owned()).collect();
    blocks.sort();
    blocks
}

#[test]
fn nft_lists_the_table_as_it_is_meant() {
    in_namespace(|| {
        let mut nftables = Nftables::open(config(), setup()).unwrap();
        nftables.apply(&plan()).unwrap();
        assert!(nftables.is_owned(), "this kernel is older than 5.12");
        expect_file!["table.nft"].assert_eq(&shortened(&list()));
    });
}

/// What the kernel gives back of the table's sets or chains, but for attributes that differ from load to load.
fn dump(kind: u16, left_out: &[u16]) -> Vec<String> {
    let mut socket = Socket::open(netlink::Protocol::Netfilter).unwrap();
    let mut request = Builder::new();
    request.message(0x0a00 | kind, DUMP, &nfgenmsg(1, 0), |_| {});
    let mut all = Vec::new();
    socket
        .dump(request.bytes(), |message| {
            let mut text = String::new();
            for attribute in message.attributes(4).filter(|attribute| !left_out.contains(&attribute.kind)) {
                match attribute.text() {
                    // Anonymous sets are numbered in the order of their making.
                    Some(name) if name.starts_with("__set") => text += "__set ",
                    Some(name) if name.len() > 1 => text += &format!("{}={name} ", attribute.kind),
                    _ => text += &format!("{}={:02x?} ", attribute.kind, attribute.payload),
                }
            }
            all.push(text);
        })
        .unwrap();
    all.sort();
    all
}

const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;

/// Sets without handle, backend and number of elements; chains without handle and number of uses; rules.
fn dump_all() -> [Vec<String>; 3] {
    [dump(GET_SET, &[16, 19, 20]), dump(GET_CHAIN, &[2, 6]), rules()]
}

/// Whether an expression of a rule that counts loads a value, or an attribute of another says where it is. There nft
/// loads anew for each use what we load once; that the same values are meant, its listing of both shows.
fn is_about_registers(expression: &str, attribute: Option<u16>) -> bool {
    match attribute {
        None => matches!(expression, "ct" | "meta"),
        Some(kind) => [("bitwise", 1), ("bitwise", 2), ("cmp", 1), ("lookup", 2), ("dynset", 4), ("ct", 4)]
            .contains(&(expression, kind)),
    }
}

/// All rules, expression by expression.
fn rules() -> Vec<String> {
    let mut socket = Socket::open(netlink::Protocol::Netfilter).unwrap();
    let mut request = Builder::new();
    request.message(0x0a00 | GET_RULE, DUMP, &nfgenmsg(1, 0), |_| {});
    let mut all = Vec::new();
    socket
        .dump(request.bytes(), |message| {
            let attributes = message.attributes(4);
            let chain = attributes.find(2).unwrap().text().unwrap();
            let counts = chain.starts_with("open") || chain.starts_with("close_") || chain == "refuse";
            let mut text = format!("{chain}:");
            for expression in attributes.find(4).unwrap().attributes() {
                let parts = expression.attributes();
                let name = parts.find(1).unwrap().text().unwrap();
                let parts = parts.find(2).map(|data| data.attributes());
                let loads = parts.iter().any(|parts| parts.find(1).is_some());
                if counts && loads && is_about_registers(name, None) {
                    continue;
                }
                text += &format!("\n  {name}");
                for part in parts.into_iter().flatten() {
                    if counts && is_about_registers(name, Some(part.kind)) {
                        continue;
                    }
                    match part.text() {
                        Some(name) if name.starts_with("__set") => text += " __set",
                        _ => text += &format!(" {}={:02x?}", part.kind, part.payload),
                    }
                }
            }
            all.push(text);
        })
        .unwrap();
    // Chains are listed in the order of their making; rules of one chain keep theirs.
    all.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    all
}

#[test]
fn what_nft_loads_from_the_listing_is_what_we_sent() {
    in_namespace(|| {
        let mut nftables = Nftables::open(config(), setup()).unwrap();
        nftables.apply(&plan()).unwrap();
        let (ours, listing) = (dump_all(), list());
        in_namespace(move || {
            load(&listing.replace("\tflags owner\n", "")).unwrap();
            for (ours, theirs) in ours.iter().zip(&dump_all()) {
                assert_same(ours, theirs);
            }
            assert_same(&blocks(&listing), &blocks(&list()));
        });
    });
}

/// As `assert_eq`, but shows only what differs.
fn assert_same(a: &[String], b: &[String]) {
    assert!(!a.is_empty());
    let only = |a: &[String], b: &[String]| {
        a.iter().filter(|one| !b.contains(one)).take(3).cloned().collect::<Vec<_>>().join("\n")
    };
    assert!(a == b, "only in the first:\n{}\nonly in the second:\n{}", only(a, b), only(b, a));
}

/// Waits until `done`, but not for ever.
pub(crate) fn eventually(what: &str, done: impl FnMut() -> bool) {
    assert!(plimsoll_lab::eventually(SOON, done), "still not: {what}");
}

/// A program that another test begins to start has the socket, too, until it is that program.
fn no_tables() -> bool {
    run("nft", &["list", "tables"]).unwrap().is_empty()
}

#[test]
fn nobody_else_can_touch_the_table_and_it_goes_with_its_owner() {
    in_namespace(|| {
        let mut nftables = Nftables::open(config(), setup()).unwrap();
        nftables.apply(&plan()).unwrap();
        let before = list();
        assert!(run("nft", &["flush", "chain", "inet", "plimsoll", "dispatch"]).is_err());
        assert!(run("nft", &["delete", "table", "inet", "plimsoll"]).is_err());
        run("nft", &["flush", "ruleset"]).unwrap();
        assert!(list() == before, "somebody changed the table");
        let error = Nftables::open(config(), setup()).unwrap_err().to_string();
        assert!(error.contains("no other running agent may own the table"), "{error}");
        // What the process started meanwhile does not keep the socket open.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        drop(nftables);
        eventually("the table goes with its owner", no_tables);
        let alive = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(alive);
    });
}

#[test]
fn withdrawing_leaves_nothing_and_a_fresh_plan_comes_back() {
    in_namespace(|| {
        let mut nftables = Nftables::open(config(), setup()).unwrap();
        nftables.apply(&plan()).unwrap();
        // Slots are numbered on, for marks outlive the table.
        let all_but_slots = || {
            let mut blocks = blocks(&list());
            blocks.retain(|block| !["map age", "chain open"].iter().any(|start| block.starts_with(start)));
            blocks
        };
        let before = all_but_slots();
        nftables.withdraw().unwrap();
        assert_eq!(run("nft", &["list", "tables"]).unwrap(), "");
        let error = nftables.apply(&Plan { renew: true, ..Plan::default() }).unwrap_err().to_string();
        assert!(error.contains("fresh plan"), "{error}");
        nftables.apply(&plan()).unwrap();
        assert_same(&before, &all_but_slots());
        assert_eq!(nftables.slot().number, 1);
        assert_eq!(nftables.epoch(), 2);
    });
}

#[test]
fn a_table_left_by_a_kernel_without_owners_is_replaced() {
    in_namespace(|| {
        load("table inet plimsoll { chain left_over {\n }\n}").unwrap();
        let _nftables = Nftables::open(config(), setup()).unwrap();
        assert!(!list().contains("left_over"));
    });
}

fn leases() -> usize {
    ["services4", "services6", "node_ports4", "node_ports6"]
        .iter()
        .map(|map| run("nft", &["list", "map", "inet", "plimsoll", map]).unwrap().matches("goto").count())
        .sum()
}

#[test]
fn leases_expire_unless_renewed() {
    in_namespace(|| {
        let config = Config { lease: Span::from_millis(1_000), ..config() };
        let mut nftables = Nftables::open(config, setup()).unwrap();
        nftables.apply(&plan()).unwrap();
        let renew = Plan { renew: true, ..Plan::default() };
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2_500) {
            nftables.apply(&renew).unwrap();
            assert_eq!(leases(), 8);
        }
        eventually("all leases expired", || leases() == 0);
        nftables.apply(&renew).unwrap();
        assert_eq!(leases(), 8);
    });
}

#[test]
fn without_an_owner_leases_alone_protect() {
    in_namespace(|| {
        let config = Config { lease: Span::from_millis(1_000), ..config() };
        let unowned = Setup { unowned: true, ..setup() };
        let mut nftables = Nftables::open(config.clone(), unowned).unwrap();
        nftables.apply(&plan()).unwrap();
        assert!(!nftables.is_owned() && !list().contains("owner"));
        assert_eq!(leases(), 8);
        // Anybody may remove it. The next fresh plan brings it back.
        run("nft", &["delete", "table", "inet", "plimsoll"]).unwrap();
        nftables.apply(&Plan { renew: true, ..Plan::default() }).unwrap_err();
        nftables.apply(&plan()).unwrap();
        assert_eq!((leases(), nftables.epoch()), (8, 2));
        // It outlives who made it, but serves nobody for longer than a lease.
        drop(nftables);
        assert_eq!(run("nft", &["list", "tables"]).unwrap().trim(), "table inet plimsoll");
        eventually("all leases expired", || leases() == 0);
        // The next agent finds it and makes it its own.
        let mut nftables = Nftables::open(config, setup()).unwrap();
        nftables.apply(&plan()).unwrap();
        assert!(nftables.is_owned());
        drop(nftables);
        eventually("the table goes with its owner", no_tables);
    });
}

/// What the plan's Service `web` in IPv4 is.
fn web4() -> ServiceTable {
    let Change::Replace(_, table) = plan().changes.remove(2) else { unreachable!() };
    table
}

#[test]
fn any_way_to_a_table_leads_to_the_same_table() {
    in_namespace(|| {
        let mut nftables = Nftables::open(config(), setup()).unwrap();
        nftables.apply(&plan()).unwrap();
        let before = blocks(&list());
        let web = id("web", Family::V4);
        let tcp = Protocol::Tcp;
        let many: Vec<String> = (1..=40).map(|n| format!("10.3.0.{n}:80")).collect();
        let many: Vec<(&str, u32)> = many.iter().map(|address| (address.as_str(), 1)).collect();
        for cluster in [vec![], weighted(tcp, &[("10.1.0.11:8080", 4)]), weighted(tcp, &many)] {
            let table = ServiceTable { cluster, ..web4() };
            let reweight =
                |table| Plan { changes: vec![Change::Reweight(web.clone(), table)], ..Plan::default() };
            nftables.apply(&reweight(table.clone())).unwrap();
            assert_eq!(leases(), if table.cluster.is_empty() { 5 } else { 8 });
            assert_eq!(list().contains("numgen inc mod 4096"), table.cluster.len() == 40);
            nftables.apply(&reweight(web4())).unwrap();
            let after: Vec<String> =
                blocks(&list()).into_iter().filter(|block| !block.starts_with("map order_4096")).collect();
            assert_same(&before, &after);
        }
        // Services that come and go leave nothing behind, and a fresh plan drops what it does not name.
        let without = |fresh| Plan {
            fresh,
            changes: if fresh { Vec::new() } else { vec![Change::Remove(web.clone())] },
            ..Plan::default()
        };
        nftables.apply(&without(false)).unwrap();
        assert!(!list().contains("10.2.0.12 . 8080"));
        nftables.apply(&without(true)).unwrap();
        let empty = list();
        assert!(
            !empty.contains("hain c_") && !empty.contains("map w_") && !empty.contains("10.1."),
            "{empty}"
        );
    });
}

#[test]
fn a_refused_plan_changes_nothing() {
    in_namespace(|| {
        let mut nftables = Nftables::open(config(), setup()).unwrap();
        nftables.apply(&plan()).unwrap();
        let before = blocks(&list());
        // Two Services with the same key: the kernel refuses the second element.
        let changes = vec![
            Change::Reweight(
                id("web", Family::V6),
                ServiceTable { cluster: Vec::new(), local: Vec::new(), ..web4() },
            ),
            Change::Replace(id("other", Family::V4), web4()),
        ];
        let error = nftables.apply(&Plan { changes, ..Plan::default() }).unwrap_err().to_string();
        assert!(error.contains("add elements to set"), "{error}");
        assert!(error.contains("nothing of the plan was applied"), "{error}");
        assert_same(&before, &blocks(&list()));
        nftables.apply(&Plan { renew: true, ..Plan::default() }).unwrap();
        nftables.apply(&plan()).unwrap();
        assert_same(&before, &blocks(&list()));
    });
}

#[test]
fn the_bits_of_the_mark_can_be_others() {
    in_namespace(|| {
        let config = Config { mark_mask: 0x0000_07ff, ..config() };
        let nftables = Nftables::open(config, Setup { first_slot: 3, ..setup() }).unwrap();
        assert_eq!(nftables.slot().number, 3);
        let listing = list();
        assert!(listing.contains("ct mark set ct mark & 0xfffff819 | 0x00000019"), "{listing}");
        assert!(listing.contains("ct mark & 0x000007f8 vmap @age"), "{listing}");
        assert!(listing.contains("0x00000018 : goto close_0"), "{listing}");
    });
}

#[test]
fn slots_rotate_and_come_round() {
    in_namespace(|| {
        let mut nftables = Nftables::open(config(), Setup { first_slot: 180, ..setup() }).unwrap();
        for turn in 1..60u64 {
            let rotation = nftables.rotate().unwrap();
            let slot = |turn: u64| Slot { number: ((180 + turn) % 192) as u8, pair: (turn % 17) as u8 };
            assert_eq!(rotation.began, slot(turn));
            assert_eq!(rotation.retired, turn.checked_sub(16).map(slot));
            let live: Vec<_> = nftables.live_slots().collect();
            assert_eq!(live[0], rotation.began);
            assert_eq!(live.len(), (turn as usize + 1).min(16));
            let age = run("nft", &["list", "map", "inet", "plimsoll", "age"]).unwrap();
            assert_eq!(age.matches("goto").count(), live.len());
            for slot in live {
                let mark = nftables.mark_bits().with_slot(slot.number);
                assert!(age.contains(&format!("{mark:#010x} : goto close_{}", slot.pair)), "{age}");
                assert!(nftables.clean(slot.pair).is_err());
            }
            if let Some(retired) = rotation.retired {
                nftables.clean(retired.pair).unwrap();
            }
        }
    });
}

#[test]
fn a_plan_of_any_size_is_carried_out() {
    in_namespace(|| {
        let tcp = Protocol::Tcp;
        let table = |service: usize, weight: u32| {
            let (high, low) = (service / 250, service % 250);
            let place = Place::Internal(ip(&format!("10.96.{high}.{low}")));
            let endpoint = |at: u32| Weighted {
                endpoint: endpoint(tcp, &format!("10.{high}.{low}.{at}:80")),
                weight: at + weight,
            };
            ServiceTable {
                protocol: tcp,
                keys: vec![key(tcp, place, 80, Choose::Cluster, Masquerade::FromOutside)],
                affinity: None,
                cluster: (1..=10).map(endpoint).collect(),
                local: Vec::new(),
            }
        };
        let services = 1_500;
        let id = |service: usize| id(&format!("s{service:04}"), Family::V4);
        let mut nftables = Nftables::open(config(), setup()).unwrap();
        let changes = (0..services).map(|service| Change::Replace(id(service), table(service, 1))).collect();
        nftables.apply(&Plan { fresh: true, changes, ..Plan::default() }).unwrap();
        assert_eq!(leases(), services);
        let changes =
            (0..services).map(|service| Change::Reweight(id(service), table(service, 90))).collect();
        nftables.apply(&Plan { changes, renew: true, ..Plan::default() }).unwrap();
        assert_eq!(leases(), services);
        let listing = list();
        let destinations = |n: usize| listing.matches(&format!(": 10.5.249.{n} . 80")).count();
        assert!((1..=10).all(|at| destinations(at) == 1));
        let changes = (0..services).map(|service| Change::Remove(id(service))).collect();
        nftables.apply(&Plan { changes, ..Plan::default() }).unwrap();
        assert!(!list().contains("c_1"));
    });
}
