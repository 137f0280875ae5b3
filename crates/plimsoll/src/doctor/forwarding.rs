//! The node as a router: forwarding, bridges, what drops on the way.

use std::collections::BTreeSet;

use plimsoll_dataplane::netlink::{Builder, DUMP, Error, Protocol, Socket};

use super::files::setting;
use super::finding::Finding;
use super::ruleset::{Hook, Ruleset};

/// `RTM_GETLINK` and its attributes (`linux/if_link.h`).
const GET_LINK: u16 = 18;
const NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
/// Bytes of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

pub(super) fn check() -> Vec<Finding> {
    vec![
        forwards(setting("net/ipv4/ip_forward"), setting("net/ipv6/conf/all/forwarding")),
        match bridges() {
            Ok(bridges) => bridged(
                &bridges,
                setting("net/bridge/bridge-nf-call-iptables"),
                setting("net/bridge/bridge-nf-call-ip6tables"),
            ),
            Err(error) => Finding::note(
                "bridges",
                format!("cannot list the interfaces: {error}"),
                "where endpoints are on a bridge, `net.bridge.bridge-nf-call-iptables` must be 1",
            ),
        },
    ]
}

fn forwards(v4: Option<u64>, v6: Option<u64>) -> Finding {
    let on = |setting: Option<u64>| setting.is_some_and(|value| value > 0);
    match (on(v4), on(v6)) {
        (true, true) => Finding::ok("forwarding", "this node forwards IPv4 and IPv6"),
        (true, false) => Finding::note(
            "forwarding",
            "this node forwards IPv4, but not IPv6",
            "for Services with IPv6 addresses: `sysctl -w net.ipv6.conf.all.forwarding=1`",
        ),
        (false, _) => Finding::warning(
            "forwarding",
            "this node does not forward IPv4: only connections of its own, and to endpoints on it, can be balanced",
            "if clients or endpoints are behind this node: `sysctl -w net.ipv4.ip_forward=1`, and in /etc/sysctl.d",
        ),
    }
}

/// The names of the bridges.
fn bridges() -> Result<Vec<String>, Error> {
    let mut socket = Socket::open(Protocol::Route)?;
    let mut request = Builder::new();
    request.message(GET_LINK, DUMP, &[0; LINK_HEADER], |_| {});
    let mut names = Vec::new();
    socket.dump(request.bytes(), |message| {
        let attributes = message.attributes(LINK_HEADER);
        let info = attributes.find(LINK_INFO).map(|info| info.attributes());
        let kind = info.and_then(|info| info.find(INFO_KIND));
        if kind.and_then(|kind| kind.text().map(|kind| kind == "bridge")) == Some(true)
            && let Some(name) = attributes.find(NAME).and_then(|name| name.text().map(str::to_owned))
        {
            names.push(name);
        }
    })?;
    Ok(names)
}

fn bridged(bridges: &[String], v4: Option<u64>, v6: Option<u64>) -> Finding {
    if bridges.is_empty() {
        return Finding::ok("bridges", "no bridge");
    }
    let names = bridges.join(", ");
    if v4 == Some(1) && v6 == Some(1) {
        return Finding::ok("bridges", format!("what crosses a bridge ({names}) passes netfilter"));
    }
    Finding::warning(
        "bridges",
        format!("what crosses a bridge ({names}) does not pass netfilter"),
        "where clients and endpoints share a bridge, their connections are neither translated back nor counted: \
         `modprobe br_netfilter`, then `sysctl -w net.bridge.bridge-nf-call-iptables=1 \
         net.bridge.bridge-nf-call-ip6tables=1`; otherwise nothing",
    )
}

