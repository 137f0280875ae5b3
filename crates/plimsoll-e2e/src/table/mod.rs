//! The table of cases, read from its text.

mod proxy;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use plimsoll_lab::control_plane::Mode;

pub use self::proxy::Proxy;

/// The table of the repository.
pub const CASES: &str = include_str!("../cases.txt");

/// The table of Services that change.
pub const CHANGES: &str = include_str!("../changes.txt");

/// Words for a Service that stand alone.
const WORDS: [&str; 25] = [
    "deleted",
    "disabled",
    "external-ip",
    "external-local",
    "external-name",
    "headless",
    "headless-label",
    "internal-local",
    "lb-proxy",
    "load-balancer",
    "misnamed",
    "no-node-ports",
    "no-selector",
    "node-port",
    "observe",
    "proxy-name",
    "publish",
    "single-v4",
    "single-v6",
    "take-over",
    "twice",
    "two-ports",
    "unlabelled",
    "unnamed",
    "waterline",
];

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// A Service and what is asked of it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Which number it has in the table; its addresses follow from it.
    pub number: usize,
    /// What kind of Service it is, word by word.
    pub words: BTreeSet<String>,
    /// The seconds of its client affinity, if it has one.
    pub affinity: Option<u32>,
    /// Whose addresses may use its load balancer; empty: everybody's.
    pub ranges: Vec<String>,
    /// Its protocols.
    pub protocols: Vec<Protocol>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Beside which kube-proxies.
    pub proxy: Proxy,
    /// What is asked of it.
    pub cases: Vec<Case>,
}

impl Service {
    /// Whether a word is among those of the Service.
    pub fn is(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// Whether it has node ports.
    pub fn has_node_ports(&self) -> bool {
        let balanced = self.is("load-balancer") || self.is("lb-proxy");
        self.is("node-port") || (balanced && !self.is("no-node-ports"))
    }

    /// Whether agents know of it.
    pub fn is_followed(&self) -> bool {
        let unserved = [
            "unlabelled",
            "disabled",
            "deleted",
            "headless",
            "headless-label",
            "external-name",
            "proxy-name",
        ];
        !unserved.iter().any(|word| self.is(word))
    }

    /// The families it has addresses of: IPv4, IPv6.
    pub fn families(&self) -> impl Iterator<Item = bool> + '_ {
        [false, true].into_iter().filter(|v6| !self.is(if *v6 { "single-v4" } else { "single-v6" }))
    }
}

/// An endpoint of a Service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The pod or host that it is.
    pub name: String,
    /// `ready`, `serving` and `terminating`, as written into the slice.
    pub conditions: Option<[bool; 3]>,
    /// The zone it is meant for.
    pub for_zone: Option<String>,
    /// The node it is meant for.
    pub for_node: Option<String>,
    /// The only family it is listed in; `true`: IPv6.
    pub only_v6: Option<bool>,
}

/// Something that is asked of a Service.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name within the Service.
    pub name: String,
    /// Who dials.
    pub by: Vec<String>,
    /// Where, one after the other.
    pub at: Vec<At>,
    /// What must be seen, in nftables and in iptables mode.
    pub sees: [Sees; 2],
    /// Who serves it when Plimsoll is there, in nftables and in iptables mode.
    pub served: [Served; 2],
}

/// Something for each of kube-proxy's modes.
pub fn of<T>(mode: Mode, both: &[T; 2]) -> &T {
    &both[usize::from(mode == Mode::Iptables)]
}

/// Where a Service is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Which of its addresses.
    pub place: Place,
    /// The Service's port; its node port is the one that goes with it.
    pub port: u16,
    /// Another protocol than the Service's first.
    pub protocol: Option<Protocol>,
    /// Only one family; `true`: IPv6.
    pub only_v6: Option<bool>,
}

/// Which of a Service's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its cluster address.
    Cluster,
    /// Its external address.
    External,
    /// Its load balancer's address.
    LoadBalancer,
    /// Its node port, at this node; without one, at the node of who dials.
    NodePort(Option<String>),
    /// Its node port, at 127.0.0.1.
    Loopback,
    /// Its node port, at the address that this node has on its pods' links.
    Gateway(String),
    /// Its first endpoint itself.
    Endpoint,
    /// An address of the Services' network that no Service has.
    Unallocated,
    /// Its health-check node port at this node, by HTTP.
    Health(String),
}

