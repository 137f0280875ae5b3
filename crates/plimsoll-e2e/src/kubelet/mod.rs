//! Real Pods: the image and the manifests are installed on a node with a real kubelet and containerd, as a user would
//! install them, and everything happens to Pods that happens to them in a cluster, under load: beside a Service with
//! the same Pods that kube-proxy serves alone.

mod rig;
mod traces;
mod steps;

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use plimsoll_lab::control_plane::{Mode, Network};
use serde::Serialize;

use crate::report;
use crate::traffic::Traffic;
use rig::Rig;

/// What a step saw that nobody else sees.
struct Told {
    line: String,
    problems: Vec<String>,
}

/// Which of our Service's connections may be kube-proxy's during a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// There is no load yet.
    NoLoad,
    /// None.
    None,
    /// Some have to be: the agent is away.
    Some,
}

struct Step {
    name: &'static str,
    happen: fn(&mut Rig) -> Result<Told>,
    left: Left,
}

/// One after the other: each begins where the one before ended.
const STEPS: [Step; 8] = [
    Step { name: "install", happen: steps::install, left: Left::NoLoad },
    Step { name: "serve a Deployment", happen: steps::serve, left: Left::None },
    Step { name: "roll the Deployment", happen: steps::roll, left: Left::None },
    Step { name: "flip readiness", happen: steps::flip_readiness, left: Left::None },
    Step { name: "drain the node", happen: steps::drain, left: Left::None },
    Step { name: "kubectl plimsoll", happen: steps::ask, left: Left::None },
    Step { name: "roll the agents", happen: steps::roll_agents, left: Left::Some },
    Step { name: "uninstall", happen: steps::uninstall, left: Left::Some },
];

/// What came of a step.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub step: &'static str,
    /// What was seen.
    pub seen: String,
    /// What became of the connections meanwhile.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// What is wrong; nothing: all held.
    pub problems: Vec<String>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { step, seen, traffic, problems } = self;
        let verdict = if problems.is_empty() { "ok" } else { "FAILED" };
        write!(f, "{verdict:<6} {step:<20} {seen}")?;
        if traffic.opened[1] > 0 {
            write!(f, "\n       {:20} {traffic}", "")?;
        }
        report::tell(problems, f)
    }
}

/// The names of all steps.
pub fn names() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|step| step.name)
}

/// Takes all steps beside kube-proxy in a mode, on a network of Pods, with the images of the agent and of what Pods run, and the `plimsoll`
/// program for `kubectl plimsoll`. It belongs into an enclosure: see [`crate::apart`].
pub fn kubelet(
    program: &Path,
    images: [&Path; 2],
    mode: Mode,
    network: Network,
    tell: &dyn Fn(&str),
    done: &mut dyn FnMut(Row),
) -> Result<()> {
    tell("a control plane and a node with containerd, kubelet and kube-proxy start");
    let mut rig = Rig::build(program, images, mode, network)?;
    for step in &STEPS {
        tell(step.name);
        let before = rig.traffic()?;
        let told = (step.happen)(&mut rig);
        let told = told.with_context(|| format!("{}\n{}", step.name, rig.describe()))?;
        let traffic = rig.traffic()?.since(before);
        let problems = told.problems.into_iter().chain(wrong(step.left, &traffic)).collect();
        done(Row { step: step.name, seen: told.line, traffic, problems });
    }
    Ok(())
}

/// What is wrong with the connections of a step.
fn wrong(left: Left, traffic: &Traffic) -> Vec<String> {
    let mut problems = traffic.problems(left != Left::NoLoad);
    if left == Left::None && traffic.fell_back > 0 {
        problems.push("connections were left to kube-proxy".into());
    }
    if left == Left::Some && traffic.fell_back == 0 {
        problems.push("none was left to kube-proxy, with no agent there".into());
    }
    problems
}

#[cfg(test)]
mod tests;
