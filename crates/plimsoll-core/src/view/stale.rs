//! What becomes of figures that grow old: they lose their deviation from the fair split (`law`: staleness). This
//! node's own connections are live, and never shrink.

use crate::load::Load;
use crate::policy::{self, Row};
use crate::time::Timestamp;

use super::{FIGURES, Host, Member, Parameters, Sent, View, find, load_of};

impl Parameters {
    /// How much of the deviation from the fair split is left of figures of this age, in seconds.
    fn kappa(&self, age: f64) -> f64 {
        if age <= self.trust_seconds {
            1.0
        } else {
            libm::exp(-(age - self.trust_seconds) / self.shrink_seconds)
        }
    }
}

/// What is to be shrunk of one row.
struct Part {
    /// What this node holds of the row's connections: not to be shrunk.
    own: Sent,
    /// Whether no agent hosts the endpoint: each sender's part has an age of its own.
    is_summed: bool,
    /// How much of the deviation from the fair split is left.
    kappa: f64,
    /// The endpoint's nominal capacity: its part of a fair split.
    fair: f64,
}

impl View {
    /// Shrinks what is old in the rows of a group towards the fair split.
    pub(super) fn shrink(&self, now: Timestamp, members: &[Member], rows: &mut [Row]) {
        let mut fair = Vec::with_capacity(members.len());
        policy::nominal_capacities(members.iter().map(|member| member.capacity), &mut fair);
        let part = |((member, row), fair): ((&Member, &Row), f64)| {
            let record = self.record(&member.endpoint);
            let host = record.map(|record| &record.host);
            let is_summed = host == Some(&Host::Nobody);
            Part {
                // Where this node hosts the endpoint its count is live and whole: nothing of it is anybody else's.
                own: record
                    .filter(|_| host != Some(&Host::Here))
                    .map(|record| record.sent)
                    .unwrap_or_default(),
                is_summed,
                kappa: if is_summed { 1.0 } else { self.parameters.kappa(row.age) },
                fair,
            }
        };
        let parts: Vec<Part> = members.iter().zip(&*rows).zip(fair).map(part).collect();
        for (row, part) in rows.iter_mut().zip(&parts) {
            row.load.open -= part.own.open;
            row.load.young -= part.own.young;
        }
        self.shrink_senders(now, rows, &parts);
        shrink(rows, &parts);
        for (row, part) in rows.iter_mut().zip(&parts) {
            let load = &mut row.load;
            load.open = load.open.max(0.0) + part.own.open;
            load.young = (load.young.max(0.0) + part.own.young).min(load.open);
            load.middle = load.middle.max(0.0);
        }
    }

    /// What each silent node sent to the endpoints that no agent hosts loses its own deviation from the fair split:
    /// one node that went must not blur what all the others see.
    fn shrink_senders(&self, now: Timestamp, rows: &mut [Row], parts: &[Part]) {
        let summed = || parts.iter().enumerate().filter(|(_, part)| part.is_summed);
        let all: f64 = summed().map(|(_, part)| part.fair).sum();
        if all <= 0.0 {
            return;
        }
        for node in self.nodes.values() {
            let lost = 1.0 - self.parameters.kappa(now.seconds_since(node.measured));
            if lost <= 0.0 {
                continue;
            }
            let sent = |i: usize| find(&node.report.sent, &rows[i].endpoint).map(load_of).unwrap_or_default();
            let mut sent: Vec<Load> = summed().map(|(i, _)| sent(i)).collect();
            for figure in FIGURES {
                let sum: f64 = sent.iter_mut().filter_map(|sent| known(*figure(sent))).sum();
                for ((i, part), sent) in summed().zip(&mut sent) {
                    if let Some(sent) = known(*figure(sent)) {
                        *figure(&mut rows[i].load) += lost * (sum * part.fair / all - sent);
                    }
                }
            }
        }
    }
}

/// `x_e <- kappa x_e + (1 - kappa) X c_e / sum c` for the figures of others, where `X` is the sum of `x` before.
fn shrink(rows: &mut [Row], parts: &[Part]) {
    if parts.iter().all(|part| part.kappa >= 1.0) {
        return;
    }
    for figure in FIGURES {
        // An endpoint nobody ever reported has no figures: it gets the level of those that have.
        let (mut sum, mut fair) = (0.0, 0.0);
        for (row, part) in rows.iter_mut().zip(parts).filter(|(_, part)| part.kappa > 0.0) {
            if let Some(value) = known(*figure(&mut row.load)) {
                sum += value;
                fair += part.fair;
            }
        }
        if fair <= 0.0 {
            continue;
        }
        for (row, part) in rows.iter_mut().zip(parts) {
            let value = figure(&mut row.load);
            if let Some(before) = known(*value) {
                *value = part.kappa * before + (1.0 - part.kappa) * sum * part.fair / fair;
            }
        }
    }
    shrink_optional(rows, parts, |load| &mut load.cpu, true);
    shrink_optional(rows, parts, |load| &mut load.pressure, false);
}

/// The figure, or 0 where subtraction left less; `None` of what is no figure: it says nothing, and must not spoil the sum
/// of the others.
fn known(value: f64) -> Option<f64> {
    policy::figure(if value < 0.0 && value.is_finite() { 0.0 } else { value })
}

/// The same for figures that may be missing: missing ones stay missing. CPU tends to the split by capacity,
/// pressure to the mean.
fn shrink_optional(
    rows: &mut [Row],
    parts: &[Part],
    figure: fn(&mut Load) -> &mut Option<f64>,
    by_capacity: bool,
) {
    let (mut sum, mut capacity, mut count) = (0.0, 0.0, 0.0);
    for (row, part) in rows.iter_mut().zip(parts) {
        if let Some(value) = figure(&mut row.load).and_then(policy::figure) {
            sum += value;
            capacity += part.fair;
            count += 1.0;
        }
    }
    for (row, part) in rows.iter_mut().zip(parts) {
        let figure = figure(&mut row.load);
        if let Some(value) = figure.and_then(policy::figure) {
            let split = if by_capacity { sum * part.fair / capacity } else { sum / count };
            *figure = Some(part.kappa * value + (1.0 - part.kappa) * split);
        }
    }
}
