//! What was seen, held against the table and against what kube-proxy alone does.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use crate::dial::{Probe, Sight, Sights, deciding_node, is_node};
use crate::table::{Sees, Served, Source};
use crate::witness::Key;
use crate::world::World;

/// What has to be the same: which endpoints, seeing whom; how often is chance. Where one client sees but one endpoint,
/// which is chance too.
pub(crate) fn essence(sees: &Sees, sights: &Sights) -> BTreeSet<Sight> {
    let one = matches!(sees, Sees::Answers { one: true, .. });
    let essence = |sight: &Sight| match sight {
        Sight::Answer { source, .. } if one => {
            Sight::Answer { endpoint: "one".into(), source: source.clone() }
        }
        other => other.clone(),
    };
    sights.keys().map(essence).collect()
}

/// What is not as the table has it.
pub(crate) fn unexpected(world: &World, by: &str, sees: &Sees, sights: &Sights) -> Option<String> {
    let only = |sight: &Sight| sights.len() == 1 && sights.contains_key(sight);
    let (of, one, expected_source) = match sees {
        Sees::Refused => return (!only(&Sight::Refused)).then(|| "not refused".into()),
        Sees::Silence => return (!only(&Sight::Silence)).then(|| "not silence".into()),
        Sees::Status(status) => {
            return (!only(&Sight::Status(*status))).then(|| format!("not the status {status}"));
        }
        Sees::Answers { of, one, source } => (of, *one, *source),
    };
    let mut endpoints = BTreeSet::new();
    for sight in sights.keys() {
        let Sight::Answer { endpoint, source } = sight else { return Some("not only answers".into()) };
        endpoints.insert(endpoint.clone());
        let fits = match expected_source {
            None => true,
            // A node's own address is the node's.
            Some(Source::Oneself) => source == by,
            Some(Source::Node) => is_node(world, source),
        };
        if !fits {
            return Some(format!("{endpoint} saw {source}"));
        }
    }
    let right = if one { endpoints.len() == 1 && endpoints.is_subset(of) } else { endpoints == *of };
    let expected = || of.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    (!right).then(|| format!("not {}{}", if one { "one of " } else { "" }, expected()))
}

/// Where the witness notes a probe's packets, if they were left to kube-proxy: on which node, and under which key.
pub(crate) fn noted(world: &World, probe: &Probe) -> Result<(usize, Key)> {
    let source = if probe.to.ip().is_loopback() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        world.host(&probe.by)?.addresses()[usize::from(probe.to.is_ipv6())]
    };
    let key = (source, probe.to.ip(), probe.protocol, probe.to.port());
    Ok((deciding_node(world, probe)?, key))
}

/// Whether the right one served it, by the packets that the witness noted.
pub(crate) fn wrongly_served(served: Served, with_plimsoll: bool, noted: u64) -> Option<String> {
    match (served, with_plimsoll, noted) {
        (Served::Taken | Served::Left, false, 0) => {
            Some("the witness saw no packet with kube-proxy alone".into())
        }
        (Served::Taken, true, 1..) => {
            Some(format!("Plimsoll did not serve it: {noted} packets were left to kube-proxy"))
        }
        (Served::Left, true, 0) => Some("Plimsoll took it, and was to leave it to kube-proxy".into()),
        _ => None,
    }
}

/// What was seen, in a line.
pub(crate) fn show(sights: &Sights) -> String {
    sights.keys().map(Sight::to_string).collect::<Vec<_>>().join(" ")
}
