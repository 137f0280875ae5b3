//! Discovery's changes become events, where it finds nodes goes to the store, and who is alive comes from there.

use std::net::IpAddr;
use std::sync::Arc;

use plimsoll_core::balancer::Event;
use plimsoll_core::service::NodeName;
use plimsoll_discovery::{Discovery, Node};
use plimsoll_store::Health;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// What concerns the discovery besides its changes.
pub(crate) struct Surroundings {
    pub(crate) node: NodeName,
    /// The zone that the balancer has.
    pub(crate) zone: Option<Arc<str>>,
    /// Whether that is from the configuration, and not the discovery's to tell.
    pub(crate) zone_is_set: bool,
    /// Where all nodes are reached.
    pub(crate) places: watch::Sender<Arc<[IpAddr]>>,
    /// Who is alive.
    pub(crate) store: watch::Receiver<Health>,
}

/// Where all nodes that the discovery knows are reached.
pub(crate) fn places(nodes: &[Node]) -> Arc<[IpAddr]> {
    nodes.iter().flat_map(|node| &node.addresses).copied().collect()
}

/// Runs until `stop`. Changes wait for room in the queue.
pub(crate) async fn run(
    mut discovery: Box<dyn Discovery>,
    mut around: Surroundings,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut nodes = discovery.nodes();
    nodes.mark_changed();
    let mut live = None;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            change = discovery.next() => Some(Event::Services(change?)),
            Ok(()) = nodes.changed() => around.listed(&nodes.borrow_and_update()),
            Ok(()) = around.store.changed() => {
                let now = around.live();
                if live.as_ref() != Some(&now) {
                    discovery.live(&now);
                    live = Some(now);
                }
                None
            }
        };
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            return Ok(());
        }
    }
}

impl Surroundings {
    /// Takes the nodes that are listed now. One that is not listed any more may be listed again soon.
    fn listed(&mut self, nodes: &[Node]) -> Option<Event> {
        let now = places(nodes);
        self.places.send_if_modified(|known| {
            let is_news = *known != now;
            *known = now;
            is_news
        });
        let own = nodes.iter().find(|listed| listed.name == self.node)?;
        if self.zone_is_set || own.zone == self.zone {
            return None;
        }
        self.zone.clone_from(&own.zone);
        tracing::info!(zone = ?own.zone, "this node is in another zone");
        Some(Event::Zone(own.zone.clone()))
    }

    /// The live nodes: this one is none while a newer process has its name.
    fn live(&mut self) -> Vec<NodeName> {
        let store = self.store.borrow_and_update();
        let own = store.superseded_by.is_none().then(|| self.node.clone());
        own.into_iter().chain(store.members.iter().map(|member| member.node.clone())).collect()
    }
}
