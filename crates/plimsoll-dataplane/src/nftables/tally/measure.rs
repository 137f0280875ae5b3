//! Measuring with dumps of conntrack what the counters missed, one dump at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use plimsoll_core::service::EndpointId;
use plimsoll_core::time::Timestamp;

use super::account::{Account, Measurement};
use super::{Kernel, PATIENCE, Planned, Side, Tally};
use crate::Error;
use crate::conntrack::{Entry, Filter, Flow, Marking, TcpState};
use crate::nftables::mark::{MarkBits, OLD};

/// How often a measurement is repeated at once for connections whose mark and state disagree.
const REPEATS: usize = 3;
/// So many of those connections are remembered: 2 MB.
pub(super) const MOST_SUSPECTS: usize = 16_384;

/// Connections that are open by their mark, but not by their state, as of one dump.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    pub(super) flows: HashMap<Flow, EndpointId>,
    /// Endpoints that have more of them.
    more: BTreeSet<EndpointId>,
}

impl Suspects {
    fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.more.is_empty()
    }

    fn endpoints(&self) -> impl Iterator<Item = &EndpointId> {
        self.flows.values().chain(&self.more)
    }

    fn add(&mut self, flow: Flow, endpoint: EndpointId) {
        if self.flows.len() < MOST_SUSPECTS {
            self.flows.insert(flow, endpoint);
        } else {
            self.more.insert(endpoint);
        }
    }
}

impl Tally {
    /// The next dump of a measurement: the first adopts what members had open before they joined, those that follow
    /// measure all accounts in question, until mark and state of each connection agree.
    pub(super) fn step_of_measurement(
        &mut self,
        kernel: &mut impl Kernel,
        planned: Planned,
        now: Timestamp,
    ) -> Result<(), Error> {
        let next = Planned { dumps: planned.dumps + 1, ..planned };
        if planned.dumps == 0 && !(self.hosted.joined.is_empty() && self.sent.joined.is_empty()) {
            self.adopt(kernel)?;
            self.measure = Some(next);
            return Ok(());
        }
        let whole = self.measure_once(kernel, now)?;
        if whole {
            self.hosted.adopted.clear();
            self.sent.adopted.clear();
        }
        self.measured = now;
        if !self.suspects.is_empty() && planned.dumps < REPEATS {
            self.measure = Some(next);
            return Ok(());
        }
        let settled = |side: &Side| side.accounts.values().all(Account::is_settled);
        let done = whole && settled(&self.hosted) && settled(&self.sent) && self.suspects.is_empty();
        let patience = (planned.patience * 2).min(PATIENCE.1);
        self.measure = (!done).then(|| Planned { at: now + planned.patience, patience, dumps: 0 });
        // Who joined since the first dump.
        self.measure_joined(now);
        Ok(())
    }

    /// Marks what is open at new members and bears no mark, so that its end will be counted.
    fn adopt(&mut self, kernel: &mut impl Kernel) -> Result<(), Error> {
        let bits = kernel.mark_bits();
        let (hosted, sent) = (&self.hosted.joined, &self.sent.joined);
        let filter = Filter {
            mark: Some((0, bits.opened)),
            translated: hosted.is_empty(),
            ..Filter::of(&hosted.union(sent).copied().collect())
        };
        kernel.mark(&filter, &mut |entry| {
            let endpoint = entry.endpoint()?;
            let joined = hosted.contains(&endpoint) || (entry.is_translated() && sent.contains(&endpoint));
            let (flow, all) = (entry.flow(), bits.mask());
            match (entry.tcp, entry.is_answered()) {
                _ if !joined => None,
                (Some(TcpState::Established), _) | (None, true) => {
                    let open = bits.opened | bits.seen | bits.with_slot(OLD);
                    Some(Marking { flow, mask: all, bits: open })
                }
                // The client's next packet will open it.
                (Some(TcpState::Opening), true) => Some(Marking { flow, mask: bits.seen, bits: bits.seen }),
                _ => None,
            }
        })?;
        for side in [&mut self.hosted, &mut self.sent] {
            side.adopted.append(&mut side.joined);
        }
        Ok(())
    }

