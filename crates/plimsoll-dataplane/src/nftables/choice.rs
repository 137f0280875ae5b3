//! One Service in the kernel: its maps of weights and the chains that choose an endpoint by them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use plimsoll_core::order::{self, Interval};
use plimsoll_core::service::{EndpointId, Family};
use plimsoll_core::table::{Choose, KeyEntry, ServiceTable, Weighted};

use super::batch::Batch;
use super::element::{Bytes, DYNAMIC, Data, Element, INTERVAL, Kind, Set, TIMEOUT};
use super::expression::{Meta, R, Verdict};
use super::{Scope, notes};

/// The numbers by which a Service with affinity remembers endpoints. A number is not given to another endpoint
/// while a client could still be remembered with it.
#[derive(Clone, Debug, Default)]
struct Numbers {
    of: BTreeMap<EndpointId, u16>,
    retired: BTreeMap<u16, (EndpointId, Instant)>,
    last: u16,
}

impl Numbers {
    fn update(&mut self, endpoints: &BTreeSet<EndpointId>, timeout: Duration, now: Instant) {
        self.retired.retain(|_, (_, since)| now.duration_since(*since) <= timeout);
        let gone: Vec<EndpointId> = self.of.keys().filter(|id| !endpoints.contains(id)).copied().collect();
        for endpoint in gone {
            let number = self.of.remove(&endpoint).expect("it was just listed");
            self.retired.insert(number, (endpoint, now));
        }
        for endpoint in endpoints {
            if self.of.contains_key(endpoint) {
                continue;
            }
            let back = self.retired.iter().find(|(_, (id, _))| id == endpoint).map(|(number, _)| *number);
            let number = back.unwrap_or_else(|| self.free());
            self.retired.remove(&number);
            self.of.insert(*endpoint, number);
        }
    }

    /// The next number from 1 on that nobody has. When all are remembered, the longest retired one.
    fn free(&mut self) -> u16 {
        let taken: BTreeSet<u16> = self.of.values().copied().collect();
        for _ in 0..u16::MAX {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !taken.contains(&self.last) && !self.retired.contains_key(&self.last) {
                return self.last;
            }
        }
        *self.retired.iter().min_by_key(|(_, (_, since))| *since).expect("65,535 numbers are taken").0
    }
}

/// A Service as it is in the kernel.
#[derive(Clone, Debug)]
pub(super) struct Installed {
    /// Which chains and maps are its own.
    pub(super) number: u32,
    pub(super) family: Family,
    pub(super) table: ServiceTable,
    numbers: Numbers,
    /// Where the endpoints of each list lie, by their places in it; none for a list that is not wanted.
    intervals: [Vec<Interval>; 2],
}

/// One of a Service's two lists of endpoints.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Cluster,
    Local,
}

impl List {
    const BOTH: [List; 2] = [List::Cluster, List::Local];

    fn letter(self) -> char {
        match self {
            List::Cluster => 'c',
            List::Local => 'l',
        }
    }

    fn of(self, table: &ServiceTable) -> &[Weighted] {
        match self {
            List::Cluster => &table.cluster,
            List::Local => &table.local,
        }
    }

    /// Whether any key is served from it.
    fn wanted(self, table: &ServiceTable) -> bool {
        let own = if self == List::Cluster { Choose::Cluster } else { Choose::Local };
        table.keys.iter().any(|key| key.choose == own || key.choose == Choose::LocalForOutside)
    }
}

fn splits(table: &ServiceTable) -> bool {
    table.keys.iter().any(|key| key.choose == Choose::LocalForOutside)
}

/// The steps of a list; more endpoints than steps can tell apart are refused before this is asked.
fn steps_of(list: &[Weighted]) -> u32 {
    order::steps(list.len()).unwrap_or(1024)
}

impl Installed {
    pub(super) fn new(number: u32, family: Family, table: ServiceTable, scope: &Scope<'_>) -> Installed {
        let mut installed =
            Installed { number, family, table, numbers: Numbers::default(), intervals: Default::default() };
        installed.renumber();
        installed.lay_out(scope, None);
        installed
    }

    /// Whether `table` can take the place of what is installed without new chains and maps.
    pub(super) fn fits(&self, table: &ServiceTable) -> bool {
        let own = &self.table;
        own.protocol == table.protocol
            && own.affinity == table.affinity
            && splits(own) == splits(table)
            && List::BOTH.iter().all(|list| list.wanted(own) == list.wanted(table))
    }