/// What must be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Answers of exactly these endpoints.
    Answers {
        /// Their names.
        of: BTreeSet<String>,
        /// Whether each client sees but one of them.
        one: bool,
        /// Whose address the endpoints see; `None`: not written, only compared.
        source: Option<Source>,
    },
    /// Refusals.
    Refused,
    /// No answer at all.
    Silence,
    /// This HTTP status.
    Status(u16),
}

/// Whose address an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// That of who dialled.
    Oneself,
    /// That of a node.
    Node,
}

/// Who serves a key when Plimsoll is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Plimsoll.
    Taken,
    /// It is left to kube-proxy.
    Left,
    /// Packets do not get as far as that.
    Neither,
}

impl Served {
    /// As in the table.
    pub fn word(self) -> &'static str {
        match self {
            Served::Taken => "taken",
            Served::Left => "left",
            Served::Neither => "-",
        }
    }
}

/// Reads a table of Services that do not change. Their numbers are from `first` on.
pub fn read(text: &str, first: usize) -> Result<Vec<Service>> {
    let changing = read_changes(text, first)?;
    if let Some(states) = changing.iter().find(|states| states.len() > 1) {
        bail!("the Service {} changes; that belongs into the table of changes", states[0].name);
    }
    Ok(changing.into_iter().flatten().collect())
}

/// Reads a table of Services that change: of each what it is, one after the other.
pub fn read_changes(text: &str, first: usize) -> Result<Vec<Vec<Service>>> {
    let mut services: Vec<Vec<Service>> = Vec::new();
    let mut proxy = Proxy::default();
    for (number, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let cells: Vec<&str> = content.split('|').map(str::trim).collect();
        let context = || format!("line {} of the table: `{content}`", number + 1);
        if let Some(words) = content.strip_prefix("proxy ") {
            proxy = Proxy::read(words).with_context(context)?;
            continue;
        }
        if let Some(name) = cells[0].strip_prefix("service ") {
            let service = service(name, first + services.len(), &cells).with_context(context)?;
            let service = Service { proxy: proxy.clone(), ..service };
            if services.iter().any(|other| other[0].name == service.name) {
                bail!("{}: there is a Service of that name already", context());
            }
            services.push(vec![service]);
            continue;
        }
        let states = services.last_mut().context("the first line is no Service").with_context(context)?;
        let last = states.last_mut().expect("it has a first state");
        if cells[0] == "becomes" {
            let next = service(&last.name, last.number, &cells).with_context(context)?;
            states.push(next);
        } else {
            let case = case(last, &cells).with_context(context)?;
            last.cases.push(case);
        }
    }
    Ok(services)
}

fn service(name: &str, number: usize, cells: &[&str]) -> Result<Service> {
    let &[_, words, endpoints] = cells else {
        bail!("a Service has three columns: its name, its words, its endpoints");
    };
    let mut service = Service {
        name: name.trim().to_owned(),
        number,
        words: BTreeSet::new(),
        affinity: None,
        ranges: Vec::new(),
        protocols: vec![Protocol::Tcp],
        endpoints: endpoints.split_whitespace().map(endpoint).collect::<Result<_>>()?,
        proxy: Proxy::default(),
        cases: Vec::new(),
    };
    for word in words.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("udp", "") => service.protocols = vec![Protocol::Udp],
            ("sctp", "") => service.protocols = vec![Protocol::Sctp],
            ("tcp-and-udp", "") => service.protocols = vec![Protocol::Tcp, Protocol::Udp],
            ("affinity", "") => service.affinity = Some(10_800),
            ("affinity", seconds) => service.affinity = Some(seconds.parse().context("affinity=SECONDS")?),
            ("ranges", people) => service.ranges = people.split(',').map(str::to_owned).collect(),
            (word, "") if WORDS.contains(&word) => drop(service.words.insert(word.to_owned())),
            _ => bail!("`{word}` is no word for a Service; docs/e2e.md lists them"),
        }
    }
    Ok(service)
}

fn endpoint(text: &str) -> Result<Endpoint> {
    let mut parts = text.split('/');
    let mut endpoint = Endpoint {
        name: parts.next().unwrap_or_default().to_owned(),
        conditions: Some([true, true, false]),
        for_zone: None,
        for_node: None,
        only_v6: None,
    };
    for part in parts {
        match part.split_once('=').unwrap_or((part, "")) {
            ("unready", "") => endpoint.conditions = Some([false, false, false]),
            ("terminating", "") => endpoint.conditions = Some([false, true, true]),
            ("gone", "") => endpoint.conditions = Some([false, false, true]),
            ("published", "") => endpoint.conditions = Some([true, true, true]),
            ("nil", "") => endpoint.conditions = None,
            ("zone", zone) => endpoint.for_zone = Some(zone.to_owned()),
            ("node", node) => endpoint.for_node = Some(node.to_owned()),
            ("v4", "") => endpoint.only_v6 = Some(false),
            ("v6", "") => endpoint.only_v6 = Some(true),
            _ => bail!("`{part}` says nothing of an endpoint; docs/e2e.md lists the words"),
        }
    }
    Ok(endpoint)
}

