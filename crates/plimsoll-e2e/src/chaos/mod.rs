//! Everything goes wrong once, under load: the same load to a Service that kube-proxy serves alone and to one that
//! Plimsoll serves, so that each fault meets both. No connection may fail that did not fail with kube-proxy alone.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use plimsoll_lab::client::{Client, Limits, poisson};
use plimsoll_lab::control_plane::Mode;
use plimsoll_lab::random::Random;
use rustix::process::Signal;
use serde::Serialize;

use crate::differential::{followed, publish};
use crate::objects::{self, PORTS};
use crate::report;
use crate::table::{self, Proxy, Service};
use crate::traffic::Traffic;
use crate::witness;
use crate::world::{NODES, World, node_name, two_pods_on_each};

/// Connections per second of each client to each Service.
const RATE: f64 = 25.0;
/// The load ends by itself, whatever happens.
const LENGTH: Duration = Duration::from_mins(12);
/// How long most connections live, and how long a few do.
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(5);
/// How long the API server is away.
const AWAY: Duration = Duration::from_mins(1);
/// Longer than a lease.
const HUNG: Duration = Duration::from_secs(13);
/// How soon Plimsoll serves again after a fault.
const PATIENCE: Duration = Duration::from_mins(1);

/// The Services while nothing happens; the first is kube-proxy's, the second ours.
const CALM: &str = "p1a p1b p2a p2b p3a";
/// A rolling update, step by step: the new ones come, the old ones terminate, and go.
const ROLLING: [&str; 4] = [
    "p1a p1b p2a p2b p3a p3b/unready",
    "p1a/terminating p1b p2a p2b p3a p3b",
    "p1b/terminating p2a/terminating p2b p3a p3b",
    "p2b p3a p3b",
];

/// What of our Service may come to kube-proxy during a fault.
#[derive(Clone, Copy)]
enum Left {
    /// Nothing: the agents go on serving.
    Nothing,
    /// Some has to, on this node, whose agent is away, and at most so many connections; nothing on the others.
    On(usize, u64),
    /// At most so many connections on each node, since each agent is away for a moment.
    Anywhere(u64),
}

struct Fault {
    name: &'static str,
    happen: fn(&mut World, &mut Scene) -> Result<()>,
    left: Left,
}

/// What a node's client opens in 10 s: an agent that is started is there by then.
const STARTING: u64 = 10 * RATE as u64;

const FAULTS: [Fault; 11] = [
    Fault { name: "nothing", happen: |_, _| wait(Duration::from_secs(5)), left: Left::Nothing },
    Fault { name: "watches cut at random", happen: watches_cut, left: Left::Nothing },
    Fault { name: "API server away for 60 s", happen: api_server_away, left: Left::Nothing },
    Fault { name: "etcd restarted", happen: etcd_restarted, left: Left::Nothing },
    Fault { name: "agent killed", happen: agent_killed, left: Left::On(0, STARTING) },
    // Less than its clients open in that time: its leases serve at first.
    Fault { name: "agent hung for 13 s", happen: agent_hung, left: Left::On(1, 12 * RATE as u64) },
    Fault { name: "kube-proxy killed and restarted", happen: kube_proxy_killed, left: Left::Nothing },
    Fault { name: "ruleset flushed", happen: ruleset_flushed, left: Left::Nothing },
    Fault { name: "rolling update of the agents", happen: agents_rolled, left: Left::Anywhere(STARTING) },
    Fault { name: "rolling update of the endpoints", happen: endpoints_rolled, left: Left::Nothing },
    Fault { name: "node drained and removed", happen: node_removed, left: Left::Nothing },
];

/// The connections that came to kube-proxy, by node, and of each those to both Services.
type Noted = [[u64; 2]; NODES];

/// What a fault did.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub fault: &'static str,
    /// What became of the connections meanwhile.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// What is wrong; nothing: all held.
    pub problems: Vec<String>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { fault, traffic, problems } = self;
        let verdict = if problems.is_empty() { "ok" } else { "FAILED" };
        write!(f, "{verdict:<6} {fault:<33} {traffic}")?;
        report::tell(problems, f)
    }
}

/// Both Services and their load.
struct Scene {
    /// By node, and of each the clients of both Services.
    clients: Vec<[Client; 2]>,
    /// What became of the connections of clients that have ended.
    ended: Traffic,
    /// What witnesses noted that are no more.
    noted: Noted,
    api: SocketAddr,
}

