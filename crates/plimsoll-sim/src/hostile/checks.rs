//! What has to hold of what a balancer wants and of what its dataplane holds, reckoned anew from what the balancer
//! was told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use plimsoll_core::balancer::{Command, Parameters};
use plimsoll_core::explain::Explanation;
use plimsoll_core::policy::Limit;
use plimsoll_core::service::{
    Endpoint, EndpointId, Key, Mode, NodeName, Place, PolicyKind, Service, ServiceId, TrafficPolicy,
};
use plimsoll_core::table::{ServiceTable, Weighted, full_weight};

use super::kernel::Holding;

/// A rule that every balancer keeps, whatever happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// It does not panic.
    NoPanic,
    /// An event has few commands: one plan at most, a report for counts only, a notice per key and endpoint.
    FewCommands,
    /// No plan while another is under way; after a refusal a fresh one, within a second.
    OnePlan,
    /// A plan fits what it is to change.
    Fitting,
    /// It does not ask to be woken at once again, nor later than the next tick.
    Wakes,
    /// A Service that is gone or observed, and an endpoint that is gone, are out of the dataplane at once.
    Withdrawn,
    /// No weight on an endpoint that may not get new connections.
    NoStranger,
    /// A weight, not of zero, on each endpoint that may.
    NobodyStarves,
    /// Keys that can be served are, each for one Service.
    Keys,
    /// Shares are numbers, sum to 1 and stay within the guard's bounds.
    Bounds,
    /// Leases are renewed in time.
    Renewed,
    /// Leases are not renewed by a node that does not count: it fails open.
    FailsOpen,
    /// Nodes that were told the same want the same.
    Twins,
    /// Who is silent for long is forgotten.
    Forgets,
    /// When all is quiet, every node knows how many connections are open.
    Counts,
    /// When all is quiet, the shares of all nodes are alike.
    Alike,
    /// A node that heard nothing for long gives every endpoint its capacity share.
    Fair,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::NoPanic => "it does not panic",
            Rule::FewCommands => "an event has few commands",
            Rule::OnePlan => {
                "one plan is under way at most, and a fresh one follows a refusal within a second"
            }
            Rule::Fitting => "a plan fits what it is to change",
            Rule::Wakes => "it wants to be woken later than now, and by the next tick",
            Rule::Withdrawn => "what is gone is out of the dataplane at once",
            Rule::NoStranger => "no weight on an endpoint that may not get connections",
            Rule::NobodyStarves => "a weight above zero on every endpoint that may get connections",
            Rule::Keys => "every key that can be served is, for one Service",
            Rule::Bounds => "shares are sane and within their bounds",
            Rule::Renewed => "leases are renewed in time",
            Rule::FailsOpen => "a node that does not count does not renew its leases",
            Rule::Twins => "nodes that were told the same want the same",
            Rule::Forgets => "who is silent for long is forgotten",
            Rule::Counts => "when all is quiet, every node knows what is open",
            Rule::Alike => "when all is quiet, the shares of all nodes are alike",
            Rule::Fair => "a node that heard nothing for long gives capacity shares",
        })
    }
}

/// A rule and how it was broken.
pub(super) type Broken = (Rule, String);

/// The Services that a balancer was told of.
pub(super) type Told = BTreeMap<ServiceId, Arc<Service>>;

/// Who may get new connections, as kube-proxy has it: from anywhere, and of those that must not leave the node.
pub(super) fn eligible(service: &Service, node: &NodeName, zone: &str) -> [BTreeSet<EndpointId>; 2] {
    let choose = |which: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<EndpointId> {
        service.endpoints.iter().filter(|endpoint| which(endpoint)).map(|endpoint| endpoint.id).collect()
    };
    let is_here = |endpoint: &Endpoint| endpoint.node.as_ref() == Some(node);
    let ends = |endpoint: &Endpoint| endpoint.conditions.serving && endpoint.conditions.terminating;
    let ready = |endpoint: &Endpoint| endpoint.conditions.ready;
    let in_zone = |endpoint: &Endpoint| endpoint.for_zones.iter().any(|name| **name == *zone);
    let mut cluster = choose(&ready);
    if cluster.is_empty() {
        cluster = choose(&ends);
    } else {
        let for_node = |endpoint: &Endpoint| endpoint.for_nodes.contains(node);
        // Hints count where all have one, those for nodes before those for zones.
        let hinted = |is_meant: &dyn Fn(&Endpoint) -> bool, has_hint: &dyn Fn(&Endpoint) -> bool| {
            let meant = choose(&|endpoint| ready(endpoint) && is_meant(endpoint));
            let unhinted = choose(&|endpoint| ready(endpoint) && !has_hint(endpoint));
            (unhinted.is_empty() && !meant.is_empty()).then_some(meant)
        };
        let by_node = hinted(&for_node, &|endpoint| !endpoint.for_nodes.is_empty());
        let by_zone = || hinted(&in_zone, &|endpoint| !endpoint.for_zones.is_empty());
        cluster = by_node.or_else(by_zone).unwrap_or(cluster);
    }
    let mut local = choose(&|endpoint| is_here(endpoint) && ready(endpoint));
    if local.is_empty() {
        local = choose(&|endpoint| is_here(endpoint) && ends(endpoint));
    }
    [cluster, local]
}

