//! What exists: endpoints and the Services that have them, drawn at random and changed at random.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::service::{
    self, Conditions, EndpointId, Family, Key, Mode, NodeName, Place, PolicyKind, Protocol, Service,
    ServiceId, TrafficPolicy,
};
use plimsoll_core::time::Timestamp;

use crate::agents;
use crate::dice::Dice;

/// The most nodes that host endpoints.
pub(super) const MOST_NODES: usize = 20;
/// The most endpoints.
const MOST_ENDPOINTS: usize = 200;
/// The most Services.
const MOST_SERVICES: usize = 6;
/// The zones nodes are in.
const ZONES: [&str; 2] = ["north", "south"];
/// Capacities as people state them, and as nobody should.
const CAPACITIES: [f64; 12] = [0.5, 1.0, 1.0, 2.0, 4.0, 64.0, 0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9, 1e15];

/// What a packet shows beside addresses and ports. An endpoint has one, a Service only endpoints of its own; sorted.
type Kind = (Family, Protocol);
const KINDS: [Kind; 4] = [
    (Family::V4, Protocol::Tcp),
    (Family::V4, Protocol::Udp),
    (Family::V6, Protocol::Tcp),
    (Family::V6, Protocol::Sctp),
];

/// What goes wrong with the connections of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failing {
    /// It refuses them.
    Refuses,
    /// It closes them at once.
    Closes,
}

/// What is read of an endpoint's CPU and pressure instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Misreading {
    /// Nothing at all.
    Silent,
    /// Samples without figures.
    Missing,
    /// Always this.
    Constant(f64),
}

/// One endpoint.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) id: EndpointId,
    /// The node that hosts it; `None`: no agent does.
    pub(super) host: Option<usize>,
    pub(super) capacity: Option<f64>,
    pub(super) conditions: Conditions,
    pub(super) zones: Vec<Arc<str>>,
    /// The nodes it is hinted at for.
    nodes: Vec<NodeName>,
    pub(super) failing: Option<(Failing, Timestamp)>,
    pub(super) misreading: Option<(Misreading, Timestamp)>,
}

impl Endpoint {
    fn kind(&self) -> Kind {
        (Family::of(self.id.address), self.id.protocol)
    }

    pub(super) fn failing(&self, now: Timestamp) -> Option<Failing> {
        self.failing.filter(|(_, until)| now < *until).map(|(how, _)| how)
    }

    pub(super) fn misreading(&self, now: Timestamp) -> Option<Misreading> {
        self.misreading.filter(|(_, until)| now < *until).map(|(how, _)| how)
    }
}

/// One Service.
#[derive(Clone, Debug)]
struct Offer {
    is_there: bool,
    members: BTreeSet<usize>,
    /// Without its endpoints.
    service: Service,
    /// As the discovery tells of it now.
    told: Option<Arc<Service>>,
}

