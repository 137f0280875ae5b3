//! The differential: every case of the table with kube-proxy alone, then with Plimsoll in front; only the choice among
//! the same endpoints may differ.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use plimsoll_lab::control_plane::Mode;

use crate::dial::{Probe, Sights, dial, probe};
use crate::judge::{essence, noted, show, unexpected, wrongly_served};
use crate::objects;
use crate::report::Outcome;
use crate::table::{Case, Service, of};
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
    if services.is_empty() {
        return Ok(());
    }
    let (mut objects, mut statuses) = (String::new(), String::new());
    for service in services {
        for name in service.endpoints.iter().map(|endpoint| &endpoint.name).chain(&service.ranges) {
            world.host(name)?;
        }
        let known = |name: &str| world.listed(name).expect("it was looked for before");
        objects.push_str(&objects::service(service, |name| known(name).addresses));
        objects.push_str(&objects::slices(service, known));
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

/// The cases of a table, and what was seen of them with kube-proxy alone.
pub(crate) struct Differential<'a> {
    mode: Mode,
    parts: Vec<Part<'a>>,
    alone: Pass,
}

impl<'a> Differential<'a> {
    /// Runs all cases with kube-proxy alone.
    pub(crate) fn alone(world: &World, services: &'a [Service], mode: Mode) -> Result<Differential<'a>> {
        let parts = parts(world, services)?;
        let alone = pass(world, &parts)?;
        Ok(Differential { mode, parts, alone })
    }

    /// Runs them again with Plimsoll in front, and compares.
    pub(crate) fn with_plimsoll(self, world: &World) -> Result<Vec<Outcome>> {
        let with = pass(world, &self.parts)?;
        let mut outcomes = Vec::new();
        let mut rest = self.parts.iter().enumerate().peekable();
        while let Some((_, first)) = rest.peek().copied() {
            let mut of_case = Vec::new();
            while let Some((index, _)) = rest.next_if(|(_, part)| std::ptr::eq(part.case, first.case)) {
                of_case.push(index);
            }
            outcomes.push(judge(world, &self.parts, &of_case, self.mode, [&self.alone, &with])?);
        }
        Ok(outcomes)
    }
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
        let (node, key) = noted(world, &part.probe)?;
        for (pass, with_plimsoll) in [(alone, false), (with, true)] {
            let noted = pass.passed[node].get(&key).copied().unwrap_or_default();
            let problem = wrongly_served(served, with_plimsoll, noted);
            problems.extend(problem.map(|what| format!("{} to {}: {what}", part.probe.by, part.probe.to)));
        }
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
        served: served.word(),
        problems,
    })
}
