//! A whole agent: what it costs to run, and how long a change in the file takes to reach the kernel.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use plimsoll_core::report::Report;
use plimsoll_dataplane::netlink::{Builder, DUMP, Protocol, Socket, nfgenmsg};
use plimsoll_lab::eventually;
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::random::Random;
use plimsoll_lab::usage;
use plimsoll_store::Health;
use tokio::task::JoinSet;

use crate::dataplane::maps_of;
use crate::mesh::{in_namespace, open, reporting, settled};
use crate::row::{Bound, Row, Unit, milliseconds, quantile};
use crate::scene::{ENDPOINTS, NODES, SERVICES, Scene, node};

const API: &str = "127.0.0.1:9653";
const PATIENCE: Duration = Duration::from_secs(30);
/// `NFT_MSG_GETSETELEM` of nfnetlink's subsystem for nftables.
const GET_ELEMENTS: u16 = 0x0a << 8 | 0x0d;

/// An agent in a namespace of its own; ended when dropped.
struct Agent {
    namespace: Namespace,
    directory: PathBuf,
    child: Child,
}

impl Agent {
    /// Starts it with the scene as its file and `more` in its configuration, and waits until it is ready.
    fn start(program: &Path, scene: &Scene, store: &str, more: &str) -> Result<Agent> {
        let namespace = Namespace::new("agent")?;
        let directory = std::env::temp_dir().join(format!("plimsoll-bench-{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let config = directory.join("agent.yaml");
        let file = directory.join("services.yaml");
        fs::write(&file, scene.file())?;
        let text = format!(
            "node: {}\ndiscovery: {{file: {{path: {}}}}}\nstore: {store}\napi: {{listen: '{API}'}}\n{more}\n",
            node(0),
            file.display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new(program);
        command.arg("agent").arg("--config").arg(&config).args(["--log", "error"]).stdin(Stdio::null());
        let child = namespace
            .start(&mut command)
            .with_context(|| format!("cannot start {}; is it built?", program.display()))?;
        let agent = Agent { namespace, directory, child };
        ensure!(
            eventually(PATIENCE, || agent.is_ready()),
            "the agent is not ready after {PATIENCE:?}; its errors are above"
        );
        Ok(agent)
    }

    fn is_ready(&self) -> bool {
        let ask = || -> Result<bool> {
            let mut stream = self.namespace.tcp_connect(API.parse()?)?;
            write(&mut stream, "GET /readyz HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.starts_with("HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }

    /// Replaces its file.
    fn replace_file(&self, scene: &Scene) -> Result<Instant> {
        let next = self.directory.join("services.yaml.next");
        fs::write(&next, scene.file())?;
        let at = Instant::now();
        fs::rename(next, self.directory.join("services.yaml"))?;
        Ok(at)
    }

    /// Time on the CPU of all its threads so far.
    fn cpu(&self) -> Result<Duration> {
        Ok(usage::cpu(self.child.id())?)
    }
}

fn write(stream: &mut TcpStream, text: &str) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream.write_all(text.as_bytes())?)
}

impl Drop for Agent {
    fn drop(&mut self) {
        let process = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        if !eventually(Duration::from_secs(10), || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// From the rename of a file in which one endpoint is another to that endpoint in the kernel's map.
pub(crate) fn file_to_kernel(program: &Path) -> Result<Vec<Row>> {
    const ROUNDS: usize = 40;
    let mut scene = Scene::new();
    let agent = Agent::start(program, &scene, "local", "")?;
    let maps = maps_of(&agent.namespace)?;
    let mut socket = agent.namespace.run(|| Socket::open(Protocol::Netfilter))?;
    let mut random = Random::new(5);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let endpoint = random.below(SERVICES * ENDPOINTS);
        let map = &maps[endpoint / ENDPOINTS];
        let old = scene.endpoint(endpoint);
        ensure!(holds(&mut socket, map, old.address)?, "{old} is not in map {map}");
        scene.replace(endpoint);
        let new = scene.endpoint(endpoint);
        let at = agent.replace_file(&scene)?;
        while !holds(&mut socket, map, new.address)? {
            ensure!(at.elapsed() < PATIENCE, "{new} is not in map {map} after {PATIENCE:?}");
            std::thread::sleep(Duration::from_micros(500));
        }
        times.push(milliseconds(at.elapsed()));
        // At any moment of the agent's own rhythm.
        std::thread::sleep(Duration::from_millis(100 + random.below(400) as u64));
    }
    let note = format!("median {:.0} ms, of {ROUNDS}", quantile(&mut times, 0.5));
    let most = quantile(&mut times, 1.0);
    Ok(vec![Row::recorded("file-to-kernel", most, Unit::Milliseconds, Bound::AtMost(100.0)).noting(note)])
}

/// Whether a map of endpoints has this address.
fn holds(socket: &mut Socket, map: &str, address: std::net::IpAddr) -> Result<bool> {
    let std::net::IpAddr::V4(address) = address else { bail!("{address}: the scene has IPv4 endpoints") };
    let mut request = Builder::new();
    request.message(GET_ELEMENTS, DUMP, &nfgenmsg(1, 0), |m| {
        m.text(1, "plimsoll");
        m.text(2, map);
    });
    let mut found = false;
    let dumped = socket.dump(request.bytes(), |message| {
        found |= message.body.windows(4).any(|bytes| bytes == address.octets());
    });
    match dumped {
        // Overtaken by the very change that is awaited.
        Err(plimsoll_dataplane::netlink::Error::Interrupted) => Ok(false),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(found),
    }
}

/// What the other nodes report.
struct Others {
    scene: Mutex<Scene>,
    figures: Mutex<Vec<u32>>,
}

/// How long the agent is watched, after the others have found it and it had this time to settle: until weights follow
/// from what changes, not from what it still learns of a start at which everything was new.
const WATCHED: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(40);
/// How often all nodes report.
const INTERVAL: Duration = Duration::from_secs(1);
/// 1 % of the Services change each second.
const CHANGES: usize = SERVICES / 100;

/// An agent among 100 nodes that report each second: 1,000 Services of 10 endpoints, of which it hosts 110; each
/// second, in 10 Services an endpoint is replaced (in the file) and all figures change (in the reports).
pub(crate) fn agent(program: &Path) -> Result<Vec<Row>> {
    let scene = Scene::new();
    let mesh = "{mesh: {bind: '127.0.0.1:9653'}}";
    let agent = Agent::start(program, &scene, mesh, "balancer: {report_interval: 1s}")?;
    let others = Arc::new(Others {
        scene: Mutex::new(scene),
        figures: Mutex::new((0..SERVICES * ENDPOINTS).map(|endpoint| 20 + endpoint as u32 % 7).collect()),
    });
    let health = Arc::new(Mutex::new(vec![Health::default(); NODES - 1]));
    let (cpu, resident, heard) = in_namespace(&agent.namespace, async {
        let mut tasks = JoinSet::new();
        let first: SocketAddr = API.parse()?;
        for (index, store) in open(1, NODES - 1, Some(first)).await?.into_iter().enumerate() {
            let others = Arc::clone(&others);
            let figures = move |_: &mut Random| others.report(index + 1);
            tasks.spawn(reporting(store, index, INTERVAL, Arc::clone(&health), figures));
        }
        settled(&health, NODES - 1).await?;
        let mut random = Random::new(1);
        let mut begin = (agent.cpu()?, Instant::now());
        let start = Instant::now();
        let mut settled = false;
        while start.elapsed() < SETTLE + WATCHED {
            let next = Instant::now() + Duration::from_secs(1);
            let scene = others.change(&mut random);
            agent.replace_file(&scene)?;
            if !settled && start.elapsed() >= SETTLE {
                settled = true;
                begin = (agent.cpu()?, Instant::now());
            }
            tokio::time::sleep_until(next.into()).await;
        }
        let cpu = agent.cpu()?.saturating_sub(begin.0).as_secs_f64() / begin.1.elapsed().as_secs_f64();
        let resident = usage::resident(agent.child.id())?;
        let members = tokio::task::block_in_place(|| nodes(&agent))?;
        tasks.abort_all();
        Ok((cpu * 100.0, resident, members))
    })?;
    ensure!(heard == NODES - 1, "the agent heard of {heard} nodes, not of {}", NODES - 1);
    let note = format!("over {} s, {CHANGES} Services changed each second", WATCHED.as_secs());
    let memory = format!("at most {:.1} MB since the start", resident.most);
    Ok(vec![
        Row::recorded("agent:cpu", cpu, Unit::PercentOfACore, Bound::AtMost(3.0)).noting(note),
        Row::recorded("agent:memory", resident.now, Unit::Megabytes, Bound::AtMost(40.0)).noting(memory),
    ])
}

/// How many other nodes the agent knows of.
fn nodes(agent: &Agent) -> Result<usize> {
    let mut stream = agent.namespace.tcp_connect(API.parse()?)?;
    write(&mut stream, "GET /v1/status HTTP/1.0\r\nhost: agent\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let status: serde_json::Value = serde_json::from_str(body).context("the agent's status is not JSON")?;
    Ok(status["nodes"].as_array().map_or(0, Vec::len))
}

impl Others {
    /// Changes ten Services; the scene after that, to be written into the file.
    fn change(&self, random: &mut Random) -> Scene {
        let mut scene = self.scene.lock().unwrap_or_else(PoisonError::into_inner);
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..CHANGES {
            let service = random.below(SERVICES);
            scene.replace(service * ENDPOINTS + random.below(ENDPOINTS));
            for endpoint in service * ENDPOINTS..(service + 1) * ENDPOINTS {
                figures[endpoint] = 10 + random.below(40) as u32;
            }
        }
        scene.clone()
    }

    /// What a node reports.
    fn report(&self, node: usize) -> Report {
        let scene = self.scene.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        scene.report(node, true, |endpoint| figures[endpoint])
    }
}