impl Offer {
    /// A Service without endpoints yet.
    fn draw(number: usize, (family, protocol): Kind, dice: &mut Dice) -> Offer {
        // Some keys are claimed by two Services.
        let claimed = if dice.below(8) == 0 { 0 } else { number };
        let key = |place| Key { place, port: 80, protocol };
        let address = |v4: [u8; 3], v6: u16, last: usize| match family {
            Family::V4 => IpAddr::from([v4[0], v4[1], v4[2], last as u8]),
            Family::V6 => IpAddr::from([v6, 0, 0, 0, 0, 0, 0, last as u16]),
        };
        let mut keys = vec![key(Place::Internal(address([10, 96, 0], 0xfd10, claimed)))];
        if dice.below(3) == 0 {
            keys.push(key(Place::External(address([192, 0, 2], 0x2001, number))));
        }
        if dice.below(6) == 0 {
            keys.push(Key { port: 30_000 + number as u16, ..key(Place::AnyLocal(family)) });
        }
        let traffic = |roll| if roll == 0 { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let policy = [
            None,
            None,
            None,
            Some(PolicyKind::Waterline),
            Some(PolicyKind::LvsFeedback),
            Some(PolicyKind::Equal),
            Some(PolicyKind::Static),
        ][dice.below(7)];
        let service = Service {
            id: ServiceId { name: format!("s{number}").into(), port: "".into(), family },
            protocol,
            keys,
            internal_policy: traffic(dice.below(8)),
            external_policy: traffic(dice.below(8)),
            affinity: (dice.below(8) == 0).then_some(Duration::from_mins(1)),
            mode: if dice.below(12) == 0 { Mode::Observe } else { Mode::Enabled },
            policy,
            slow_start: Duration::from_secs(if dice.below(6) == 0 { 5 } else { 0 }),
            floor: None,
            endpoints: Vec::new(),
        };
        Offer { is_there: dice.below(8) > 0, members: BTreeSet::new(), service, told: None }
    }

    fn kind(&self) -> Kind {
        (self.service.id.family, self.service.protocol)
    }
}

/// What exists.
#[derive(Clone, Debug)]
pub(super) struct Population {
    pub(super) nodes: usize,
    pub(super) endpoints: Vec<Endpoint>,
    offers: Vec<Offer>,
    /// Which of [`CAPACITIES`] are drawn; none: nobody states any.
    capacities: Option<usize>,
    /// The part of endpoints without an agent.
    outside: f64,
    with_zones: bool,
    with_node_hints: bool,
}

/// What a node is called. The last one hosts nothing.
pub(super) fn node_name(node: usize) -> NodeName {
    NodeName::new(&format!("n{node:02}"))
}

/// Who an endpoint is; `crate::agents::index` tells its number again.
fn id(number: usize, (family, protocol): Kind) -> EndpointId {
    let address = match family {
        Family::V4 => agents::id(number).address,
        Family::V6 => Ipv6Addr::from_bits((0xfd00 << 112) | number as u128).into(),
    };
    EndpointId { address, port: 8080, protocol }
}

/// The zone a node is in.
pub(super) fn zone(node: usize) -> Arc<str> {
    ZONES[node % ZONES.len()].into()
}

/// A number from 1 to `most`; large ones, which take long, more seldom than small ones.
fn spread(dice: &mut Dice, most: usize) -> usize {
    let unit = dice.unit();
    (libm::exp(unit * libm::sqrt(unit) * libm::log(most as f64 + 1.0)) as usize).clamp(1, most)
}

impl Population {
    pub(super) fn new(dice: &mut Dice) -> Population {
        let capacities = match dice.below(5) {
            0 => None,
            1 => Some(1),
            2 | 3 => Some(6),
            _ => Some(CAPACITIES.len()),
        };
        let mut population = Population {
            nodes: spread(dice, MOST_NODES),
            endpoints: Vec::new(),
            offers: Vec::new(),
            capacities,
            outside: [0.0, 0.0, 0.2, 1.0][dice.below(4)],
            with_zones: dice.below(4) == 0,
            with_node_hints: dice.below(8) == 0,
        };
        let kinds = match dice.below(4) {
            0 | 1 => &KINDS[..1],
            2 => std::slice::from_ref(&KINDS[dice.below(KINDS.len())]),
            _ => &KINDS[..],
        };
        let mut drawn: Vec<Kind> =
            (0..spread(dice, MOST_ENDPOINTS)).map(|_| kinds[dice.below(kinds.len())]).collect();
        // Endpoints are numbered in the order of their addresses.
        drawn.sort_unstable();
        for (number, kind) in drawn.into_iter().enumerate() {
            let endpoint = population.draw_endpoint(id(number, kind), dice);
            population.endpoints.push(endpoint);
        }
        for number in 0..spread(dice, MOST_SERVICES) {
            let offer = Offer::draw(number, kinds[dice.below(kinds.len())], dice);
            population.offers.push(offer);
        }
        for number in 0..population.offers.len() {
            population.redraw_members(number, dice);
            population.describe(number);
        }
        population
    }

    fn draw_endpoint(&self, id: EndpointId, dice: &mut Dice) -> Endpoint {
        let capacity = self.capacities.map(|kinds| CAPACITIES[dice.below(kinds)]);
        let is_outside = dice.unit() < self.outside;
        let zones = if self.with_zones { vec![zone(dice.below(ZONES.len()))] } else { Vec::new() };
        let hints = if self.with_node_hints { 1 + dice.below(2) } else { 0 };
        Endpoint {
            id,
            nodes: (0..hints).map(|_| node_name(dice.below(self.nodes))).collect(),
            host: (!is_outside).then(|| dice.below(self.nodes)),
            capacity,
            conditions: Conditions::default(),
            zones,
            failing: None,
            misreading: None,
        }
    }

