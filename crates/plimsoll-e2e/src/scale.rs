//! A large cluster in a real API server, and one of its nodes: what the agent costs there, how soon it serves, and how
//! long a change takes to reach its kernel; and what kube-proxy needs for the same.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use plimsoll_lab::cluster::{Cluster, POD_NETWORK_V4, POD_NETWORK_V6};
use plimsoll_lab::control_plane::{ControlPlane, KubeProxy, Mode, Settings};
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::random::Random;
use plimsoll_lab::usage;
use serde::Serialize;

use crate::agent::Agent;
use crate::kernel::Kernel;
use crate::writer::{self, ENDPOINTS, NODES, SERVICES, Writer};

/// How many Services have the label at first.
const LABELLED: usize = 200;
/// How long the agent settles, and how long its CPU is watched after that.
const SETTLE: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(30);
/// Changes whose way to the kernel is timed, by the agent and by kube-proxy.
const CHANGES: usize = 100;
const CHANGES_OF_PROXY: usize = 5;
const PATIENCE: Duration = Duration::from_mins(2);
/// How often the kernel is asked for a change of each: of kube-proxy's it tells all 55,000 chains.
const ASKED: Duration = Duration::from_millis(1);
const PROXY_ASKED: Duration = Duration::from_millis(250);

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What, and where.
    pub what: String,
    /// The figure.
    pub measured: f64,
    /// What it is in.
    pub unit: &'static str,
    /// What it may be at most; nothing: it is only recorded.
    pub at_most: Option<f64>,
    /// What else was seen.
    pub note: String,
    /// How many threads of the machine ran or waited for a processor, in the mean of the last minute.
    pub load: f64,
}

impl Row {
    fn new(what: impl Into<String>, measured: f64, unit: &'static str) -> Result<Row> {
        let load = std::fs::read_to_string("/proc/loadavg")?;
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        let load = load.context("the machine's load is not told")?;
        Ok(Row { what: what.into(), measured, unit, at_most: None, note: String::new(), load })
    }

    fn at_most(self, bound: f64) -> Row {
        Row { at_most: Some(bound), ..self }
    }

    fn noting(self, note: String) -> Row {
        Row { note, ..self }
    }

    /// Whether it is within its bound.
    pub fn holds(&self) -> bool {
        self.at_most.is_none_or(|bound| self.measured <= bound)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { what, measured, unit, at_most, note, load } = self;
        let verdict = if self.holds() { "ok" } else { "FAILED" };
        write!(f, "{verdict:<6} {what:<58} {measured:>8.2} {unit:<6}")?;
        match at_most {
            Some(bound) => write!(f, " at most {bound}")?,
            None => write!(f, " recorded")?,
        }
        write!(f, " (load {load:.1}")?;
        if !note.is_empty() {
            write!(f, "; {note}")?;
        }
        write!(f, ")")
    }
}

/// The rig: an API server that knows the large cluster, and its first node.
struct Scene {
    // In the order in which they end.
    agent: Agent,
    writer: Writer,
    plane: ControlPlane,
    cluster: Cluster,
    _directory: tempfile::TempDir,
    /// Who is in the place of each Service's first endpoint.
    first: Vec<usize>,
    random: Random,
    replaced: usize,
}

