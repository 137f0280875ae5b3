//! Who can compete: every policy with its name, what it is in a sentence, and its source.

use plimsoll_core::service::PolicyKind;

use crate::agents::Agents;
use crate::baselines::blind::{Fixed, Uniform};
use crate::baselines::central::{Knapsack, Unimog};
use crate::baselines::clients::{Orca, PeakEwma, Prequal};
use crate::baselines::feedback::Feedback;
use crate::baselines::oracle::{PowerOfTwo, ShortestQueue, Sight};
use crate::baselines::recorded::AsRecorded;
use crate::baselines::scd::Scd;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::scenario::Scenario;
use crate::selection::Kind;
use crate::steering::Steering;

/// The policies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`about` says what each one is")]
pub enum Policy {
    Waterline,
    LvsFeedback,
    Equal,
    Static,
    Random,
    RoundRobin,
    StaticWeights,
    Wlc,
    WlcSized,
    SedSized,
    Unimog,
    Knapsack,
    Orca,
    Scd,
    PeakEwma,
    Prequal,
    PowerOfTwo,
    JsqConnections,
    JsqWork,
    /// Only where a recording is replayed; not in [`Policy::ALL`].
    AsRecorded,
}

/// What is told of a policy: its name, what it does, and where that comes from.
type Description = (&'static str, &'static str, &'static str);

impl Policy {
    /// All of them, ours first and the oracles last.
    pub const ALL: [Policy; 19] = [
        Policy::Waterline,
        Policy::LvsFeedback,
        Policy::Equal,
        Policy::Static,
        Policy::Random,
        Policy::RoundRobin,
        Policy::StaticWeights,
        Policy::Wlc,
        Policy::WlcSized,
        Policy::SedSized,
        Policy::Unimog,
        Policy::Knapsack,
        Policy::Orca,
        Policy::Scd,
        Policy::PeakEwma,
        Policy::Prequal,
        Policy::PowerOfTwo,
        Policy::JsqConnections,
        Policy::JsqWork,
    ];

    const fn described(self) -> Description {
        match self {
            Policy::Waterline => {
                ("waterline", "our law: fill endpoints to one level of predicted load", "Plimsoll's agents")
            }
            Policy::LvsFeedback => (
                "lvs-feedback",
                "weights follow load by a cube root, every 5 s, on each node",
                "Plimsoll's agents, after W. Zhang, LVS dynamic feedback",
            ),
            Policy::Equal => ("equal", "equal shares, with the agents' guard", "Plimsoll's agents"),
            Policy::Static => {
                ("static", "shares by stated capacity, with the agents' guard", "Plimsoll's agents")
            }
            Policy::Random => ("random", "a uniform draw", "kube-proxy with iptables or nftables"),
            Policy::RoundRobin => ("round-robin", "each node takes turns", "IPVS rr, kube-proxy's IPVS mode"),
            Policy::StaticWeights => {
                ("static-weights", "weights by stated capacity that nobody changes", "HAProxy, LVS")
            }
            Policy::Wlc => ("wlc", "fewest of the node's own connections", "IPVS lc and wlc, kube-router"),
            Policy::WlcSized => ("wlc-sized", "the same per stated capacity", "IPVS wlc"),
            Policy::SedSized => ("sed-sized", "the same, counting the new connection", "IPVS sed"),
            Policy::Unimog => (
                "unimog",
                "a controller moves parts of the flow from endpoints above the mean load to those below",
                "D. Wragg, Cloudflare, 2020",
            ),
            Policy::Knapsack => (
                "knapsack",
                "a controller sets weights by measured latency, every 10 s",
                "Gandhi and Narayana, KnapsackLB, 2024 (without its integer program)",
            ),
            Policy::Orca => (
                "orca",
                "weights by requests per CPU used and errors, every second",
                "gRFC A58, Envoy client-side WRR",
            ),
            Policy::Scd => (
                "scd",
                "nodes that see the same counts fill the lowest endpoints together",
                "Goren, Vargaftik and Moses, DISC 2020, PODC 2021",
            ),
            Policy::PeakEwma => (
                "peak-ewma",
                "of two draws the one with the lower latency times own requests",
                "Twitter Finagle; sees requests",
            ),
            Policy::Prequal => (
                "prequal",
                "three probes; the fastest of those with few requests in flight",
                "Wydrowski et al., NSDI 2024; sees requests, and probes take no time here",
            ),
            Policy::PowerOfTwo => (
                "power-of-two",
                "the better of two draws, by perfect knowledge",
                "an oracle; Mitzenmacher, 2001",
            ),
            Policy::JsqConnections => (
                "jsq-connections",
                "the fewest connections per capacity, by perfect knowledge",
                "an oracle; Winston, 1977",
            ),
            Policy::JsqWork => (
                "jsq-work",
                "the fewest requests in work per core, by perfect knowledge; the measure of p99",
                "an oracle; Winston, 1977",
            ),
            Policy::AsRecorded => ("as-recorded", "each connection goes where it went", "the recording"),
        }
    }

    /// What to call it.
    pub const fn name(self) -> &'static str {
        self.described().0
    }

    /// What it does, in a sentence.
    pub const fn about(self) -> &'static str {
        self.described().1
    }

    /// Where it comes from.
    pub const fn source(self) -> &'static str {
        self.described().2
    }

    /// How nodes choose by its weights unless told otherwise; `None` where the policy itself chooses.
    pub const fn usual_selection(self) -> Option<Kind> {
        match self {
            Policy::Waterline | Policy::LvsFeedback | Policy::Equal | Policy::Static => Some(Kind::Counter),
            Policy::StaticWeights => Some(Kind::Wrr),
            _ => None,
        }
    }
}

