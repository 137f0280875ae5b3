//! Who decides where a connection goes: one trait for agents with their dataplanes, baselines and oracles.

use plimsoll_core::time::Timestamp;

use crate::cluster::Cluster;

/// An open connection as the node that sent it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The node that sent it.
    pub node: usize,
    /// Where it ends.
    pub endpoint: usize,
    /// When it opened.
    pub opened: Timestamp,
    /// What [`Steering::opened`] said.
    pub mark: u64,
}

/// Decides where connections go, for all nodes. It may look at the whole cluster, but only oracles do: others look at
/// what the node could know.
pub trait Steering: Send {
    /// Chooses the endpoint of a new connection at a node, among those that serve.
    fn choose(&mut self, now: Timestamp, node: usize, cluster: &Cluster) -> Option<usize>;

    /// A connection opened. What is returned comes back when it closes; 0 marks those opened before anybody counted.
    fn opened(&mut self, _now: Timestamp, _node: usize, _endpoint: usize) -> u64 {
        0
    }

    /// A connection closed.
    fn closed(&mut self, _now: Timestamp, _link: &Connection) {}

    /// An endpoint refused a connection.
    fn refused(&mut self, _now: Timestamp, _node: usize, _endpoint: usize) {}

    /// A request of a connection that this node sent began.
    fn asked(&mut self, _node: usize, _endpoint: usize) {}

    /// A request of a connection that this node sent was answered after so many seconds, or with an error.
    fn answered(&mut self, _now: Timestamp, _node: usize, _endpoint: usize, _seconds: f64) {}

    /// The answer that was just told of was an error.
    fn erred(&mut self, _endpoint: usize) {}

    /// Endpoints came, or do not serve any more, or are gone.
    fn members_changed(&mut self, _now: Timestamp, _cluster: &Cluster) {}

    /// Reports between these nodes and the others are lost from now on, or are not any more.
    fn cut_off(&mut self, _nodes: &[usize], _is_cut: bool) {}

    /// When it wants to be woken next.
    fn next_wake(&self) -> Timestamp {
        Timestamp::NEVER
    }

    /// The time it wanted to be woken at has come.
    fn wake(&mut self, _now: Timestamp, _cluster: &Cluster) {}

    /// A node's share of an endpoint, where there are shares.
    fn share(&self, _node: usize, _endpoint: usize) -> Option<f64> {
        None
    }

    /// How many weights were written into all dataplanes so far.
    fn weight_changes(&self) -> u64 {
        0
    }

    /// How many things it did by itself so far.
    fn steps(&self) -> u64 {
        0
    }
}
