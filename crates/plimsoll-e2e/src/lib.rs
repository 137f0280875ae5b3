//! End to end: a real Kubernetes control plane, three nodes as network namespaces with a real kube-proxy and an agent
//! each, pods with real servers, and clients everywhere. What kube-proxy alone does is compared with what happens with
//! Plimsoll in front of it.

pub mod table;
pub mod report;
pub mod objects;
mod agent;
mod witness;
mod world;
mod dial;
mod differential;

use std::path::Path;

use anyhow::Result;
use plimsoll_lab::control_plane::Mode;

use report::Outcome;
use table::Service;
use world::{NODES, World};

/// Runs these Services' cases in these modes of kube-proxy, with the `plimsoll` program, and tells how far it is.
pub fn differential(
    program: &Path,
    services: &[Service],
    modes: &[Mode],
    tell: &dyn Fn(&str),
    done: &mut dyn FnMut(Outcome),
) -> Result<()> {
    tell("starting a control plane, three nodes and their pods");
    let ports = 1 + services.iter().map(|service| service.number).max().unwrap_or_default();
    let mut world = World::build(program, &pods(), u16::try_from(ports)?)?;
    tell(&format!("{} Services", services.len()));
    differential::publish(&world, services)?;
    for mode in modes {
        differential::run(&mut world, services, *mode, tell)?.into_iter().for_each(&mut *done);
        world.stop_agents()?;
    }
    Ok(())
}

/// The pods with servers: two on each node.
fn pods() -> Vec<(String, usize)> {
    let pods = (0..NODES).flat_map(|node| ["a", "b"].map(|name| (format!("p{}{name}", node + 1), node)));
    pods.collect()
}