fn case(service: &Service, cells: &[&str]) -> Result<Case> {
    let (name, by, at, sees, served) = match *cells {
        [name, by, at, sees] => (name, by, at, sees, "taken"),
        [name, by, at, sees, served] => (name, by, at, sees, served),
        _ => {
            bail!("a case has four or five columns: its name, who dials, where, what is seen, who serves it")
        }
    };
    Ok(Case {
        name: name.to_owned(),
        by: by.split_whitespace().map(str::to_owned).collect(),
        at: at.split_whitespace().map(place).collect::<Result<_>>()?,
        sees: per_mode(sees, |text| seen(service, text))?,
        served: per_mode(served, |text| match text {
            "taken" => Ok(Served::Taken),
            "left" => Ok(Served::Left),
            "-" => Ok(Served::Neither),
            _ => bail!("`{text}` is none of `taken`, `left`, `-`"),
        })?,
    })
}

/// `nftables:A iptables:B`, or one for both.
fn per_mode<T: Clone>(text: &str, read: impl Fn(&str) -> Result<T>) -> Result<[T; 2]> {
    let Some(text) = text.strip_prefix("nftables:") else {
        let both = read(text)?;
        return Ok([both.clone(), both]);
    };
    let (nftables, iptables) = text.split_once("iptables:").context("`nftables:` without `iptables:`")?;
    Ok([read(nftables.trim())?, read(iptables.trim())?])
}

fn place(text: &str) -> Result<At> {
    let mut parts = text.split('/');
    let (place, port) = {
        let first = parts.next().unwrap_or_default();
        first.split_once(':').map_or((first, Ok(80)), |(place, port)| (place, port.parse()))
    };
    let (place, node) = place.split_once('@').map_or((place, None), |(place, node)| (place, Some(node)));
    let mut at = At {
        place: match (place, node) {
            ("cluster", None) => Place::Cluster,
            ("external", None) => Place::External,
            ("lb", None) => Place::LoadBalancer,
            ("node-port", node) => Place::NodePort(node.map(str::to_owned)),
            ("loopback", None) => Place::Loopback,
            ("gateway", Some(node)) => Place::Gateway(node.to_owned()),
            ("endpoint", None) => Place::Endpoint,
            ("unallocated", None) => Place::Unallocated,
            ("health", Some(node)) => Place::Health(node.to_owned()),
            _ => bail!("`{text}` is no place to dial; docs/e2e.md lists them"),
        },
        port: port.with_context(|| format!("the port of `{text}`"))?,
        protocol: None,
        only_v6: None,
    };
    for part in parts {
        match part {
            "tcp" => at.protocol = Some(Protocol::Tcp),
            "udp" => at.protocol = Some(Protocol::Udp),
            "sctp" => at.protocol = Some(Protocol::Sctp),
            "v4" => at.only_v6 = Some(false),
            "v6" => at.only_v6 = Some(true),
            _ => bail!("`{part}` is neither a protocol nor a family"),
        }
    }
    Ok(at)
}

fn seen(service: &Service, text: &str) -> Result<Sees> {
    let (who, source) = match text.split_once(" as ") {
        None => (text, None),
        Some((who, "self")) => (who, Some(Source::Oneself)),
        Some((who, "node")) => (who, Some(Source::Node)),
        Some((_, other)) => bail!("`as {other}` is neither `as self` nor `as node`"),
    };
    let all = || service.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
    let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<String>>();
    let (of, one) = match who.trim() {
        "refused" => return Ok(Sees::Refused),
        "silence" => return Ok(Sees::Silence),
        "all" => (all(), false),
        "one" => (all(), true),
        status if status.parse::<u16>().is_ok() => return Ok(Sees::Status(status.parse()?)),
        text => match text.strip_prefix("one of ") {
            Some(some) => (names(some), true),
            None => (names(text), false),
        },
    };
    if let Some(stranger) = of.iter().find(|name| !service.endpoints.iter().any(|e| e.name == **name)) {
        bail!("`{stranger}` is no endpoint of {}", service.name);
    }
    Ok(Sees::Answers { of, one, source })
}

#[cfg(test)]
mod tests;