/// The names of all policies.
pub fn names() -> Vec<&'static str> {
    Policy::ALL.into_iter().map(Policy::name).collect()
}

/// A name that is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such policy.
    #[error("there is no policy `{name}`; there are {}", names().join(", "))]
    Policy {
        /// What was asked for.
        name: String,
    },
    /// There is no such way to choose.
    #[error(
        "policy `{policy}`: there is no way to choose `{name}`; there are {}",
        Kind::ALL.map(Kind::name).join(", ")
    )]
    Selection {
        /// For which policy.
        policy: &'static str,
        /// What was asked for.
        name: String,
    },
    /// The policy has no weights to choose by.
    #[error("{policy} chooses by itself; write it without `:{name}`")]
    NoWeights {
        /// Which policy.
        policy: &'static str,
        /// What was asked for.
        name: String,
    },
}

/// A policy with a way to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contender {
    /// The policy.
    pub policy: Policy,
    /// How nodes choose by its weights; `None` where the policy itself chooses.
    pub selection: Option<Kind>,
}

impl std::fmt::Display for Contender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.policy.name())?;
        self.selection.map_or(Ok(()), |selection| write!(f, ":{}", selection.name()))
    }
}

impl Contender {
    /// The one that people call `policy` or `policy:selection`.
    pub fn named(text: &str) -> Result<Contender, Error> {
        let (name, selection) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let policy = Policy::ALL.into_iter().find(|policy| policy.name() == name);
        let Some(policy) = policy else { return Err(Error::Policy { name: name.to_owned() }) };
        let Some(name) = selection else {
            return Ok(Contender { policy, selection: policy.usual_selection() });
        };
        let (policy_name, name) = (policy.name(), name.to_owned());
        if policy.usual_selection().is_none() {
            return Err(Error::NoWeights { policy: policy_name, name });
        }
        match Kind::named(&name) {
            Some(kind) => Ok(Contender { policy, selection: Some(kind) }),
            None => Err(Error::Selection { policy: policy_name, name }),
        }
    }

    /// Every policy, the law with every way to choose.
    pub fn all() -> Vec<Contender> {
        let law =
            Kind::ALL.into_iter().map(|kind| Contender { policy: Policy::Waterline, selection: Some(kind) });
        let others = Policy::ALL.into_iter().filter(|policy| *policy != Policy::Waterline);
        law.chain(others.map(|policy| Contender { policy, selection: policy.usual_selection() })).collect()
    }

    /// What really happened; only where a recording is replayed.
    pub const AS_RECORDED: Contender = Contender { policy: Policy::AsRecorded, selection: None };

    /// Makes who decides in a cluster.
    pub fn build(self, scenario: &Scenario, cluster: &Cluster, dice: Dice) -> Box<dyn Steering> {
        let selection = self.selection.unwrap_or(Kind::Counter);
        let agents = |kind, dice| Box::new(Agents::new(scenario, kind, selection, cluster, dice));
        match self.policy {
            Policy::Waterline => agents(PolicyKind::Waterline, dice),
            Policy::LvsFeedback => agents(PolicyKind::LvsFeedback, dice),
            Policy::Equal => agents(PolicyKind::Equal, dice),
            Policy::Static => agents(PolicyKind::Static, dice),
            Policy::Random => Box::new(Uniform::new(dice)),
            Policy::RoundRobin => Box::new(Fixed::new(Kind::Wrr, false, cluster, dice)),
            Policy::StaticWeights => Box::new(Fixed::new(selection, true, cluster, dice)),
            Policy::Wlc => Box::new(Fixed::new(Kind::Wlc, false, cluster, dice)),
            Policy::WlcSized => Box::new(Fixed::new(Kind::Wlc, true, cluster, dice)),
            Policy::SedSized => Box::new(Fixed::new(Kind::Sed, true, cluster, dice)),
            Policy::Unimog => Box::new(Feedback::new(Unimog::default(), scenario, cluster, dice)),
            Policy::Knapsack => Box::new(Feedback::new(Knapsack::default(), scenario, cluster, dice)),
            Policy::Orca => Box::new(Feedback::new(Orca::default(), scenario, cluster, dice)),
            Policy::Scd => Box::new(Feedback::new(Scd::new(scenario), scenario, cluster, dice)),
            Policy::PeakEwma => Box::new(PeakEwma::new(cluster, dice)),
            Policy::Prequal => Box::new(Prequal::new(dice)),
            Policy::PowerOfTwo => Box::new(PowerOfTwo::new(Sight::Work, dice)),
            Policy::JsqConnections => Box::new(ShortestQueue::new(Sight::Connections, dice)),
            Policy::JsqWork => Box::new(ShortestQueue::new(Sight::Work, dice)),
            Policy::AsRecorded => Box::new(AsRecorded::new(scenario.traffic.clone().unwrap_or_default())),
        }
    }
}
