//! The cases of the tables, and their run.

use std::path::Path;

use anyhow::Result;
use plimsoll_lab::control_plane::Mode;

use crate::changes;
use crate::differential::{Differential, followed, publish};
use crate::flows::{self, Flow};
use crate::report::Outcome;
use crate::table::{self, Proxy, Service};
use crate::world::{World, two_pods_on_each};

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
    let mut world = build(program, None, cases)?;
    for mode in modes {
        dial_all(&mut world, cases, *mode, &|what| tell(&format!("{}: {what}", mode.name())), done)?;
    }
    Ok(())
}

/// The rig with the Services of all cases.
pub(crate) fn build(program: &Path, etcd: Option<&Path>, cases: &Cases) -> Result<World> {
    let services = cases.at_first();
    let ports = 1 + services.iter().map(|service| service.number).max().unwrap_or_default();
    let world = World::build(program, etcd, &two_pods_on_each(), u16::try_from(ports)?, "")?;
    publish(&world, &services)?;
    Ok(world)
}

/// Dials all cases in a mode.
pub(crate) fn dial_all(
    world: &mut World,
    cases: &Cases,
    mode: Mode,
    tell: &dyn Fn(&str),
    done: &mut dyn FnMut(Outcome),
) -> Result<()> {
    let followed = followed(&cases.at_first());
    // Those of the table that need other kube-proxies come last, each kind of them together.
    let as_usual = cases.services.partition_point(|service| service.proxy == Proxy::default());
    let (plain, others) = cases.services.split_at(as_usual);
    if !(plain.is_empty() && cases.changing.is_empty() && cases.flows.is_empty()) {
        world.start_proxies(mode, &Proxy::default())?;
        world.tell_zones()?;
        tell("clients dial with kube-proxy alone");
        let differential = Differential::alone(world, plain, mode)?;
        tell("Services change with kube-proxy alone");
        let changed = changes::run(world, &cases.changing, mode, false)?;
        let flowed = flows::run(world, &cases.flows, false)?;
        tell("agents start");
        world.start_agents(followed)?;
        tell("clients dial with Plimsoll in front");
        differential.with_plimsoll(world)?.into_iter().for_each(&mut *done);
        tell("Services change with Plimsoll in front");
        let changed_again = changes::run(world, &cases.changing, mode, true)?;
        let flowed_again = flows::run(world, &cases.flows, true)?;
        changes::judge(&cases.changing, mode, changed, changed_again).into_iter().for_each(&mut *done);
        flows::judge(&cases.flows, mode, flowed, flowed_again).into_iter().for_each(&mut *done);
        world.stop_agents()?;
    }
    for beside in others.chunk_by(|a, b| a.proxy == b.proxy) {
        tell(&format!("beside other kube-proxies: {}", beside[0].name));
        world.start_proxies(mode, &beside[0].proxy)?;
        let differential = Differential::alone(world, beside, mode)?;
        world.start_agents(followed)?;
        differential.with_plimsoll(world)?.into_iter().for_each(&mut *done);
        world.stop_agents()?;
    }
    Ok(())
}
