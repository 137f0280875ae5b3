//! Services and endpoints from a YAML file, read again whenever it changes.
//!
//! A thread of its own watches the file's directory, so that a rename over the file, a switched symbolic link (as
//! Kubernetes does with mounted `ConfigMap`s) and a file that is deleted and comes back are all seen; it also looks by
//! itself every [`POLL`], in case the kernel could not tell. An invalid file at the start is an error; later it is
//! logged and counted, and what was known stays.

mod changes;
pub mod format;
pub mod locate;
pub mod parse;
mod validate;
mod pieces;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use plimsoll_core::service::{Service, ServiceChange, ServiceId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch as latest};

use self::changes::changes;
pub use self::parse::{Contents, Problem, Problems, parse};
pub use self::pieces::Reader;
use self::watch::{State, Wake, Watch};
use crate::{Discovery, Error, Health, Node};

/// How often the file is looked at without being told.
pub const POLL: Duration = Duration::from_secs(2);
/// How long more is awaited once something changed: replacing a file is several changes.
/// And the clock of file times advances meanwhile, so that a later change shows in them.
const SETTLE: Duration = Duration::from_millis(10);
/// How many changes wait for the agent before the thread waits too.
const QUEUE: usize = 64;

/// The section `discovery.file`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file. To be replaced by renaming a complete one over it.
    pub path: PathBuf,
}

impl Config {
    /// Reads the file once.
    pub(crate) fn check(&self) -> Result<Vec<Arc<Service>>, Error> {
        Ok(read(&mut Reader::default(), &self.path)?.services)
    }
}

/// Services and endpoints from a file.
pub struct FileDiscovery {
    path: PathBuf,
    changes: mpsc::Receiver<ServiceChange>,
    nodes: latest::Receiver<Arc<[Node]>>,
    health: latest::Receiver<Health>,
    wake: Wake,
}

impl FileDiscovery {
    /// Reads the file, and keeps reading it.
    pub fn start(config: &Config) -> Result<FileDiscovery, Error> {
        FileDiscovery::start_polling(config, POLL)
    }

    fn start_polling(config: &Config, poll: Duration) -> Result<FileDiscovery, Error> {
        let (wake, watch) = Watch::new(&config.path);
        let state = State::of(&config.path);
        let mut reader = Reader::default();
        let contents = read(&mut reader, &config.path)?;
        let services = by_id(contents.services);
        let (sender, changes) = mpsc::channel(QUEUE);
        let all = ServiceChange::All(services.values().cloned().collect());
        sender.try_send(all).expect("the queue is new and has room");
        let (nodes, nodes_receiver) = latest::channel(contents.nodes.into());
        let (health, health_receiver) = latest::channel(Health { loaded: 1, ..Health::default() });
        let follower = Follower {
            path: config.path.clone(),
            watch,
            poll,
            state,
            reader,
            services,
            sender,
            nodes,
            health,
        };
        std::thread::Builder::new()
            .name("services-file".into())
            .spawn(move || follower.run())
            .map_err(|source| Error::Unwatched { path: config.path.clone(), source })?;
        Ok(FileDiscovery {
            path: config.path.clone(),
            changes,
            nodes: nodes_receiver,
            health: health_receiver,
            wake,
        })
    }
}

#[async_trait]
impl Discovery for FileDiscovery {
    async fn next(&mut self) -> Result<ServiceChange, Error> {
        self.changes.recv().await.ok_or_else(|| Error::Ended { path: self.path.clone() })
    }

    fn nodes(&self) -> latest::Receiver<Arc<[Node]>> {
        self.nodes.clone()
    }

    fn health(&self) -> latest::Receiver<Health> {
        self.health.clone()
    }
}

impl Drop for FileDiscovery {
    fn drop(&mut self) {
        // The thread ends when it finds that nobody listens.
        self.changes.close();
        self.wake.wake();
    }
}

/// What the thread holds.
struct Follower {
    path: PathBuf,
    watch: Watch,
    poll: Duration,
    /// The file's state when it was last read; `None` where that failed: then it is tried again at each look.
    state: Option<State>,
    reader: Reader,
    services: BTreeMap<ServiceId, Arc<Service>>,
    sender: mpsc::Sender<ServiceChange>,
    nodes: latest::Sender<Arc<[Node]>>,
    health: latest::Sender<Health>,
}

impl Follower {
    fn run(mut self) {
        loop {
            let told = self.watch.wait(self.poll);
            if told {
                std::thread::sleep(SETTLE);
                self.watch.forget();
            }
            if self.sender.is_closed() {
                return;
            }
            if !told {
                self.watch.renew(&self.path);
            }
            let state = State::of(&self.path);
            // A file that is gone may be about to come back: only one that stays away is worth a word.
            if state == self.state || (told && state.is_none()) {
                continue;
            }
            self.state = state;
            self.watch.renew(&self.path);
            if self.reload().is_err() {
                return;
            }
        }
    }

    /// An error means that nobody listens any more.
    fn reload(&mut self) -> Result<(), mpsc::error::SendError<ServiceChange>> {
        let contents = match read(&mut self.reader, &self.path) {
            Ok(contents) => contents,
            Err(error) => {
                // What the file says is wrong until it changes; what kept it from being read may pass.
                if matches!(error, Error::Unreadable { .. }) {
                    self.state = None;
                }
                self.refuse(&error.to_string());
                return Ok(());
            }
        };
        let services = by_id(contents.services);
        let changes = changes(&self.services, &services);
        tracing::info!(
            path = %self.path.display(),
            services = services.len(),
            changes = changes.len(),
            "the Services file is read again"
        );
        self.services = services;
        let nodes: Arc<[Node]> = contents.nodes.into();
        self.nodes.send_if_modified(|known| {
            let news = *known != nodes;
            *known = nodes;
            news
        });
        self.health.send_modify(|health| {
            health.loaded += 1;
            health.last_error = None;
        });
        changes.into_iter().try_for_each(|change| self.sender.blocking_send(change))
    }

    /// Counts each time, and says the same only once.
    fn refuse(&self, error: &str) {
        self.health.send_modify(|health| {
            health.refused += 1;
            if health.last_error.as_deref() != Some(error) {
                tracing::warn!(%error, "the Services file is refused; what it said before stays");
                health.last_error = Some(error.into());
            }
        });
    }
}

fn by_id(services: Vec<Arc<Service>>) -> BTreeMap<ServiceId, Arc<Service>> {
    services.into_iter().map(|service| (service.id.clone(), service)).collect()
}

fn read(reader: &mut Reader, path: &Path) -> Result<Contents, Error> {
    let text = watch::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let text = std::str::from_utf8(&text).map_err(|error| {
        let line = text[..error.valid_up_to()].split(|&byte| byte == b'\n').count();
        Error::Invalid { path: path.to_owned(), problems: Problems::not_text(line) }
    })?;
    reader.read(text).map_err(|problems| Error::Invalid { path: path.to_owned(), problems })
}

#[cfg(test)]
mod tests;
