//! Corrected stride order: each endpoint is due when its own period has passed, and later while this node's own
//! young connections to it are still at work.
//!
//! Source: C. A. Waldspurger and W. E. Weihl, "Stride scheduling: deterministic proportional-share resource
//! management", MIT/LCS/TM-528, 1995; the corrections are our own.

/// The constants of the order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// How many periods one young connection of this node's own delays an endpoint (`kap`); 1.5 to 12.
    pub young_periods: f64,
    /// How far behind an endpoint may fall, in periods; 1 to 4.
    pub debt: f64,
    /// How far time goes on, in connections, when a correction lets an endpoint be chosen before it is due; at least
    /// 0.3. Without this bound one early choice of an endpoint with a small weight would be a long time for all
    /// others, and make them overdue together.
    pub early_step: f64,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters { young_periods: 3.0, debt: 2.0, early_step: 0.6 }
    }
}

/// The memory of one node's order for one Service. Endpoints are known by index.
#[derive(Clone, Debug)]
pub struct Order {
    parameters: Parameters,
    /// Per endpoint the part of its own period still to wait; below 0 when it is overdue.
    phases: Vec<f64>,
}

impl Order {
    /// Starts with these phases, at least 0; drawn at random (exponential with mean 1, at most 3) so that nodes
    /// are not in step.
    pub fn new(parameters: Parameters, phases: Vec<f64>) -> Order {
        Order { parameters, phases }
    }

    /// Per endpoint the part of its own period still to wait.
    pub fn phases(&self) -> &[f64] {
        &self.phases
    }

    /// Takes note of a changed weight: what an endpoint is owed shrinks with its weight.
    pub fn reweigh(&mut self, endpoint: usize, old: f64, new: f64) {
        if self.phases[endpoint] < 0.0 && new < old {
            self.phases[endpoint] *= new / old;
        }
    }

    /// Chooses the endpoint of the next connection; `None` when no weight is above 0. Per endpoint: its weight
    /// (they sum to 1), this node's own connections to it younger than a second, and a correction in periods
    /// (by counts: how far it is above its part of all connections; with load: 0).
    pub fn choose(&mut self, weights: &[f64], young: &[f64], corrections: &[f64]) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        let mut soonest = f64::INFINITY;
        for (endpoint, &weight) in weights.iter().enumerate() {
            if weight <= 0.0 {
                continue;
            }
            let wait = self.parameters.young_periods * young[endpoint]
                + self.phases[endpoint]
                + corrections[endpoint];
            let cost = wait / weight;
            soonest = soonest.min(self.phases[endpoint] / weight);
            // Ties go to the first, up to rounding: costs that are equal on paper must not differ by it.
            if best.is_none_or(|(_, least)| cost < least - 1e-9 * least.abs().max(1.0)) {
                best = Some((endpoint, cost));
            }
        }
        let (chosen, _) = best?;
        let due = self.phases[chosen] / weights[chosen];
        let passed = due.min(soonest.max(self.parameters.early_step)).max(0.0);
        for (phase, weight) in self.phases.iter_mut().zip(weights) {
            *phase = (*phase - passed * weight).max(-self.parameters.debt);
        }
        self.phases[chosen] = self.phases[chosen].min(0.0) + 1.0;
        Some(chosen)
    }
}

/// The correction by counts of an endpoint that holds `excess` connections more than its part of all (with the
/// one to be placed): a gentle pull, `clamp(0.3 excess, -0.5, 0.5)` periods.
pub fn count_correction(excess: f64) -> f64 {
    (0.3 * excess).clamp(-0.5, 0.5)
}