    /// One measurement; `false` if ends were lost meanwhile, which makes it worthless.
    fn measure_once(&mut self, kernel: &mut impl Kernel, now: Timestamp) -> Result<bool, Error> {
        let bits = kernel.mark_bits();
        self.read_kernel(kernel, now)?;
        let losses = self.losses;
        // Their bounds count the suspects as open, and would close in on a wrong number with those to come.
        for endpoint in self.suspects.endpoints() {
            for side in [&mut self.hosted, &mut self.sent] {
                if let Some(account) = side.accounts.get_mut(endpoint) {
                    account.doubt();
                }
            }
        }
        let (mut hosted, mut sent) = (self.hosted.in_question(), self.sent.in_question());
        let mut suspects = Suspects::default();
        let asked = hosted.keys().chain(sent.keys()).chain(&self.hosted.adopted).chain(&self.sent.adopted);
        let filter = Filter {
            mark: Some((bits.opened, bits.opened | bits.closed)),
            ..Filter::of(&asked.copied().collect())
        };
        kernel.mark(&filter, &mut |entry| {
            let endpoint = entry.endpoint()?;
            if let Some(ended) = self.suspect(bits, entry, endpoint, &mut suspects) {
                return Some(ended);
            }
            let cell = self.cell_of(bits, entry.mark);
            let sides = [(&self.hosted, &mut hosted), (&self.sent, &mut sent)];
            for (side, measured) in sides.into_iter().take(1 + usize::from(entry.is_translated())) {
                if side.adopted.contains(&endpoint) {
                    measured.entry(endpoint).or_default()[cell].found += 1;
                } else if let Some(measurement) = measured.get_mut(&endpoint) {
                    measurement[cell].found += 1;
                }
            }
            None
        })?;
        self.read_kernel(kernel, now)?;
        if self.losses != losses {
            return Ok(false);
        }
        self.hosted.end_measurement(&hosted);
        self.sent.end_measurement(&sent);
        self.suspects = suspects;
        Ok(true)
    }

    /// What to mark if a connection that is open by its mark is not. One whose state says otherwise is about to be
    /// counted as closed, or its end passed before it was marked: the next measurement finds it again only if it is
    /// the latter.
    fn suspect(
        &self,
        bits: MarkBits,
        entry: &Entry,
        endpoint: EndpointId,
        suspects: &mut Suspects,
    ) -> Option<Marking> {
        if entry.tcp != Some(TcpState::Closing) {
            return None;
        }
        let flow = entry.flow();
        if self.suspects.flows.contains_key(&flow) {
            return Some(Marking { flow, mask: bits.closed, bits: bits.closed });
        }
        suspects.add(flow, endpoint);
        None
    }
}

impl Side {
    /// The accounts whose base is not known, with their figures as they are now. Not those of members whose
    /// connections are still to be adopted; nor adopted ones that have no account yet, which are most of them.
    fn in_question(&self) -> BTreeMap<EndpointId, Measurement> {
        let doubtful = self.accounts.iter().filter(|(id, account)| {
            let is_doubtful = !account.is_settled() || account.is_overdrawn();
            self.adopted.contains(id) || (is_doubtful && !self.joined.contains(id))
        });
        doubtful.map(|(id, account)| (*id, account.begin_measurement())).collect()
    }

    fn end_measurement(&mut self, measured: &BTreeMap<EndpointId, Measurement>) {
        // Who was adopted and has an account by now, and nothing of it was found open.
        let opened_since = |id: &&EndpointId| !measured.contains_key(id) && self.accounts.contains_key(id);
        let opened: Vec<EndpointId> = self.adopted.iter().filter(opened_since).copied().collect();
        let none = Measurement::default();
        for (endpoint, measurement) in measured.iter().chain(opened.iter().map(|id| (id, &none))) {
            if let Some(account) = self.account(*endpoint) {
                account.end_measurement(measurement);
            }
        }
    }
}
