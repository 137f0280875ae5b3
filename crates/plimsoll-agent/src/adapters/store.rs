//! Reports go out to the store, and what it hears becomes events.

use std::sync::Arc;

use plimsoll_core::balancer::Event;
use plimsoll_core::report::Report;
use plimsoll_store::{Health, Heard, Store};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::metrics::{Kind, Metrics};

/// How often the store's health is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) async fn run(
    mut store: Box<dyn Store>,
    mut reports: mpsc::Receiver<Arc<Report>>,
    events: mpsc::Sender<Event>,
    health: watch::Sender<Health>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(store.leave().await?),
            _ = look.tick() => drop(health.send_replace(store.health())),
            Some(report) = reports.recv() => store.publish(report).await?,
            heard = store.next() => {
                let event = match heard? {
                    Heard::Report(report) => Event::Report(report),
                    Heard::Joined(node) => Event::Joined(node),
                    Heard::Left(node) => Event::Left(node),
                };
                // A report that finds no room is replaced by the node's next one.
                if matches!(event, Event::Report(_)) {
                    if events.try_send(event).is_err() {
                        metrics.dropped.get_or_create(&Kind { kind: "heard" }).inc();
                    }
                } else if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