/// Lets everything go wrong, one after the other, beside kube-proxy in a mode.
pub fn chaos(program: &Path, mode: Mode, tell: &dyn Fn(&str), done: &mut dyn FnMut(Row)) -> Result<()> {
    tell("chaos: a control plane, three nodes and their pods start");
    let mut world = World::build(program, None, &two_pods_on_each(), 3, "")?;
    let both = services(CALM)?;
    publish(&world, &both)?;
    world.start_proxies(mode, &Proxy::default())?;
    world.start_agents(followed(&both))?;
    world.begin_witness()?;
    let mut scene = Scene::begin(&world, &both)?;
    for Fault { name: fault, happen, left } in FAULTS {
        tell(&format!("chaos: {fault}"));
        let (before, noted_before) = (scene.traffic(), scene.noted(&world)?);
        let mut problems = Vec::new();
        happen(&mut world, &mut scene).with_context(|| format!("the fault `{fault}`"))?;
        // Until nothing is left to kube-proxy any more.
        let count = || Ok(ours(&scene.noted(&world)?));
        if !witness::stands_still(PATIENCE, count)? {
            problems.push(format!("Plimsoll did not serve again within {} s", PATIENCE.as_secs()));
        }
        let noted = since(scene.noted(&world)?, noted_before);
        let traffic = Traffic { fell_back: ours(&noted), ..scene.traffic().since(before) };
        problems.extend(traffic.problems(true));
        problems.extend(wrong(left, &noted));
        done(Row { fault, traffic, problems });
    }
    Ok(())
}

/// Of what came to kube-proxy the connections to our Service.
fn ours(noted: &Noted) -> u64 {
    noted.iter().map(|[_, ours]| ours).sum()
}

/// What came after `before`.
fn since(noted: Noted, before: Noted) -> Noted {
    std::array::from_fn(|node| [0, 1].map(|service| noted[node][service] - before[node][service]))
}

/// What is wrong with what came to kube-proxy during a fault.
fn wrong(left: Left, noted: &Noted) -> Vec<String> {
    let mut problems = Vec::new();
    for (node, [alone, ours]) in noted.iter().enumerate() {
        let name = node_name(node);
        // A witness that saw none of these would not have seen ours.
        if *alone == 0 {
            problems.push(format!("{name}: nothing was seen on its way to kube-proxy, not even its own"));
        }
        let (least, most) = match left {
            Left::On(away, most) if away == node => (1, most),
            Left::Anywhere(most) => (0, most),
            Left::Nothing | Left::On(..) => (0, 0),
        };
        if *ours < least {
            problems.push(format!("{name}: no connection was left to kube-proxy, with no agent there"));
        }
        if *ours > most {
            problems
                .push(format!("{name}: {ours} connections were left to kube-proxy; at most {most} may be"));
        }
    }
    problems
}

fn services(endpoints: &str) -> Result<Vec<Service>> {
    let text = format!(
        "service alone | unlabelled single-v4 | {endpoints}\nservice with-plimsoll | waterline single-v4 | {endpoints}"
    );
    table::read(&text, 1)
}

/// The addresses of both.
fn addresses() -> Result<[IpAddr; 2]> {
    let both = services(CALM)?;
    Ok([0, 1].map(|service| objects::cluster_ip(&both[service], false)))
}

impl Scene {
    fn begin(world: &World, both: &[Service]) -> Result<Scene> {
        let life = |random: &mut Random| if random.unit() < 0.1 { LONG } else { SHORT };
        let mut clients = Vec::new();
        for node in 0..NODES {
            let namespace = &world.host(&format!("c{}", node + 1))?.at.namespace;
            let client = |service: &Service| {
                let to = SocketAddr::new(objects::cluster_ip(service, false), PORTS[0]);
                let limits = Limits { length: LENGTH, ..Limits::default() };
                Client::start(namespace, poisson(1 + node as u64, RATE, LENGTH, to, life), limits)
            };
            clients.push([client(&both[0])?, client(&both[1])?]);
        }
        let api = world.plane.url().trim_start_matches("https://").parse()?;
        Ok(Scene { clients, ended: Traffic::default(), noted: Noted::default(), api })
    }

    /// What became of all connections so far.
    fn traffic(&self) -> Traffic {
        self.ended.and(Traffic::of(&self.clients))
    }

    /// What came to kube-proxy so far. A witness that is missing is an error, not a zero.
    fn noted(&self, world: &World) -> Result<Noted> {
        let (mut noted, addresses) = (self.noted, addresses()?);
        for (node, noted) in noted.iter_mut().enumerate() {
            let passed = witness::passed(world.node(node));
            let passed = passed.with_context(|| format!("the witness of {}", node_name(node)))?;
            for (noted, to) in noted.iter_mut().zip(addresses) {
                *noted += passed.iter().filter(|(key, _)| key.1 == to).map(|(_, count)| count).sum::<u64>();
            }
        }
        Ok(noted)
    }