/// Whether translated connections are dropped on their way through. `legacy` names the tables of iptables-legacy,
/// whose rules cannot be read from here.
pub(super) fn drops(ruleset: &Ruleset, legacy: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for chain in &ruleset.chains {
        let Some(base) = &chain.base else { continue };
        if base.kind != "filter" || base.hook != Hook::Forward {
            continue;
        }
        let own = |rule: &&super::ruleset::Rule| {
            rule.family == chain.family && rule.table == chain.table && rule.chain == chain.name
        };
        let how = if base.drops {
            "drops what no rule accepts"
        } else if ruleset.rules.iter().filter(own).any(|rule| rule.drops_all) {
            "drops or rejects at its end"
        } else {
            continue;
        };
        if accepts_translated(ruleset, chain.family, &chain.table, &chain.name) {
            continue;
        }
        let shown = format!("{} {} {}", chain.family, chain.table, chain.name);
        let iptables = match (chain.family, chain.table.as_str(), chain.name.as_str()) {
            ("ip", "filter", "FORWARD") => {
                "; with iptables: `iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT`"
            }
            ("ip6", "filter", "FORWARD") => {
                "; with iptables: `ip6tables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT`"
            }
            _ => "",
        };
        findings.push(Finding::warning(
            "forward-drop",
            format!("chain {shown} {how}: connections that we translate may end there"),
            format!(
                "unless its rules accept them by address: `nft insert rule {shown} ct status dnat accept`{iptables}. \
                 An accept in another table does not help"
            ),
        ));
    }
    if legacy.iter().any(|table| table == "filter") {
        findings.push(Finding::note(
            "forward-drop",
            "iptables-legacy has a filter table, which is not read here",
            "look at `iptables-legacy -S FORWARD`; if the policy is DROP, `iptables-legacy -I FORWARD -m conntrack \
             --ctstate DNAT -j ACCEPT`",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("forward-drop", "no chain drops translated connections on their way"));
    }
    findings
}

/// Whether a rule for translated connections can be reached from a chain.
fn accepts_translated(ruleset: &Ruleset, family: &str, table: &str, chain: &str) -> bool {
    let mut open = vec![chain];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name) {
            continue;
        }
        for rule in &ruleset.rules {
            if rule.family == family && rule.table == table && rule.chain == name {
                if rule.accepts_translated {
                    return true;
                }
                open.extend(rule.leads_to.as_deref());
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::ruleset::{Base, Chain, Rule};
    use super::*;

    fn forward(drops: bool) -> Chain {
        let base = Base { kind: "filter".into(), hook: Hook::Forward, priority: 0, drops };
        Chain { family: "ip", table: "filter".into(), name: "FORWARD".into(), base: Some(base) }
    }

    fn rule(chain: &str) -> Rule {
        Rule { family: "ip", table: "filter".into(), chain: chain.into(), ..Rule::default() }
    }

    fn judge(chain: Chain, rules: Vec<Rule>) -> Verdict {
        drops(&Ruleset { tables: Vec::new(), chains: vec![chain], rules }, &[])[0].verdict
    }

    #[test]
    fn a_chain_that_drops_must_accept_translated_connections() {
        assert_eq!(judge(forward(false), vec![]), Verdict::Ok);
        assert_eq!(judge(forward(true), vec![]), Verdict::Warning);
        let accepts = Rule { accepts_translated: true, ..rule("FORWARD") };
        assert_eq!(judge(forward(true), vec![accepts]), Verdict::Ok);
        let jump = Rule { leads_to: Some("mine".into()), ..rule("FORWARD") };
        let deep = Rule { accepts_translated: true, ..rule("mine") };
        assert_eq!(judge(forward(true), vec![jump.clone(), deep.clone()]), Verdict::Ok);
        assert_eq!(judge(forward(true), vec![deep]), Verdict::Warning, "nothing leads there");
        let back = Rule { leads_to: Some("FORWARD".into()), ..rule("mine") };
        assert_eq!(judge(forward(true), vec![jump, back]), Verdict::Warning, "a ring ends too");
    }

    #[test]
    fn a_last_rule_that_drops_counts_as_a_policy() {
        let last = Rule { drops_all: true, ..rule("FORWARD") };
        assert_eq!(judge(forward(false), vec![last]), Verdict::Warning);
        let elsewhere = Rule { drops_all: true, ..rule("INPUT") };
        assert_eq!(judge(forward(false), vec![elsewhere]), Verdict::Ok);
    }

    #[test]
    fn what_is_not_read_is_said() {
        let findings = drops(&Ruleset::default(), &["nat".into(), "filter".into()]);
        assert_eq!(findings[0].verdict, Verdict::Note);
        assert_eq!(drops(&Ruleset::default(), &["nat".into()])[0].verdict, Verdict::Ok);
    }

    #[test]
    fn forwarding_and_bridges() {
        assert_eq!(forwards(Some(1), Some(1)).verdict, Verdict::Ok);
        assert_eq!(forwards(Some(1), Some(0)).verdict, Verdict::Note);
        assert_eq!(forwards(Some(0), Some(1)).verdict, Verdict::Warning);
        assert_eq!(forwards(None, None).verdict, Verdict::Warning);
        assert_eq!(bridged(&[], None, None).verdict, Verdict::Ok);
        assert_eq!(bridged(&["br0".into()], None, None).verdict, Verdict::Warning);
        assert_eq!(bridged(&["br0".into()], Some(1), Some(1)).verdict, Verdict::Ok);
    }
}
