//! One node: its balancer, its dataplane's counters and its way to choose.

use plimsoll_core::balancer::{Balancer, Parameters};
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::policy::Limit;
use plimsoll_core::service::{Here, ServiceId};
use plimsoll_core::table::Weighted;
use plimsoll_core::time::Timestamp;

use super::ledger::Ledger;
use super::{index, node_name};
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::processor::Reading;
use crate::selection::{self, Kind, Known, Picture, Selection, Weight};

/// One node.
pub(super) struct Node {
    number: usize,
    pub(super) balancer: Balancer,
    pub(super) ledger: Ledger,
    pub(super) selection: Box<dyn Selection>,
    /// The weights in its dataplane.
    weights: Vec<Weight>,
    /// The endpoints whose signals it reads.
    pub(super) hosted: Vec<usize>,
    /// What it read of them last.
    readings: Vec<(Timestamp, Reading)>,
    /// When it is to be woken, as far as is in the queue.
    pub(super) wakes_at: Timestamp,
    /// Its new connections per second, as it reports them.
    pub(super) rate: f64,
}

impl Node {
    pub(super) fn new(
        number: usize,
        parameters: &Parameters,
        kind: Kind,
        with_load: bool,
        dice: &mut Dice,
    ) -> Node {
        let here = Here { node: node_name(number), zone: None };
        Node {
            number,
            balancer: Balancer::new(here, parameters.clone()),
            ledger: Ledger::new(parameters.horizon()),
            selection: selection::with_agent(kind, with_load, parameters.tick, dice),
            weights: Vec::new(),
            hosted: Vec::new(),
            readings: Vec::new(),
            wakes_at: Timestamp::NEVER,
            rate: 0.0,
        }
    }

    /// Does what a dataplane does with a plan; how many weights it wrote. `cluster` is given when endpoints change.
    pub(super) fn apply(
        &mut self,
        now: Timestamp,
        plan: &Plan,
        cluster: Option<&Cluster>,
        dice: &mut Dice,
    ) -> u64 {
        if let Some(cluster) = cluster {
            for id in &plan.host {
                let endpoint = index(id);
                self.ledger.hosted.join(endpoint, cluster.endpoints[endpoint].open);
                if let Err(place) = self.hosted.binary_search(&endpoint) {
                    self.hosted.insert(place, endpoint);
                }
            }
            for id in &plan.know {
                let endpoint = index(id);
                self.ledger.sent.join(endpoint, cluster.own(self.number)[endpoint]);
            }
        }
        for id in &plan.unhost {
            let endpoint = index(id);
            self.ledger.hosted.leave(endpoint);
            self.hosted.retain(|hosted| *hosted != endpoint);
        }
        for id in &plan.forget {
            self.ledger.sent.leave(index(id));
        }
        let mut changes = 0;
        for change in &plan.changes {
            let weights = match change {
                Change::Replace(_, table) | Change::Reweight(_, table) => weights(&table.cluster),
                Change::Remove(_) => Vec::new(),
            };
            let is_new = |weight: &&Weight| !self.weights.contains(weight);
            changes += weights.iter().filter(is_new).count() as u64;
            self.selection.set(now, &weights, dice);
            self.weights = weights;
        }
        changes
    }

    /// What an endpoint used since it was read last: cores in use, and the part of the time in which some request
    /// waited.
    pub(super) fn meter(&mut self, now: Timestamp, endpoint: usize, reading: Reading) -> Reading {
        if self.readings.len() <= endpoint {
            self.readings.resize(endpoint + 1, (Timestamp::ZERO, Reading::default()));
        }
        let (then, before) = std::mem::replace(&mut self.readings[endpoint], (now, reading));
        let elapsed = now.seconds_since(then).max(1e-9);
        Reading {
            busy: (reading.busy - before.busy) / elapsed,
            waiting: (reading.waiting - before.waiting) / elapsed,
        }
    }

    /// Tells the dataplane what the node knows of the cluster, if it wants to know.
    pub(super) fn look(&mut self, now: Timestamp, service: &ServiceId) {
        if !self.selection.wants_picture() {
            return;
        }
        let Some(explanation) = self.balancer.explain(now, service) else { return };
        let mut picture = Picture { here: self.number, ..Picture::default() };
        for endpoint in explanation.endpoints.iter().filter(|endpoint| endpoint.share.is_some()) {
            picture.endpoints.push(Known {
                endpoint: index(&endpoint.endpoint),
                others: (endpoint.open - endpoint.sent).max(0.0),
                capacity: endpoint.capacity,
                held_back: matches!(
                    endpoint.limit,
                    Some(Limit::Failing | Limit::Recovering | Limit::NoEvidence)
                ),
            });
        }
        let nodes = self.balancer.nodes(now);
        let number = |name: &str| name["node".len()..].parse::<usize>().unwrap_or(0);
        let most = nodes.iter().map(|node| number(node.node.as_str())).max().unwrap_or(0).max(self.number);
        picture.rates.resize(most + 1, 0.0);
        for node in &nodes {
            picture.rates[number(node.node.as_str())] = node.opens_per_second;
        }
        picture.rates[self.number] = self.rate;
        self.selection.look(now, &picture);
    }

    /// The share of an endpoint in its dataplane.
    pub(super) fn share(&self, endpoint: usize) -> Option<f64> {
        let at = self.weights.binary_search_by_key(&endpoint, |weight| weight.endpoint).ok()?;
        let sum: u32 = self.weights.iter().map(|weight| weight.weight).sum();
        Some(f64::from(self.weights[at].weight) / f64::from(sum))
    }
}

fn weights(list: &[Weighted]) -> Vec<Weight> {
    list.iter().map(|entry| Weight { endpoint: index(&entry.endpoint), weight: entry.weight }).collect()
}
