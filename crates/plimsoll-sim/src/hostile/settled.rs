//! What has to hold once nothing goes wrong any more: everybody knows the truth, and does the same with it.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_core::policy::Limit;
use plimsoll_core::service::{EndpointId, PolicyKind};
use plimsoll_core::time::Timestamp;

use crate::agents::index;

use super::checks::{Broken, Rule, eligible, nominal};
use super::node::Node;
use super::population::Population;

/// How far the share of an endpoint may be off, relative to its capacity share, on a node that heard nothing for
/// long: an old weight stays within the guard's dead band, and shares are quantised.
const FAIR_WITHIN: f64 = 0.25;
/// How far the shares of two nodes may be apart, for the same reasons.
const ALIKE_WITHIN: f64 = 0.3;
/// One step of the weights, at most.
const STEP: f64 = 1.0 / 4096.0;

/// Whether all nodes that have no past with a Service give its endpoints the same shares; how many were compared. What nodes learned of
/// capacities and of weights that worked is theirs alone, so only what follows from the view is compared.
pub(super) fn alike(
    nodes: &mut [Node],
    world: Timestamp,
    population: &Population,
    with_load: bool,
) -> Result<u64, (usize, Broken)> {
    let mut compared = 0;
    for service in population.told().flatten() {
        // By the list, which hints may make another one: who it was first seen on, and the shares there.
        let mut first: BTreeMap<Vec<EndpointId>, (String, Vec<f64>)> = BTreeMap::new();
        for (number, node) in nodes.iter_mut().enumerate() {
            let now = node.clock.read(world);
            let explanation = node.subject().and_then(|subject| subject.explain(now, &service.id));
            let learns = match explanation.as_ref().map(|explanation| explanation.policy) {
                Some(PolicyKind::LvsFeedback) | None => true,
                Some(PolicyKind::Waterline) => with_load,
                Some(PolicyKind::Equal | PolicyKind::Static) => false,
            };
            let shares = explanation.into_iter().flat_map(|explanation| explanation.endpoints);
            let shares = shares.filter_map(|endpoint| Some((endpoint.endpoint, endpoint.share?)));
            let (list, shares): (Vec<EndpointId>, Vec<f64>) = shares.unzip();
            if learns {
                continue;
            }
            let small = 0.2 / list.len().max(1) as f64;
            let (other, others) =
                first.entry(list.clone()).or_insert_with(|| (node.name.to_string(), shares.clone()));
            compared += list.len() as u64;
            for ((endpoint, a), b) in list.iter().zip(&shares).zip(others.iter()) {
                if (a - b).abs() > ALIKE_WITHIN * a.max(*b).max(small) + STEP {
                    let found = format!("{}: {endpoint} has {a} here and {b} on {other}", service.id);
                    return Err((number, (Rule::Alike, found)));
                }
            }
        }
    }
    Ok(compared)
}

/// Whether every node knows how many connections are open at every endpoint.
pub(super) fn counts(
    nodes: &mut [Node],
    world: Timestamp,
    open: &[Vec<u32>],
    population: &Population,
) -> Result<(), (usize, Broken)> {
    for (number, node) in nodes.iter_mut().enumerate() {
        let now = node.clock.read(world);
        let Some(subject) = node.subject() else {
            return Err((number, (Rule::Counts, "its agent does not run".into())));
        };
        for service in population.told().flatten() {
            let Some(explanation) = subject.explain(now, &service.id) else {
                return Err((number, (Rule::Counts, format!("it does not know {}", service.id))));
            };
            for endpoint in &explanation.endpoints {
                let truth: u32 = open.iter().map(|open| open[index(&endpoint.endpoint)]).sum();
                if (endpoint.open - f64::from(truth)).abs() > 1e-6 {
                    let found = format!(
                        "{}: {} has {truth} open connections, and it thinks {} ({:?}, {:?} old)",
                        service.id, endpoint.endpoint, endpoint.open, endpoint.origin, endpoint.age
                    );
                    return Err((number, (Rule::Counts, found)));
                }
            }
        }
    }
    Ok(())
}

/// Whether a node that heard nothing for long, and has no connections of its own, gives capacity shares; and where
/// what it learned of capacities may move them: whether nobody has nothing. How many endpoints were compared.
pub(super) fn fair(
    node: &mut Node,
    world: Timestamp,
    population: &Population,
    with_load: bool,
) -> Result<u64, Broken> {
    let mut compared = 0;
    let now = node.clock.read(world);
    let Some(subject) = node.subject() else { return Err((Rule::Fair, "its agent does not run".into())) };
    if let Some(known) = subject.nodes(now).first() {
        return Err((Rule::Forgets, format!("it still knows {}, {:?} silent", known.node, known.age)));
    }
    for service in population.told().flatten() {
        let Some(explanation) = subject.explain(now, &service.id) else { continue };
        let [cluster, _]: [BTreeSet<EndpointId>; 2] = eligible(service, &node.name, &node.zone);
        let capacities = nominal(service, &cluster);
        let held = |limit| matches!(limit, Some(Limit::Failing | Limit::Recovering | Limit::Frozen));
        let is_equal = explanation.policy == PolicyKind::Equal;
        let is_skewed = with_load && explanation.policy == PolicyKind::Waterline;
        // This policy's weights stay where they are, and what the guard holds back is below its part.
        if explanation.policy == PolicyKind::LvsFeedback
            || explanation.endpoints.iter().any(|endpoint| held(endpoint.limit))
        {
            continue;
        }
        let sum: f64 = if is_equal { cluster.len() as f64 } else { capacities.iter().sum() };
        let eligible = explanation.endpoints.iter().filter(|endpoint| cluster.contains(&endpoint.endpoint));
        for (endpoint, capacity) in eligible.zip(capacities) {
            let fair = if is_equal { 1.0 } else { capacity } / sum;
            let share = endpoint.share.unwrap_or(0.0);
            // A share below one step of the weights is one step.
            compared += 1;
            // What CPU taught is a capacity from a twentieth of the stated one up to any other.
            let is_starved = share <= 0.0;
            let is_off = !is_skewed
                && (share - fair).abs() > FAIR_WITHIN * fair.max(0.2 / cluster.len() as f64) + STEP;
            if is_starved || is_off {
                let found =
                    format!("{}: {} has {share} and its part is {fair}", service.id, endpoint.endpoint);
                return Err((Rule::Fair, found));
            }
        }
    }
    Ok(compared)
}
