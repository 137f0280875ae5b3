//! What bounds the shares after the policy, for every policy alike: no endpoint may attract what it does not
//! deserve, and no input may throw the group about.
//!
//! * Nobody gets more than its capacity share without evidence that load follows flow.
//! * Endpoints whose connections fail go to their floor, at most half of the group at a time, and come back by a
//!   slow start.
//! * Shares freeze while all endpoints are overloaded together.
//! * What one endpoint may not have goes to the others in proportion, within their own bounds.

mod evidence;
mod install;
mod parameters;

pub use install::install;
pub use parameters::Parameters;

use std::collections::BTreeMap;

use crate::policy::{Group, Limit, Line, Memory, Row, Share, ease_in, figure, pour};
use crate::service::EndpointId;
use evidence::{Evidence, Lapse, Peers, Signs};

#[cfg(test)]
mod tests;

/// The largest share relative to the target at the end of a slow start.
const EASED_IN: f64 = 3.0;
/// An endpoint that did not fail for this long, in seconds, starts with a clean record.
const CLEAN: f64 = 120.0;
/// Figures older than this many delays (tick and staleness together) are no evidence.
const STALE_AFTER_DELAYS: f64 = 2.0;
/// A failing endpoint stays at its floor for at least this long, in seconds, whatever its connections show.
const LEAST_FAILING: f64 = 5.0;

/// The guard of one Service, with its memory.
pub struct Guard {
    parameters: Parameters,
    memory: Memory<Watch>,
    /// Who left with something held against it, and how many seconds ago.
    absent: BTreeMap<EndpointId, (Watch, f64)>,
    peers: Peers,
    /// Room to work in, kept from one decision to the next.
    lines: Vec<Line>,
    causes: Vec<Option<Limit>>,
    values: Vec<f64>,
}

/// What is remembered of one endpoint.
#[derive(Clone, Copy, Debug)]
struct Watch {
    evidence: Evidence,
    standing: Standing,
    /// Seconds in this standing.
    since: f64,
    /// How often it failed without a long time between.
    relapses: u32,
    /// The share it got last.
    share: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Fine,
    Failing,
    Recovering,
}

impl Watch {
    fn new() -> Watch {
        Watch {
            evidence: Evidence::default(),
            standing: Standing::Fine,
            since: 0.0,
            relapses: 0,
            share: None,
        }
    }

    fn turn(&mut self, standing: Standing) {
        self.standing = standing;
        self.since = 0.0;
        self.evidence.start_over();
    }
}

