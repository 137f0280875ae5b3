//! Whether local processes can reach Services' addresses, and whether the agent's ports are free.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use plimsoll_agent::Config;
use plimsoll_api::Status;
use plimsoll_core::service::{Place, Service};
use plimsoll_dataplane::netlink::{ACK, Builder, Error, Protocol, Socket};

use super::finding::Finding;
use crate::client::Agent;

/// `RTM_GETROUTE` and `RTA_DST` (`linux/rtnetlink.h`).
const GET_ROUTE: u16 = 26;
const DESTINATION: u16 = 1;
/// More addresses than this are not looked up.
const ENOUGH: usize = 1_000;

/// Looks for routes to the Services' addresses; without Services, for any route at all.
pub(super) fn routes(services: &[std::sync::Arc<Service>]) -> Finding {
    let addresses: BTreeSet<IpAddr> = services
        .iter()
        .flat_map(|service| &service.keys)
        .filter_map(|key| match key.place {
            Place::Internal(address) | Place::External(address) => Some(address),
            Place::AnyLocal(_) => None,
        })
        .take(ENOUGH)
        .collect();
    let known = !addresses.is_empty();
    // Addresses for documentation: only a default route leads there.
    let anywhere =
        [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
    let asked = if known { addresses } else { BTreeSet::from(anywhere) };
    match unroutable(&asked) {
        Ok(unroutable) => routed(known, &unroutable),
        Err(error) => Finding::note(
            "routes",
            format!("cannot ask for routes: {error}"),
            "`ip route get ADDRESS` must find a route to each Service's address",
        ),
    }
}

fn unroutable(addresses: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, Error> {
    let mut socket = Socket::open(Protocol::Route)?;
    let mut refusals = Vec::new();
    let mut without = Vec::new();
    for address in addresses {
        let mut header = [0_u8; 12];
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        header[0] = if address.is_ipv4() { 2 } else { 10 };
        header[1] = (bytes.len() * 8) as u8;
        let mut request = Builder::new();
        request.message(GET_ROUTE, ACK, &header, |m| m.bytes_of(DESTINATION, &bytes));
        socket.transact(request.bytes(), &mut refusals)?;
        if !refusals.is_empty() {
            without.push(*address);
        }
    }
    Ok(without)
}

fn routed(known: bool, unroutable: &[IpAddr]) -> Finding {
    const TODO: &str = "a packet is routed before it is translated: give this node a default route, or a route to \
                        the Services' addresses (`ip route add ADDRESSES dev INTERFACE`); any next hop will do";
    if unroutable.is_empty() {
        let what = if known { "every Service's address has a route" } else { "there are default routes" };
        return Finding::ok("routes", what);
    }
    if known {
        let some: Vec<String> = unroutable.iter().take(5).map(IpAddr::to_string).collect();
        let what = format!(
            "processes of this node cannot reach {} of the Services' addresses, which have no route: {}",
            unroutable.len(),
            some.join(", ")
        );
        return Finding::warning("routes", what, TODO);
    }
    let families: Vec<&str> =
        unroutable.iter().map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let what = format!(
        "no default route for {}: processes of this node reach only Services to whose addresses a route leads",
        families.join(" and ")
    );
    Finding::note("routes", what, TODO)
}

/// How a port stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Free,
    Taken,
    /// The address is not this node's.
    Elsewhere,
    Unknown,
}

/// An agent that answers here.
pub(super) struct Running {
    node: String,
    /// What it says of itself, or why it says nothing: it may be starting.
    pub(super) status: Result<Status, String>,
}

/// Tries the ports that the agent of this configuration would listen on.
pub(super) fn ports(config: &Config, agent: Option<&Running>) -> Vec<Finding> {
    let listen = config.api.listen;
    let agent = agent.map(|agent| agent.node.as_str());
    let api = tried(&TcpListener::bind(listen).map(|_| ()));
    let mut findings = vec![port("api-port", "tcp", listen, api, agent, "api.listen")];
    if let plimsoll_store::Config::Mesh(mesh) = &config.store {
        let bound = tried(&UdpSocket::bind(mesh.bind).map(|_| ()));
        findings.push(port("mesh-port", "udp", mesh.bind, bound, agent, "store.mesh.bind"));
    }
    findings
}

/// The agent that answers here, if one does.
pub(super) fn agent(listen: SocketAddr) -> Option<Running> {
    let mut address = listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    let agent = Agent::at(address);
    // Of all pages with its name the one that an agent has before it is ready.
    let config: serde_json::Value = agent.get("/v1/config").ok()?;
    let node = config["node"].as_str()?.to_owned();
    Some(Running { node, status: agent.get("/v1/status").map_err(|error| error.to_string()) })
}

/// An agent that has no status to tell is not ready yet, or not any more.
pub(super) fn silent(agent: &Running) -> Option<Finding> {
    let why = agent.status.as_ref().err()?;
    let what = format!("the running agent of node {} does not tell its status: {why}", agent.node);
    Some(Finding::warning("agent", what, "see its log; once that is cured, it goes on by itself"))
}

fn tried(result: &std::io::Result<()>) -> Port {
    match result {
        Ok(()) => Port::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => Port::Taken,
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Port::Elsewhere,
        Err(_) => Port::Unknown,
    }
}

fn port(
    check: &str,
    protocol: &str,
    at: SocketAddr,
    port: Port,
    agent: Option<&str>,
    field: &str,
) -> Finding {
    match (port, agent) {
        (Port::Free, _) => Finding::ok(check, format!("{at}/{protocol} is free")),
        (Port::Taken, Some(node)) => {
            Finding::ok(check, format!("{at}/{protocol} is held by the running agent of node {node}"))
        }
        (Port::Taken, None) => Finding::problem(
            check,
            format!("{at}/{protocol} is held by another program"),
            format!("end that program (`ss -lnp` names it), or set `{field}` to another port"),
        ),
        (Port::Elsewhere, _) => Finding::problem(
            check,
            format!("{} is not an address of this node", at.ip()),
            format!("set `{field}` to an address that `ip address` shows"),
        ),
        (Port::Unknown, _) => Finding::note(
            check,
            format!("cannot try {at}/{protocol}"),
            format!("the agent must be able to bind it, or set `{field}`"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn a_port_is_free_or_our_own() {
        let at = ([127, 0, 0, 1], 9653).into();
        let verdict = |state, agent| port("api-port", "tcp", at, state, agent, "api.listen").verdict;
        assert_eq!(verdict(Port::Free, None), Verdict::Ok);
        assert_eq!(verdict(Port::Taken, Some("n1")), Verdict::Ok);
        assert_eq!(verdict(Port::Taken, None), Verdict::Problem);
        assert_eq!(verdict(Port::Elsewhere, None), Verdict::Problem);
        assert_eq!(verdict(Port::Unknown, None), Verdict::Note);
    }

    #[test]
    fn an_agent_that_starts_is_told_of() {
        let running = |status| Running { node: "n1".into(), status };
        assert!(silent(&running(Ok(Status::default()))).is_none());
        let finding = silent(&running(Err("it waits for discovery".into()))).unwrap();
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(
            finding.what.contains("n1") && finding.what.contains("waits for discovery"),
            "{}",
            finding.what
        );
    }

    #[test]
    fn a_missing_route_matters_most_for_a_known_address() {
        let v4: IpAddr = [10, 96, 0, 1].into();
        assert_eq!(routed(true, &[]).verdict, Verdict::Ok);
        assert_eq!(routed(false, &[v4]).verdict, Verdict::Note);
        let finding = routed(true, &[v4]);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.what.contains("10.96.0.1"));
    }
}
