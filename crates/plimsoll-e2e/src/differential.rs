//! The differential: every case of the table with kube-proxy alone, then with Plimsoll in front; only the choice among
//! the same endpoints may differ.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use plimsoll_lab::control_plane::Mode;

use crate::dial::{Probe, Sight, Sights, deciding_node, dial, is_node, probe};
use crate::objects;
use crate::report::Outcome;
use crate::table::{Case, Sees, Served, Service, Source, of};
use crate::witness::{self, Key};
use crate::world::{NODES, World};

/// How many clients dial at a time.
const AT_A_TIME: usize = 24;

/// A client's part of a case in one family.
struct Part<'a> {
    service: &'a Service,
    case: &'a Case,
    probe: Probe,
}

/// What was seen in one pass over all parts, and what was left to kube-proxy on each node meanwhile.
struct Pass {
    sights: Vec<Sights>,
    passed: Vec<BTreeMap<Key, u64>>,
}

/// Puts the Services of the table into the API server.
pub(crate) fn publish(world: &World, services: &[Service]) -> Result<()> {
    let (mut objects, mut statuses) = (String::new(), String::new());
    for service in services {
        for name in service.endpoints.iter().map(|endpoint| &endpoint.name).chain(&service.ranges) {
            world.host(name)?;
        }
        let known = |name: &str| world.listed(name).expect("it was looked for before");
        objects.push_str(&objects::service(service, |name| known(name).addresses));
        if !service.endpoints.is_empty() {
            objects.push_str(&objects::slices(service, known));
        }
        statuses.extend(objects::status(service));
    }
    let kubectl = world.kubectl();
    kubectl.apply(&objects)?;
    if !statuses.is_empty() {
        kubectl.apply_status(&statuses)?;
    }
    Ok(())
}

/// How many Services (one per port and family) agents are to know of.
pub(crate) fn followed(services: &[Service]) -> usize {
    let ports = |service: &Service| service.protocols.len() + usize::from(service.is("two-ports"));
    services.iter().filter(|s| s.is_followed()).map(|s| ports(s) * s.families().count()).sum()
}

/// Runs all cases in a mode, with kube-proxy alone and with Plimsoll; agents run afterwards.
pub(crate) fn run(
    world: &mut World,
    services: &[Service],
    mode: Mode,
    tell: &dyn Fn(&str),
) -> Result<Vec<Outcome>> {
    let parts = parts(world, services)?;
    world.start_proxies(mode)?;
    tell(&format!("{}: {} clients dial with kube-proxy alone", mode.name(), parts.len()));
    let alone = pass(world, &parts)?;
    tell(&format!("{}: agents start", mode.name()));
    world.start_agents(followed(services))?;
    tell(&format!("{}: {} clients dial with Plimsoll in front", mode.name(), parts.len()));
    let with = pass(world, &parts)?;
    let mut outcomes = Vec::new();
    let mut rest = parts.iter().enumerate().peekable();
    while let Some((_, first)) = rest.peek().copied() {
        let mut of_case = Vec::new();
        while let Some((index, _)) = rest.next_if(|(_, part)| std::ptr::eq(part.case, first.case)) {
            of_case.push(index);
        }
        outcomes.push(judge(world, &parts, &of_case, mode, [&alone, &with])?);
    }
    Ok(outcomes)
}

fn parts<'a>(world: &World, services: &'a [Service]) -> Result<Vec<Part<'a>>> {
    let mut parts = Vec::new();
    for service in services {
        for case in &service.cases {
            for by in &case.by {
                for v6 in [false, true] {
                    for at in &case.at {
                        let probe = probe(world, service, at, by, v6)?;
                        parts.extend(probe.map(|probe| Part { service, case, probe }));
                    }
                }
            }
        }
    }
    Ok(parts)
}

fn pass(world: &World, parts: &[Part<'_>]) -> Result<Pass> {
    world.begin_witness()?;
    let next = AtomicUsize::new(0);
    let seen: Mutex<Vec<(usize, Result<Sights>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(parts.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    let Some(part) = parts.get(index) else { return };
                    let sights = dial(world, &part.probe);
                    seen.lock().expect("nobody panics while dialling").push((index, sights));
                }
            });
        }
    });
    let mut seen = seen.into_inner().expect("nobody panics while dialling");
    seen.sort_by_key(|(index, _)| *index);
    let sights = seen.into_iter().map(|(_, sights)| sights).collect::<Result<_>>()?;
    let passed = (0..NODES).map(|node| witness::passed(world.node(node))).collect::<Result<_>>()?;
    Ok(Pass { sights, passed })
}

