//! End to end: a real Kubernetes control plane, three nodes as network namespaces with a real kube-proxy and an agent
//! each, pods with real servers, and clients everywhere. What kube-proxy alone does is compared with what happens with
//! Plimsoll in front of it. And a node with a real kubelet, on which it is installed and its Pods live.

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
pub mod flows;
pub mod evenness;
pub mod chaos;
pub mod apart;
pub mod kubelet;
mod writer;
mod kernel;
pub mod scale;

use std::path::Path;

use anyhow::Result;
use plimsoll_lab::control_plane::Mode;

use differential::{Differential, followed, publish};
use flows::Flow;
use report::Outcome;
use table::Service;
use world::{World, two_pods_on_each};

/// Dozens of connections in a moment, and then none: to the guard that can look like an endpoint whose connections do
/// not last.
const PATIENT_GUARD: &str = "balancer: {guard: {failures: 100, missing_connections: 50}}";

/// What is to be compared.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// Services that do not change.
    pub services: Vec<Service>,
    /// Services that change: what each is, one after the other.
    pub changing: Vec<Vec<Service>>,
    /// What lives through changes.
    pub flows: Vec<Flow>,
}

impl Cases {
    /// Those of the repository.
    pub fn of_repository() -> Result<Cases> {
        let services = table::read(table::CASES, 1)?;
        let changing = table::read_changes(table::CHANGES, 1 + services.len())?;
        let flows = Flow::all(1 + services.len() + changing.len())?;
        Ok(Cases { services, changing, flows })
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
        self.flows.retain(|flow| wanted(flow.name()));
        self.changing.retain(|states| {
            states.iter().any(|state| state.cases.iter().any(|case| is_wanted(state, case)))
        });
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.changing.is_empty() && self.flows.is_empty()
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let of_tables = self.services.iter().chain(self.changing.iter().flatten());
        let of_tables =
            of_tables.flat_map(|s| s.cases.iter().map(|case| format!("{}: {}", s.name, case.name)));
        of_tables.chain(self.flows.iter().map(|flow| flow.name().to_owned()))
    }

    /// All Services, as they are, or begin.
    fn at_first(&self) -> Vec<Service> {
        let changing = self.changing.iter().map(|states| &states[0]);
        let flows = self.flows.iter().map(|flow| &flow.service);
        self.services.iter().chain(changing).chain(flows).cloned().collect()
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
    let mut world = World::build(program, &two_pods_on_each(), u16::try_from(ports)?, PATIENT_GUARD)?;
    publish(&world, &services)?;
    for mode in modes {
        let tell = |what: &str| tell(&format!("{}: {what}", mode.name()));
        world.start_proxies(*mode)?;
        tell("clients dial with kube-proxy alone");
        let differential = Differential::alone(&world, &cases.services, *mode)?;
        tell("Services change with kube-proxy alone");
        let changed = changes::run(&world, &cases.changing, *mode, false)?;
        let flowed = flows::run(&world, &cases.flows, false)?;
        tell("agents start");
        world.start_agents(followed(&services))?;
        tell("clients dial with Plimsoll in front");
        differential.with_plimsoll(&world)?.into_iter().for_each(&mut *done);
        tell("Services change with Plimsoll in front");
        let changed_again = changes::run(&world, &cases.changing, *mode, true)?;
        let flowed_again = flows::run(&world, &cases.flows, true)?;
        changes::judge(&cases.changing, *mode, changed, changed_again).into_iter().for_each(&mut *done);
        flows::judge(&cases.flows, *mode, flowed, flowed_again).into_iter().for_each(&mut *done);
        world.stop_agents()?;
    }
    Ok(())
}
