//! What the dataplanes do: they carry plans out, refuse them, and count.

use plimsoll_core::balancer::Event;
use plimsoll_core::plan::Plan;

use crate::agents::index;
use crate::agents::ledger::Side;

use super::agenda::Due;
use super::checks::{Broken, Rule};
use super::lies;
use super::world::World;

/// The part of an interval by which counting is moved at random.
const JITTER: f64 = 0.05;

impl World<'_> {
    /// The dataplane carries out the plan that is under way.
    pub(super) fn carry(&mut self, node: usize, incarnation: u32) -> Result<(), (usize, Broken)> {
        let it = &mut self.nodes[node];
        if it.incarnation != incarnation || !it.is_running() {
            return Ok(());
        }
        if self.now < it.frozen_until {
            self.queue.add(it.frozen_until, Due::Carry(node, incarnation).pack());
            return Ok(());
        }
        let Some(plan) = it.plan().cloned() else { return Ok(()) };
        let trouble = self.trouble.of_kernel(self.now, node);
        let refused = trouble.refuses > 0.0 && self.dice.timing.unit() < trouble.refuses;
        if !refused || trouble.is_lying {
            let lease = self.parameters.lease;
            let now = it.clock.read(self.now);
            let renewed = it.kernel.holding.apply(&plan).map_err(|why| (node, (Rule::Fitting, why)))?;
            if renewed {
                it.kernel.leased_until = now + lease;
            }
            self.begin_to_count(node, &plan);
        }
        if !self.nodes[node].counts && !refused {
            self.nodes[node].counts = true;
            let first = self.parameters.report_interval.mul_f64(self.dice.timing.unit());
            self.add(self.now + first, Due::Count(node, incarnation));
        }
        let outcome = if refused { Err("no buffer space".to_owned()) } else { Ok(()) };
        self.tell(node, Event::Applied(outcome))
    }

    fn begin_to_count(&mut self, node: usize, plan: &Plan) {
        let it = &mut self.nodes[node];
        if plan.fresh {
            it.ledger.hosted = Side::default();
            it.ledger.sent = Side::default();
        }
        for endpoint in &plan.host {
            let open = self.open.iter().map(|open| open[index(endpoint)]).sum();
            it.ledger.hosted.join(index(endpoint), open);
        }
        for endpoint in &plan.know {
            it.ledger.sent.join(index(endpoint), self.open[node][index(endpoint)]);
        }
        plan.unhost.iter().for_each(|endpoint| it.ledger.hosted.leave(index(endpoint)));
        plan.forget.iter().for_each(|endpoint| it.ledger.sent.leave(index(endpoint)));
    }

    pub(super) fn count(&mut self, node: usize, incarnation: u32) -> Result<(), (usize, Broken)> {
        let it = &mut self.nodes[node];
        if it.incarnation != incarnation {
            return Ok(());
        }
        let jitter = self.dice.timing.between(1.0 - JITTER, 1.0 + JITTER);
        let next = self.now + self.parameters.report_interval.mul_f64(jitter);
        self.queue.add(next.max(it.frozen_until), Due::Count(node, incarnation).pack());
        let trouble = self.trouble.of_kernel(self.now, node);
        if self.now < it.frozen_until || trouble.is_silent {
            return Ok(());
        }
        let now = it.clock.read(self.now);
        let read = self.with_load.then(|| it.kernel.holding.hosted.iter().map(index).collect());
        let read: Vec<usize> = read.unwrap_or_default();
        for endpoint in read {
            let open = self.open.iter().map(|open| open[endpoint]).sum();
            let endpoint = &self.population.endpoints[endpoint];
            let misreading = endpoint.misreading(self.now);
            if let Some(sample) = lies::sample(endpoint.id, open, now, misreading, &mut self.dice.lies) {
                self.tell(node, Event::Sample(sample))?;
            }
        }
        let mut counts = self.nodes[node].ledger.read(now, |endpoint| self.population.endpoints[endpoint].id);
        if trouble.miscounts {
            lies::miscount(&mut counts, &mut self.dice.lies);
        }
        self.tell(node, Event::Counts(counts))
    }
}