    /// The same Service with another table.
    pub(super) fn with(&self, table: ServiceTable, scope: &Scope<'_>) -> Installed {
        let numbers = self.numbers.clone();
        let mut next = Installed { table, numbers, intervals: Default::default(), ..*self };
        next.renumber();
        next.lay_out(scope, Some(self));
        next
    }

    fn lay_out(&mut self, scope: &Scope<'_>, before: Option<&Installed>) {
        for list in List::BOTH.into_iter().filter(|list| list.wanted(&self.table)) {
            let endpoints = list.of(&self.table);
            if endpoints.is_empty() {
                continue;
            }
            let are_same = |before: &&Installed| {
                let before = list.of(&before.table);
                before.len() == endpoints.len()
                    && before.iter().zip(endpoints).all(|(a, b)| a.endpoint == b.endpoint)
            };
            let last = before.filter(are_same).map_or(&[][..], |before| &before.intervals[list as usize]);
            let weights: Vec<u32> = endpoints.iter().map(|weighted| weighted.weight).collect();
            let intervals = order::lay_out(&weights, steps_of(endpoints), scope.offset, last);
            self.intervals[list as usize] = intervals;
        }
    }

    fn renumber(&mut self) {
        if let Some(timeout) = self.table.affinity {
            let both = self.table.cluster.iter().chain(&self.table.local);
            let endpoints = both.map(|weighted| weighted.endpoint).collect();
            self.numbers.update(&endpoints, timeout, Instant::now());
        }
    }

