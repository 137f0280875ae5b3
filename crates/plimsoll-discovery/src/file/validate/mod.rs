//! From what a file says to Services, or to what cannot be in it.

mod address;
mod endpoints;
mod fit;
mod names;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::service::{Family, Key, NodeName, Place, Protocol, Service, ServiceId};
use plimsoll_core::time::Span;

use self::endpoints::Checked;
use super::format::{self, File};
use super::locate::Path;
use super::parse::Contents;
use crate::Node;

pub(super) use self::fit::fit;
pub(super) use self::names::Names;

/// The longest affinity and slow start, as in Kubernetes: longer than any reason to remember a client.
const LONGEST: Duration = Duration::from_hours(24);
/// The longest name: of a Service with its namespace, a port, a node, a zone.
const LONGEST_NAME: usize = 253;

/// More findings than this are only counted: the first few say what is wrong with a file.
const MAX_FINDINGS: usize = 10;

/// Something that cannot be, at a field.
#[derive(Debug)]
pub(super) struct Finding {
    /// At which.
    pub(super) field: Path,
    /// The field that it is at odds with, which [`Finding::OTHER`] in `what` stands for.
    pub(super) other: Option<Path>,
    /// What, and what to do.
    pub(super) what: String,
}

impl Finding {
    /// Stands for the place of `other` until that is known.
    pub(super) const OTHER: &str = "{other}";
}

/// All that cannot be in a file.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The first few.
    pub(super) first: Vec<Finding>,
    /// How many more there are.
    pub(super) more: usize,
}

/// The Services that a file describes, or all that is wrong with them. The names of its nodes are left in `names`.
pub(super) fn validate(file: &File, names: &mut Names) -> Result<Contents, Findings> {
    let mut check = Check::new(names);
    let nodes = check.nodes(file);
    check.service_names(file);
    let outlines: Vec<Vec<Outline>> =
        file.services.iter().enumerate().map(|(s, service)| check.service(s, service)).collect();
    let mut services = Vec::new();
    for ((s, service), outlines) in file.services.iter().enumerate().zip(outlines) {
        let endpoints = check.endpoints(s, service);
        for outline in outlines {
            services.push(Arc::new(outline.with(service, &endpoints)));
        }
    }
    if !check.findings.first.is_empty() {
        return Err(check.findings);
    }
    services.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Contents { nodes, services })
}

/// What a Service says, checked alone: whether it may stand beside others, [`fit`] tells. `None` where something is
/// wrong with it.
pub(super) fn validate_alone(service: &format::Service, names: &mut Names) -> Option<Arc<[Arc<Service>]>> {
    let mut check = Check::new(names);
    check.service_name(0, service);
    let outlines = check.service(0, service);
    let endpoints = check.endpoints(0, service);
    let services = outlines.into_iter().map(|outline| Arc::new(outline.with(service, &endpoints))).collect();
    check.findings.first.is_empty().then_some(services)
}

/// A key, whoever its clients are; without an address, every node's own.
type Taken = (Option<IpAddr>, Family, u16, Protocol);

fn taken(key: &Key) -> Taken {
    let address = match key.place {
        Place::Internal(address) | Place::External(address) => Some(address),
        Place::AnyLocal(_) => None,
    };
    (address, key.place.family(), key.port, key.protocol)
}

/// What is remembered while a file is checked, and what was found.
struct Check<'a> {
    findings: Findings,
    names: &'a mut Names,
    /// Which Service and port has a key.
    keys: HashMap<Taken, (usize, usize)>,
    /// Where an address was said to be, by which Service and endpoint.
    hosts: HashMap<IpAddr, (Option<&'a str>, usize, usize)>,
}

/// A Service to be, without its endpoints.
struct Outline {
    id: ServiceId,
    protocol: Protocol,
    keys: Vec<Key>,
    endpoint_port: u16,
}

impl Outline {
    fn with(self, service: &format::Service, endpoints: &[Checked<'_>]) -> Service {
        let of_family = || endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == self.id.family);
        // These stay for as long as the Service does: no more room than they need.
        let mut endpoints = Vec::with_capacity(of_family().count());
        endpoints.extend(of_family().map(|endpoint| endpoint.at(self.endpoint_port, self.protocol)));
        endpoints.sort_by_key(|endpoint| endpoint.id);
        Service {
            id: self.id,
            protocol: self.protocol,
            keys: self.keys,
            internal_policy: service.internal_policy,
            external_policy: service.external_policy,
            affinity: service.affinity.map(|Span(span)| span),
            mode: service.mode,
            policy: service.policy,
            slow_start: service.slow_start.0,
            floor: service.floor,
            endpoints,
        }
    }
}

