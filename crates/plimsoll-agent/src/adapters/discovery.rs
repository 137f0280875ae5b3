//! Discovery's changes become events; changes wait for room in the queue.

use plimsoll_core::balancer::Event;
use plimsoll_discovery::Discovery;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

pub(crate) async fn run(
    mut discovery: Box<dyn Discovery>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) -> Result<(), Error> {
    loop {
        let change = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            change = discovery.next() => change?,
        };
        if events.send(Event::Services(change)).await.is_err() {
            return Ok(());
        }
    }
}
