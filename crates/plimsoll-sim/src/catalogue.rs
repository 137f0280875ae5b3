//! Who can compete: every policy with its name, what it is in a sentence, and its source.

use plimsoll_core::service::PolicyKind;

use crate::agents::Agents;
use crate::baselines::blind::{Fixed, Uniform};
use crate::baselines::oracle::{PowerOfTwo, ShortestQueue, Sight};
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::scenario::Scenario;
use crate::selection::Kind;
use crate::steering::Steering;

/// The policies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// The balancer with the law.
    Waterline,
    /// The balancer with the classic of the LVS documentation.
    LvsFeedback,
    /// The balancer with equal shares.
    Equal,
    /// The balancer with shares by capacity.
    Static,
    /// Round robin.
    RoundRobin,
    /// A uniform draw.
    Random,
    /// Fixed weights by capacity.
    StaticWeights,
    /// Local least connections.
    Wlc,
    /// Local least connections by capacity.
    WlcSized,
    /// Local shortest expected delay by capacity.
    SedSized,
    /// The better of two, with perfect knowledge.
    PowerOfTwo,
    /// The fewest connections, with perfect knowledge.
    JsqConnections,
    /// The least work, with perfect knowledge.
    JsqWork,
}

/// A policy with a way to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contender {
    /// The policy.
    pub policy: Policy,
    /// How nodes choose by its weights; `None` where the policy itself chooses.
    pub selection: Option<Kind>,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 13] = [
        Policy::Waterline,
        Policy::LvsFeedback,
        Policy::Equal,
        Policy::Static,
        Policy::RoundRobin,
        Policy::Random,
        Policy::StaticWeights,
        Policy::Wlc,
        Policy::WlcSized,
        Policy::SedSized,
        Policy::PowerOfTwo,
        Policy::JsqConnections,
        Policy::JsqWork,
    ];

    /// What to call it.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Waterline => "waterline",
            Policy::LvsFeedback => "lvs-feedback",
            Policy::Equal => "equal",
            Policy::Static => "static",
            Policy::RoundRobin => "round-robin",
            Policy::Random => "random",
            Policy::StaticWeights => "static-weights",
            Policy::Wlc => "wlc",
            Policy::WlcSized => "wlc-sized",
            Policy::SedSized => "sed-sized",
            Policy::PowerOfTwo => "power-of-two",
            Policy::JsqConnections => "jsq-connections",
            Policy::JsqWork => "jsq-work",
        }
    }
}

impl Contender {
    /// Makes who decides in a cluster.
    pub fn build(self, scenario: &Scenario, cluster: &Cluster, dice: Dice) -> Box<dyn Steering> {
        let selection = self.selection.unwrap_or(Kind::Counter);
        let agents = |kind, dice| Box::new(Agents::new(scenario, kind, selection, cluster, dice));
        match self.policy {
            Policy::Waterline => agents(PolicyKind::Waterline, dice),
            Policy::LvsFeedback => agents(PolicyKind::LvsFeedback, dice),
            Policy::Equal => agents(PolicyKind::Equal, dice),
            Policy::Static => agents(PolicyKind::Static, dice),
            Policy::RoundRobin => Box::new(Fixed::new(Kind::Wrr, false, cluster, dice)),
            Policy::Random => Box::new(Uniform::new(dice)),
            Policy::StaticWeights => Box::new(Fixed::new(selection, true, cluster, dice)),
            Policy::Wlc => Box::new(Fixed::new(Kind::Wlc, false, cluster, dice)),
            Policy::WlcSized => Box::new(Fixed::new(Kind::Wlc, true, cluster, dice)),
            Policy::SedSized => Box::new(Fixed::new(Kind::Sed, true, cluster, dice)),
            Policy::PowerOfTwo => Box::new(PowerOfTwo::new(Sight::Work, dice)),
            Policy::JsqConnections => Box::new(ShortestQueue::new(Sight::Connections, dice)),
            Policy::JsqWork => Box::new(ShortestQueue::new(Sight::Work, dice)),
        }
    }
}

/// The contender that people call `policy` or `policy:selection`.
pub fn parse(text: &str) -> Option<Contender> {
    let (name, selection) = text.split_once(':').map_or((text, None), |(a, b)| (a, Some(b)));
    let policy = Policy::ALL.into_iter().find(|policy| policy.name() == name)?;
    Some(Contender { policy, selection: selection.and_then(Kind::named) })
}
