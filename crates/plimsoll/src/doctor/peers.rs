//! The other nodes of the mesh: whether their names resolve, whether somebody listens there, and whether the running
//! agent hears them.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use plimsoll_agent::Config;
use plimsoll_api::Status;
use plimsoll_store::mesh::with_port;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::finding::Finding;

/// How long a name may take.
const RESOLVE: Duration = Duration::from_secs(3);
/// How long to wait for a refusal.
const REFUSE: Duration = Duration::from_secs(1);
/// A node whose last report is older is not heard.
const HEARD: f64 = 10.0;
/// More names than this are not listed.
const LISTED: usize = 10;

/// How a peer stands, as far as can be told from outside: only holders of the key get an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Peer {
    /// Its name does not resolve, for this reason.
    Unresolved(String),
    /// There is no route to it.
    Unreachable(String),
    /// Its host says that nobody listens.
    Refused,
    /// Nobody says no.
    Silent,
    /// All its addresses are this node's.
    Ourselves,
}

/// Tries the configured peers; each is sent one empty datagram, which an agent drops.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let plimsoll_store::Config::Mesh(mesh) = &config.store else { return Vec::new() };
    if let plimsoll_discovery::Config::Kubernetes(cluster) = &config.discovery
        && mesh.peers.is_empty()
    {
        let agents = cluster.agents.as_deref().unwrap_or(plimsoll_discovery::kubernetes::config::AGENTS);
        let what =
            format!("the peers are the endpoints of the Service {agents}, which a running agent looks up");
        return vec![Finding::ok("mesh-peers", what)];
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let what = format!("cannot try the peers: {error}");
            return vec![Finding::note("mesh-peers", what, "check the limit on processes (`ulimit -u`)")];
        }
    };
    let peers = runtime.block_on(async {
        let mut tried = JoinSet::new();
        for (index, name) in mesh.peers.iter().cloned().enumerate() {
            tried.spawn(async move {
                let (first, peer) = try_peer(&name).await;
                (index, Tried { name, first, peer })
            });
        }
        let mut peers = tried.join_all().await;
        peers.sort_by_key(|(index, _)| *index);
        peers.into_iter().map(|(_, peer)| peer).collect::<Vec<_>>()
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    let asks_routes = mesh.bind.ip().is_unspecified() && mesh.advertise.is_none();
    let mut findings = judge(&peers);
    findings.extend(asks_routes.then(|| advertised(&peers)).flatten());
    findings
}

/// A peer that was tried.
#[derive(Clone, Debug)]
struct Tried {
    name: String,
    /// The first of its addresses.
    first: Option<IpAddr>,
    peer: Peer,
}

/// An agent that is not told its address takes the one towards its first peer. That is of no use to others where the
/// peer is this node itself, and its name stands for a loopback address as Debian's installer writes it.
fn advertised(peers: &[Tried]) -> Option<Finding> {
    let (name, address) = peers.iter().find_map(|peer| Some((&peer.name, peer.first?)))?;
    address.is_loopback().then(|| {
        Finding::warning(
            "mesh-address",
            format!(
                "this agent would tell the others to reach it on loopback, since its first peer, {name}, resolves to \
                 {address}"
            ),
            "set `store.mesh.bind` or `store.mesh.advertise` to the address at which the others reach this node",
        )
    })
}

/// Its first address, and how it stands.
async fn try_peer(peer: &str) -> (Option<IpAddr>, Peer) {
    let Some(address) = with_port(peer) else {
        return (None, Peer::Unresolved("it is neither host:port nor host".to_owned()));
    };
    let addresses: Vec<SocketAddr> = match timeout(RESOLVE, tokio::net::lookup_host(address)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return (None, Peer::Unresolved(error.to_string())),
        Err(_) => return (None, Peer::Unresolved(format!("no answer within {} s", RESOLVE.as_secs()))),
    };
    let first = addresses.first().map(SocketAddr::ip);
    let mut tried = JoinSet::new();
    for address in addresses {
        tried.spawn(try_address(address));
    }
    // One address that works is enough.
    let rank = |peer: &Peer| match peer {
        Peer::Silent => 0,
        Peer::Refused => 1,
        Peer::Unreachable(_) => 2,
        Peer::Unresolved(_) => 3,
        Peer::Ourselves => 4,
    };
    let best = tried.join_all().await.into_iter().min_by_key(rank);
    (first, best.unwrap_or(Peer::Unresolved("no address".into())))
}

async fn try_address(address: SocketAddr) -> Peer {
    if UdpSocket::bind((address.ip(), 0)).await.is_ok() {
        return Peer::Ourselves;
    }
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let refusal = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        socket.send(&[]).await?;
        socket.recv(&mut [0]).await
    };
    match timeout(REFUSE, refusal).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Peer::Refused,
        Ok(Err(error)) => Peer::Unreachable(error.to_string()),
        Ok(Ok(_)) | Err(_) => Peer::Silent,
    }
}

