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
mod judge;
mod differential;
mod changes;

use std::path::Path;

use anyhow::Result;
use plimsoll_lab::control_plane::Mode;

use differential::{Differential, followed, publish};
use report::Outcome;
use table::Service;
use world::{NODES, World};

/// What is to be compared.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// Services that do not change.
    pub services: Vec<Service>,
    /// Services that change: what each is, one after the other.
    pub changing: Vec<Vec<Service>>,
}

impl Cases {
    /// Those of the repository.
    pub fn of_repository() -> Result<Cases> {
        let services = table::read(table::CASES, 1)?;
        let changing = table::read_changes(table::CHANGES, 1 + services.len())?;
        Ok(Cases { services, changing })
    }

    /// Only those whose name (`SERVICE: CASE`) is wanted; a Service that changes is kept as a whole.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        let is_wanted =
            |service: &Service, case: &table::Case| wanted(&format!("{}: {}", service.name, case.name));
        for service in &mut self.services {
            let whole = service.clone();
            service.cases.retain(|case| is_wanted(&whole, case));
        }
        self.services.retain(|service| !service.cases.is_empty());
        self.changing.retain(|states| {
            states.iter().any(|state| state.cases.iter().any(|case| is_wanted(state, case)))
        });
    }

    /// All Services, as they are, or begin.
    fn at_first(&self) -> Vec<Service> {
        self.services.iter().chain(self.changing.iter().map(|states| &states[0])).cloned().collect()
    }
}

/// Runs these cases in these modes of kube-proxy, with the `plimsoll` program, and tells how far it is.
pub fn differential(
    program: &Path,
    cases: &Cases,
    modes: &[Mode],
    tell: &dyn Fn(&str),
    done: &mut dyn FnMut(Outcome),
) -> Result<()> {
    tell("a control plane, three nodes and their pods start");
    let services = cases.at_first();
    let ports = 1 + services.iter().map(|service| service.number).max().unwrap_or_default();
    let mut world = World::build(program, &pods(), u16::try_from(ports)?)?;
    publish(&world, &services)?;
    for mode in modes {
        let tell = |what: &str| tell(&format!("{}: {what}", mode.name()));
        world.start_proxies(*mode)?;
        tell("clients dial with kube-proxy alone");
        let differential = Differential::alone(&world, &cases.services, *mode)?;
        tell("Services change with kube-proxy alone");
        let changed = changes::run(&world, &cases.changing, *mode, false)?;
        tell("agents start");
        world.start_agents(followed(&services))?;
        tell("clients dial with Plimsoll in front");
        differential.with_plimsoll(&world)?.into_iter().for_each(&mut *done);
        tell("Services change with Plimsoll in front");
        let changed_again = changes::run(&world, &cases.changing, *mode, true)?;
        changes::judge(&cases.changing, *mode, changed, changed_again).into_iter().for_each(&mut *done);
        world.stop_agents()?;
    }
    Ok(())
}

/// The pods with servers: two on each node.
fn pods() -> Vec<(String, usize)> {
    let pods = (0..NODES).flat_map(|node| ["a", "b"].map(|name| (format!("p{}{name}", node + 1), node)));
    pods.collect()
}
