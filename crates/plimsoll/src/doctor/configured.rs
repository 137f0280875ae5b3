//! The configuration, and the files it names.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_agent::Config;
use plimsoll_core::service::{NodeName, Service};

use super::finding::Finding;

/// Where the agent looks when it is not told.
pub(super) const USUAL: &str = "/etc/plimsoll/agent.yaml";

/// What the configuration led to.
#[derive(Default)]
pub(super) struct Configured {
    pub(super) findings: Vec<Finding>,
    /// The configuration, where there is a valid one.
    pub(super) config: Option<Config>,
    pub(super) services: Vec<Arc<Service>>,
    /// The nodes that the Services file lists.
    pub(super) nodes: Vec<String>,
}

/// Reads the configuration that was named, or else the usual one if it is there.
pub(super) fn check(named: Option<&PathBuf>) -> Configured {
    let usual = Path::new(USUAL);
    let mut configured = Configured::default();
    let Some(path) = named.map(PathBuf::as_path).or_else(|| usual.exists().then_some(usual)) else {
        configured.findings.push(Finding::note(
            "configuration",
            format!("there is no {USUAL}, so the defaults are checked against"),
            "write one, or name it with --config",
        ));
        return configured;
    };
    match Config::load(path).and_then(|config| config.node_name().map(|node| (config, node))) {
        Ok((config, node)) => {
            let what = format!("{} is valid; this node is {node}", path.display());
            configured.findings.push(Finding::ok("configuration", what));
            services(&mut configured, &config);
            place(&mut configured, &config, &node);
            keys(&mut configured, &config);
            configured.config = Some(config);
        }
        Err(error) => configured.findings.push(Finding::problem(
            "configuration",
            error.to_string(),
            "correct it; docs/configuration.md lists all fields",
        )),
    }
    configured
}

fn services(configured: &mut Configured, config: &Config) {
    let is_cluster = matches!(config.discovery, plimsoll_discovery::Config::Kubernetes(_));
    configured.findings.push(match plimsoll_discovery::check(&config.discovery) {
        Ok(_) if is_cluster => Finding::ok(
            "services",
            "those of the cluster; a running agent knows them (`plimsoll status`)".to_owned(),
        ),
        Ok(services) => {
            let endpoints: usize = services.iter().map(|service| service.endpoints.len()).sum();
            let what = format!("{} Services (ports and families) with {endpoints} endpoints", services.len());
            configured.services = services;
            Finding::ok("services", what)
        }
        Err(error) => Finding::problem(
            "services",
            error.to_string(),
            "correct it; an agent does not start without valid Services",
        ),
    });
}

/// This node's place among those of the Services file.
fn place(configured: &mut Configured, config: &Config, node: &NodeName) {
    let plimsoll_discovery::Config::File(file) = &config.discovery else { return };
    let text = std::fs::read_to_string(&file.path).unwrap_or_default();
    // An invalid file is told of already.
    let Ok(contents) = plimsoll_discovery::file::parse(&text) else { return };
    configured.nodes = contents.nodes.iter().map(|listed| listed.name.to_string()).collect();
    let endpoints: Vec<_> = contents.services.iter().flat_map(|service| &service.endpoints).collect();
    let hosted = endpoints.iter().filter(|endpoint| endpoint.node.as_ref() == Some(node)).count();
    configured.findings.extend(placed(node, &configured.nodes, endpoints.len(), hosted));
}

fn placed(node: &NodeName, nodes: &[String], endpoints: usize, hosted: usize) -> Option<Finding> {
    if !nodes.is_empty() && !nodes.iter().any(|listed| listed == node.as_str()) {
        let listed = nodes.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
        return Some(Finding::warning(
            "node",
            format!("this node is {node}, which is not among the nodes of the Services file ({listed})"),
            "set `node` in the configuration (or --node) to its name there, or add it to `nodes` in the file",
        ));
    }
    match (endpoints, hosted) {
        (0, _) => None,
        (_, 0) => Some(Finding::warning(
            "node",
            format!("no endpoint of the Services file names {node}: this agent would count for nobody else"),
            "if endpoints run here, write this name as their `node:`, or set `node` in the configuration (or --node) \
             to the name they have; if this node only sends connections, there is nothing to do",
        )),
        (_, hosted) => Some(Finding::ok("node", format!("{node} hosts {hosted} of {endpoints} endpoints"))),
    }
}

fn keys(configured: &mut Configured, config: &Config) {
    let plimsoll_store::Config::Mesh(mesh) = &config.store else { return };
    let Some(path) = &mesh.key_file else {
        if mesh.insecure {
            configured.findings.push(Finding::warning(
                "mesh-key",
                "the mesh is not sealed: whoever reaches its port can steer this node",
                "`openssl rand -base64 32` makes a key; set `store.mesh.key_file`, the same key on all nodes",
            ));
        }
        return;
    };
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    configured.findings.push(plimsoll_store::check_files(&config.store).map_or_else(
        |error| Finding::problem("mesh-key", error.to_string(), "correct the file or `store.mesh.key_file`"),
        |()| secrecy(path, mode),
    ));
}

fn secrecy(path: &Path, mode: u32) -> Finding {
    let others = mode & 0o077;
    if others == 0 {
        return Finding::ok("mesh-key", format!("{} holds valid keys", path.display()));
    }
    Finding::warning(
        "mesh-key",
        format!("others than its owner may read or change the key file {}", path.display()),
        format!("`chmod go= {}`", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn a_node_has_its_place_in_the_file() {
        let node = NodeName::new("n1");
        let verdict = |nodes: &[&str], endpoints, hosted| {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            placed(&node, &nodes, endpoints, hosted).map(|finding| finding.verdict)
        };
        assert_eq!(verdict(&[], 0, 0), None);
        assert_eq!(verdict(&[], 4, 2), Some(Verdict::Ok));
        assert_eq!(verdict(&["n1", "n2"], 4, 2), Some(Verdict::Ok));
        assert_eq!(verdict(&["n1", "n2"], 4, 0), Some(Verdict::Warning));
        assert_eq!(verdict(&["n2", "n3"], 0, 0), Some(Verdict::Warning));
    }

    #[test]
    fn a_key_is_a_secret() {
        assert_eq!(secrecy(Path::new("k"), 0o100_600).verdict, Verdict::Ok);
        assert_eq!(secrecy(Path::new("k"), 0o100_640).verdict, Verdict::Warning);
    }
}
