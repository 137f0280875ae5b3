//! Discovery's changes become events; changes wait for room in the queue.

use std::sync::Arc;

use plimsoll_core::balancer::Event;
use plimsoll_core::service::NodeName;
use plimsoll_discovery::Discovery;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Runs until `stop`. Where the zone of this node is the discovery's to tell, `zone` is this node and the zone that
/// the balancer was made with.
pub(crate) async fn run(
    mut discovery: Box<dyn Discovery>,
    mut zone: Option<(NodeName, Option<Arc<str>>)>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut nodes = discovery.nodes();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            change = discovery.next() => Event::Services(change?),
            Ok(()) = nodes.changed() => {
                let Some((node, known)) = &mut zone else { continue };
                let listed = nodes.borrow_and_update().iter().find(|listed| listed.name == *node).cloned();
                // One that is not listed any more may be listed again soon.
                let Some(listed) = listed.filter(|listed| listed.zone != *known) else { continue };
                known.clone_from(&listed.zone);
                tracing::info!(zone = ?listed.zone, "this node is in another zone");
                Event::Zone(listed.zone)
            }
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}
