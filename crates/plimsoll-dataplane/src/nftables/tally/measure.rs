//! Measuring with a dump of conntrack what the counters missed.

use std::collections::{BTreeMap, HashMap};

use plimsoll_core::service::EndpointId;
use plimsoll_core::time::Timestamp;

use super::account::{Account, Measurement};
use super::{Kernel, Side, Tally};
use crate::Error;
use crate::conntrack::{Entry, Filter, Flow, Marking, TcpState};
use crate::nftables::mark::{MarkBits, OLD};

/// How often a measurement is repeated at once for connections whose mark and state disagree.
const REPEATS: usize = 3;

impl Tally {
    /// Adopts what members had open before they joined, then measures all accounts in question. Whether everything
    /// is known then.
    pub(super) fn measure(&mut self, kernel: &mut impl Kernel, now: Timestamp) -> Result<bool, Error> {
        self.adopt(kernel)?;
        let mut whole = true;
        for _ in 0..REPEATS {
            whole = self.measure_once(kernel, now)?;
            if self.suspects.is_empty() {
                break;
            }
        }
        if whole {
            self.hosted.unmeasured.clear();
            self.sent.unmeasured.clear();
        }
        let settled = |side: &Side| side.accounts.values().all(Account::is_settled);
        Ok(whole && settled(&self.hosted) && settled(&self.sent) && self.suspects.is_empty())
    }

    /// Marks what is open at new members and bears no mark, so that its end will be counted.
    fn adopt(&self, kernel: &mut impl Kernel) -> Result<(), Error> {
        let bits = kernel.mark_bits();
        let (hosted, sent) = (&self.hosted.unmeasured, &self.sent.unmeasured);
        let all = MarkBits::mask(bits);
        let mut markings = Vec::new();
        for mut filter in Filter::of(&hosted.union(sent).copied().collect()) {
            filter.mark = Some((0, bits.opened));
            filter.translated = hosted.is_empty();
            kernel.dump(&filter, &mut |entry| {
                let Some(endpoint) = entry.endpoint() else { return };
                let joined =
                    hosted.contains(&endpoint) || (entry.is_translated() && sent.contains(&endpoint));
                if !joined {
                    return;
                }
                let flow = entry.flow();
                match (entry.tcp, entry.is_answered()) {
                    (Some(TcpState::Established), _) | (None, true) => {
                        let open = bits.opened | bits.seen | bits.with_slot(OLD);
                        markings.push(Marking { flow, mask: all, bits: open });
                    }
                    // The client's next packet will open it.
                    (Some(TcpState::Opening), true) => {
                        markings.push(Marking { flow, mask: bits.seen, bits: bits.seen });
                    }
                    _ => {}
                }
            })?;
        }
        kernel.mark(&markings)
    }

    /// One measurement; `false` if ends were lost meanwhile, which makes it worthless.
    fn measure_once(&mut self, kernel: &mut impl Kernel, now: Timestamp) -> Result<bool, Error> {
        let bits = kernel.mark_bits();
        self.read_kernel(kernel, now)?;
        let losses = self.losses;
        // Their bounds count the suspects as open, and would close in on a wrong number with those to come.
        for endpoint in self.suspects.values() {
            for side in [&mut self.hosted, &mut self.sent] {
                if let Some(account) = side.accounts.get_mut(endpoint) {
                    account.doubt();
                }
            }
        }
        let (mut hosted, mut sent) = (self.hosted.in_question(), self.sent.in_question());
        let (mut suspects, mut ended) = (HashMap::new(), Vec::new());
        for mut filter in Filter::of(&hosted.keys().chain(sent.keys()).copied().collect()) {
            filter.mark = Some((bits.opened, bits.opened | bits.closed));
            kernel.dump(&filter, &mut |entry| {
                if self.is_open(bits, entry, &mut suspects, &mut ended) {
                    let cell = self.cell_of(bits, entry.mark);
                    for side in entry.is_translated().then_some(&mut sent).into_iter().chain([&mut hosted]) {
                        if let Some(measurement) = entry.endpoint().and_then(|id| side.get_mut(&id)) {
                            measurement[cell].found += 1;
                        }
                    }
                }
            })?;
        }
        self.read_kernel(kernel, now)?;
        if self.losses != losses {
            return Ok(false);
        }
        self.hosted.end_measurement(&hosted);
        self.sent.end_measurement(&sent);
        kernel.mark(&ended)?;
        self.suspects = suspects;
        Ok(true)
    }

    /// Whether a connection that is open by its mark is. One whose state says otherwise is about to be counted as
    /// closed, or its end passed before it was marked: the next measurement finds it again only if it is the latter.
    fn is_open(
        &self,
        bits: MarkBits,
        entry: &Entry,
        suspects: &mut HashMap<Flow, EndpointId>,
        ended: &mut Vec<Marking>,
    ) -> bool {
        if entry.tcp != Some(TcpState::Closing) {
            return true;
        }
        let (flow, Some(endpoint)) = (entry.flow(), entry.endpoint()) else { return false };
        if self.suspects.contains_key(&flow) {
            ended.push(Marking { flow, mask: bits.closed, bits: bits.closed });
            return false;
        }
        suspects.insert(flow, endpoint);
        true
    }
}

impl Side {
    /// Members whose base is not known, with their figures as they are now.
    fn in_question(&self) -> BTreeMap<EndpointId, Measurement> {
        let doubtful =
            self.accounts.iter().filter(|(_, account)| !account.is_settled() || account.is_overdrawn());
        let mut all: BTreeMap<_, _> =
            self.unmeasured.iter().map(|id| (*id, Measurement::default())).collect();
        all.extend(doubtful.map(|(id, account)| (*id, account.begin_measurement())));
        all
    }

    fn end_measurement(&mut self, measured: &BTreeMap<EndpointId, Measurement>) {
        for (endpoint, measurement) in measured {
            let found = measurement.iter().any(|cell| cell.found > 0);
            // Most endpoints have nothing to account for.
            if (found || self.accounts.contains_key(endpoint))
                && let Some(account) = self.account(*endpoint)
            {
                account.end_measurement(measurement);
            }
        }
    }
}