fn judge(peers: &[Tried]) -> Vec<Finding> {
    let list = |why: &dyn Fn(&Peer) -> Option<String>| {
        let fitting = peers.iter().filter_map(|tried| Some(format!("{}{}", tried.name, why(&tried.peer)?)));
        listed(fitting.collect())
    };
    let unresolved = list(&|peer| match peer {
        Peer::Unresolved(why) => Some(format!(" ({why})")),
        _ => None,
    });
    let unreachable = list(&|peer| match peer {
        Peer::Unreachable(why) => Some(format!(" ({why})")),
        _ => None,
    });
    let refused = list(&|peer| (*peer == Peer::Refused).then(String::new));
    let mut findings = Vec::new();
    if let Some(peers) = unresolved {
        findings.push(Finding::warning(
            "mesh-peers",
            format!("do not resolve: {peers}"),
            "correct `store.mesh.peers`, or the names (`getent hosts NAME`); until then the agent tries again",
        ));
    }
    if let Some(peers) = unreachable {
        findings.push(Finding::warning(
            "mesh-peers",
            format!("cannot be reached: {peers}"),
            "`ip route get ADDRESS` must find a route to each",
        ));
    }
    if let Some(peers) = refused {
        findings.push(Finding::note(
            "mesh-peers",
            format!("nobody listens at {peers}"),
            "start the agents there; if they run, compare their `store.mesh.bind` with the port here",
        ));
    }
    if peers.iter().all(|tried| tried.peer == Peer::Ourselves) {
        findings.push(Finding::note(
            "mesh-peers",
            "`store.mesh.peers` names no other node: this one waits until another names it",
            "name at least one other node in each agent's peers, so that any of them may be restarted",
        ));
    }
    if findings.is_empty() {
        let what = "the peers resolve, and none refuses; whether they answer, only a running agent is told";
        findings.push(Finding::ok("mesh-peers", what));
    }
    findings
}

/// Whether the agent that runs here hears the others; `nodes` are those that the Services file lists.
pub(super) fn heard(agent: &Status, nodes: &[String]) -> Option<Finding> {
    const TODO: &str = "see that their agents run, that the firewalls let the mesh's UDP port through both ways, and that \
                        the key files are the same (`plimsoll_mesh_rejected_datagrams_total` rises if not)";
    if agent.store == "local" {
        return None;
    }
    let heard: Vec<&str> =
        agent.nodes.iter().filter(|node| node.age_seconds < HEARD).map(|node| node.node.as_str()).collect();
    let others = nodes.iter().filter(|node| **node != agent.node);
    let missing = others.filter(|node| !heard.contains(&node.as_str())).cloned().collect();
    Some(match (listed(missing), heard.len()) {
        (Some(missing), _) => {
            let what = format!("the running agent does not hear {missing}, which the Services file lists");
            Finding::warning("mesh-nodes", what, TODO)
        }
        (None, 0) if nodes.is_empty() => {
            Finding::warning("mesh-nodes", "the running agent hears no other node", TODO)
        }
        (None, number) => Finding::ok("mesh-nodes", format!("the running agent hears {number} other nodes")),
    })
}

/// Some of these names; nothing where there are none.
fn listed(names: Vec<String>) -> Option<String> {
    let more = names.len().saturating_sub(LISTED);
    let some = names.into_iter().take(LISTED).collect::<Vec<_>>().join(", ");
    match (some.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(some),
        (false, more) => Some(format!("{some} and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_api::Node;

    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn peers_are_told_by_what_is_to_be_done() {
        let peer = |name: &str, peer: &Peer| Tried { name: name.to_owned(), first: None, peer: peer.clone() };
        let verdicts = |peers: &[Tried]| -> Vec<Verdict> {
            judge(peers).iter().map(|finding| finding.verdict).collect()
        };
        let (silent, ourselves) = (peer("a", &Peer::Silent), peer("b", &Peer::Ourselves));
        assert_eq!(verdicts(&[silent.clone(), ourselves.clone()]), [Verdict::Ok]);
        assert_eq!(verdicts(&[ourselves]), [Verdict::Note]);
        assert_eq!(verdicts(&[]), [Verdict::Note]);
        let unresolved = Peer::Unresolved("no such name".into());
        let many: Vec<_> = (0..12).map(|i| peer(&format!("n{i}"), &unresolved)).collect();
        let findings = judge(&[many, vec![silent, peer("c", &Peer::Refused)]].concat());
        assert_eq!(findings.len(), 2);
        assert!(findings[0].what.contains("n9 (no such name) and 2 more"), "{findings:?}");
        assert!(findings[1].what.contains("nobody listens at c"), "{findings:?}");
    }

    #[test]
    fn a_first_peer_on_loopback_is_told() {
        let peer = |first: Option<[u8; 4]>| Tried {
            name: "n1".into(),
            first: first.map(IpAddr::from),
            peer: Peer::Silent,
        };
        let (unknown, here, there) = (peer(None), peer(Some([127, 0, 1, 1])), peer(Some([192, 0, 2, 1])));
        assert_eq!(advertised(&[unknown.clone(), there.clone(), here.clone()]), None);
        assert_eq!(advertised(std::slice::from_ref(&unknown)), None);
        assert!(advertised(&[unknown, here, there]).unwrap().what.contains("127.0.1.1"));
    }

    #[test]
    fn a_listed_node_that_is_not_heard_is_told() {
        let node = |name: &str, age_seconds| Node { node: name.into(), age_seconds, ..Node::default() };
        let nodes = vec![node("n2", 1.0), node("n3", 60.0)];
        let agent = Status { node: "n1".into(), store: "mesh".into(), nodes, ..Status::default() };
        let heard = |listed: &[&str]| {
            heard(&agent, &listed.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(heard(&["n1", "n2"]).verdict, Verdict::Ok);
        assert_eq!(heard(&[]).verdict, Verdict::Ok);
        let finding = heard(&["n1", "n2", "n3", "n4"]);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.what.contains("does not hear n3, n4,"), "{finding:?}");
        let alone = Status { nodes: Vec::new(), ..agent.clone() };
        assert_eq!(super::heard(&alone, &[]).unwrap().verdict, Verdict::Warning);
        assert_eq!(super::heard(&Status { store: "local".into(), ..alone }, &[]), None);
    }
}
