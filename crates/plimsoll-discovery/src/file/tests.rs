//! Good and bad Services files.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use std::fmt::Write as _;
use std::sync::Arc;

use expect_test::{Expect, expect};

use plimsoll_core::service::{Conditions, Place, Service};

use super::{Contents, Reader, parse};

/// A small file that is right.
const PLAIN: &str = "\
services:
  - name: shop/web
    addresses: [10.96.0.1]
    ports:
      - {port: 80}
    endpoints:
      - {address: 10.1.0.11}
";

fn told(text: &str) -> String {
    let alone = parse(text);
    assert_eq!(Reader::default().read(text), alone, "read by pieces");
    alone.map_or_else(|problems| problems.to_string(), |contents| shown(&contents))
}

/// The contents as a few lines that a reader can follow.
fn shown(contents: &Contents) -> String {
    let mut lines = Vec::new();
    for node in &contents.nodes {
        lines.push(format!("node {} in {:?}", node.name, node.zone.as_deref()));
    }
    for service in &contents.services {
        let Service { internal_policy, external_policy, affinity, mode, policy, slow_start, .. } = &**service;
        lines.push(format!(
            "{} {internal_policy:?} {external_policy:?} {affinity:?} {mode:?} {policy:?} {slow_start:?}",
            service.id
        ));
        for key in &service.keys {
            let kind = match key.place {
                Place::Internal(_) => "internal",
                Place::External(_) => "external",
                Place::AnyLocal(_) => "any local",
            };
            lines.push(format!("  {kind} {key}"));
        }
        for endpoint in &service.endpoints {
            let Conditions { ready, serving, terminating } = endpoint.conditions;
            let conditions = [(ready, "ready"), (serving, "serving"), (terminating, "terminating")];
            let conditions: Vec<&str> =
                conditions.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
            lines.push(format!(
                "  -> {} on {:?} {:?} {} for {:?} {:?}",
                endpoint.id,
                endpoint.node.as_ref().map(ToString::to_string),
                endpoint.capacity,
                conditions.join("+"),
                endpoint.for_zones,
                endpoint.for_nodes.iter().map(ToString::to_string).collect::<Vec<_>>()
            ));
        }
    }
    lines.join("\n")
}

fn check(text: &str, expected: &Expect) {
    expected.assert_eq(&(told(text) + "\n"));
}

/// What is said of [`PLAIN`] with each of the edits alone: from, to.
fn check_edits(edits: &[(&str, &str)], expected: &Expect) {
    let mut said = String::new();
    for (from, to) in edits {
        let text = PLAIN.replacen(from, to, 1);
        assert_ne!(text, PLAIN, "{from} is not in the plain file");
        assert!(parse(&text).is_err(), "this is fine: {to}");
        let shown: String = to.lines().next_back().unwrap_or_default().trim().chars().take(100).collect();
        writeln!(said, "# {shown}\n{}", told(&text)).unwrap();
    }
    expected.assert_eq(&said);
}

