//! The configuration: one YAML file, one section per component, each defined by its component.

use std::path::{Path, PathBuf};

use plimsoll_core::service::{NodeName, PolicyKind};
use plimsoll_core::time::Span;
use plimsoll_core::{balancer, guard, policy, view};
use plimsoll_discovery::file::locate;
use plimsoll_discovery::kubernetes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The agent's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name, as Services and peers know it. Default: the host's name.
    #[serde(default)]
    pub node: Option<String>,
    /// This node's zone, for topology hints. Default: what the discovery says of this node, if anything.
    #[serde(default)]
    pub zone: Option<String>,
    /// Which Services and endpoints exist.
    pub discovery: plimsoll_discovery::Config,
    /// How the nodes share what they count. Default: not at all (one node).
    #[serde(default)]
    pub store: plimsoll_store::Config,
    /// How weights get into the kernel. Default: nftables.
    #[serde(default)]
    pub dataplane: plimsoll_dataplane::Config,
    /// How weights are decided.
    #[serde(default)]
    pub balancer: Balancer,
    /// Where the agent answers questions.
    #[serde(default)]
    pub api: Api,
}

/// How weights are decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Balancer {
    /// The policy of Services that do not name one.
    pub policy: PolicyKind,
    /// How often the agent looks at the time, 200ms to 5s: Services are decided anew with every fourth tick, and soon
    /// after each piece of news. Must be the same on all nodes. Default: the report interval, but 500ms at least
    /// and 1s at most.
    pub tick: Option<Span>,
    /// How often nodes count and report, 100ms to 2s. Must be the same on all nodes: what counts as a young
    /// connection depends on it. A small mesh answers faster with 200ms, one of more than a hundred nodes works
    /// less with 1s.
    pub report_interval: Span,
    /// The parameters of the policies.
    pub policies: policy::Parameters,
    /// What bounds every policy.
    pub guard: guard::Parameters,
    /// How long reports are believed.
    pub view: view::Parameters,
}

impl Default for Balancer {
    fn default() -> Balancer {
        Balancer {
            policy: PolicyKind::default(),
            tick: None,
            report_interval: Span::from_millis(500),
            policies: policy::Parameters::default(),
            guard: guard::Parameters::default(),
            view: view::Parameters::default(),
        }
    }
}

impl Balancer {
    /// How often the agent looks at the time.
    pub fn tick(&self) -> Span {
        self.tick.unwrap_or_else(|| self.report_interval.clamp(Span::from_millis(500), Span::from_secs(1)))
    }
}

/// Where the agent answers questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Address and port of the HTTP API and the metrics. Whoever can reach it can read which Services and
    /// endpoints there are, and change nothing.
    pub listen: std::net::SocketAddr,
}

impl Default for Api {
    fn default() -> Api {
        Api { listen: ([127, 0, 0, 1], 9653).into() }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {source}; name another one with --config", path = path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("{path}: {what}; `plimsoll agent --help` names the reference of all fields", path = path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with line and field.
        what: String,
    },
    /// A field has a value that cannot be.
    #[error("{}{field}: {what}", .place.as_deref().unwrap_or_default())]
    Field {
        /// The file with line and column, each followed by a colon, where the value is from a file.
        place: Option<String>,
        /// Which field, with its section.
        field: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// The host has no name that could be this node's.
    #[error("this host has no name to be known by; set `node` in the configuration or give --node")]
    NoNode,
}

impl ConfigError {
    /// With the place of the field in the file that this text is from.
    fn in_file(self, path: &Path, text: &str) -> ConfigError {
        let ConfigError::Field { field, what, .. } = self else { return self };
        let way = field.split('.').fold(locate::Path::TOP, |way, name| way.field(name));
        let locate::Place { line, column } = locate::place_of(text, &way);
        let place = Some(format!("{}:{line}:{column}: ", path.display()));
        ConfigError::Field { place, field, what }
    }
}

impl Config {
    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let config = Config::parse(&text).map_err(|what| ConfigError::Invalid { path: path.into(), what })?;
        config.check().map_err(|error| error.in_file(path, &text))?;
        Ok(config)
    }

    /// Reads a configuration without checking what lies outside the text.
    pub fn parse(text: &str) -> Result<Config, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// The configuration that is in force, with every default.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        serde_saphyr::to_string(self).map_err(|error| ConfigError::Field {
            place: None,
            field: "(all)".into(),
            what: error.to_string(),
        })
    }

    /// Checks every section, and what concerns more than one.
    pub fn check(&self) -> Result<(), ConfigError> {
        let field =
            |field: &str, what: String| Err(ConfigError::Field { place: None, field: field.into(), what });
        let within = |name: &str, span: Span, least: Span, most: Span| {
            if span < least || span > most {
                return field(name, format!("{span} is not between {least} and {most}"));
            }
            Ok(())
        };
        let balancer = &self.balancer;
        within("balancer.tick", balancer.tick(), Span::from_millis(200), Span::from_secs(5))?;
        let interval = balancer.report_interval;
        within("balancer.report_interval", interval, Span::from_millis(100), Span::from_secs(2))?;
        if let Err(what) = balancer.policies.check() {
            return field("balancer.policies", what);
        }
        if let Err(what) = balancer.guard.check() {
            return field("balancer.guard", what);
        }
        if let Err(what) = balancer.view.check() {
            return field("balancer.view", what);
        }
        // Leases are renewed at ticks.
        if let Err(error) = self.dataplane.check(balancer.tick().0) {
            let section = format!("dataplane.{}", self.dataplane.kind());
            return match error {
                plimsoll_dataplane::Error::Config { field: name, problem } => {
                    field(&format!("{section}.{name}"), problem)
                }
                other => field(&section, other.to_string()),
            };
        }
        if let Err(error) = self.store.check() {
            let section = format!("store.{}", self.store.kind());
            return match error {
                plimsoll_store::Error::Setting { setting, reason } => {
                    field(&format!("{section}.{setting}"), reason)
                }
                other => field(&section, other.to_string()),
            };
        }
        Ok(())
    }

    /// This node's name.
    pub fn node_name(&self) -> Result<NodeName, ConfigError> {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = self.node.clone().or_else(host).unwrap_or_default();
        match name.trim() {
            "" | "(none)" | "localhost" => Err(ConfigError::NoNode),
            name => Ok(NodeName::new(name)),
        }
    }

    /// It with this node's name in it, whatever that is from, and with where the mesh finds the others in a cluster.
    pub fn effective(mut self) -> Result<Config, ConfigError> {
        self.node = Some(self.node_name()?.to_string());
        self.balancer.tick = Some(self.balancer.tick());
        if let plimsoll_discovery::Config::Kubernetes(cluster) = &mut self.discovery
            && let plimsoll_store::Config::Mesh(mesh) = &self.store
            && mesh.peers.is_empty()
        {
            cluster.agents.get_or_insert_with(|| kubernetes::config::AGENTS.to_owned());
        }
        Ok(self)
    }

    /// What the core wants to know of it.
    pub(crate) fn parameters(&self) -> balancer::Parameters {
        balancer::Parameters {
            tick: self.balancer.tick().0,
            report_interval: self.balancer.report_interval.0,
            lease: self.dataplane.lease().0,
            policy: self.balancer.policy,
            policies: self.balancer.policies.clone(),
            guard: self.balancer.guard.clone(),
            view: self.balancer.view,
        }
    }
}

#[cfg(test)]
mod tests;