    /// The addresses of its endpoints, some twice.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let table = &self.table;
        let lists = table.cluster.iter().chain(&table.local).map(|weighted| weighted.endpoint.address);
        lists.filter(|_| !table.keys.is_empty())
    }

    /// The numbers of steps that its chains use.
    pub(super) fn steps(&self) -> impl Iterator<Item = u32> + '_ {
        List::BOTH.iter().filter(|list| list.wanted(&self.table)).map(|list| steps_of(list.of(&self.table)))
    }

    /// Whether a key can be served.
    pub(super) fn serves(&self, key: &KeyEntry) -> bool {
        match key.choose {
            Choose::Cluster | Choose::LocalForOutside => !self.table.cluster.is_empty(),
            Choose::Local => !self.table.local.is_empty(),
        }
    }

    /// The chain that a key leads to.
    pub(super) fn chain_of(&self, key: &KeyEntry) -> String {
        match key.choose {
            Choose::Cluster => self.name(List::Cluster.letter()),
            Choose::Local => self.name(List::Local.letter()),
            Choose::LocalForOutside => self.name('e'),
        }
    }

    fn name(&self, letter: char) -> String {
        format!("{letter}_{}", self.number)
    }

    fn map_name(&self, letter: char, list: List) -> String {
        format!("{letter}_{}_{}", self.number, list.letter())
    }

    /// Writes everything of a Service that was not there.
    pub(super) fn make(&self, batch: &mut Batch, scope: &Scope<'_>) {
        let family = self.family;
        if let Some(timeout) = self.table.affinity {
            let name = self.name('a');
            batch.set(&Set {
                flags: DYNAMIC | TIMEOUT,
                timeout: timeout.as_millis() as u64,
                size: scope.config.affinity_clients,
                notes: &notes::clients(family),
                ..Set::map(&name, Kind::address(family), Kind::PRIORITY)
            });
        }
        let wanted = || List::BOTH.into_iter().filter(|list| list.wanted(&self.table));
        for list in wanted() {
            let weights = self.map_name('w', list);
            let destinations = notes::destinations(family);
            let endpoints =
                Set { notes: &destinations, ..Set::map(&weights, Kind::PRIORITY, Kind::destination(family)) };
            if self.table.affinity.is_some() {
                let ids = self.map_name('i', list);
                batch.set(&Set { name: &ids, ..endpoints });
                let numbers = notes::numbers();
                let shares = Set::map(&weights, Kind::PRIORITY, Kind::PRIORITY);
                batch.set(&Set { flags: INTERVAL, notes: &numbers, ..shares });
            } else {
                batch.set(&Set { flags: INTERVAL, ..endpoints });
            }
            batch.chain(&self.name(list.letter()));
            self.add_rules(batch, list);
            self.add_ids(batch, list, &BTreeMap::new());
            self.add_weights(batch, list);
        }
        if splits(&self.table) {
            self.make_split(batch, scope);
        }
    }

    /// Writes what differs from what was installed before; all of it with `all`.
    pub(super) fn update(&self, batch: &mut Batch, before: &Installed, all: bool) {
        for list in List::BOTH.into_iter().filter(|list| list.wanted(&self.table)) {
            let (new, old) = (list.of(&self.table), list.of(&before.table));
            if new == old && !all {
                continue;
            }
            let chain = self.name(list.letter());
            if all || steps_of(new) != steps_of(old) {
                batch.flush_chain(&chain);
                self.add_rules(batch, list);
            }
            if self.table.affinity.is_some() {
                self.add_ids(batch, list, &before.ids(list));
            }
            batch.flush_set(&self.map_name('w', list));
            self.add_weights(batch, list);
        }
    }

    /// Takes everything of the Service away; nothing may lead to it any more.
    pub(super) fn remove(&self, batch: &mut Batch) {
        if splits(&self.table) {
            batch.delete_chain(&self.name('e'));
        }
        let wanted = || List::BOTH.into_iter().filter(|list| list.wanted(&self.table));
        for list in wanted() {
            batch.delete_chain(&self.name(list.letter()));
        }
        for list in wanted() {
            batch.delete_set(&self.map_name('w', list));
            if self.table.affinity.is_some() {
                batch.delete_set(&self.map_name('i', list));
            }
        }
        if self.table.affinity.is_some() {
            batch.delete_set(&self.name('a'));
        }
    }

    /// Clients inside and this node itself choose among all, others among this node's own.
    fn make_split(&self, batch: &mut Batch, scope: &Scope<'_>) {
        let (chain, all, own) = (self.name('e'), self.name('c'), self.name('l'));
        batch.chain(&chain);
        if let Some(interface) = &scope.config.local_interface {
            batch.rule(&chain, |r| {
                r.came_by(interface).verdict(Verdict::Goto(&all));
            });
        }
        if scope.has_local_sources(self.family) {
            batch.rule(&chain, |r| {
                let inside = Scope::local_sources(self.family);
                r.family(self.family).source(self.family).member(inside).verdict(Verdict::Goto(&all));
            });
        }
        batch.rule(&chain, |r| {
            r.source_is_here().verdict(Verdict::Goto(&all));
        });
        batch.rule(&chain, |r| {
            r.verdict(Verdict::Goto(&own));
        });
    }

    fn add_rules(&self, batch: &mut Batch, list: List) {
        let (family, protocol) = (self.family, self.table.protocol);
        let chain = self.name(list.letter());
        let weights = self.map_name('w', list);
        let steps = steps_of(list.of(&self.table));
        let order = order_name(steps);
        if self.table.affinity.is_none() {
            batch.rule(&chain, |r| {
                r.count_up(steps).map(&order).set_meta(Meta::Priority, R);
            });
            batch.rule(&chain, |r| {
                r.protocol(protocol).meta(Meta::Priority, R).network_order().map(&weights).dnat(family);
            });
            return;
        }
        self.add_affinity_rules(batch, &chain, list, (steps, &order, &weights));
    }

    fn add_affinity_rules(&self, batch: &mut Batch, chain: &str, list: List, by: (u32, &str, &str)) {
        let (family, protocol) = (self.family, self.table.protocol);
        let (steps, order, weights) = by;
        let clients = self.name('a');
        let ids = self.map_name('i', list);
        // Behind the client's address, which is 4 or 16 bytes: where the number goes.
        let second = 2;
        batch.rule(chain, |r| {
            r.protocol(protocol).family(family).source(family).map(&clients).set_meta(Meta::Priority, R);
            r.source(family).meta(Meta::Priority, second).update(&clients, Some(second));
            r.meta(Meta::Priority, R).map(&ids).dnat(family);
        });
        batch.rule(chain, |r| {
            r.count_up(steps).map(order).set_meta(Meta::Priority, R);
            r.meta(Meta::Priority, R).network_order().map(weights).set_meta(Meta::Priority, R);
            // The endpoint that the client is remembered with is gone; an update alone would keep its number.
            r.family(family).source(family).meta(Meta::Priority, second).forget(&clients, second);
            // Last in its rule: when the map of clients is full, the rest of the rule is skipped.
            r.source(family).meta(Meta::Priority, second).update(&clients, Some(second));
        });
        batch.rule(chain, |r| {
            r.protocol(protocol).meta(Meta::Priority, R).map(&ids).dnat(family);
        });
    }

    fn ids(&self, list: List) -> BTreeMap<EndpointId, u16> {
        let endpoints = list.of(&self.table).iter().map(|weighted| weighted.endpoint);
        endpoints.filter_map(|endpoint| Some((endpoint, *self.numbers.of.get(&endpoint)?))).collect()
    }

    fn add_ids(&self, batch: &mut Batch, list: List, before: &BTreeMap<EndpointId, u16>) {
        if self.table.affinity.is_none() {
            return;
        }
        let name = self.map_name('i', list);
        let now = self.ids(list);
        let element = |(endpoint, number): (&EndpointId, &u16)| Element {
            key: Bytes::host(u32::from(*number)),
            data: Data::Value(Bytes::destination(endpoint)),
        };
        batch.delete(&name, before.iter().filter(|(id, number)| now.get(id) != Some(number)).map(element));
        batch.add(&name, now.iter().filter(|(id, number)| before.get(id) != Some(number)).map(element));
    }

    fn add_weights(&self, batch: &mut Batch, list: List) {
        let endpoints = list.of(&self.table);
        if endpoints.is_empty() {
            return;
        }
        let mut from = 1;
        let elements = self.intervals[list as usize].iter().flat_map(|interval| {
            let endpoint = &endpoints[interval.endpoint].endpoint;
            let data = match self.numbers.of.get(endpoint) {
                Some(&number) => Bytes::host(u32::from(number)),
                None => Bytes::destination(endpoint),
            };
            let start = Element { key: Bytes::network(from), data: Data::Value(data) };
            from += interval.steps;
            [start, Element { key: Bytes::network(from), data: Data::End }]
        });
        batch.add(&self.map_name('w', list), elements);
    }
}

