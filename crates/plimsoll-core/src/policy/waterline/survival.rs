//! Which part of the connections lives on for another horizon: of the young ones and of the old ones.

use std::collections::VecDeque;

/// The time constant, in seconds, with which the survival of old connections is followed: a tenth each half second.
const OLD_SECONDS: f64 = 4.75;
/// The time constant of the counts of young connections, in horizons.
const YOUNG_HORIZONS: f64 = 10.0;
/// How many points the history of a horizon has at most.
const POINTS: f64 = 32.0;

/// One Service's estimates.
#[derive(Clone, Debug)]
pub(super) struct Survival {
    /// Connections younger than the horizon, filtered.
    young: f64,
    /// Connections with an age of one to two horizons, filtered.
    middle: f64,
    old_survive: f64,
    clock: f64,
    /// When, and how many connections were older than the horizon then.
    history: VecDeque<(f64, f64)>,
}

/// The connections of a group by age.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ages {
    pub(super) open: f64,
    pub(super) young: f64,
    pub(super) middle: f64,
}

impl Survival {
    pub(super) fn new() -> Survival {
        let history = VecDeque::with_capacity(POINTS as usize + 2);
        Survival { young: 0.0, middle: 0.0, old_survive: 1.0, clock: 0.0, history }
    }

    /// The probability that a young connection lives for another horizon.
    pub(super) fn of_young(&self) -> f64 {
        ((self.middle + 0.05) / (self.young + 0.1)).clamp(0.0, 1.0)
    }

    /// The probability that an old connection does.
    pub(super) fn of_old(&self) -> f64 {
        self.old_survive
    }

    /// Takes note of the connections now, `elapsed` seconds after the last time.
    pub(super) fn observe(&mut self, ages: Ages, horizon: f64, elapsed: f64) {
        let gain = 1.0 - libm::exp(-elapsed / (YOUNG_HORIZONS * horizon));
        self.young += gain * (ages.young - self.young);
        self.middle += gain * (ages.middle - self.middle);
        self.clock += elapsed;
        while self.history.get(1).is_some_and(|(at, _)| self.clock - at >= horizon) {
            self.history.pop_front();
        }
        let old = (ages.open - ages.young).max(0.0);
        if let Some((at, before)) = self.history.front()
            && self.clock - at >= 0.9 * horizon
            && *before > 0.0
        {
            // Those that are older than two horizons now were older than one then.
            let part = ((old - ages.middle) / before).clamp(0.5, 1.0);
            self.old_survive += (1.0 - libm::exp(-elapsed / OLD_SECONDS)) * (part - self.old_survive);
        }
        if self.history.back().is_none_or(|(at, _)| self.clock - at >= horizon / POINTS) {
            self.history.push_back((self.clock, old));
        }
    }

    /// Forgets how many connections there were: some endpoints went, and theirs did not end.
    pub(super) fn start_over(&mut self) {
        self.history.clear();
    }
}