/// What came of one case, from its parts.
fn judge(
    world: &World,
    parts: &[Part<'_>],
    of_case: &[usize],
    mode: Mode,
    [alone, with]: [&Pass; 2],
) -> Result<Outcome> {
    let Part { service, case, .. } = &parts[of_case[0]];
    let (sees, served) = (of(mode, &case.sees), *of(mode, &case.served));
    let mut problems = Vec::new();
    // Those of one client in one family belong together: affinity holds over all addresses of a Service.
    let mut by_client: BTreeMap<(&str, bool), [Sights; 2]> = BTreeMap::new();
    for index in of_case {
        let part = &parts[*index];
        let both = by_client.entry((&part.probe.by, part.probe.to.is_ipv6())).or_default();
        for (sights, pass) in both.iter_mut().zip([alone, with]) {
            for (sight, count) in &pass.sights[*index] {
                *sights.entry(sight.clone()).or_default() += count;
            }
        }
        problems.extend(who_served(world, &part.probe, served, [alone, with])?);
    }
    for ((by, v6), [alone, with]) in &by_client {
        let who = format!("{by} by {}", if *v6 { "IPv6" } else { "IPv4" });
        for (what, sights) in [("with kube-proxy alone", alone), ("with Plimsoll", with)] {
            if let Some(problem) = unexpected(world, by, sees, sights) {
                problems.push(format!("{who}, {what}: {problem}; seen: {}", show(sights)));
            }
        }
        if essence(sees, alone) != essence(sees, with) {
            problems.push(format!("{who}: alone {}, with Plimsoll {}", show(alone), show(with)));
        }
    }
    let both = |i: usize| {
        by_client.values().map(|both| &both[i]).fold(Sights::new(), |mut all, sights| {
            all.extend(sights.clone());
            all
        })
    };
    Ok(Outcome {
        mode: mode.name(),
        case: format!("{}: {}", service.name, case.name),
        alone: show(&both(0)),
        with_plimsoll: show(&both(1)),
        served: match served {
            Served::Taken => "taken",
            Served::Left => "left",
            Served::Neither => "-",
        },
        problems,
    })
}

/// What has to be the same: which endpoints, seeing whom; how often is chance. Where one client sees but one endpoint,
/// which is chance too.
fn essence(sees: &Sees, sights: &Sights) -> BTreeSet<Sight> {
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
fn unexpected(world: &World, by: &str, sees: &Sees, sights: &Sights) -> Option<String> {
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

/// Whether the right one served it, by what was left to kube-proxy.
fn who_served(
    world: &World,
    probe: &Probe,
    served: Served,
    [alone, with]: [&Pass; 2],
) -> Result<Option<String>> {
    if served == Served::Neither {
        return Ok(None);
    }
    let source = if probe.to.ip().is_loopback() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        world.host(&probe.by)?.addresses()[usize::from(probe.to.is_ipv6())]
    };
    let key = (source, probe.to.ip(), probe.protocol, probe.to.port());
    let node = deciding_node(world, probe)?;
    let passed = |pass: &Pass| pass.passed[node].get(&key).copied().unwrap_or_default();
    let Probe { by, to, .. } = probe;
    Ok(match (served, passed(alone), passed(with)) {
        (_, 0, _) => Some(format!("{by} to {to}: the witness saw no packet with kube-proxy alone")),
        (Served::Taken, _, left @ 1..) => {
            Some(format!("{by} to {to}: Plimsoll did not serve it; {left} packets were left to kube-proxy"))
        }
        (Served::Left, _, 0) => {
            Some(format!("{by} to {to}: Plimsoll took it, and was to leave it to kube-proxy"))
        }
        _ => None,
    })
}

fn show(sights: &Sights) -> String {
    sights.keys().map(Sight::to_string).collect::<Vec<_>>().join(" ")
}