    fn redraw_members(&mut self, number: usize, dice: &mut Dice) {
        let part = if self.offers.len() == 1 { 1.0 } else { dice.between(0.1, 1.0) };
        let members =
            (0..self.endpoints.len()).filter(|&index| self.fits(number, index) && dice.unit() < part);
        self.offers[number].members = members.collect();
    }

    /// Whether a Service can have an endpoint.
    fn fits(&self, number: usize, endpoint: usize) -> bool {
        self.offers[number].kind() == self.endpoints[endpoint].kind()
    }

    /// Writes a Service down as the discovery tells of it.
    fn describe(&mut self, number: usize) {
        let offer = &self.offers[number];
        let told = offer.is_there.then(|| {
            let endpoints = offer.members.iter().map(|&index| {
                let endpoint = &self.endpoints[index];
                service::Endpoint {
                    id: endpoint.id,
                    node: endpoint.host.map(node_name),
                    capacity: endpoint.capacity,
                    conditions: endpoint.conditions,
                    for_zones: endpoint.zones.clone(),
                    for_nodes: endpoint.nodes.clone(),
                }
            });
            Arc::new(Service { endpoints: endpoints.collect(), ..offer.service.clone() })
        });
        self.offers[number].told = told;
    }

    fn describe_users(&mut self, endpoint: usize) {
        for number in 0..self.offers.len() {
            if self.offers[number].members.contains(&endpoint) {
                self.describe(number);
            }
        }
    }

    /// Every Service there is or may be, by number.
    pub(super) fn told(&self) -> impl Iterator<Item = Option<&Arc<Service>>> {
        self.offers.iter().map(|offer| offer.told.as_ref())
    }

    /// How many Services there are or may be.
    pub(super) fn len(&self) -> usize {
        self.offers.len()
    }

    /// Changes something; what it was.
    pub(super) fn change(&mut self, dice: &mut Dice) -> String {
        let endpoint = dice.below(self.endpoints.len());
        let id = self.endpoints[endpoint].id;
        let number = dice.below(self.offers.len());
        match dice.below(9) {
            // An endpoint flaps.
            0 | 1 => {
                let ready = !self.endpoints[endpoint].conditions.ready;
                let serving = ready || dice.below(2) == 0;
                let terminating = !ready && dice.below(2) == 0;
                self.endpoints[endpoint].conditions = Conditions { ready, serving, terminating };
                self.describe_users(endpoint);
                format!("{id} is {:?}", self.endpoints[endpoint].conditions)
            }
            2 | 3 if self.fits(number, endpoint) => {
                let members = &mut self.offers[number].members;
                let went = members.remove(&endpoint);
                if !went {
                    members.insert(endpoint);
                }
                self.describe(number);
                format!("{id} {} s{number}", if went { "leaves" } else { "joins" })
            }
            4 => {
                self.endpoints[endpoint].host = (dice.below(4) > 0).then(|| dice.below(self.nodes));
                self.describe_users(endpoint);
                format!("{id} moves to {:?}", self.endpoints[endpoint].host.map(node_name))
            }
            5 => {
                let offer = &mut self.offers[number];
                offer.is_there = !offer.is_there;
                let verb = if offer.is_there { "comes" } else { "goes" };
                self.describe(number);
                format!("s{number} {verb}")
            }
            6 => {
                self.redraw_members(number, dice);
                self.describe(number);
                format!("s{number} has {} other endpoints", self.offers[number].members.len())
            }
            7 => {
                let drawn = self.draw_endpoint(id, dice);
                let told = format!("{id} has capacity {:?} and other hints", drawn.capacity);
                let Endpoint { capacity, zones, nodes, .. } = drawn;
                self.endpoints[endpoint] =
                    Endpoint { capacity, zones, nodes, ..self.endpoints[endpoint].clone() };
                self.describe_users(endpoint);
                told
            }
            _ => {
                let offer = &mut self.offers[number];
                let Offer { is_there, members, .. } = offer.clone();
                *offer = Offer { is_there, members, ..Offer::draw(number, offer.kind(), dice) };
                self.describe(number);
                format!("s{number} is described anew")
            }
        }
    }

    /// Makes every endpoint ready again, and every Service come.
    pub(super) fn mend(&mut self) {
        for endpoint in &mut self.endpoints {
            endpoint.conditions = Conditions::default();
            (endpoint.failing, endpoint.misreading) = (None, None);
        }
        for number in 0..self.offers.len() {
            self.offers[number].is_there = true;
            self.describe(number);
        }
    }
}