impl Guard {
    /// Without memory.
    pub fn new(parameters: &Parameters) -> Guard {
        Guard {
            parameters: parameters.clone(),
            memory: Memory::new(),
            absent: BTreeMap::new(),
            peers: Peers::default(),
            lines: Vec::new(),
            causes: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Bounds the shares that a policy decided, one per row; they sum to 1 before and after. Says in
    /// [`Share::limit`] which bound was hit; where none was, what the policy said stays.
    pub fn bound(&mut self, group: &Group<'_>, shares: &mut [Share]) {
        self.remember(group);
        if let [only] = shares {
            only.share = 1.0;
            only.limit = None;
        }
        if shares.len() <= 1 {
            return;
        }
        self.observe(group, shares);
        self.judge();
        let frozen = self.freeze(group.rows, shares);
        self.limit(group, shares, frozen);
        for (watch, share) in self.memory.values_mut().iter_mut().zip(shares.iter()) {
            watch.share = Some(share.share);
        }
    }

    /// Brings memory in line with the rows. To leave and come back does not make an endpoint better: what was held
    /// against it is still there, and its term went on.
    fn remember(&mut self, group: &Group<'_>) {
        let elapsed = figure(group.elapsed).unwrap_or(0.0);
        self.absent.retain(|_, (watch, absent)| {
            watch.since += elapsed;
            *absent += elapsed;
            *absent < CLEAN
        });
        let blamed = |watch: &Watch| watch.standing != Standing::Fine || watch.relapses > 0;
        let gone = self.memory.gone(group.rows).filter(|(_, watch)| blamed(watch));
        self.absent.extend(gone.map(|(endpoint, watch)| (endpoint, (Watch { share: None, ..*watch }, 0.0))));
        let absent = &mut self.absent;
        self.memory.align(group.rows, |place| {
            absent.remove(&group.rows[place].endpoint).map_or_else(Watch::new, |(watch, _)| watch)
        });
    }

    /// Collects evidence.
    fn observe(&mut self, group: &Group<'_>, shares: &[Share]) {
        let elapsed = figure(group.elapsed).unwrap_or(0.0);
        let horizon = figure(group.horizon).unwrap_or(0.0).max(0.1);
        let lapse = Lapse::new(elapsed, horizon);
        let rate: f64 = group.rows.iter().filter_map(|row| figure(row.evidence().opens_per_second)).sum();
        for ((row, watch), share) in group.rows.iter().zip(self.memory.values_mut()).zip(shares) {
            // What was meant to go there, but no more than its target: nobody must prove itself by an excess.
            let meant = watch.share.unwrap_or(0.0).min(share.target) * rate;
            let judged = watch.standing == Standing::Fine;
            watch.since += elapsed;
            let is_evidence = match row.heard {
                // Each sender's part is of one time, and who fell silent is left out.
                Some(heard) => {
                    if heard.seconds <= elapsed {
                        watch.evidence.hear_others(Signs::of(row, meant), horizon);
                    }
                    true
                }
                // Old figures mix two times: how many others opened then, and how many of ours are open now.
                None => row.age <= STALE_AFTER_DELAYS * group.delay,
            };
            if is_evidence {
                watch.evidence.observe(Signs::of(row, meant), self.peers, lapse, judged);
            }
        }
        self.compare(group.rows);
    }

    /// Finds what is usual in the group: upper medians over the endpoints that are not known to fail, so that a
    /// half that fails does not become the measure.
    fn compare(&mut self, rows: &[Row]) {
        let watches = self.memory.values();
        let sound = || watches.iter().zip(rows).filter(|(watch, _)| watch.standing != Standing::Failing);
        let values = &mut self.values;
        values.clear();
        values.extend(sound().filter_map(|(watch, _)| watch.evidence.stay()));
        let stay = upper_median(values).unwrap_or(0.0);
        let mut cost = [0.0; 2];
        let mut known = 0;
        for (which, cost) in cost.iter_mut().enumerate() {
            values.clear();
            values.extend(sound().filter_map(|(_, row)| Some(Signs::of(row, 0.0).cost()?[which])));
            known = values.len();
            *cost = upper_median(values).unwrap_or(0.0);
        }
        let cpu: f64 = rows.iter().filter_map(|row| row.load.cpu.and_then(figure)).sum();
        // Next to no CPU in use is noise.
        let telling = 2 * known >= rows.len() && cpu > 0.01 * rows.len() as f64;
        self.peers = Peers { stay, cost: telling.then_some(cost) };
    }

    /// Moves endpoints from one standing to the next: at most half of the group is set aside at a time, those that
    /// fail most surely first.
    fn judge(&mut self) {
        let Parameters { failures, missing_connections, failing_seconds, recovery_seconds, .. } =
            self.parameters;
        let guilt = |watch: &Watch| {
            let missing = match watch.standing {
                Standing::Fine => missing_connections,
                Standing::Failing | Standing::Recovering => missing_connections / 2.0,
            };
            watch.evidence.guilt(failures, missing)
        };
        let peers = self.peers;
        let watches = self.memory.values_mut();
        for watch in watches.iter_mut() {
            match watch.standing {
                Standing::Failing => {
                    let sentence = failing_seconds * f64::from(1 << watch.relapses.saturating_sub(1).min(3));
                    let early = watch.since >= LEAST_FAILING && watch.evidence.recovered(peers);
                    if early || watch.since >= sentence {
                        watch.turn(Standing::Recovering);
                    }
                }
                Standing::Recovering if guilt(watch) > 1.0 => {
                    watch.relapses += 1;
                    watch.turn(Standing::Failing);
                }
                Standing::Recovering if watch.since >= recovery_seconds => {
                    watch.standing = Standing::Fine;
                    watch.since = 0.0;
                }
                Standing::Fine if watch.since >= CLEAN => watch.relapses = 0,
                Standing::Recovering | Standing::Fine => {}
            }
        }
        let aside = watches.iter().filter(|watch| watch.standing != Standing::Fine).count();
        // Others went: those that were set aside first are needed again.
        for _ in watches.len() / 2..aside {
            let held = watches.iter_mut().filter(|watch| watch.standing != Standing::Fine);
            if let Some(first) = held.reduce(|a, b| if b.since > a.since { b } else { a }) {
                first.turn(Standing::Fine);
            }
        }
        for _ in aside..watches.len() / 2 {
            let suspects = watches.iter_mut().filter(|watch| watch.standing == Standing::Fine);
            let worst =
                suspects.map(|watch| (guilt(watch), watch)).reduce(|a, b| if b.0 > a.0 { b } else { a });
            match worst {
                Some((guilt, watch)) if guilt > 1.0 => {
                    watch.relapses += 1;
                    watch.turn(Standing::Failing);
                }
                _ => break,
            }
        }
    }

    /// Puts back the last shares while all endpoints are overloaded together: then it is not for shares to help.
    fn freeze(&self, rows: &[Row], shares: &mut [Share]) -> bool {
        let over =
            |row: &Row| row.load.pressure.and_then(figure).is_some_and(|p| p > self.parameters.overload);
        let watches = self.memory.values();
        if !rows.iter().all(over) || watches.iter().all(|watch| watch.share.is_none()) {
            return false;
        }
        for (share, watch) in shares.iter_mut().zip(watches) {
            share.share = watch.share.unwrap_or(share.target);
        }
        let sum: f64 = shares.iter().map(|share| share.share).sum();
        for share in shares.iter_mut() {
            share.share /= sum;
        }
        true
    }

    /// The least that an endpoint gets, as a part of its target.
    fn floor(&self, group: &Group<'_>) -> f64 {
        group.floor.unwrap_or(self.parameters.floor)
    }

    /// The most that an endpoint may have because it is held back, if it is.
    fn held_back(&self, group: &Group<'_>, row: &Row, watch: &Watch, target: f64) -> Option<(f64, Limit)> {
        let Parameters { recovery_seconds, .. } = self.parameters;
        let floor = self.floor(group);
        let (part, why) = match watch.standing {
            Standing::Failing => (floor, Limit::Failing),
            Standing::Recovering => (ease_in(watch.since / recovery_seconds, 1.0), Limit::Recovering),
            Standing::Fine => (f64::INFINITY, Limit::NoEvidence),
        };
        let slow_start = group.slow_start.as_secs_f64();
        let age = figure(row.seconds_eligible).unwrap_or(0.0) / slow_start;
        let eased = if row.seconds_eligible < slow_start { ease_in(age, EASED_IN) } else { f64::INFINITY };
        let (part, why) = if eased < part { (eased, Limit::SlowStart) } else { (part, why) };
        part.is_finite().then(|| (target * part.max(floor), why))
    }

    /// Brings the shares within their bounds.
    fn limit(&mut self, group: &Group<'_>, shares: &mut [Share], frozen: bool) {
        let watches = self.memory.values();
        let floor = self.floor(group);
        // Those that are held back below their targets leave the rest to the others, in proportion.
        let (mut held, mut others) = (0.0, 0.0);
        for ((row, watch), share) in group.rows.iter().zip(watches).zip(shares.iter()) {
            match self.held_back(group, row, watch, share.target) {
                Some((most, _)) if most < share.target => held += most,
                _ => others += share.target,
            }
        }
        let more = if others > 0.0 { (1.0 - held) / others } else { 1.0 };
        let mut lines = std::mem::take(&mut self.lines);
        lines.clear();
        self.causes.clear();
        for ((row, watch), share) in group.rows.iter().zip(watches).zip(shares.iter()) {
            let least = floor * share.target;
            let wanted = if share.share > 0.0 { share.share } else { least };
            let held_back = self.held_back(group, row, watch, share.target);
            let (mut most, mut cause) = held_back.map_or((1.0, None), |(most, why)| (most, Some(why)));
            if !frozen && watch.standing != Standing::Failing {
                let target = share.target * more;
                let trust = watch.evidence.trust(Signs::of(row, 0.0), self.peers);
                let earned = target + trust * (wanted * more - target).max(0.0);
                if earned < most {
                    (most, cause) = (earned, Some(Limit::NoEvidence));
                }
            }
            lines.push(Line { start: 0.0, slope: wanted, least, most: most.min(1.0).max(least) });
            self.causes.push(cause);
        }
        self.lines = lines;
        let within = self.lines.iter().all(|line| line.slope >= line.least && line.slope <= line.most);
        let level = if within { 1.0 } else { pour(&self.lines) };
        let sum: f64 = self.lines.iter().map(|line| line.at(level)).sum();
        for ((share, line), cause) in shares.iter_mut().zip(&self.lines).zip(&self.causes) {
            let bounded = line.at(level);
            if line.slope > line.most || *cause == Some(Limit::Failing) {
                share.limit = *cause;
            } else if bounded <= line.least {
                share.limit = Some(Limit::Floor);
            } else if frozen {
                share.limit = Some(Limit::Frozen);
            } else if share.limit == Some(Limit::Floor) && bounded / sum > share.target {
                // The policy gave it the least, but the others may not have what they were given.
                share.limit = None;
            }
            share.share = bounded / sum;
        }
    }
}

/// The middle of the values, the upper of two; `None` of none. Sorts them.
fn upper_median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