/// Measures an agent in a large cluster.
pub fn scale(program: &Path, tell: &dyn Fn(&str), done: &mut dyn FnMut(Row)) -> Result<()> {
    tell(&format!("scale: a control plane, {NODES} Nodes, {SERVICES} Services of {ENDPOINTS} endpoints"));
    let mut scene = Scene::build(program)?;

    tell(&format!("scale: an agent starts, {LABELLED} Services have the label"));
    let label = |what: &str, of: usize| format!("{of} of {SERVICES} switched on: {what}");
    let first = scene.start(LABELLED)?;
    done(Row::new(label("first weights after the start", LABELLED), first, "s")?.at_most(10.0));
    tell("scale: its CPU is watched");
    done(scene.cpu(label("CPU", LABELLED))?.at_most(5.0));
    done(scene.memory(label("memory", LABELLED))?.at_most(60.0));

    tell("scale: all get the label");
    scene.writer.label(LABELLED)?;
    scene.follows(SERVICES)?;
    done(scene.memory(label("memory", SERVICES))?.at_most(150.0));
    tell("scale: endpoints change");
    done(scene.changes(label("PATCH to kernel, p99", SERVICES))?.at_most(0.3));
    done(scene.cpu(label("CPU", SERVICES))?);
    done(scene.memory(label("memory after changes", SERVICES))?.at_most(150.0));

    tell("scale: the agent is started again");
    scene.agent.stop()?;
    let first = scene.start(SERVICES)?;
    done(Row::new(label("first weights after the start", SERVICES), first, "s")?);
    done(scene.memory(label("memory after the start", SERVICES))?.at_most(150.0));

    tell("scale: kube-proxy starts beside it, in nftables mode");
    scene.beside_proxy(done)
}

impl Scene {
    fn build(program: &Path) -> Result<Scene> {
        let mut cluster = Cluster::new(1)?;
        let home = cluster.add_outside(0)?;
        let addresses = vec![home.v4.into()];
        let plane = ControlPlane::start(Settings { addresses, ..Settings::new(&home.namespace) })?;
        let kubeconfig = plane.install()?;
        let writer = Writer::new(&home.namespace, plane.admin())?;
        writer.nodes(cluster.nodes[0].host.v4)?;
        writer.services(LABELLED)?;
        let directory = tempfile::Builder::new().prefix("plimsoll-e2e-").tempdir()?;
        // Until there is a kube-proxy, this is what it will be: an agent that finds another starts again.
        let config = format!(
            "node: {name}\n\
             discovery: {{kubernetes: {{kubeconfig: '{kubeconfig}', \
             kube_proxy: {{assume: {{mode: nftables, local_sources: ['{POD_NETWORK_V4}', '{POD_NETWORK_V6}']}}}}}}}}\n\
             store: {{mesh: {{bind: '127.0.0.1:9653'}}}}\n",
            name = writer::node(0),
            kubeconfig = kubeconfig.display(),
        );
        let node = &cluster.nodes[0].host.namespace;
        let agent = Agent::new(node, program, directory.path(), &writer::node(0), &config)?;
        Ok(Scene {
            agent,
            writer,
            plane,
            cluster,
            _directory: directory,
            first: (0..SERVICES).map(|service| service * ENDPOINTS).collect(),
            random: Random::new(1),
            replaced: 0,
        })
    }

    fn node(&self) -> &Namespace {
        &self.cluster.nodes[0].host.namespace
    }

    /// Starts the agent; the seconds until it is ready, and so has put its first plan, of so many Services, into the
    /// kernel.
    fn start(&mut self, services: usize) -> Result<f64> {
        let began = Instant::now();
        self.agent.start()?;
        self.agent.wait_ready()?;
        let took = began.elapsed().as_secs_f64();
        let there = Kernel::of(self.node())?.maps()?.len();
        let expected = services * ENDPOINTS;
        ensure!(there == expected, "{there} endpoints are in the kernel of the ready agent, not {expected}");
        Ok(took)
    }

