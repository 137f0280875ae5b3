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
                } else {
                    // At the end the owner goes first; the goodbye is still to come.
                    let _ = events.send(event).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use plimsoll_core::service::NodeName;
    use plimsoll_store::Error as StoreError;
    use tokio::sync::oneshot;

    use super::*;

    /// Hears of one node, and tells when it is asked to leave.
    struct Coming {
        node: Option<NodeName>,
        heard: Option<oneshot::Sender<()>>,
        left: Option<oneshot::Sender<()>>,
    }

    #[async_trait]
    impl Store for Coming {
        async fn publish(&mut self, _: Arc<Report>) -> Result<(), StoreError> {
            Ok(())
        }

        async fn next(&mut self) -> Result<Heard, StoreError> {
            if let Some(node) = self.node.take() {
                return Ok(Heard::Joined(node));
            }
            self.heard.take().map(|heard| heard.send(()));
            std::future::pending().await
        }

        async fn leave(&mut self) -> Result<(), StoreError> {
            self.left.take().map(|left| left.send(()));
            Ok(())
        }

        fn health(&self) -> Health {
            Health::default()
        }
    }

    #[tokio::test]
    async fn says_goodbye_even_if_a_node_comes_after_the_owner_went() {
        let (heard, has_heard) = oneshot::channel();
        let (left, mut has_left) = oneshot::channel();
        let store = Coming { node: Some(NodeName::new("n2")), heard: Some(heard), left: Some(left) };
        let (_reports, to_publish) = mpsc::channel(1);
        let (events, _) = mpsc::channel(1);
        let (health, _) = watch::channel(Health::default());
        let stop = CancellationToken::new();
        let running =
            tokio::spawn(run(Box::new(store), to_publish, events, health, Metrics::default(), stop.clone()));
        let _ = has_heard.await;
        stop.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(has_left.try_recv(), Ok(()));
    }
}