/// The name of the map that turns a count into a step.
fn order_name(steps: u32) -> String {
    format!("order_{steps}")
}

/// Makes the map that turns a count into one of `steps` steps.
pub(super) fn make_order(batch: &mut Batch, steps: u32, offset: u16) {
    let name = order_name(steps);
    batch.set(&Set {
        size: steps,
        notes: &notes::order(steps),
        ..Set::map(&name, Kind::INTEGER, Kind::PRIORITY)
    });
    batch.cut();
    batch.add_loosely(
        &name,
        (0..steps).map(|count| Element {
            key: Bytes::host(count),
            data: Data::Value(Bytes::host(order::value(count, steps, u32::from(offset)))),
        }),
    );
}

#[cfg(test)]
mod tests {
    use plimsoll_core::service::Protocol;

    use super::*;

    fn endpoint(port: u16) -> EndpointId {
        EndpointId { address: IpAddr::from([10, 0, 0, 1]), port, protocol: Protocol::Tcp }
    }

    #[test]
    fn a_number_is_not_given_away_while_a_client_may_remember_it() {
        let timeout = Duration::from_mins(1);
        let start = Instant::now();
        let mut numbers = Numbers::default();
        let both = BTreeSet::from([endpoint(1), endpoint(2)]);
        numbers.update(&both, timeout, start);
        let first = numbers.of[&endpoint(1)];
        numbers.update(&BTreeSet::from([endpoint(2)]), timeout, start);
        numbers.last = 0;
        numbers.update(&BTreeSet::from([endpoint(2), endpoint(3)]), timeout, start + timeout);
        assert_eq!(numbers.of[&endpoint(3)], 3);
        // Who comes back in time gets the number back, and the clients with it.
        numbers.update(&both, timeout, start + timeout);
        assert_eq!(numbers.of[&endpoint(1)], first);
        numbers.update(&BTreeSet::from([endpoint(2)]), timeout, start + timeout);
        numbers.last = 0;
        numbers.update(&BTreeSet::from([endpoint(2), endpoint(4)]), timeout, start + 3 * timeout);
        assert_eq!(numbers.of[&endpoint(4)], first);
    }
}
