//! Corrected stride order as a program in the dataplane would run it: the core's order over the node's part of the
//! ring, with the node's own young connections, and an excess flow outside of the aperture.

use std::time::Duration;

use plimsoll_core::selection::aperture;
use plimsoll_core::selection::edf::{Order, Parameters, count_correction};
use plimsoll_core::selection::excess::Bucket;
use plimsoll_core::selection::lives::Lives;
use plimsoll_core::time::Timestamp;

use super::young::Young;
use super::{Selection, Weight};
use crate::dice::Dice;

/// A connection is young for this long: its work is likely still to be done.
const YOUNG: Duration = Duration::from_secs(1);
/// For this long after its start a node does not know the others' rates well enough for the ring.
const WITHOUT_RING: Duration = Duration::from_secs(20);
/// What a node knows of the cluster, beside weights.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// In the order of endpoints.
    pub endpoints: Vec<Known>,
    /// Each node's new connections per second, by node index.
    pub rates: Vec<f64>,
    /// This node's index.
    pub here: usize,
}

/// What a node knows of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Which endpoint.
    pub endpoint: usize,
    /// Connections that the other nodes have open there.
    pub others: f64,
    /// Its capacity as reckoned with.
    pub capacity: f64,
    /// The guard holds it back: whatever it holds, it is not to be preferred.
    pub held_back: bool,
}

/// Corrected stride order.
pub(super) struct Edf {
    with_load: bool,
    members: Vec<usize>,
    /// The policy's shares, summing to 1.
    shares: Vec<f64>,
    /// What this node serves of them; the same as `shares` without a ring.
    parts: Vec<f64>,
    order: Order,
    /// The order of the excess flow, which goes by `shares`.
    excess: Order,
    /// The node's own young connections that are open, and all that were opened in the same time.
    young: Young,
    opened: Young,
    lives: Lives,
    picture: Picture,
    bucket: Bucket,
    young_counts: Vec<f64>,
    corrections: Vec<f64>,
}

impl Edf {
    pub(super) fn new(with_load: bool) -> Edf {
        let order = || Order::new(Parameters::default(), Vec::new());
        Edf {
            with_load,
            members: Vec::new(),
            shares: Vec::new(),
            parts: Vec::new(),
            order: order(),
            excess: order(),
            young: Young::default(),
            opened: Young::default(),
            lives: Lives::default(),
            picture: Picture::default(),
            bucket: Bucket::default(),
            young_counts: Vec::new(),
            corrections: Vec::new(),
        }
    }

    /// The node's usual new connections per second.
    fn rate(&self) -> f64 {
        self.picture.rates.get(self.picture.here).copied().unwrap_or(0.0)
    }

    /// Which part of the shares this node serves.
    fn place_on_ring(&mut self, now: Timestamp) {
        let old = std::mem::take(&mut self.parts);
        let nodes = self.picture.rates.len();
        if self.with_load && nodes >= 2 && now.since(Timestamp::ZERO) >= WITHOUT_RING {
            let rates = self.picture.rates.iter().enumerate();
            let nodes: Vec<_> = rates.map(|(node, rate)| (spread(node as u64), *rate)).collect();
            let members = self.members.iter().zip(&self.shares);
            let endpoints: Vec<_> =
                members.map(|(endpoint, share)| (spread(!(*endpoint as u64)), *share)).collect();
            aperture::parts(&nodes, self.picture.here, &endpoints, &mut self.parts);
        } else {
            self.parts.clone_from(&self.shares);
        }
        for (member, (old, new)) in old.iter().zip(&self.parts).enumerate() {
            self.order.reweigh(member, *old, *new);
        }
    }

    fn correct(&mut self, own: &[u32]) {
        self.corrections.clear();
        self.corrections.resize(self.members.len(), 0.0);
        if self.with_load || self.picture.endpoints.is_empty() {
            return;
        }
        let (mut held, mut capacity) = (0.0, 0.0);
        for known in &self.picture.endpoints {
            held += known.others + f64::from(own[known.endpoint]);
            capacity += known.capacity;
        }
        for (correction, endpoint) in self.corrections.iter_mut().zip(&self.members) {
            let known = &self.picture.endpoints;
            if let Ok(at) = known.binary_search_by_key(endpoint, |known| known.endpoint) {
                let known = known[at];
                let holds = known.others + f64::from(own[*endpoint]) + 1.0;
                *correction = count_correction(holds - held * known.capacity / capacity);
                if known.held_back {
                    *correction = correction.max(0.0);
                }
            }
        }
    }
}

impl Selection for Edf {
    fn set(&mut self, now: Timestamp, weights: &[Weight], dice: &mut Dice) {
        let sum: f64 = weights.iter().map(|weight| f64::from(weight.weight)).sum();
        let shares: Vec<f64> = weights.iter().map(|weight| f64::from(weight.weight) / sum).collect();
        let members: Vec<usize> = weights.iter().map(|weight| weight.endpoint).collect();
        if members == self.members {
            for (member, (old, new)) in self.shares.iter().zip(&shares).enumerate() {
                self.excess.reweigh(member, *old, *new);
            }
        } else {
            let kept = |order: &Order, endpoint: &usize| {
                self.members.binary_search(endpoint).ok().map(|at| order.phases()[at])
            };
            let mut fresh =
                |endpoint| kept(&self.order, endpoint).unwrap_or_else(|| dice.exponential(1.0).min(3.0));
            let phases = members.iter().map(&mut fresh).collect();
            let excess = members.iter().map(|endpoint| kept(&self.excess, endpoint).unwrap_or(0.5)).collect();
            let parts = members.iter().map(|endpoint| {
                let known = self.members.binary_search(endpoint).ok();
                known.and_then(|at| self.parts.get(at)).copied().unwrap_or(0.0)
            });
            self.parts = parts.collect();
            self.order = Order::new(Parameters::default(), phases);
            self.excess = Order::new(Parameters::default(), excess);
            self.members = members;
        }
        self.shares = shares;
        self.place_on_ring(now);
    }

    fn choose(&mut self, now: Timestamp, own: &[u32], _dice: &mut Dice) -> Option<usize> {
        self.young_counts.clear();
        for endpoint in &self.members {
            self.young.forget(*endpoint, now.before(YOUNG));
            self.opened.forget(*endpoint, now.before(YOUNG));
            let counted = if self.lives.end_at_once(*endpoint) { &self.opened } else { &self.young };
            self.young_counts.push(counted.count(*endpoint) as f64);
        }
        self.correct(own);
        let usual = !self.with_load || self.bucket.takes(now, self.rate());
        let (order, weights) =
            if usual { (&mut self.order, &self.parts) } else { (&mut self.excess, &self.shares) };
        let chosen = order.choose(weights, &self.young_counts, &self.corrections)?;
        Some(self.members[chosen])
    }

    fn opened(&mut self, now: Timestamp, endpoint: usize) {
        self.young.opened(now, endpoint);
        self.opened.opened(now, endpoint);
    }

    fn closed(&mut self, now: Timestamp, endpoint: usize, opened: Timestamp) {
        self.lives.ended(endpoint, now.seconds_since(opened));
        self.young.closed(endpoint, opened);
    }

    fn wants_picture(&self) -> bool {
        true
    }

    fn look(&mut self, now: Timestamp, picture: &Picture) {
        self.picture.clone_from(picture);
        self.lives.compare(&self.members);
        self.place_on_ring(now);
    }
}

/// A number that has nothing to do with another's but is the same on all nodes.
fn spread(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
