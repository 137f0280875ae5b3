//! The demo's agents: real processes of this very program, one in each node's namespace.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use plimsoll_api::{Explanation, Status};
use plimsoll_lab::cluster::{Cluster, POD_NETWORK_V4};
use plimsoll_lab::namespace::Namespace;
use rustix::process::{Pid, Signal};

use super::promises::LEASE_SECONDS;
use super::world::World;
use crate::client::{Agent as Client, query};

/// How long an agent may take to become ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(15);

/// One agent.
pub(super) struct Agent {
    namespace: Namespace,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Whether it can be asked: ready, and neither frozen nor gone.
    answers: bool,
}

/// Writes a key for the mesh and a configuration for each node.
pub(super) fn prepare(world: &World, directory: &Path) -> anyhow::Result<Vec<Agent>> {
    let key = directory.join("mesh.key");
    let mut bytes = [0_u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    std::fs::write(&key, hex + "\n")?;
    let peers: Vec<IpAddr> = world.cluster.nodes.iter().map(|node| node.host.v4.into()).collect();
    let one = |(index, namespace): (usize, Namespace)| {
        let config = directory.join(format!("node{index}.yaml"));
        std::fs::write(&config, configuration(index, &peers, &key, &world.services))?;
        Ok(Agent {
            namespace,
            config,
            log: directory.join(format!("node{index}.log")),
            child: None,
            answers: false,
        })
    };
    namespaces(&world.cluster).enumerate().map(one).collect()
}

fn namespaces(cluster: &Cluster) -> impl Iterator<Item = Namespace> + '_ {
    cluster.nodes.iter().map(|node| node.host.namespace.clone())
}

fn configuration(index: usize, peers: &[IpAddr], key: &Path, services: &Path) -> String {
    let others: Vec<String> = peers
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != index)
        .map(|(_, address)| format!("\"{address}:9653\""))
        .collect();
    format!(
        "node: node{index}\n\
         discovery: {{file: {{path: {services}}}}}\n\
         store: {{mesh: {{bind: \"{address}:9653\", peers: [{others}], key_file: {key}}}}}\n\
         dataplane: {{nftables: {{lease: {LEASE_SECONDS}s, local_sources: [{POD_NETWORK_V4}]}}}}\n\
         balancer: {{report_interval: 200ms}}\n",
        address = peers[index],
        others = others.join(", "),
        services = services.display(),
        key = key.display(),
    )
}

impl Agent {
    /// Starts the agent, without waiting for it.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("agent").arg("--config").arg(&self.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(self.namespace.start(&mut command)?);
        Ok(())
    }

    /// Waits until the agent is ready.
    pub(super) fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.get::<Status>("/v1/status").is_ok_and(|status| status.ready) {
                self.answers = true;
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() >= deadline {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                bail!("an agent did not become ready; its log ends:\n{}", tail.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal.
    pub(super) fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.answers = signal == Signal::CONT;
        let child = self.child.as_ref().context("the agent does not run")?;
        Ok(rustix::process::kill_process(Pid::from_child(child), signal)?)
    }

    /// Waits for the agent's end; whether it ended well.
    pub(super) fn wait(&mut self) -> anyhow::Result<bool> {
        let Some(mut child) = self.child.take() else { return Ok(true) };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
        bail!("an agent did not stop within {} s", PATIENCE.as_secs())
    }

    /// Whether the kernel has our table in this node's namespace.
    pub(super) fn has_table(&self) -> anyhow::Result<bool> {
        let mut list = Command::new("nft");
        list.args(["list", "tables"]);
        let output = self.namespace.output(&mut list)?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("plimsoll"))
    }

    /// Each endpoint's part of this node's new connections.
    pub(super) fn explain(&self, service: &str) -> Option<Vec<Explanation>> {
        if !self.answers {
            return None;
        }
        self.get(&format!("/v1/explain?service={}", query(service))).ok()
    }

    fn get<T: serde::de::DeserializeOwned + Send>(&self, path: &str) -> anyhow::Result<T> {
        self.namespace.run(|| Client::here().get(path))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