/// The nominal capacities of the endpoints: where nobody states a sensible one, the median of the others, or 1.
pub(super) fn nominal(service: &Service, of: &BTreeSet<EndpointId>) -> Vec<f64> {
    let endpoints = || service.endpoints.iter().filter(|endpoint| of.contains(&endpoint.id));
    let sensible = |endpoint: &Endpoint| endpoint.capacity.filter(|c| (1e-6..=1e9).contains(c));
    let mut known: Vec<f64> = endpoints().filter_map(sensible).collect();
    known.sort_by(f64::total_cmp);
    let middle = match known.len() {
        0 => 1.0,
        count => f64::midpoint(known[count / 2], known[(count - 1) / 2]),
    };
    endpoints().map(|endpoint| sensible(endpoint).unwrap_or(middle)).collect()
}

/// Whether a dataplane holds what it should, for a node that was told of these Services.
pub(super) fn holding(holding: &Holding, told: &Told, node: &NodeName, zone: &str) -> Result<(), Broken> {
    if let Some(id) = holding.services.keys().find(|id| !told.contains_key(*id)) {
        return Err((Rule::Withdrawn, format!("{id} is gone and still in the dataplane")));
    }
    let mut claims: BTreeMap<Key, &ServiceId> = BTreeMap::new();
    for (id, service) in told {
        for key in &service.keys {
            // Whether an address is internal cannot be seen of a packet.
            claims.entry(destination(*key)).or_insert(id);
        }
    }
    for (id, service) in told {
        let Some(table) = holding.services.get(id) else {
            return Err((Rule::Keys, format!("{id} is not in the dataplane")));
        };
        one(table, service, eligible(service, node, zone), |key| claims[&destination(key)] == id)?;
    }
    let endpoints = || told.values().flat_map(|service| &service.endpoints);
    let known: BTreeSet<EndpointId> = endpoints().map(|endpoint| endpoint.id).collect();
    let hosted_by = |is_here: bool| -> BTreeSet<EndpointId> {
        let these = endpoints().filter(|endpoint| (endpoint.node.as_ref() == Some(node)) == is_here);
        these.map(|endpoint| endpoint.id).collect()
    };
    // While two Services disagree, for want of the second one's news, either is right.
    let mut wanted = hosted_by(true);
    let disputed: BTreeSet<EndpointId> = wanted.intersection(&hosted_by(false)).copied().collect();
    wanted.retain(|endpoint| !disputed.contains(endpoint));
    let hosted: BTreeSet<EndpointId> = holding.hosted.difference(&disputed).copied().collect();
    for (what, present, wanted) in
        [("counted", &holding.known, &known), ("counted as hosted", &hosted, &wanted)]
    {
        if let Some(endpoint) = present.difference(wanted).next() {
            return Err((Rule::Withdrawn, format!("{endpoint} is gone and still {what}")));
        }
        if let Some(endpoint) = wanted.difference(present).next() {
            return Err((Rule::Fitting, format!("{endpoint} is there and not {what}")));
        }
    }
    Ok(())
}

fn destination(key: Key) -> Key {
    match key.place {
        Place::External(address) => Key { place: Place::Internal(address), ..key },
        _ => key,
    }
}

/// Whether the dataplane holds for one Service what it should; `is_its` says whether no other has the key.
fn one(
    table: &ServiceTable,
    service: &Service,
    [cluster, local]: [BTreeSet<EndpointId>; 2],
    is_its: impl Fn(Key) -> bool,
) -> Result<(), Broken> {
    let id = &service.id;
    let is_local = |key: &Key| {
        matches!(key.place, Place::Internal(_)) && service.internal_policy == TrafficPolicy::Local
    };
    let is_served = |key: &Key| {
        let list = if is_local(key) { &local } else { &cluster };
        service.mode == Mode::Enabled && !list.is_empty() && is_its(*key)
    };
    let wanted: BTreeSet<Key> = service.keys.iter().copied().filter(is_served).collect();
    let taken: BTreeSet<Key> = table.keys.iter().map(|entry| entry.key).collect();
    if taken != wanted || taken.len() != table.keys.len() {
        return Err((Rule::Keys, format!("{id}: keys {taken:?} are taken, should be {wanted:?}")));
    }
    if taken.is_empty() {
        return Ok(());
    }
    let has_local = [service.internal_policy, service.external_policy].contains(&TrafficPolicy::Local);
    list(id, &table.cluster, &cluster)?;
    list(id, &table.local, if has_local { &local } else { const { &BTreeSet::new() } })
}