    /// Waits until the endpoints of so many Services are in the kernel.
    fn follows(&self, services: usize) -> Result<()> {
        let (mut kernel, began) = (Kernel::of(self.node())?, Instant::now());
        loop {
            // Not of a map that changes meanwhile.
            let there = kernel.maps().map_or(0, |maps| maps.len());
            if there == services * ENDPOINTS {
                return Ok(());
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "{there} endpoints are in the kernel after {PATIENCE:?}, not those of {services} Services"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn memory(&self, what: String) -> Result<Row> {
        let resident = usage::resident(self.agent.id()?)?;
        let most = format!("{:.1} MB at most since the start", resident.most);
        Ok(Row::new(what, resident.now, "MB")?.noting(most))
    }

    fn cpu(&self, what: String) -> Result<Row> {
        let agent = self.agent.id()?;
        std::thread::sleep(SETTLE);
        let (before, began) = (usage::cpu(agent)?, Instant::now());
        std::thread::sleep(WATCHED);
        let used = usage::cpu(agent)?.saturating_sub(before).as_secs_f64();
        let percent = used / began.elapsed().as_secs_f64() * 100.0;
        Ok(Row::new(what, percent, "%")?.noting(format!("of a core, over {} s", WATCHED.as_secs())))
    }

    /// Replaces the first endpoint of any Service; which, by which, and when that was asked for.
    fn replace(&mut self) -> Result<(usize, usize, Instant)> {
        let service = self.random.below(SERVICES);
        let by = SERVICES * ENDPOINTS + self.replaced;
        self.replaced += 1;
        let at = Instant::now();
        self.writer.replace(service, by)?;
        Ok((service, by, at))
    }

    /// How long changes take, from the request to the kernel.
    fn changes(&mut self, what: String) -> Result<Row> {
        let mut maps = Kernel::of(self.node())?.maps()?;
        let mut kernel = Kernel::of(self.node())?;
        let mut times = Vec::new();
        for _ in 0..CHANGES {
            let (service, by, at) = self.replace()?;
            let (old, new) = (writer::address(self.first[service]), writer::address(by));
            let map = maps.remove(&old).with_context(|| format!("{old} was in no map"))?;
            times.push(until(at, ASKED, || kernel.has(&map, new))?);
            maps.insert(new, map);
            self.first[service] = by;
            // At any moment of the agent's own rhythm.
            std::thread::sleep(Duration::from_millis(50 + self.random.below(300) as u64));
        }
        let [median, p99, most] = quantiles(&mut times);
        let note = format!("median {median:.3} s, at most {most:.3} s, of {CHANGES}");
        Ok(Row::new(what, p99, "s")?.noting(note))
    }

    /// The same with kube-proxy beside the agent, and then by kube-proxy alone: what a kernel with that many chains
    /// tells of them is never whole while an agent writes.
    fn beside_proxy(&mut self, done: &mut dyn FnMut(Row)) -> Result<()> {
        let began = Instant::now();
        let node = self.node().clone();
        let proxy = KubeProxy::start(&self.plane, &node, &writer::node(0), Mode::Nftables, "")?;
        done(Row::new("kube-proxy: first rules after the start", began.elapsed().as_secs_f64(), "s")?);
        done(self.changes("beside kube-proxy: PATCH to kernel, p99".into())?);
        self.agent.stop()?;
        let mut kernel = Kernel::of(&node)?;
        let mut times = Vec::new();
        for _ in 0..CHANGES_OF_PROXY {
            let (_, by, at) = self.replace()?;
            times.push(until(at, PROXY_ASKED, || kernel.proxy_has(writer::address(by)))?);
        }
        let [median, _, most] = quantiles(&mut times);
        let note = format!("at most {most:.2} s, of {CHANGES_OF_PROXY}");
        done(Row::new("kube-proxy alone: PATCH to kernel, median", median, "s")?.noting(note));
        let resident = usage::resident(proxy.id().context("kube-proxy has ended")?)?;
        let most = format!("{:.0} MB at most since the start", resident.most);
        done(Row::new("kube-proxy: memory", resident.now, "MB")?.noting(most));
        Ok(())
    }
}

/// The seconds from a moment until something holds.
fn until(at: Instant, asked: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<f64> {
    while !holds()? {
        ensure!(at.elapsed() < PATIENCE, "a change is not in the kernel after {PATIENCE:?}");
        std::thread::sleep(asked);
    }
    Ok(at.elapsed().as_secs_f64())
}

/// The median, the 99th percentile and the maximum.
fn quantiles(times: &mut [f64]) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [0.5, 0.99, 1.0].map(|share| times[((times.len() as f64 * share).ceil() as usize).max(1) - 1])
}
