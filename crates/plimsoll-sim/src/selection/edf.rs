//! Corrected stride order as a program in the dataplane would run it: the core's order over the node's part of the
//! ring, with the node's own young connections, and an excess flow outside of the aperture.

use std::collections::VecDeque;
use std::time::Duration;

use plimsoll_core::selection::aperture;
use plimsoll_core::selection::edf::{Order, Parameters, count_correction};
use plimsoll_core::time::Timestamp;

use super::{Selection, Weight};
use crate::dice::Dice;

/// A connection is young for this long: its work is likely still to be done.
const YOUNG: Duration = Duration::from_secs(1);
/// For this long after its start a node does not know the others' rates well enough for the ring.
const WITHOUT_RING: Duration = Duration::from_secs(20);
/// The aperture's least width, and the least number of endpoints that it covers.
const LEAST_WIDTH: f64 = 0.25;
const LEAST_ENDPOINTS: f64 = 4.0;
/// The bucket of the flow within the aperture: it fills at this many times the node's usual rate, and holds these
/// many connections and seconds of that rate.
const BUCKET_RATE: f64 = 1.25;
const BUCKET_CONNECTIONS: f64 = 4.0;
const BUCKET_SECONDS: f64 = 0.1;

/// What a node knows of the cluster, beside weights.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// By endpoint index: connections that the other nodes have open there, and its capacity as reckoned with; in the
    /// order of endpoints.
    pub others: Vec<(usize, f64, f64)>,
    /// Each node's new connections per second, by node index.
    pub rates: Vec<f64>,
    /// This node's index.
    pub here: usize,
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
    /// When each young connection opened, by endpoint.
    young: Vec<VecDeque<Timestamp>>,
    picture: Picture,
    bucket: f64,
    filled: Timestamp,
    young_counts: Vec<f64>,
    corrections: Vec<f64>,
    masses: Vec<f64>,
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
            young: Vec::new(),
            picture: Picture::default(),
            bucket: 0.0,
            filled: Timestamp::ZERO,
            young_counts: Vec::new(),
            corrections: Vec::new(),
            masses: Vec::new(),
        }
    }

    /// The node's usual new connections per second.
    fn rate(&self) -> f64 {
        self.picture.rates.get(self.picture.here).copied().unwrap_or(0.0)
    }

    /// Which part of the shares this node serves.
    fn place_on_ring(&mut self, now: Timestamp) {
        let old = std::mem::take(&mut self.parts);
        self.parts = self.parts_at(now).unwrap_or_else(|| self.shares.clone());
        for (member, (old, new)) in old.iter().zip(&self.parts).enumerate() {
            self.order.reweigh(member, *old, *new);
        }
    }

    fn parts_at(&mut self, now: Timestamp) -> Option<Vec<f64>> {
        let nodes = self.picture.rates.len();
        if !self.with_load || nodes < 2 || now.since(Timestamp::ZERO) < WITHOUT_RING {
            return None;
        }
        // All nodes lay nodes and endpoints on the ring in the same order, which has nothing to do with their names.
        let mut ring: Vec<usize> = (0..nodes).collect();
        ring.sort_by_key(|node| spread(*node as u64));
        let rates: Vec<f64> = ring.iter().map(|node| self.picture.rates[*node]).collect();
        let place = ring.iter().position(|node| *node == self.picture.here)?;
        let arc = aperture::arcs(&rates)[place];
        let mut members: Vec<usize> = (0..self.members.len()).collect();
        members.sort_by_key(|member| spread(!(self.members[*member] as u64)));
        let shares: Vec<f64> = members.iter().map(|member| self.shares[*member]).collect();
        let width = aperture::width(shares.len(), LEAST_WIDTH, LEAST_ENDPOINTS);
        aperture::masses(arc, &shares, width, &mut self.masses);
        let sum: f64 = self.masses.iter().sum();
        if sum <= 0.0 {
            return None;
        }
        let mut parts = vec![0.0; members.len()];
        for (member, mass) in members.iter().zip(&self.masses) {
            parts[*member] = mass / sum;
        }
        Some(parts)
    }

    /// Whether the next connection is within the node's usual flow.
    fn is_usual(&mut self, now: Timestamp) -> bool {
        let rate = self.rate();
        let most = BUCKET_CONNECTIONS + BUCKET_SECONDS * rate;
        self.bucket = (self.bucket + BUCKET_RATE * rate * now.seconds_since(self.filled)).min(most);
        self.filled = now;
        let usual = self.bucket >= 1.0;
        if usual {
            self.bucket -= 1.0;
        }
        usual
    }

    fn correct(&mut self, own: &[u32]) {
        self.corrections.clear();
        self.corrections.resize(self.members.len(), 0.0);
        if self.with_load || self.picture.others.is_empty() {
            return;
        }
        let (mut held, mut capacity) = (0.0, 0.0);
        for (endpoint, others, size) in &self.picture.others {
            held += others + f64::from(own[*endpoint]);
            capacity += size;
        }
        for (correction, endpoint) in self.corrections.iter_mut().zip(&self.members) {
            let known = self.picture.others.binary_search_by_key(endpoint, |(endpoint, ..)| *endpoint);
            if let Ok(at) = known {
                let (_, others, size) = self.picture.others[at];
                let excess = others + f64::from(own[*endpoint]) + 1.0 - held * size / capacity;
                *correction = count_correction(excess);
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
            let count = self.young.get_mut(*endpoint).map_or(0, |young| {
                while young.front().is_some_and(|opened| now.since(*opened) >= YOUNG) {
                    young.pop_front();
                }
                young.len()
            });
            self.young_counts.push(count as f64);
        }
        self.correct(own);
        let usual = !self.with_load || self.is_usual(now);
        let (order, weights) =
            if usual { (&mut self.order, &self.parts) } else { (&mut self.excess, &self.shares) };
        let chosen = order.choose(weights, &self.young_counts, &self.corrections)?;
        Some(self.members[chosen])
    }

    fn opened(&mut self, now: Timestamp, endpoint: usize) {
        if self.young.len() <= endpoint {
            self.young.resize(endpoint + 1, VecDeque::new());
        }
        self.young[endpoint].push_back(now);
    }

    fn closed(&mut self, now: Timestamp, endpoint: usize, opened: Timestamp) {
        if now.since(opened) < YOUNG
            && let Some(young) = self.young.get_mut(endpoint)
            && let Ok(at) = young.binary_search(&opened)
        {
            young.remove(at);
        }
    }

    fn wants_picture(&self) -> bool {
        true
    }

    fn look(&mut self, now: Timestamp, picture: &Picture) {
        self.picture.clone_from(picture);
        self.place_on_ring(now);
    }
}

/// A number that has nothing to do with another's but is the same on all nodes.
fn spread(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