#[test]
fn a_file_that_is_no_services_file() {
    for (text, expected) in [
        (
            "",
            expect![[r#"
            1:1: the file is empty; where there are no Services, write `services: []`
        "#]],
        ),
        (
            "# nothing\n\n",
            expect![[r#"
            1:1: the file is empty; where there are no Services, write `services: []`
        "#]],
        ),
        (
            "---\n",
            expect![[r#"
            1:4: a mapping (`name: value`) belongs here; check the value and its indentation
        "#]],
        ),
        (
            "services: [",
            expect![[r#"
            1:11: services: this is not YAML: unclosed bracket '['; check indentation and quotes
        "#]],
        ),
        (
            "services:\n- name: a\n   - b\n",
            expect![[r#"
            2:3: services: the field `ports` is missing; add it
        "#]],
        ),
        (
            "services: {}\n",
            expect![[r#"
            1:11: services: a list (`[…]` or lines that begin with `-`) belongs here; check the value and its indentation
        "#]],
        ),
        (
            "hello\n",
            expect![[r#"
            1:1: a mapping (`name: value`) belongs here; check the value and its indentation
        "#]],
        ),
        (
            "services: []\n---\nservices: []\n",
            expect![[r#"
            3:1: services: a second document begins; a Services file has one
        "#]],
        ),
        (
            "services: *x\n",
            expect![[r#"
                1:11: services: nothing above has this anchor; correct the alias or write the value out
            "#]],
        ),
        (
            "services: &a [*a]\n",
            expect![[r#"
                1:15: services[0]: this alias is inside what it stands for; write the value out
            "#]],
        ),
        (
            "services:\n\t- name: a\n",
            expect![[r#"
            2:2: services: this is not YAML: tabs disallowed within this context (block indentation); check indentation and quotes
        "#]],
        ),
    ] {
        check(text, &expected);
    }
    check(
        &("services: ".to_owned() + &"[".repeat(40) + &"]".repeat(40)),
        &expect![[r#"
        1:12: services[0]: a mapping (`name: value`) belongs here; check the value and its indentation
    "#]],
    );
}

#[test]
fn unknown_and_missing_fields() {
    check_edits(
        &[
            ("services:", "service:"),
            ("services:", "nodes: []\n# services:"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, weight: 3}"),
            ("{port: 80}", "{prot: 80}"),
            ("{port: 80}", "{}"),
            ("{port: 80}", "{port: 80, port: 81}"),
            ("name: shop/web", "namespace: shop"),
            ("{address: 10.1.0.11}\n", "{address: 10.1.0.11}\nservices: []\n"),
        ],
        &expect![[r#"
            # service:
            1:1: service: there is no field `service`; there are `nodes` and `services`
            # # services:
            3:3: nodes: this is not YAML: while parsing a block mapping, did not find expected key; check indentation and quotes
            # {address: 10.1.0.11, weight: 3}
            7:30: services[0].endpoints[0].weight: there is no field `weight`; there are `address`, `addresses`, `port`, `node`, `capacity`, `ready`, `serving`, `terminating`, `for_zones` and `for_nodes`
            # {prot: 80}
            5:10: services[0].ports[0].prot: there is no field `prot`; there are `name`, `port`, `protocol`, `endpoint_port` and `node_port`
            # {}
            5:9: services[0].ports[0]: the field `port` is missing; add it
            # {port: 80, port: 81}
            5:20: services[0].ports[0].port: the field `port` is given twice; remove one
            # namespace: shop
            2:5: services[0].namespace: there is no field `namespace`; there are `name`, `addresses`, `external_addresses`, `ports`, `internal_policy`, `external_policy`, `affinity`, `mode`, `policy`, `slow_start`, `floor` and `endpoints`
            # services: []
            8:1: services: the field `services` is given twice; remove one
        "#]],
    );
}

#[test]
fn values_of_the_wrong_kind() {
    check_edits(
        &[
            ("{port: 80}", "{port: eighty}"),
            ("{port: 80}", "{port: -1}"),
            ("{port: 80}", "{port: 70000}"),
            ("{port: 80}", "{port: 80.5}"),
            ("{port: 80}", "{port: 80, protocol: icmp}"),
            ("{port: 80}", "80"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    mode: on"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    policy: fastest"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    external_policy: Local"),
            ("addresses: [10.96.0.1]", "addresses: 10.96.0.1"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, ready: maybe}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, capacity: big}"),
            ("{address: 10.1.0.11}", "10.1.0.11"),
            ("shop/web", "[shop, web]"),
            ("shop/web", ""),
        ],
        &expect![[r#"
            # {port: eighty}
            5:16: services[0].ports[0].port: this is not a whole number from 0 to 65535; correct the value
            # {port: -1}
            5:16: services[0].ports[0].port: this is not a whole number from 0 to 65535; correct the value
            # {port: 70000}
            5:16: services[0].ports[0].port: this is not a whole number from 0 to 65535; correct the value
            # {port: 80.5}
            5:16: services[0].ports[0].port: this is not a whole number from 0 to 65535; correct the value
            # {port: 80, protocol: icmp}
            5:30: services[0].ports[0].protocol: `icmp` is not one of the choices; write `tcp`, `udp` or `sctp`
            # 80
            5:9: services[0].ports[0]: a mapping (`name: value`) belongs here; check the value and its indentation
            # mode: on
            4:11: services[0].mode: `on` is not one of the choices; write `enabled` or `observe`
            # policy: fastest
            4:13: services[0].policy: `fastest` is not one of the choices; write `waterline`, `lvs-feedback`, `equal` or `static`
            # external_policy: Local
            4:22: services[0].external_policy: `Local` is not one of the choices; write `cluster` or `local`
            # addresses: 10.96.0.1
            3:16: services[0].addresses: a list (`[…]` or lines that begin with `-`) belongs here; check the value and its indentation
            # {address: 10.1.0.11, ready: maybe}
            7:37: services[0].endpoints[0].ready: this is not `true` or `false`; correct the value
            # {address: 10.1.0.11, capacity: big}
            7:40: services[0].endpoints[0].capacity: this is not a number; correct the value
            # 10.1.0.11
            7:9: services[0].endpoints[0]: a mapping (`name: value`) belongs here; check the value and its indentation
            # [shop, web]
            2:11: services[0].name: a text belongs here; check the value and its indentation
            # 
            2:9: services[0].name: the value is missing; write a text
        "#]],
    );
}

#[test]
fn lengths_of_time() {
    check_edits(
        &[
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: 10"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: 0s"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: 500ms"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: 25h"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: forever"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: 1h30"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: -1s"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: \"\""),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: 99999999999999999999h"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    affinity: 9999999999999999h"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    slow_start: 2d"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    slow_start: 24h1ms"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    floor: 0.5"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    floor: .nan"),
        ],
        &expect![[r##"
            # affinity: 10
            4:15: services[0].affinity: `10` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`
            # affinity: 0s
            4:15: services[0].affinity: an affinity lasts 1s to 24h; leave it out for none
            # affinity: 500ms
            4:15: services[0].affinity: an affinity lasts 1s to 24h; leave it out for none
            # affinity: 25h
            4:15: services[0].affinity: an affinity lasts 1s to 24h; leave it out for none
            # affinity: forever
            4:15: services[0].affinity: `forever` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`
            # affinity: 1h30
            4:15: services[0].affinity: `1h30` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`
            # affinity: -1s
            4:15: services[0].affinity: `-1s` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`
            # affinity: ""
            4:15: services[0].affinity: `` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`
            # affinity: 99999999999999999999h
            4:15: services[0].affinity: `99999999999999999999h` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`
            # affinity: 9999999999999999h
            4:15: services[0].affinity: `9999999999999999h` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`
            # slow_start: 2d
            4:17: services[0].slow_start: `2d` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`
            # slow_start: 24h1ms
            4:17: services[0].slow_start: a slow start lasts at most 24h; write `0s` for none
            # floor: 0.5
            4:12: services[0].floor: a floor is from 0.005 to 0.1; leave it out for the agent's
            # floor: .nan
            4:12: services[0].floor: a floor is from 0.005 to 0.1; leave it out for the agent's
        "##]],
    );
}

#[test]
fn addresses_that_cannot_be() {
    check_edits(
        &[
            ("{address: 10.1.0.11}", r#"{address: "web.example.org"}"#),
            ("{address: 10.1.0.11}", r#"{address: "10.1.0.0/24"}"#),
            ("{address: 10.1.0.11}", r#"{address: "10.1.0"}"#),
            ("{address: 10.1.0.11}", r#"{address: "0.0.0.0"}"#),
            ("{address: 10.1.0.11}", r#"{address: "127.0.0.1"}"#),
            ("{address: 10.1.0.11}", r#"{address: "224.0.0.1"}"#),
            ("{address: 10.1.0.11}", r#"{address: "255.255.255.255"}"#),
            ("{address: 10.1.0.11}", r#"{address: "::"}"#),
            ("{address: 10.1.0.11}", r#"{address: "::1"}"#),
            ("{address: 10.1.0.11}", r#"{address: "ff02::1"}"#),
            ("{address: 10.1.0.11}", r#"{address: "fe80::1"}"#),
            ("{address: 10.1.0.11}", r#"{address: "fe80::1%eth0"}"#),
            ("{address: 10.1.0.11}", r#"{address: "::ffff:10.1.0.11"}"#),
            ("addresses: [10.96.0.1]", "addresses: [127.0.0.1]"),
            ("addresses: [10.96.0.1]", "external_addresses: [web]"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1, 10.96.0.1]"),
            ("addresses: [10.96.0.1]", "addresses: [10.96.0.1]\n    external_addresses: [10.96.0.1]"),
        ],
        &expect![[r##"
            # {address: "web.example.org"}
            7:19: services[0].endpoints[0].address: `web.example.org` is not an IP address; write the address, names are not looked up
            # {address: "10.1.0.0/24"}
            7:19: services[0].endpoints[0].address: `10.1.0.0/24` is a range; write single addresses, without a prefix length
            # {address: "10.1.0"}
            7:19: services[0].endpoints[0].address: `10.1.0` is not an IP address; write the address, names are not looked up
            # {address: "0.0.0.0"}
            7:19: services[0].endpoints[0].address: 0.0.0.0 stands for no address at all; write an address that every node can reach
            # {address: "127.0.0.1"}
            7:19: services[0].endpoints[0].address: 127.0.0.1 is a loopback address, which no other node can reach; write an address that every node can reach
            # {address: "224.0.0.1"}
            7:19: services[0].endpoints[0].address: 224.0.0.1 is a multicast or broadcast address, which no connection can go to; write an address that every node can reach
            # {address: "255.255.255.255"}
            7:19: services[0].endpoints[0].address: 255.255.255.255 is a multicast or broadcast address, which no connection can go to; write an address that every node can reach
            # {address: "::"}
            3:17: services[0].addresses[0]: 10.96.0.1 is IPv4, but no endpoint has an address of that family; give the endpoints one (in `addresses`) or remove this
            7:9: services[0].endpoints[0]: this endpoint has an IPv6 address, but the Service has none to reach it by; give the Service one or remove this
            7:19: services[0].endpoints[0].address: :: stands for no address at all; write an address that every node can reach
            # {address: "::1"}
            3:17: services[0].addresses[0]: 10.96.0.1 is IPv4, but no endpoint has an address of that family; give the endpoints one (in `addresses`) or remove this
            7:9: services[0].endpoints[0]: this endpoint has an IPv6 address, but the Service has none to reach it by; give the Service one or remove this
            7:19: services[0].endpoints[0].address: ::1 is a loopback address, which no other node can reach; write an address that every node can reach
            # {address: "ff02::1"}
            3:17: services[0].addresses[0]: 10.96.0.1 is IPv4, but no endpoint has an address of that family; give the endpoints one (in `addresses`) or remove this
            7:9: services[0].endpoints[0]: this endpoint has an IPv6 address, but the Service has none to reach it by; give the Service one or remove this
            7:19: services[0].endpoints[0].address: ff02::1 is a multicast or broadcast address, which no connection can go to; write an address that every node can reach
            # {address: "fe80::1"}
            3:17: services[0].addresses[0]: 10.96.0.1 is IPv4, but no endpoint has an address of that family; give the endpoints one (in `addresses`) or remove this
            7:9: services[0].endpoints[0]: this endpoint has an IPv6 address, but the Service has none to reach it by; give the Service one or remove this
            7:19: services[0].endpoints[0].address: fe80::1 is a link-local address, which means nothing without its link; write an address that every node can reach
            # {address: "fe80::1%eth0"}
            7:19: services[0].endpoints[0].address: `fe80::1%eth0` is not an IP address; write the address, names are not looked up
            # {address: "::ffff:10.1.0.11"}
            3:17: services[0].addresses[0]: 10.96.0.1 is IPv4, but no endpoint has an address of that family; give the endpoints one (in `addresses`) or remove this
            7:9: services[0].endpoints[0]: this endpoint has an IPv6 address, but the Service has none to reach it by; give the Service one or remove this
            7:19: services[0].endpoints[0].address: ::ffff:10.1.0.11 is an IPv4 address in disguise; write 10.1.0.11
            # addresses: [127.0.0.1]
            3:17: services[0].addresses[0]: 127.0.0.1 is a loopback address, which no other node can reach; write an address that every node can reach
            # external_addresses: [web]
            3:26: services[0].external_addresses[0]: `web` is not an IP address; write the address, names are not looked up
            # addresses: [10.96.0.1, 10.96.0.1]
            3:28: services[0].addresses[1]: 10.96.0.1 is an address of this Service already, at services[0].addresses[0] (line 3); remove one
            # external_addresses: [10.96.0.1]
            4:26: services[0].external_addresses[0]: 10.96.0.1 is an address of this Service already, at services[0].addresses[0] (line 3); remove one
        "##]],
    );
}

#[test]
fn ports_that_cannot_be() {
    check_edits(
        &[
            ("{port: 80}", "{port: 0}"),
            ("{port: 80}", "{port: 80, endpoint_port: 0}"),
            ("{port: 80}", "{port: 80, node_port: 0}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, port: 0}"),
            ("- {port: 80}", "[]"),
            ("{port: 80}", "{port: 80}\n      - {port: 81}"),
            ("{port: 80}", "{name: a, port: 80}\n      - {name: a, port: 81}"),
            ("{port: 80}", "{name: a, port: 80}\n      - {name: b, port: 80}"),
            ("{port: 80}", "{name: a b, port: 80}"),
            ("addresses: [10.96.0.1]", "addresses: []"),
            ("{port: 80}", "{name: a, port: 80}\n      - {name: b, port: 81, protocol: udp}\n    x: 1"),
        ],
        &expect![[r#"
            # {port: 0}
            5:16: services[0].ports[0].port: nothing can listen on port 0; write 1 to 65535
            # {port: 80, endpoint_port: 0}
            5:35: services[0].ports[0].endpoint_port: nothing can listen on port 0; write 1 to 65535
            # {port: 80, node_port: 0}
            5:31: services[0].ports[0].node_port: nothing can listen on port 0; write 1 to 65535
            # {address: 10.1.0.11, port: 0}
            7:36: services[0].endpoints[0].port: nothing can listen on port 0; write 1 to 65535
            # []
            5:7: services[0].ports: the Service has no ports; add one, as in `- port: 80`
            # - {port: 81}
            5:9: services[0].ports[0]: a Service with several ports needs a name for each; add `name`
            6:9: services[0].ports[1]: a Service with several ports needs a name for each; add `name`
            # - {name: a, port: 81}
            6:16: services[0].ports[1].name: there is a port `a` already, at services[0].ports[0] (line 5); rename one
            # - {name: b, port: 80}
            6:25: services[0].ports[1].port: 10.96.0.1 port 80/tcp belongs to services[0].ports[0] (line 5) already; change one of them
            # {name: a b, port: 80}
            5:16: services[0].ports[0].name: `a b` cannot be the name of a port; use 1 to 253 letters, digits, `-`, `_` and `.`
            # addresses: []
            5:9: services[0].ports[0]: nobody can reach this port; give the Service `addresses` or `external_addresses`, or the port a `node_port`
            # x: 1
            7:5: services[0].x: there is no field `x`; there are `name`, `addresses`, `external_addresses`, `ports`, `internal_policy`, `external_policy`, `affinity`, `mode`, `policy`, `slow_start`, `floor` and `endpoints`
        "#]],
    );
}

#[test]
fn overlapping_services() {
    check_edits(
        &[
            (
                "{address: 10.1.0.11}\n",
                "{address: 10.1.0.11}\n  - {name: shop/api, addresses: [10.96.0.1], ports: [{port: 80}]}\n",
            ),
            (
                "{address: 10.1.0.11}\n",
                "{address: 10.1.0.11}\n  - {name: shop/web, addresses: [10.96.0.2], ports: [{port: 80}]}\n",
            ),
            (
                "{address: 10.1.0.11}\n",
                "{address: 10.1.0.11}\n  - {name: shop/api, external_addresses: [10.96.0.1], ports: [{port: 80}]}\n",
            ),
            (
                "{port: 80}\n    endpoints:\n      - {address: 10.1.0.11}\n",
                "{port: 80, node_port: 30080}\n  - {name: shop/api, ports: [{port: 443, node_port: 30080}]}\n",
            ),
        ],
        &expect![[r#"
            # - {name: shop/api, addresses: [10.96.0.1], ports: [{port: 80}]}
            8:61: services[1].ports[0].port: 10.96.0.1 port 80/tcp belongs to services[0].ports[0] (line 5) already; change one of them
            # - {name: shop/web, addresses: [10.96.0.2], ports: [{port: 80}]}
            8:12: services[1].name: there is a Service `shop/web` already, at services[0] (line 2); rename one
            # - {name: shop/api, external_addresses: [10.96.0.1], ports: [{port: 80}]}
            8:70: services[1].ports[0].port: 10.96.0.1 port 80/tcp belongs to services[0].ports[0] (line 5) already; change one of them
            # - {name: shop/api, ports: [{port: 443, node_port: 30080}]}
            6:53: services[1].ports[0].node_port: node port 30080/tcp belongs to services[0].ports[0] (line 5) already; change one of them
        "#]],
    );
}

#[test]
fn an_endpoint_twice() {
    check_edits(
        &[
            ("{address: 10.1.0.11}", "{address: 10.1.0.11}\n      - {address: 10.1.0.11}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11}\n      - {address: 10.1.0.11, port: 80}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11}\n      - {addresses: [10.1.0.12, 10.1.0.11]}"),
            ("{address: 10.1.0.11}", "{}"),
            ("{address: 10.1.0.11}", "{addresses: []}"),
            ("{address: 10.1.0.11}", r#"{address: 10.1.0.11, addresses: ["fd01::1"]}"#),
        ],
        &expect![[r##"
            # - {address: 10.1.0.11}
            8:9: services[0].endpoints[1]: the endpoint 10.1.0.11 is listed already, at services[0].endpoints[0] (line 7); remove one
            # - {address: 10.1.0.11, port: 80}
            8:9: services[0].endpoints[1]: the endpoint 10.1.0.11 is listed already, at services[0].endpoints[0] (line 7); remove one
            # - {addresses: [10.1.0.12, 10.1.0.11]}
            8:9: services[0].endpoints[1]: an endpoint has one `address`, or `addresses` with one of each family; several endpoints are several entries
            8:9: services[0].endpoints[1]: the endpoint 10.1.0.11 is listed already, at services[0].endpoints[0] (line 7); remove one
            # {}
            7:9: services[0].endpoints[0]: an endpoint has one `address`, or `addresses` with one of each family; several endpoints are several entries
            # {addresses: []}
            7:9: services[0].endpoints[0]: an endpoint has one `address`, or `addresses` with one of each family; several endpoints are several entries
            # {address: 10.1.0.11, addresses: ["fd01::1"]}
            7:9: services[0].endpoints[0]: this endpoint has an IPv6 address, but the Service has none to reach it by; give the Service one or remove this
            7:9: services[0].endpoints[0]: an endpoint has one `address`, or `addresses` with one of each family; several endpoints are several entries
        "##]],
    );
}

#[test]
fn an_endpoint_that_contradicts() {
    check_edits(
        &[
            (
                "{address: 10.1.0.11}\n",
                "{address: 10.1.0.11}\n  - {name: shop/api, addresses: [10.96.0.2], ports: [{port: 80}], endpoints: [{address: 10.1.0.11, node: node-1}]}\n",
            ),
            ("{address: 10.1.0.11}", "{address: 10.96.0.1}"),
            (
                "{port: 80}\n    endpoints:\n      - {address: 10.1.0.11}",
                "{name: a, port: 80}\n      - {name: b, port: 81}\n    endpoints:\n      - {address: 10.1.0.11, port: 8080}",
            ),
        ],
        &expect![[r#"
            # - {name: shop/api, addresses: [10.96.0.2], ports: [{port: 80}], endpoints: [{address: 10.1.0.11, nod
            8:79: services[1].endpoints[0]: 10.1.0.11 is on `node-1` here and on no node at services[0].endpoints[0] (line 7); say the same of it everywhere
            # {address: 10.96.0.1}
            7:9: services[0].endpoints[0]: 10.96.0.1 port 80/tcp is a Service, at services[0].ports[0] (line 5), not an endpoint; write an endpoint's own address
            # - {address: 10.1.0.11, port: 8080}
            8:36: services[0].endpoints[0].port: the Service has several ports, and this does not say for which; use the ports' `endpoint_port`
        "#]],
    );
}

#[test]
fn mixed_families() {
    check_edits(
        &[
            ("{address: 10.1.0.11}", r#"{address: "fd01::1"}"#),
            ("addresses: [10.96.0.1]", r#"addresses: [10.96.0.1, "fd96::1"]"#),
            ("{address: 10.1.0.11}", r#"{addresses: [10.1.0.11, "fd01::1"]}"#),
        ],
        &expect![[r##"
            # {address: "fd01::1"}
            3:17: services[0].addresses[0]: 10.96.0.1 is IPv4, but no endpoint has an address of that family; give the endpoints one (in `addresses`) or remove this
            7:9: services[0].endpoints[0]: this endpoint has an IPv6 address, but the Service has none to reach it by; give the Service one or remove this
            # addresses: [10.96.0.1, "fd96::1"]
            3:28: services[0].addresses[1]: fd96::1 is IPv6, but no endpoint has an address of that family; give the endpoints one (in `addresses`) or remove this
            # {addresses: [10.1.0.11, "fd01::1"]}
            7:9: services[0].endpoints[0]: this endpoint has an IPv6 address, but the Service has none to reach it by; give the Service one or remove this
        "##]],
    );
}

#[test]
fn capacities() {
    check_edits(
        &[
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, capacity: -2}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, capacity: 0}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, capacity: .nan}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, capacity: .inf}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, capacity: 1000001}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, capacity: 1e-9}"),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, capacity: 1e400}"),
        ],
        &expect![[r#"
            # {address: 10.1.0.11, capacity: -2}
            7:40: services[0].endpoints[0].capacity: -2 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
            # {address: 10.1.0.11, capacity: 0}
            7:40: services[0].endpoints[0].capacity: 0 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
            # {address: 10.1.0.11, capacity: .nan}
            7:40: services[0].endpoints[0].capacity: NaN cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
            # {address: 10.1.0.11, capacity: .inf}
            7:40: services[0].endpoints[0].capacity: inf cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
            # {address: 10.1.0.11, capacity: 1000001}
            7:40: services[0].endpoints[0].capacity: 1000001 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
            # {address: 10.1.0.11, capacity: 1e-9}
            7:40: services[0].endpoints[0].capacity: 0.000000001 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
            # {address: 10.1.0.11, capacity: 1e400}
            7:40: services[0].endpoints[0].capacity: this is not a number; correct the value
        "#]],
    );
}

#[test]
fn names() {
    check_edits(
        &[
            ("shop/web", "shop web"),
            ("shop/web", "a/b/c"),
            ("shop/web", "/web"),
            ("shop/web", r#""sh\u00f6p""#),
            (
                "shop/web",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ),
            ("{address: 10.1.0.11}", r#"{address: 10.1.0.11, node: "node 1"}"#),
            ("{address: 10.1.0.11}", "{address: 10.1.0.11, for_zones: [zone/a]}"),
            ("services:", "nodes: [{name: \"\"}]\nservices:"),
            ("services:", "nodes: [{name: node-1}, {name: node-1}]\nservices:"),
        ],
        &expect![[r##"
            # shop web
            2:11: services[0].name: `shop web` cannot be the name of a Service; use 1 to 253 letters, digits, `-`, `_` and `.`, with at most one `/` between them
            # a/b/c
            2:11: services[0].name: `a/b/c` cannot be the name of a Service; use 1 to 253 letters, digits, `-`, `_` and `.`, with at most one `/` between them
            # /web
            2:11: services[0].name: `/web` cannot be the name of a Service; use 1 to 253 letters, digits, `-`, `_` and `.`, with at most one `/` between them
            # "sh\u00f6p"
            2:11: services[0].name: `shöp` cannot be the name of a Service; use 1 to 253 letters, digits, `-`, `_` and `.`, with at most one `/` between them
            # aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
            2:11: services[0].name: `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` cannot be the name of a Service; use 1 to 253 letters, digits, `-`, `_` and `.`, with at most one `/` between them
            # {address: 10.1.0.11, node: "node 1"}
            7:36: services[0].endpoints[0].node: `node 1` cannot be the name of a node; use 1 to 253 letters, digits, `-`, `_` and `.`
            # {address: 10.1.0.11, for_zones: [zone/a]}
            7:42: services[0].endpoints[0].for_zones[0]: `zone/a` cannot be the name of a zone; use 1 to 253 letters, digits, `-`, `_` and `.`
            # services:
            1:16: nodes[0].name: `` cannot be the name of a node; use 1 to 253 letters, digits, `-`, `_` and `.`
            # services:
            1:32: nodes[1].name: there is a node `node-1` already, at nodes[0] (line 1); remove one
        "##]],
    );
}

#[test]
fn a_full_file() {
    check(
        r#"
nodes:
  - {name: node-1, zone: a}
  - name: node-2
services:
  - name: shop/web
    addresses: [10.96.0.1, "fd96::1"]
    external_addresses: [192.0.2.1]
    ports:
      - {name: http, port: 80, protocol: tcp, endpoint_port: 8080, node_port: 30080}
      - {name: dns, port: 53, protocol: udp}
    internal_policy: local
    external_policy: local
    affinity: 1h30m
    mode: observe
    policy: lvs-feedback
    slow_start: 250ms
    endpoints:
      - {addresses: [10.1.0.12, "fd01:1::12"], node: node-1}
      - {address: 10.1.0.11, node: node-1, capacity: 2, for_zones: [a], for_nodes: [node-1]}
      - {address: 10.2.0.9, ready: false, serving: true, terminating: true}
"#,
        &expect![[r#"
            node node-1 in Some("a")
            node node-2 in None
            shop/web:dns/ipv4 Local Local Some(5400s) Observe Some(LvsFeedback) 250ms
              internal udp/10.96.0.1:53
              external udp/192.0.2.1:53
              -> udp/10.1.0.11:53 on Some("node-1") Some(2.0) ready+serving for ["a"] ["node-1"]
              -> udp/10.1.0.12:53 on Some("node-1") None ready+serving for [] []
              -> udp/10.2.0.9:53 on None None serving+terminating for [] []
            shop/web:dns/ipv6 Local Local Some(5400s) Observe Some(LvsFeedback) 250ms
              internal udp/[fd96::1]:53
              -> udp/[fd01:1::12]:53 on Some("node-1") None ready+serving for [] []
            shop/web:http/ipv4 Local Local Some(5400s) Observe Some(LvsFeedback) 250ms
              internal tcp/10.96.0.1:80
              external tcp/192.0.2.1:80
              any local tcp/ipv4-node-port:30080
              -> tcp/10.1.0.11:8080 on Some("node-1") Some(2.0) ready+serving for ["a"] ["node-1"]
              -> tcp/10.1.0.12:8080 on Some("node-1") None ready+serving for [] []
              -> tcp/10.2.0.9:8080 on None None serving+terminating for [] []
            shop/web:http/ipv6 Local Local Some(5400s) Observe Some(LvsFeedback) 250ms
              internal tcp/[fd96::1]:80
              any local tcp/ipv6-node-port:30080
              -> tcp/[fd01:1::12]:8080 on Some("node-1") None ready+serving for [] []
        "#]],
    );
}

#[test]
fn a_node_port_alone_serves_the_families_of_its_endpoints() {
    let ids = |endpoints: &str| -> Vec<String> {
        let text = format!(
            "services: [{{name: a, ports: [{{port: 80, node_port: 30080}}], endpoints: [{endpoints}]}}]"
        );
        let services = parse(&text).unwrap().services;
        services.iter().map(|service| format!("{} {}", service.id, service.keys[0])).collect()
    };
    assert_eq!(ids("{address: 10.1.0.1}"), ["a/ipv4 tcp/ipv4-node-port:30080"]);
    assert_eq!(ids("{address: 'fd01::1'}"), ["a/ipv6 tcp/ipv6-node-port:30080"]);
    assert_eq!(ids(""), ["a/ipv4 tcp/ipv4-node-port:30080", "a/ipv6 tcp/ipv6-node-port:30080"]);
}

#[test]
fn an_endpoint_may_have_a_port_of_its_own_and_serve_several_services() {
    let text = PLAIN
        .replace("{address: 10.1.0.11}", "{address: 10.1.0.11, port: 9090}\n      - {address: 10.1.0.11}")
        + "  - {name: shop/api, addresses: [10.96.0.2], ports: [{port: 80}], endpoints: [{address: 10.1.0.11}]}\n";
    let services = parse(&text).unwrap().services;
    let endpoints: Vec<Vec<String>> =
        services.iter().map(|service| service.endpoints.iter().map(|e| e.id.to_string()).collect()).collect();
    assert_eq!(endpoints, [vec!["tcp/10.1.0.11:80"], vec!["tcp/10.1.0.11:80", "tcp/10.1.0.11:9090"]]);
}

#[test]
fn aliases_and_merge_keys_save_writing() {
    let text = "services:\n  - &web {name: a, addresses: [10.96.0.1], ports: &ports [{port: 80}], slow_start: 5s}\n  \
                - {<<: *web, name: b, addresses: [10.96.0.2]}\n  - {name: c, addresses: [10.96.0.3], ports: *ports}\n";
    assert_eq!(parse(text).unwrap().services.len(), 3);
    // What is wrong behind an alias is shown where the alias is used.
    check(
        &text.replace("10.96.0.3", "10.96.0.1"),
        &expect![[r#"
        4:46: services[2].ports[0].port: 10.96.0.1 port 80/tcp belongs to services[0].ports[0] (line 2) already; change one of them
    "#]],
    );
}

#[test]
fn nodes_that_are_not_there() {
    let named = "nodes: [{name: node-1}]\n".to_owned() + PLAIN;
    check(
        &named.replace("{address: 10.1.0.11}", "{address: 10.1.0.11, node: node-2}"),
        &expect![[r#"
        8:36: services[0].endpoints[0].node: there is no node `node-2` in `nodes`; add it there or correct the name
    "#]],
    );
    check(
        &named.replace("{address: 10.1.0.11}", "{address: 10.1.0.11, for_nodes: [node-1, node-2]}"),
        &expect![[r#"
        8:50: services[0].endpoints[0].for_nodes[1]: there is no node `node-2` in `nodes`; add it there or correct the name
    "#]],
    );
}

#[test]
fn many_problems_are_told_at_once_but_not_all() {
    let mut text = PLAIN.to_owned();
    for i in 0..14 {
        writeln!(text, "      - {{address: 10.1.1.{i}, capacity: -{i}}}").unwrap();
    }
    check(
        &text,
        &expect![[r#"
        8:39: services[0].endpoints[1].capacity: -0 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        9:39: services[0].endpoints[2].capacity: -1 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        10:39: services[0].endpoints[3].capacity: -2 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        11:39: services[0].endpoints[4].capacity: -3 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        12:39: services[0].endpoints[5].capacity: -4 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        13:39: services[0].endpoints[6].capacity: -5 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        14:39: services[0].endpoints[7].capacity: -6 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        15:39: services[0].endpoints[8].capacity: -7 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        16:39: services[0].endpoints[9].capacity: -8 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        17:39: services[0].endpoints[10].capacity: -9 cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out
        and 4 more
    "#]],
    );
}

fn crowd(number: u32) -> String {
    let mut text = PLAIN.to_owned();
    for i in 0..number {
        writeln!(
            text,
            "      - {{address: 10.{}.{}.{}, node: node-1}}",
            2 + (i >> 16),
            i >> 8 & 255,
            i & 255
        )
        .unwrap();
    }
    text
}

#[test]
fn too_many_endpoints_in_a_service() {
    let problems = parse(&crowd(99_999)).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "7:7: services[0].endpoints: 100000 IPv4 endpoints, and at most 16384 can be weighed in one Service; split it \
         into several, or leave it out and to the proxy that is there"
    );
    assert_eq!(parse(&crowd(16_383)).unwrap().services[0].endpoints.len(), 16_384);
}

#[test]
fn aliases_cannot_multiply_a_file() {
    let service = |i, endpoints: &str| {
        format!(
            "  - {{name: s{i}, addresses: [10.96.{}.{}], ports: [{{port: 80}}], endpoints: {endpoints}}}\n",
            i >> 8,
            i & 255
        )
    };
    let endpoints: Vec<String> =
        (0..1000).map(|i| format!("{{address: 10.1.{}.{}}}", i >> 8, i & 255)).collect();
    let first = format!("services:\n{}", service(0, &format!("&all [{}]", endpoints.join(", "))));
    let with_more = |number| (1..number).fold(first.clone(), |text, i| text + &service(i, "*all"));
    assert_eq!(parse(&with_more(4)).unwrap().services.len(), 4);
    check(
        &with_more(1000),
        &expect![[r#"
        28:74: services[26].endpoints: aliases multiply the file; write the values out
    "#]],
    );
}

#[test]
fn an_alias_may_be_used_often() {
    let mut text = "services:\n  - {name: s0, addresses: [10.96.0.0], ports: &web [{port: 80}]}\n".to_owned();
    for i in 1..1000 {
        writeln!(text, "  - {{name: s{i}, addresses: [10.96.{}.{}], ports: *web}}", i >> 8, i & 255).unwrap();
    }
    assert_eq!(parse(&text).unwrap().services.len(), 1000);
}

/// A random number generator (xorshift64*), the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// Texts to start from, with all that could mislead who cuts by lines.
const SHAPES: [&str; 4] = [
    "nodes:\n- name: node-1\nservices:\n- name: a\n  addresses: [10.96.0.1]\n  ports:\n  - port: 80\n  endpoints:\n  \
     - address: 10.1.0.1\n    node: node-1\n# between\n- name: b\n  ports: [{port: 80, node_port: 30080}]\n",
    "---\nservices:   \n  - {name: a, addresses: [10.96.0.1], ports: &p [{port: 80}]}\n\n  - name: \"b\"\n    addresses: \
     [\n  10.96.0.2\n  ]\n    ports: *p\n  -\n    name: c\n    ports: [{port: 1, node_port: 2}]\nnodes: [{name: n}]\n",
    "services:\n  - name: >-\n      a\n    ports: [{port: 1, node_port: 1}]\n  - name: |-\n      b\n    ports: [{port: 2, \
     node_port: 2}]\n",
    "services:\r\n- &s {name: 'a', slow_start: 1s, ports: [{port: 1, node_port: 1}]}\r\n- {<<: *s, name: b, ports: \
     [{port: 2, node_port: 2}]}\r\n",
];

#[test]
fn reading_by_pieces_is_the_same_as_reading_the_whole() {
    let bits = [
        "",
        "\n",
        "\r",
        " ",
        "  ",
        "\t",
        "- ",
        "-\n",
        "---\n",
        "...\n",
        "services:\n",
        "services: []\n",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "#",
        "&p ",
        "*p",
        "|\n",
        ":",
        "\u{feff}",
        "%YAML 1.2\n",
        "name: d\n",
        "- {name: d, ports: []}\n",
        "\u{85}",
    ];
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut reader = Reader::default();
    let (mut good, mut bad) = (0, 0);
    for round in 0..4000 {
        let mut text = SHAPES[round % SHAPES.len()].to_owned();
        for _ in 0..dice.below(3) {
            let boundaries: Vec<usize> = (0..=text.len()).filter(|&i| text.is_char_boundary(i)).collect();
            let from = boundaries[dice.below(boundaries.len())];
            let to = if dice.below(2) == 0 {
                from
            } else {
                *boundaries.iter().rfind(|&&i| i <= from + 3).unwrap()
            };
            text.replace_range(from..to, bits[dice.below(bits.len())]);
        }
        let whole = parse(&text);
        assert_eq!(reader.read(&text), whole, "round {round}: {text:?}");
        if whole.is_ok() {
            good += 1;
        } else {
            bad += 1;
        }
    }
    assert!(good > 500 && bad > 500, "{good} good and {bad} bad: the rounds test little");
}

/// A file whose few Services, endpoints and nodes are drawn from so few that they often clash.
fn crowded(dice: &mut Dice) -> String {
    let mut text =
        ["", "nodes: [{name: n1}]\n", "nodes: [{name: n1}, {name: n2}]\n"][dice.below(3)].to_owned();
    text.push_str("services:\n");
    let (mut name, mut address) = (0, 0);
    for _ in 0..=dice.below(3) {
        // Mostly in turn, so that not all clash.
        (name, address) = (name + 1 - dice.below(9) / 8, address + 1 - dice.below(9) / 8);
        write!(text, "- {{name: s{name}, addresses: [10.96.0.{address}], ports: [{{port: 80").unwrap();
        if dice.below(4) == 0 {
            write!(text, ", node_port: 3008{}", dice.below(4)).unwrap();
        }
        text.push_str("}], endpoints: [");
        for _ in 0..dice.below(3) {
            let net = if dice.below(20) == 0 { 96 } else { 1 };
            let port = ["", ", port: 80", ", port: 8080"][dice.below(3)];
            // An address has one node, but for a few.
            let number = 1 + dice.below(4);
            let node = ["", ", node: n1", ", node: n2, for_nodes: [n1]"][(number + dice.below(16) / 15) % 3];
            write!(text, "{{address: 10.{net}.0.{number}{port}{node}}}, ").unwrap();
        }
        text.push_str("]}\n");
    }
    text
}

#[test]
fn what_clashes_is_found_among_pieces_too() {
    let mut dice = Dice(0x0BAD_5EED);
    let mut reader = Reader::default();
    let mut clashes = std::collections::BTreeMap::new();
    for _ in 0..6000 {
        let text = crowded(&mut dice);
        let whole = parse(&text);
        assert_eq!(reader.read(&text), whole, "{text}");
        let words = match &whole {
            Ok(_) => "good",
            Err(problems) if problems.first.len() > 1 => "several",
            Err(problems) => {
                let what = &problems.first[0].what;
                let words =
                    ["Service `", "belongs to", "listed already", " is a Service", "say the same", "no node"];
                words.into_iter().find(|words| what.contains(words)).unwrap_or_else(|| panic!("{what}"))
            }
        };
        *clashes.entry(words).or_insert(0) += 1;
    }
    assert!(clashes.len() == 8 && clashes.values().all(|&times| times > 20), "tests little: {clashes:?}");
}

#[test]
fn a_piece_that_was_read_before_is_not_read_again() {
    let mut reader = Reader::default();
    let before = reader.read(SHAPES[0]).unwrap().services;
    let after = reader.read(&SHAPES[0].replace("10.1.0.1", "10.1.0.2")).unwrap().services;
    let kept: Vec<bool> = before.iter().zip(&after).map(|(old, new)| Arc::ptr_eq(old, new)).collect();
    // The second is one of two families.
    assert_eq!(kept, [false, true, true]);
}

#[test]
fn a_name_of_a_node_is_kept_once() {
    let text = "services:\n\
                - {name: a, addresses: [10.96.0.1], ports: [{port: 80}], endpoints: [{address: 10.1.0.1, node: n}]}\n\
                - {name: b, addresses: [10.96.0.2], ports: [{port: 80}], endpoints: [{address: 10.1.0.2, node: n}]}\n";
    for text in [text.to_owned(), format!("nodes: [{{name: n}}]\n{text}")] {
        let contents = Reader::default().read(&text).unwrap();
        let names: Vec<*const u8> = contents
            .services
            .iter()
            .map(|service| service.endpoints[0].node.as_ref().unwrap().as_str().as_ptr())
            .chain(contents.nodes.iter().map(|node| node.name.as_str().as_ptr()))
            .collect();
        assert!(names.iter().all(|name| *name == names[0]), "{text}");
    }
}
