//! What there is to say of a Service, told as Events on it: once for each transition, by one of the live agents.
//!
//! Who writes follows from who is alive (`appointed`); what is due is kept in a notebook without I/O (`notebook`).
//! Two that write the same at once find out at the API server, since an Event's name follows from what it says.

mod appointed;
mod notebook;
mod event;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use plimsoll_core::service::NodeName;
use tokio::sync::{Notify, mpsc};

use self::notebook::Notebook;
use super::news::{News, Source};
use super::{trouble, until};
use crate::remark::Remark;

/// The time from one Event to the next: however much there is to tell, the API server is asked this often at most.
const PACE: Duration = Duration::from_millis(250);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first wait after a failure, doubled at each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest: a right that is given is used within it.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is to be told, shared between those who notice and the one who writes.
#[derive(Clone, Debug)]
pub(super) struct Events {
    me: NodeName,
    notebook: Arc<Mutex<Notebook>>,
    /// Who is alive, where that changed: told from a thread that must not wait.
    live: Arc<Mutex<Option<BTreeSet<NodeName>>>>,
    changed: Arc<Notify>,
}

impl Events {
    /// Those of a node.
    pub(super) fn new(me: NodeName) -> Events {
        let notebook = Arc::new(Mutex::new(Notebook::new(me.clone())));
        Events { me, notebook, live: Arc::default(), changed: Arc::new(Notify::new()) }
    }

    /// Takes all that there is to tell of a Service now. `is_new`: it was otherwise just before.
    pub(super) fn note(&self, service: &Arc<str>, uid: &str, remarks: &[Remark], is_new: bool) {
        lock(&self.notebook).note(Instant::now(), service, uid, remarks, is_new);
        self.changed.notify_one();
    }

    /// Learns which nodes have a live agent.
    pub(super) fn live(&self, nodes: &[NodeName]) {
        *lock(&self.live) = Some(nodes.iter().cloned().collect());
        self.changed.notify_one();
    }

    /// Writes what is due, for ever.
    pub(super) async fn write(self, client: Client, sender: mpsc::Sender<News>) {
        let mut failures: u32 = 0;
        loop {
            let live = lock(&self.live).take();
            if let Some(live) = live {
                lock(&self.notebook).live(Instant::now(), live);
            }
            let note = lock(&self.notebook).next(Instant::now());
            let Some(note) = note else {
                let wake = lock(&self.notebook).next_wake();
                tokio::select! {
                    () = until(wake.map(Into::into)) => {}
                    () = self.changed.notified() => {}
                }
                continue;
            };
            let written = tokio::time::timeout(PATIENCE, event::write(&client, &self.me, &note)).await;
            let trouble = match written {
                Ok(Ok(())) => None,
                Ok(Err(kube::Error::Api(status))) => {
                    Some(trouble::answered(status.code, &status.message, &Source::Events))
                }
                Ok(Err(error)) => Some(trouble::unanswered(&trouble::chain(&error), &Source::Events)),
                Err(_) => Some(trouble::unanswered("no answer within 10 s", &Source::Events)),
            };
            let (news, wait) = match trouble {
                None => {
                    let news = (failures > 0).then_some(News::Works(Source::Events));
                    failures = 0;
                    (news, PACE)
                }
                Some(what) => {
                    let wait = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LONGEST_WAIT);
                    failures = failures.saturating_add(1);
                    lock(&self.notebook).again(Instant::now() + wait, &note);
                    (Some(News::Fails(Source::Events, what)), wait)
                }
            };
            if let Some(news) = news
                && sender.send(news).await.is_err()
            {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