/// Whether those that may get connections, and nobody else, have a sensible weight.
fn list(id: &ServiceId, list: &[Weighted], eligible: &BTreeSet<EndpointId>) -> Result<(), Broken> {
    let full = full_weight(list.len());
    if !list.is_sorted_by(|a, b| a.endpoint < b.endpoint) {
        return Err((Rule::Fitting, format!("{id}: the list is not sorted")));
    }
    for Weighted { endpoint, weight } in list {
        if !eligible.contains(endpoint) {
            return Err((
                Rule::NoStranger,
                format!("{id}: {endpoint} weighs {weight} and may not get connections"),
            ));
        }
        if *weight == 0 {
            return Err((Rule::NobodyStarves, format!("{id}: {endpoint} weighs nothing")));
        }
        if *weight > full {
            return Err((Rule::Bounds, format!("{id}: {endpoint} weighs {weight} of {full}")));
        }
    }
    let listed = |endpoint: &&EndpointId| list.binary_search_by_key(*endpoint, |one| one.endpoint).is_ok();
    match eligible.iter().find(|endpoint| !listed(endpoint)) {
        Some(endpoint) => Err((Rule::NobodyStarves, format!("{id}: {endpoint} has no weight"))),
        None => Ok(()),
    }
}

/// What bounds depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// New endpoints are eased in: where all are new, the bounds are relative to each other.
    pub(super) is_eased_in: bool,
    /// The weights were decided by the figures that are explained.
    pub(super) is_prompt: bool,
}

/// Whether the weights of a list lie within what the explanation of the last decision allows.
pub(super) fn bounds(
    table: &ServiceTable,
    explanation: &Explanation,
    circumstances: Circumstances,
    parameters: &Parameters,
) -> Result<(), Broken> {
    let list = &table.cluster;
    let id = &explanation.service;
    if list.len() < 2 {
        return Ok(());
    }
    let full = f64::from(full_weight(list.len()));
    let explained: Vec<_> =
        explanation.endpoints.iter().filter(|endpoint| endpoint.share.is_some()).collect();
    let mut targets: Vec<f64> = explained.iter().map(|endpoint| endpoint.target).collect();
    let sum: f64 = targets.iter().sum();
    let sane = |value: f64| value.is_finite() && value > 0.0;
    // What is none counts as missing.
    let is_figure = |value: f64| (0.0..=1e12).contains(&value);
    if (sum - 1.0).abs() > 1e-6 || !targets.iter().copied().all(sane) {
        return Err((Rule::Bounds, format!("{id}: targets sum to {sum}: {targets:?}")));
    }
    // What those that are held back may not have goes to the others, which are half of the group at least.
    targets.sort_by(f64::total_cmp);
    let others: f64 = targets[..list.len().div_ceil(2)].iter().sum();
    let boost = match explanation.policy {
        PolicyKind::Equal | PolicyKind::Static => 1.0,
        // By counts alone, a few connections may always go to one endpoint.
        PolicyKind::Waterline
            if circumstances.is_prompt
                && explained.iter().any(|endpoint| endpoint.cpu.is_some_and(is_figure)) =>
        {
            parameters.policies.waterline.boost
        }
        PolicyKind::Waterline | PolicyKind::LvsFeedback => f64::INFINITY,
    };
    let small = 0.2 / list.len() as f64;
    for (one, endpoint) in list.iter().zip(explained) {
        let share = f64::from(one.weight) / full;
        // Within the dead band an old weight stays.
        let slack = parameters.guard.dead_band * share.max(small) + 1.0 / full;
        let least = parameters.guard.floor * endpoint.target;
        let most = match endpoint.limit {
            _ if circumstances.is_eased_in => 1.0,
            Some(Limit::Failing) => least,
            Some(Limit::Recovering) => endpoint.target,
            _ => boost * endpoint.target / others,
        };
        if share < least - slack || share > most.min(1.0) + slack {
            let limit = endpoint.limit;
            return Err((
                Rule::Bounds,
                format!(
                    "{id}: {} has {share} and may have {least} to {most} of a target of {}; limit {limit:?}",
                    one.endpoint, endpoint.target
                ),
            ));
        }
    }
    Ok(())
}

/// Whether two balancers want the same done. Their reports differ in the name.
pub(super) fn alike(one: &[Command], other: &[Command]) -> bool {
    let same = |(one, other): (&Command, &Command)| match (one, other) {
        (Command::Publish(a), Command::Publish(b)) => {
            (a.age, &a.hosted, &a.sent) == (b.age, &b.hosted, &b.sent)
                && a.opens_per_second.to_bits() == b.opens_per_second.to_bits()
        }
        (Command::Apply(a), Command::Apply(b)) => a == b,
        (Command::Tell(a), Command::Tell(b)) => a == b,
        _ => false,
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

/// Where what two balancers want done begins to differ.
pub(super) fn difference(one: &[Command], other: &[Command]) -> String {
    let (one, other) = (format!("{one:?}"), format!("{other:?}"));
    let same = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| -> String { text.chars().skip(same.saturating_sub(100)).take(200).collect() };
    format!("one wants …{}…, the other …{}…", around(&one), around(&other))
}
