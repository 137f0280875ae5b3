//! Stocks as weights, for dataplanes that choose by the node's own connections, as IPVS' shortest expected delay does:
//! how many of them each endpoint should hold, not which part of the new ones it should get.
//!
//! The dataplane takes the endpoint with the least `(own + 1) / stock`. An endpoint's stock is what it holds of this
//! node's connections, what it is still owed of those that came, its share of those to come, and one. What is owed is
//! carried from one decision to the next: without it all nodes would give their next connection to the same endpoint,
//! that with the largest share. Our own (docs/law-log.md has the measurements).

/// The most that an endpoint is owed, or owes, in connections: a node does not catch up on what happened long ago.
const MOST_OWED: f64 = 1.0;

/// Connections to come are at least so many for each endpoint, so that shares tell even where few come.
const LEAST_COMING: f64 = 0.5;

/// What one node owes the endpoints of one Service, by index.
#[derive(Clone, Debug, Default)]
pub struct Stocks {
    owed: Vec<f64>,
}

impl Stocks {
    /// Starts with these debts, drawn at random between -0.5 and 0.5 so that nodes are not in step.
    pub fn new(owed: Vec<f64>) -> Stocks {
        Stocks { owed }
    }

    /// What each endpoint is owed, in connections.
    pub fn owed(&self) -> &[f64] {
        &self.owed
    }

    /// Books connections of an interval gone by: `kept` are those of each endpoint that were opened in it and are
    /// still open. The shares sum to 1.
    pub fn settle(&mut self, shares: &[f64], kept: &[f64]) {
        let all: f64 = kept.iter().sum();
        for ((owed, share), kept) in self.owed.iter_mut().zip(shares).zip(kept) {
            *owed = (*owed + share * all - kept).clamp(-MOST_OWED, MOST_OWED);
        }
    }

    /// The stock of each endpoint, above 0. `settled` are this node's open connections that were booked, `fresh` the
    /// sum of those that were not yet. The shares sum to 1.
    pub fn stocks(&self, shares: &[f64], settled: &[f64], fresh: f64) -> Vec<f64> {
        let coming = fresh.max(LEAST_COMING * shares.len() as f64);
        let parts = self.owed.iter().zip(shares).zip(settled);
        // Nobody is owed less than -1: the one keeps every stock above 0, but for its share.
        parts.map(|((owed, share), settled)| settled + owed + share * coming + 1.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next connection as the kernel places it.
    fn least(own: &[f64], stocks: &[f64]) -> usize {
        let cost = |at: &usize| (own[*at] + 1.0) / stocks[*at];
        (0..own.len()).min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap()
    }

    #[test]
    fn connections_that_stay_follow_the_shares() {
        let shares = [0.5, 0.3, 0.15, 0.05];
        let mut stocks = Stocks::new(vec![0.0; 4]);
        let mut own = [0.0; 4];
        for _ in 0..1000 {
            let weights = stocks.stocks(&shares, &own, 0.0);
            let chosen = least(&own, &weights);
            own[chosen] += 1.0;
            let mut kept = [0.0; 4];
            kept[chosen] = 1.0;
            stocks.settle(&shares, &kept);
        }
        for (own, share) in own.iter().zip(shares) {
            assert!((own - share * 1000.0).abs() < 4.0, "{own} of 1000 for {share}");
        }
    }

    #[test]
    fn the_largest_share_does_not_get_every_connection_between_two_decisions() {
        let stocks = Stocks::new(vec![0.0; 3]).stocks(&[0.4, 0.3, 0.3], &[10.0; 3], 0.0);
        let mut own = [10.0; 3];
        for _ in 0..3 {
            own[least(&own, &stocks)] += 1.0;
        }
        assert_eq!(own, [11.0; 3]);
    }

    #[test]
    fn debts_are_bounded_and_stocks_stay_above_nothing() {
        let mut stocks = Stocks::new(vec![0.0; 2]);
        stocks.settle(&[0.5, 0.5], &[100.0, 0.0]);
        assert_eq!(stocks.owed(), [-1.0, 1.0]);
        assert!(stocks.stocks(&[0.01, 0.99], &[0.0, 0.0], 0.0).iter().all(|stock| *stock > 0.0));
    }
}
