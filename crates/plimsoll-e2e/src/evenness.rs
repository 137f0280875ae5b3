//! The complaint that Plimsoll is for (kube-router's issue 10): connections of mixed lifetimes pile up unevenly, and new
//! endpoints stay idle. Beside a real kube-proxy: the same load to a Service that it serves alone and to one that
//! Plimsoll serves, at the same time.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plimsoll_lab::client::{Client, Limits, poisson};
use plimsoll_lab::control_plane::Mode;
use plimsoll_lab::random::Random;
use plimsoll_lab::server::Server;
use serde::Serialize;

use crate::differential::{followed, publish};
use crate::judge;
use crate::objects::{self, PORTS};
use crate::report;
use crate::table::{self, Protocol, Proxy, Served, Service};
use crate::witness;
use crate::world::{NODES, World};

/// Connections per second to each Service, by node.
const ARRIVALS: [f64; NODES] = [60.0, 30.0, 10.0];
/// How many endpoints there are at first, and after the scale-out.
const ENDPOINTS: [usize; 2] = [8, 12];
/// When the scale-out comes, and how long it is watched.
const SCALE_OUT: u64 = 120;
const LENGTH: u64 = 240;
/// The seconds over which the ratio of the fullest endpoint to the mean is averaged.
const SETTLED: std::ops::Range<u64> = 90..120;
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_mins(1);

/// How long connections live.
struct Mixture {
    name: &'static str,
    /// The part of the connections that is long, and whether their lives are drawn.
    long: f64,
    exponential: bool,
    /// What must hold of Plimsoll: the ratio of the fullest to the mean, and the seconds to 80 % of the fair share.
    ratio: Option<f64>,
    seconds: Option<f64>,
}

const MIXTURES: [Mixture; 3] = [
    Mixture { name: "10 % live 60 s", long: 0.1, exponential: false, ratio: Some(1.06), seconds: None },
    Mixture {
        name: "10 % live 60 s in the mean",
        long: 0.1,
        exponential: true,
        ratio: None,
        seconds: Some(30.0),
    },
    Mixture { name: "1 % live 60 s", long: 0.01, exponential: false, ratio: Some(1.20), seconds: None },
];

/// What came of a mixture.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub mixture: &'static str,
    /// Open connections per endpoint before the scale-out, with Plimsoll.
    pub open: f64,
    /// With kube-proxy alone.
    pub alone: Figures,
    /// With Plimsoll in front.
    pub with_plimsoll: Figures,
    /// What does not hold; nothing: all does.
    pub problems: Vec<String>,
}

/// What came of a mixture at one Service.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The fullest endpoint's open connections to the mean: mean over the settled seconds.
    pub max_over_mean: f64,
    /// The worst of those seconds.
    pub worst: f64,
    /// Seconds from the scale-out until the new endpoints held half of their fair share, and 80 %.
    pub seconds_to: [Option<f64>; 2],
    /// Connections that failed, of so many.
    pub failed: u64,
    /// Connections opened.
    pub opened: u64,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { mixture, open, .. } = self;
        let verdict = if self.problems.is_empty() { "ok" } else { "FAILED" };
        write!(f, "{verdict:<6} {mixture:<27} {open:>5.1} open per endpoint")?;
        for (who, figures) in [("kube-proxy alone", &self.alone), ("with Plimsoll", &self.with_plimsoll)] {
            let Figures { max_over_mean, worst, seconds_to, failed, opened } = figures;
            let [half, most] = seconds_to.map(|s| s.map_or("never".into(), |s| format!("{s:.0} s")));
            write!(
                f,
                "\n       {who:<17} max/mean {max_over_mean:.2} (worst {worst:.2}); new endpoints at 50 % after \
                 {half}, at 80 % after {most}; {failed} of {opened} failed"
            )?;
        }
        report::tell(&self.problems, f)
    }
}