    /// Ends the clients of the last node.
    fn end_last(&mut self) {
        let last = self.clients.pop();
        self.ended = self.ended.and(Traffic::of(last.as_slice()));
    }
}

#[allow(clippy::unnecessary_wraps, reason = "a fault among others")]
fn wait(time: Duration) -> Result<()> {
    std::thread::sleep(time);
    Ok(())
}

/// Connections to the API server are reset on all nodes, five times.
fn watches_cut(world: &mut World, scene: &mut Scene) -> Result<()> {
    let mut random = Random::new(1);
    let cut = format!(
        "table inet cut\ndelete table inet cut\ntable inet cut {{\nchain out {{\n\
         type filter hook output priority 0\nip daddr {} tcp dport {} reject with tcp reset\n}}\n}}\n",
        scene.api.ip(),
        scene.api.port()
    );
    for _ in 0..5 {
        for node in 0..NODES {
            world.node(node).nft(&cut)?;
        }
        wait(Duration::from_millis(300))?;
        for node in 0..NODES {
            world.node(node).nft("delete table inet cut")?;
        }
        wait(Duration::from_millis(500 + random.below(2_000) as u64))?;
    }
    Ok(())
}

fn api_server_away(world: &mut World, _: &mut Scene) -> Result<()> {
    world.plane.kill_apiserver();
    wait(AWAY)?;
    Ok(world.plane.start_apiserver()?)
}

fn etcd_restarted(world: &mut World, _: &mut Scene) -> Result<()> {
    world.plane.kill_etcd();
    wait(Duration::from_secs(2))?;
    world.plane.start_etcd()?;
    Ok(world.plane.wait_ready()?)
}

fn agent_killed(world: &mut World, _: &mut Scene) -> Result<()> {
    world.agents[0].end(Signal::KILL)?;
    wait(Duration::from_secs(3))?;
    ready_again(world, 0)
}

fn ready_again(world: &mut World, node: usize) -> Result<()> {
    world.agents[node].start()?;
    let known = |status: &plimsoll_api::Status| status.ready && status.services.len() == 1;
    world.agents[node].wait("ready again", known)
}

fn agent_hung(world: &mut World, _: &mut Scene) -> Result<()> {
    world.agents[1].signal(Signal::STOP)?;
    wait(HUNG)?;
    world.agents[1].signal(Signal::CONT)
}

fn kube_proxy_killed(world: &mut World, _: &mut Scene) -> Result<()> {
    for proxy in &mut world.proxies {
        proxy.kill();
    }
    wait(Duration::from_secs(3))?;
    for proxy in &mut world.proxies {
        proxy.start_again()?;
    }
    Ok(())
}

/// Everything but what its owner alone may remove is removed on a node; kube-proxy writes its rules anew when it is
/// started again. The witness begins anew in the same transaction, so that it sees all that comes from then on.
fn ruleset_flushed(world: &mut World, scene: &mut Scene) -> Result<()> {
    scene.noted[0] = scene.noted(world)?[0];
    witness::flush_and_begin(world.node(0))?;
    wait(Duration::from_secs(2))?;
    world.proxies[0].kill();
    Ok(world.proxies[0].start_again()?)
}

fn agents_rolled(world: &mut World, _: &mut Scene) -> Result<()> {
    for node in 0..NODES {
        world.agents[node].stop()?;
        ready_again(world, node)?;
    }
    Ok(())
}

fn endpoints_rolled(world: &mut World, _: &mut Scene) -> Result<()> {
    for step in ROLLING {
        publish(world, &services(step)?)?;
        // As the grace period of pods: until the longest connections are over.
        wait(LONG + Duration::from_secs(1))?;
    }
    Ok(())
}

/// A node's endpoints terminate and go, its clients and its agent end, and it is cut off and deleted.
fn node_removed(world: &mut World, scene: &mut Scene) -> Result<()> {
    publish(world, &services("p1a p1b p2a p2b p3a/terminating")?)?;
    wait(LONG + Duration::from_secs(1))?;
    publish(world, &services("p1a p1b p2a p2b")?)?;
    scene.end_last();
    world.agents[2].stop()?;
    world.proxies[2].kill();
    world.connect(2, false)?;
    world.kubectl().run(&["delete", "node", &node_name(2)])?;
    wait(Duration::from_secs(5))
}

#[cfg(test)]
mod tests;