impl<'a> Check<'a> {
    fn new(names: &'a mut Names) -> Check<'a> {
        Check { findings: Findings::default(), names, keys: HashMap::new(), hosts: HashMap::new() }
    }

    fn find(&mut self, field: Path, what: String) {
        self.add(Finding { field, other: None, what });
    }

    fn clash(&mut self, field: Path, other: Path, what: String) {
        self.add(Finding { field, other: Some(other), what });
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.first.len() < MAX_FINDINGS {
            self.findings.first.push(finding);
        } else {
            self.findings.more += 1;
        }
    }

    fn nodes(&mut self, file: &'a File) -> Vec<Node> {
        let Some(nodes) = &file.nodes else { return Vec::new() };
        let mut first = HashMap::new();
        for (n, node) in nodes.iter().enumerate() {
            let at = Path::TOP.field("nodes").index(n);
            self.name(&|| at.field("name"), &node.name, "a node", 0);
            if let Some(zone) = &node.zone {
                self.name(&|| at.field("zone"), zone, "a zone", 0);
            }
            if let Some(other) = first.insert(node.name.as_str(), n) {
                self.clash(
                    at.field("name"),
                    Path::TOP.field("nodes").index(other),
                    format!("there is a node `{}` already, at {}; remove one", node.name, Finding::OTHER),
                );
            }
        }
        *self.names = Names::listed(nodes.iter().map(|node| NodeName::new(&node.name)));
        nodes
            .iter()
            .map(|node| Node {
                name: self.names.get(&node.name),
                zone: node.zone.as_deref().map(Arc::from),
                addresses: Vec::new(),
            })
            .collect()
    }

    fn service_names(&mut self, file: &File) {
        let mut first = HashMap::new();
        for (s, service) in file.services.iter().enumerate() {
            self.service_name(s, service);
            if let Some(&other) = first.get(service.name.as_str()) {
                let services = Path::TOP.field("services");
                self.clash(
                    services.index(s).field("name"),
                    services.index(other),
                    format!(
                        "there is a Service `{}` already, at {}; rename one",
                        service.name,
                        Finding::OTHER
                    ),
                );
            } else {
                first.insert(service.name.as_str(), s);
            }
        }
    }

    fn service_name(&mut self, s: usize, service: &format::Service) {
        let at = || Path::TOP.field("services").index(s).field("name");
        self.name(&at, &service.name, "a Service", 1);
    }

    /// A name goes into logs, metrics, messages and the kernel: no spaces, no surprises.
    fn name(&mut self, at: &dyn Fn() -> Path, name: &str, whose: &str, slashes: usize) {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let parts = name.split('/').count();
        if name.split('/').any(str::is_empty)
            || name.len() > LONGEST_NAME
            || parts > slashes + 1
            || !name.chars().all(plain)
        {
            let slash = if slashes > 0 { ", with at most one `/` between them" } else { "" };
            self.find(
                at(),
                format!(
                    "`{}` cannot be the name of {whose}; use 1 to {LONGEST_NAME} letters, digits, `-`, `_` and `.`{slash}",
                    name.chars().take(40).collect::<String>()
                ),
            );
        }
    }

    fn service(&mut self, s: usize, service: &'a format::Service) -> Vec<Outline> {
        let at = Path::TOP.field("services").index(s);
        if service.affinity.is_some_and(|Span(span)| span < Duration::from_secs(1) || span > LONGEST) {
            self.find(at.field("affinity"), "an affinity lasts 1s to 24h; leave it out for none".into());
        }
        if service.slow_start.0 > LONGEST {
            self.find(at.field("slow_start"), "a slow start lasts at most 24h; write `0s` for none".into());
        }
        if service.floor.is_some_and(|floor| !Service::FLOORS.contains(&floor)) {
            self.find(at.field("floor"), "a floor is from 0.005 to 0.1; leave it out for the agent's".into());
        }
        if service.ports.is_empty() {
            self.find(at.field("ports"), "the Service has no ports; add one, as in `- port: 80`".into());
        }
        let reached = self.addresses(&at, service);
        let families = self.families(&at, service);
        self.ports(&at, service);
        let mut outlines = Vec::new();
        for (p, port) in service.ports.iter().enumerate() {
            if reached.is_empty() && port.node_port.is_none() {
                self.find(
                    at.field("ports").index(p),
                    "nobody can reach this port; give the Service `addresses` or `external_addresses`, or the port a \
                     `node_port`"
                        .into(),
                );
            }
            for &family in &families {
                let keys = keys(&reached, port, family);
                self.take(s, p, port, &keys);
                outlines.push(Outline {
                    id: ServiceId {
                        name: service.name.as_str().into(),
                        port: port.name.as_str().into(),
                        family,
                    },
                    protocol: port.protocol,
                    keys,
                    endpoint_port: port.endpoint_port.unwrap_or(port.port),
                });
            }
        }
        outlines
    }

    /// The addresses of a Service, each once.
    fn addresses(&mut self, at: &Path, service: &format::Service) -> Vec<Place> {
        let mut first: HashMap<IpAddr, Path> = HashMap::new();
        let internal =
            service.addresses.iter().enumerate().map(|(i, a)| ("addresses", i, Place::Internal(a.0)));
        let external = service
            .external_addresses
            .iter()
            .enumerate()
            .map(|(i, a)| ("external_addresses", i, Place::External(a.0)));
        let mut places = Vec::new();
        for (list, i, place) in internal.chain(external) {
            if let Place::Internal(address) | Place::External(address) = place {
                let here = at.field(list).index(i);
                self.address(&|| here.clone(), address);
                if let Some(other) = first.get(&address) {
                    let what = format!(
                        "{address} is an address of this Service already, at {}; remove one",
                        Finding::OTHER
                    );
                    self.clash(here, other.clone(), what);
                } else {
                    first.insert(address, here);
                    places.push(place);
                }
            }
        }
        places
    }

    fn ports(&mut self, at: &Path, service: &format::Service) {
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (p, port) in service.ports.iter().enumerate() {
            let here = at.field("ports").index(p);
            if !port.name.is_empty() {
                self.name(&|| here.field("name"), &port.name, "a port", 0);
            }
            let numbers = [
                ("port", Some(port.port)),
                ("endpoint_port", port.endpoint_port),
                ("node_port", port.node_port),
            ];
            for (field, number) in numbers {
                if number == Some(0) {
                    self.find(here.field(field), "nothing can listen on port 0; write 1 to 65535".into());
                }
            }
            if port.name.is_empty() && service.ports.len() > 1 {
                self.find(here, "a Service with several ports needs a name for each; add `name`".into());
            } else if let Some(&other) = first.get(port.name.as_str()) {
                self.clash(
                    here.field("name"),
                    at.field("ports").index(other),
                    format!("there is a port `{}` already, at {}; rename one", port.name, Finding::OTHER),
                );
            } else {
                first.insert(&port.name, p);
            }
        }
    }

    /// The families of a Service. Its addresses and its endpoints must agree on them: a family with addresses
    /// alone would swallow connections, and one with endpoints alone would never be used.
    fn families(&mut self, at: &Path, service: &format::Service) -> Vec<Family> {
        let both = [Family::V4, Family::V6];
        let lists = [("addresses", &service.addresses), ("external_addresses", &service.external_addresses)];
        let address_of = |family| {
            lists.iter().find_map(|(name, list)| {
                let i = list.iter().position(|address| Family::of(address.0) == family)?;
                Some((at.field(name).index(i), list[i].0))
            })
        };
        let endpoint_of = |family| {
            let i = service.endpoints.iter().position(|e| e.all().any(|a| Family::of(a) == family))?;
            Some(at.field("endpoints").index(i))
        };
        let with_address: Vec<Family> = both.into_iter().filter(|&f| address_of(f).is_some()).collect();
        let with_endpoint: Vec<Family> = both.into_iter().filter(|&f| endpoint_of(f).is_some()).collect();
        if with_address.is_empty() {
            return if with_endpoint.is_empty() { both.to_vec() } else { with_endpoint };
        }
        for family in both {
            match (address_of(family), endpoint_of(family)) {
                (Some((here, address)), None) if !with_endpoint.is_empty() => self.find(
                    here,
                    format!(
                        "{address} is {}, but no endpoint has an address of that family; give the endpoints one (in \
                         `addresses`) or remove this",
                        title(family)
                    ),
                ),
                (None, Some(here)) => self.find(
                    here,
                    format!(
                        "this endpoint has an {} address, but the Service has none to reach it by; give the Service \
                         one or remove this",
                        title(family)
                    ),
                ),
                _ => {}
            }
        }
        with_address
    }

    /// Remembers whose the keys are; tells the first that is somebody else's.
    fn take(&mut self, s: usize, p: usize, port: &format::Port, keys: &[Key]) {
        for key in keys {
            let taken = taken(key);
            let Some(&(other_s, other_p)) = self.keys.get(&taken) else {
                self.keys.insert(taken, (s, p));
                continue;
            };
            if (other_s, other_p) == (s, p) {
                continue;
            }
            let services = Path::TOP.field("services");
            let (whose, field) = match taken.0 {
                Some(address) => (format!("{address} port"), "port"),
                None => ("node port".into(), "node_port"),
            };
            let what = format!(
                "{whose} {}/{} belongs to {} already; change one of them",
                key.port,
                port.protocol,
                Finding::OTHER
            );
            let here = services.index(s).field("ports").index(p).field(field);
            self.clash(here, services.index(other_s).field("ports").index(other_p), what);
            return;
        }
    }
}

/// The ways to reach a port in a family, sorted.
fn keys(reached: &[Place], port: &format::Port, family: Family) -> Vec<Key> {
    let addressed = reached.iter().map(|&place| (place, port.port));
    let node_port = port.node_port.map(|node_port| (Place::AnyLocal(family), node_port));
    let mut keys: Vec<Key> = addressed
        .chain(node_port)
        .filter(|(place, _)| place.family() == family)
        .map(|(place, number)| Key { place, port: number, protocol: port.protocol })
        .collect();
    keys.sort();
    keys.shrink_to_fit();
    keys
}

const fn title(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