/// A Service under load, and what was seen of it second by second.
struct Loaded {
    service: Service,
    servers: Vec<Server>,
    clients: Vec<Client>,
    /// At which second after the start, and how many connections each endpoint had open.
    seen: Vec<(f64, Vec<u64>)>,
}

/// Measures all mixtures beside kube-proxy in a mode, in four minutes.
pub fn evenness(program: &Path, mode: Mode, tell: &dyn Fn(&str)) -> Result<Vec<Row>> {
    tell("evenness: a control plane, three nodes and their pods start");
    let pods: Vec<(String, usize)> = (0..ENDPOINTS[1]).map(|e| (format!("e{e}"), e % NODES)).collect();
    let mut world = World::build(program, None, &pods, 0, "")?;
    let mut loaded = Vec::new();
    for service in services(ENDPOINTS[0])? {
        let port = objects::at_endpoint(&service)[0];
        let server = |(name, _): &(String, usize)| {
            let host = &world.host(name)?.at;
            let at = SocketAddr::new(host.v4.into(), port);
            Server::start(&host.namespace, name, &[at]).with_context(|| format!("a server at {at}"))
        };
        let servers = pods.iter().map(server).collect::<Result<_>>()?;
        loaded.push(Loaded { service, servers, clients: Vec::new(), seen: Vec::new() });
    }
    let services: Vec<Service> = loaded.iter().map(|loaded| loaded.service.clone()).collect();
    publish(&world, &services)?;
    world.start_proxies(mode, &Proxy::default())?;
    world.start_agents(followed(&services))?;
    world.begin_witness()?;
    let began = Instant::now();
    for (index, loaded) in loaded.iter_mut().enumerate() {
        loaded.clients = clients(&world, &loaded.service, index / 2)?;
    }
    let scaled = watch(&world, &mut loaded, began, tell)?;
    let mut rows = Vec::new();
    for (mixture, pair) in MIXTURES.iter().zip(loaded.chunks(2)) {
        rows.push(row(&world, mixture, &pair[0], &pair[1], scaled)?);
    }
    drop(loaded);
    world.stop_agents()?;
    Ok(rows)
}

/// For each mixture a Service without the label and one with it.
fn services(endpoints: usize) -> Result<Vec<Service>> {
    let endpoints: Vec<String> = (0..endpoints).map(|e| format!("e{e}")).collect();
    let endpoints = endpoints.join(" ");
    let lines = (0..MIXTURES.len()).map(|mixture| {
        format!(
            "service alone-{mixture} | unlabelled single-v4 | {endpoints}\n\
             service with-plimsoll-{mixture} | waterline single-v4 | {endpoints}\n"
        )
    });
    table::read(&lines.collect::<String>(), 1)
}

/// Clients in a pod of each node, the same for both Services of a mixture.
fn clients(world: &World, service: &Service, mixture: usize) -> Result<Vec<Client>> {
    let to = SocketAddr::new(objects::cluster_ip(service, false), PORTS[0]);
    let length = Duration::from_secs(LENGTH);
    let client = |(node, rate): (usize, &f64)| {
        let Mixture { long, exponential, .. } = MIXTURES[mixture];
        let life = move |random: &mut Random| match random.unit() < long {
            true if exponential => random.exponential(LONG),
            true => LONG,
            false => SHORT,
        };
        let seed = 1 + 100 * mixture as u64 + node as u64;
        let limits = Limits { length, open: 20_000, ..Limits::default() };
        let host = world.host(&format!("c{}", node + 1))?;
        Ok(Client::start(&host.at.namespace, poisson(seed, *rate, length, to, life), limits)?)
    };
    ARRIVALS.iter().enumerate().map(client).collect()
}

