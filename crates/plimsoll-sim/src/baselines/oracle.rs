//! Dispatchers that know everything at every moment: yardsticks that nobody can build.

use plimsoll_core::time::Timestamp;

use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::steering::Steering;

/// What an oracle looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Open connections per capacity.
    Connections,
    /// Requests in work per current speed; where connections cost nothing, the same as `Connections`.
    Work,
}

impl Sight {
    fn level(self, cluster: &Cluster, endpoint: usize) -> f64 {
        let endpoint = &cluster.endpoints[endpoint];
        if self == Sight::Work && cluster.has_work {
            (endpoint.processor.running() as f64 + 1.0) / endpoint.processor.cores()
        } else {
            (f64::from(endpoint.open) + 1.0) / endpoint.capacity
        }
    }
}

/// Join the shortest queue, by the whole truth.
///
/// Source: W. Winston, "Optimality of the shortest line discipline", Journal of Applied Probability 14, 1977.
pub struct ShortestQueue {
    sight: Sight,
    dice: Dice,
}

impl ShortestQueue {
    /// An oracle of this sight.
    pub fn new(sight: Sight, dice: Dice) -> ShortestQueue {
        ShortestQueue { sight, dice }
    }
}

impl Steering for ShortestQueue {
    fn choose(&mut self, _now: Timestamp, _node: usize, cluster: &Cluster) -> Option<usize> {
        // Equals by turns: which comes first is drawn.
        let count = cluster.serving.len();
        let first = self.dice.below(count.max(1));
        let mut best: Option<(f64, usize)> = None;
        for offset in 0..count {
            let endpoint = cluster.serving[(first + offset) % count];
            let level = self.sight.level(cluster, endpoint);
            if best.is_none_or(|(least, _)| level < least) {
                best = Some((level, endpoint));
            }
        }
        best.map(|(_, endpoint)| endpoint)
    }
}

/// The better of two draws, weighted by capacity, by the whole truth.
///
/// Source: M. Mitzenmacher, "The power of two choices in randomized load balancing", IEEE Transactions on Parallel
/// and Distributed Systems 12, 2001.
pub struct PowerOfTwo {
    sight: Sight,
    dice: Dice,
    sums: Vec<f64>,
}

impl PowerOfTwo {
    /// An oracle of this sight.
    pub fn new(sight: Sight, dice: Dice) -> PowerOfTwo {
        PowerOfTwo { sight, dice, sums: Vec::new() }
    }
}

impl Steering for PowerOfTwo {
    fn choose(&mut self, now: Timestamp, _node: usize, cluster: &Cluster) -> Option<usize> {
        if self.sums.len() != cluster.serving.len() {
            self.members_changed(now, cluster);
        }
        if cluster.serving.is_empty() {
            return None;
        }
        let [a, b] =
            [self.dice.weighted(&self.sums), self.dice.weighted(&self.sums)].map(|at| cluster.serving[at]);
        Some(if self.sight.level(cluster, b) < self.sight.level(cluster, a) { b } else { a })
    }

    fn members_changed(&mut self, _now: Timestamp, cluster: &Cluster) {
        let mut sum = 0.0;
        self.sums.clear();
        self.sums.extend(cluster.serving.iter().map(|endpoint| {
            sum += cluster.endpoints[*endpoint].capacity;
            sum
        }));
    }
}
