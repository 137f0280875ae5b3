//! Services that change while clients dial: what the table says must come to hold within some seconds, with kube-proxy
//! alone and with Plimsoll in front.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use plimsoll_lab::control_plane::Mode;

use crate::dial::{Sights, dial, probe};
use crate::differential::publish;
use crate::judge::{essence, noted, show, unexpected, wrongly_served};
use crate::objects::NAMESPACE;
use crate::report::Outcome;
use crate::table::{Case, Service, of};
use crate::witness::{self, Key};
use crate::world::{NODES, World};

/// How long a change may take until all clients see it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came to be seen of one case.
struct Seen {
    by_client: BTreeMap<(String, bool), Sights>,
    problems: Vec<String>,
}

/// What came to be seen of all cases, in the order of the table.
pub(crate) struct Changes(Vec<Seen>);

/// Takes all Services through their changes, each on a thread of its own, and back.
pub(crate) fn run(
    world: &World,
    changing: &[Vec<Service>],
    mode: Mode,
    with_plimsoll: bool,
) -> Result<Changes> {
    let of_service = |states: &[Service]| -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        for (number, state) in states.iter().enumerate() {
            if number > 0 {
                become_next(world, state)?;
            }
            let began = Instant::now();
            for case in &state.cases {
                seen.push(come_to_hold(world, state, case, mode, with_plimsoll, began)?);
            }
        }
        Ok(seen)
    };
    let seen = std::thread::scope(|scope| {
        let running: Vec<_> = changing.iter().map(|states| scope.spawn(move || of_service(states))).collect();
        let seen = running.into_iter().map(|thread| thread.join().expect("changing does not panic"));
        seen.collect::<Result<Vec<_>>>()
    })?;
    let first: Vec<Service> = changing.iter().map(|states| states[0].clone()).collect();
    publish(world, &first)?;
    Ok(Changes(seen.into_iter().flatten().collect()))
}

fn become_next(world: &World, state: &Service) -> Result<()> {
    if state.is("deleted") {
        let kubectl = world.kubectl();
        let of_service = format!("kubernetes.io/service-name={}", state.name);
        kubectl.run(&["delete", "service", &state.name, "-n", NAMESPACE])?;
        kubectl.run(&["delete", "endpointslice", "-n", NAMESPACE, "-l", &of_service])?;
        return Ok(());
    }
    publish(world, std::slice::from_ref(state))
}

/// Dials until all is as the table says, or the time is up.
fn come_to_hold(
    world: &World,
    service: &Service,
    case: &Case,
    mode: Mode,
    with_plimsoll: bool,
    began: Instant,
) -> Result<Seen> {
    loop {
        let seen = look(world, service, case, mode, with_plimsoll)?;
        if seen.problems.is_empty() || began.elapsed() > PATIENCE {
            return Ok(seen);
        }
    }
}

fn look(world: &World, service: &Service, case: &Case, mode: Mode, with_plimsoll: bool) -> Result<Seen> {
    let (sees, served) = (of(mode, &case.sees), *of(mode, &case.served));
    let mut probes = Vec::new();
    for by in &case.by {
        for v6 in [false, true] {
            for at in &case.at {
                probes.extend(probe(world, service, at, by, v6)?);
            }
        }
    }
    let before = passed(world)?;
    let sights = std::thread::scope(|scope| {
        let dialling: Vec<_> = probes.iter().map(|probe| scope.spawn(move || dial(world, probe))).collect();
        let sights = dialling.into_iter().map(|thread| thread.join().expect("dialling does not panic"));
        sights.collect::<Result<Vec<_>>>()
    })?;
    let after = passed(world)?;
    let mut seen = Seen { by_client: BTreeMap::new(), problems: Vec::new() };
    for (probe, sights) in probes.iter().zip(sights) {
        let (node, key) = noted(world, probe)?;
        let [before, after] = [&before, &after].map(|all| all[node].get(&key).copied().unwrap_or_default());
        let problem = wrongly_served(served, with_plimsoll, after - before);
        seen.problems.extend(problem.map(|what| format!("{} to {}: {what}", probe.by, probe.to)));
        let all = seen.by_client.entry((probe.by.clone(), probe.to.is_ipv6())).or_default();
        for (sight, count) in sights {
            *all.entry(sight).or_default() += count;
        }
    }
    for ((by, _), sights) in &seen.by_client {
        let problem = unexpected(world, by, sees, sights);
        seen.problems.extend(problem.map(|what| format!("{by}: {what}; seen: {}", show(sights))));
    }
    Ok(seen)
}

/// What was left to kube-proxy so far, by node.
fn passed(world: &World) -> Result<Vec<BTreeMap<Key, u64>>> {
    (0..NODES).map(|node| witness::passed(world.node(node))).collect()
}

/// What came of each case, from what was seen with kube-proxy alone and with Plimsoll.
pub(crate) fn judge(changing: &[Vec<Service>], mode: Mode, alone: Changes, with: Changes) -> Vec<Outcome> {
    let cases = changing.iter().flatten().flat_map(|state| state.cases.iter().map(move |case| (state, case)));
    let outcome = |((service, case), (alone, with)): ((&Service, &Case), (Seen, Seen))| {
        let sees = of(mode, &case.sees);
        let show_all = |seen: &Seen| show(&seen.by_client.values().flat_map(Clone::clone).collect());
        let (shown, shown_with) = (show_all(&alone), show_all(&with));
        let mut problems: Vec<String> = Vec::new();
        problems.extend(alone.problems.into_iter().map(|what| format!("with kube-proxy alone, {what}")));
        problems.extend(with.problems.into_iter().map(|what| format!("with Plimsoll, {what}")));
        for (client, sights) in &alone.by_client {
            let other = &with.by_client[client];
            if essence(sees, sights) != essence(sees, other) {
                problems.push(format!("{}: alone {}, with Plimsoll {}", client.0, show(sights), show(other)));
            }
        }
        Outcome {
            mode: mode.name(),
            case: format!("{}: {}", service.name, case.name),
            alone: shown,
            with_plimsoll: shown_with,
            served: of(mode, &case.served).word(),
            problems,
        }
    };
    cases.zip(alone.0.into_iter().zip(with.0)).map(outcome).collect()
}