/// Looks once a second, and scales out in between; returns at which second.
fn watch(world: &World, loaded: &mut [Loaded], began: Instant, tell: &dyn Fn(&str)) -> Result<f64> {
    let mut scaled = None;
    for second in 1..LENGTH {
        let at = Duration::from_secs(second);
        std::thread::sleep(at.saturating_sub(began.elapsed()));
        for loaded in &mut *loaded {
            let open = loaded.servers.iter().map(Server::open).collect();
            loaded.seen.push((began.elapsed().as_secs_f64(), open));
        }
        if second % 30 == 0 {
            tell(&format!("evenness: {second} of {LENGTH} s"));
        }
        if second == SCALE_OUT {
            publish(world, &services(ENDPOINTS[1])?)?;
            scaled = Some(began.elapsed().as_secs_f64());
        }
    }
    scaled.context("the scale-out lies within the run")
}

fn row(world: &World, mixture: &Mixture, alone: &Loaded, with: &Loaded, scaled: f64) -> Result<Row> {
    let (alone_figures, with_figures) = (figures(alone, scaled), figures(with, scaled));
    let mut problems = Vec::new();
    if let Some(bound) = mixture.ratio.filter(|bound| with_figures.max_over_mean > *bound) {
        problems.push(format!("max/mean {:.3} is above {bound}", with_figures.max_over_mean));
    }
    if let Some(bound) = mixture.seconds
        && with_figures.seconds_to[1].is_none_or(|seconds| seconds > bound)
    {
        problems.push(format!("the new endpoints were not at 80 % of their fair share after {bound} s"));
    }
    if with_figures.failed > alone_figures.failed {
        problems.push("connections failed that did not with kube-proxy alone".into());
    }
    for (loaded, with_plimsoll) in [(alone, false), (with, true)] {
        let to = objects::cluster_ip(&loaded.service, false);
        let mut noted = 0;
        for node in 0..NODES {
            let passed = witness::passed(world.node(node))?;
            let of_service = |key: &witness::Key| (key.1, key.2) == (to, Protocol::Tcp);
            noted += passed.iter().filter(|(key, _)| of_service(key)).map(|(_, count)| count).sum::<u64>();
        }
        problems.extend(judge::wrongly_served(Served::Taken, with_plimsoll, noted));
    }
    let before: Vec<u64> = settled(with).flat_map(|(_, open)| open[..ENDPOINTS[0]].to_vec()).collect();
    let open = before.iter().sum::<u64>() as f64 / before.len().max(1) as f64;
    Ok(Row { mixture: mixture.name, open, alone: alone_figures, with_plimsoll: with_figures, problems })
}

fn settled(loaded: &Loaded) -> impl Iterator<Item = &(f64, Vec<u64>)> {
    loaded.seen.iter().filter(|(at, _)| SETTLED.contains(&(*at as u64)))
}

fn figures(loaded: &Loaded, scaled: f64) -> Figures {
    let ratios: Vec<f64> = settled(loaded)
        .map(|(_, open)| {
            let open = &open[..ENDPOINTS[0]];
            let mean = open.iter().sum::<u64>() as f64 / open.len() as f64;
            open.iter().copied().max().unwrap_or_default() as f64 / mean
        })
        .collect();
    let fair = (ENDPOINTS[1] - ENDPOINTS[0]) as f64 / ENDPOINTS[1] as f64;
    let seconds_to = [0.5, 0.8].map(|part| {
        let after = loaded.seen.iter().filter(|(at, _)| *at > scaled);
        let mut full = after.filter(|(_, open)| {
            let new = open[ENDPOINTS[0]..].iter().sum::<u64>() as f64;
            new >= part * fair * open.iter().sum::<u64>() as f64
        });
        full.next().map(|(at, _)| at - scaled)
    });
    let total = |what: fn(&Client) -> u64| loaded.clients.iter().map(what).sum();
    Figures {
        max_over_mean: ratios.iter().sum::<f64>() / ratios.len().max(1) as f64,
        worst: ratios.iter().copied().fold(0.0, f64::max),
        seconds_to,
        failed: total(Client::failed),
        opened: total(Client::opened),
    }
}
