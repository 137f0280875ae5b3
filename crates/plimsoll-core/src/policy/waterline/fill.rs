//! Targets and shares: each endpoint already holds a part of the load to come, and new connections are poured so
//! that all reach the same level relative to their targets.

use super::Parameters;
use crate::policy::{Limit, Line, Share, ease_in, pour};

/// One endpoint, all figures known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vessel {
    /// `c`, the capacity reckoned with.
    pub(super) capacity: f64,
    /// `n`, open connections.
    pub(super) open: f64,
    /// `y`, of those younger than the horizon.
    pub(super) young: f64,
    /// `o`, opened per second.
    pub(super) opens: f64,
    /// `U`, CPU in use.
    pub(super) cpu: f64,
    /// Whether `cpu` is a guess, for want of a reading.
    pub(super) cpu_guessed: bool,
    /// `q`, our own share, smoothed.
    pub(super) prior: f64,
    /// How far through its slow start, 0 to 1; `None` when it is not in one.
    pub(super) slow_start: Option<f64>,
    /// `tau_e`, the share of the load it should carry; [`targets`] sets it.
    pub(super) target: f64,
}

/// What holds for the whole group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// `s_y`: the probability that a young connection lives for another horizon.
    pub(super) young_survive: f64,
    /// `s_o`: the probability that an old one does.
    pub(super) old_survive: f64,
    /// `phi_y`: the share of the traffic that young connections carry.
    pub(super) young_traffic: f64,
    /// Whether CPU is measured.
    pub(super) load: bool,
    /// Tick and staleness together, in seconds.
    pub(super) delay: f64,
    /// `fmin`, the least that an endpoint gets, as a part of its target.
    pub(super) floor: f64,
}

/// How the new flow weighs against what is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Flow {
    /// The part of connection counts in the blend.
    pub(super) omega: f64,
    /// The part of the CPU in use that follows new connections.
    pub(super) phi: f64,
    /// `f`, the new flow relative to the load.
    pub(super) size: f64,
}

/// Sets the targets. By counts in proportion to capacity; with load so that the mean delay of parallel queues is
/// least (square-root slack: C. E. Bell and S. Stidham, "Individual versus social optimization in the allocation
/// of customers to alternative servers", Management Science 29, 1983), within bounds.
pub(super) fn targets(parameters: &Parameters, load: bool, vessels: &mut [Vessel]) {
    let capacity: f64 = vessels.iter().map(|v| v.capacity).sum();
    if !load {
        for vessel in vessels {
            vessel.target = vessel.capacity / capacity;
        }
        return;
    }
    let cpu: f64 = vessels.iter().map(|v| v.cpu).sum();
    let roots: f64 = vessels.iter().map(|v| libm::sqrt(v.capacity)).sum();
    let slack = ((capacity - cpu) / roots).max(0.0);
    let used = (cpu / capacity).max(0.05);
    let least = (1.0 - parameters.skew) * used;
    let most = (1.0 + 0.75 * parameters.skew) * used;
    let mut sum = 0.0;
    for vessel in vessels.iter_mut() {
        let c = vessel.capacity;
        vessel.target = (c - slack * libm::sqrt(c)).clamp(least * c, most * c);
        sum += vessel.target;
    }
    for vessel in vessels {
        vessel.target /= sum;
    }
}

/// Fewer open connections per endpoint than this are few.
const FEW: f64 = 3.0;

/// How each share rises with the common level, into `lines`: `(tau (1 + theta) - base) / f` within its bounds.
pub(super) fn lines(
    parameters: &Parameters,
    situation: &Situation,
    vessels: &[Vessel],
    lines: &mut Vec<Line>,
) -> Flow {
    let count = vessels.len() as f64;
    let survivors =
        |v: &Vessel| situation.young_survive * v.young + situation.old_survive * (v.open - v.young);
    let (mut open, mut young, mut rate, mut cpu, mut survive) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for v in vessels {
        open += v.open;
        young += v.young;
        rate += v.opens;
        cpu += v.cpu;
        survive += survivors(v);
    }
    // As many arrivals as now will still be young at the end of the horizon.
    let arrivals = (young - 1.0).max(0.25);
    let total = survive + count / 2.0 + arrivals;
    // Half a connection for everybody, on average: by target where few are known, since small endpoints would look full
    // otherwise. Where CPU is measured that has the say.
    let known = if situation.load { 1.0 } else { (open / (FEW * count)).min(1.0) };
    let half = |v: &Vessel| f64::midpoint(known, (1.0 - known) * v.target * count);
    let omega = if situation.load && cpu > 1e-6 { parameters.count_part } else { 1.0 };
    let phi = (parameters.flow_factor * situation.young_traffic).clamp(0.0, 1.0);
    let flow = (1.0 - omega) * (phi + (1.0 - phi) * arrivals / total).max(0.1) + omega * arrivals / total;
    // Flow by rates alone is noisy where there are few connections: mix in what we meant it to be.
    let seconds = 2.0 * parameters.filter_seconds;
    let prior = parameters.prior_connections * count;
    let free = parameters.free_connections / (rate * situation.delay);
    lines.clear();
    lines.extend(vessels.iter().map(|v| {
        let by_count = (survivors(v) + half(v)) / total;
        let base = if omega < 1.0 {
            let evidence = seconds * rate + prior;
            let part =
                if evidence > 0.0 { (v.opens * seconds + prior * v.prior) / evidence } else { v.prior };
            // A guess does not follow the flow: taking the flow from it would let any share stand for ever.
            let stays = if v.cpu_guessed { (1.0 - phi) * v.target } else { v.cpu / cpu - phi * part };
            omega * by_count + (1.0 - omega) * stays
        } else {
            by_count
        };
        let least = situation.floor * v.target;
        let mut most = parameters.boost * v.target;
        if !situation.load {
            // Infinite, so without effect but for the 1, when nothing arrives.
            most = most.max(free);
        }
        if let Some(age) = v.slow_start {
            most = most.min(v.target * ease_in(age, parameters.boost));
        }
        Line {
            start: (v.target - base) / flow,
            slope: v.target / flow,
            least,
            most: most.min(1.0).max(least),
        }
    }));
    Flow { omega, phi, size: flow }
}

/// Pours until the shares sum to 1 and says which bounds were hit.
pub(super) fn shares(vessels: &[Vessel], lines: &[Line], shares: &mut Vec<Share>) {
    let level = pour(lines);
    let sum: f64 = lines.iter().map(|line| line.at(level)).sum();
    shares.clear();
    shares.extend(vessels.iter().zip(lines).map(|(vessel, line)| {
        let poured = line.at(level);
        let limit = if lines.len() == 1 {
            None
        } else if poured >= line.most {
            Some(if vessel.slow_start.is_some() { Limit::SlowStart } else { Limit::Ceiling })
        } else {
            (poured <= line.least).then_some(Limit::Floor)
        };
        Share { share: poured / sum, target: vessel.target, capacity: vessel.capacity, limit }
    }));
}
