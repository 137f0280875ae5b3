//! One list and watch of a kind of object, for ever: whatever fails is told once, and tried again.

use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::runtime::watcher::{self, Error, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::known::Step;
use super::news::{News, Source};
use super::trouble::describe;

/// The first wait after a failure, doubled at each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest: an API server that is back is found by all agents within it.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// From an object of the API to what is remembered of it.
pub(super) type Read<K, T> = dyn FnMut(&K) -> Option<T> + Send + Sync;

/// What is watched, and for whom.
pub(super) struct Watching<K, T> {
    pub(super) api: Api<K>,
    pub(super) selection: watcher::Config,
    pub(super) source: Source,
    /// What is remembered of an object; `None` of one that means nothing to us.
    pub(super) read: Box<Read<K, T>>,
    /// What tells a step.
    pub(super) news: Box<dyn Fn(Step<T>) -> News + Send + Sync>,
    pub(super) sender: mpsc::Sender<News>,
}

type Events<K> = BoxStream<'static, Result<Event<K>, Error>>;

impl<K, T> Watching<K, T>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Send,
{
    /// Runs until nobody listens any more.
    pub(super) async fn run(mut self) {
        let mut streams_lists = true;
        let mut events = self.events(streams_lists);
        let mut failures: u32 = 0;
        let mut is_listed = false;
        let mut is_told = false;
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    is_listed = match event {
                        Event::Init => false,
                        Event::InitDone => true,
                        _ => is_listed,
                    };
                    // A watch begins again and again while lists fail: only what comes through says that all is well.
                    if !matches!(event, Event::Init) {
                        failures = 0;
                        if std::mem::take(&mut is_told) && !self.tell(News::Works(self.source.clone())).await
                        {
                            return;
                        }
                    }
                    if !self.pass(event).await {
                        return;
                    }
                    continue;
                }
                Err(error) => error,
            };
            if streams_lists && !is_listed && refuses_streams(&error) {
                tracing::debug!(what = %self.source, %error, "no streaming lists; lists and watches instead");
                streams_lists = false;
                events = self.events(streams_lists);
                continue;
            }
            failures = failures.saturating_add(1);
            tracing::debug!(what = %self.source, %error, failures, "a watch failed");
            // A watch that is cut is begun again where it was: that is only worth a word when it does not work.
            if !(is_routine(&error) && failures == 1) {
                is_told = true;
                let what = describe(&error, &self.source);
                if !self.tell(News::Fails(self.source.clone(), what)).await {
                    return;
                }
            }
            tokio::time::sleep(wait(failures)).await;
        }
    }

    fn events(&self, streams_lists: bool) -> Events<K> {
        let selection = self.selection.clone();
        let selection = if streams_lists { selection.streaming_lists() } else { selection };
        watcher(self.api.clone(), selection).boxed()
    }

    /// Whether somebody listens.
    async fn pass(&mut self, event: Event<K>) -> bool {
        let step = match event {
            Event::Init => Step::Begin,
            Event::InitDone => Step::Listed,
            Event::Delete(object) => Step::Gone(name(&object)),
            Event::Apply(object) => match (self.read)(&object) {
                Some(object) => Step::Set(object),
                None => Step::Gone(name(&object)),
            },
            Event::InitApply(object) => match (self.read)(&object) {
                Some(object) => Step::Set(object),
                None => return true,
            },
        };
        let news = (self.news)(step);
        self.tell(news).await
    }

    async fn tell(&self, news: News) -> bool {
        self.sender.send(news).await.is_ok()
    }
}

fn name<K: Resource>(object: &K) -> Box<str> {
    let metadata = object.meta();
    super::object::full_name(metadata).into()
}

/// A server (or its etcd) that cannot send a list as a stream of events says so in one of these ways.
fn refuses_streams(error: &Error) -> bool {
    match error {
        Error::WatchError(status) => !matches!(status.code, 401 | 403 | 410 | 429),
        Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 400 | 422),
        _ => false,
    }
}

/// What happens to every watch now and then.
fn is_routine(error: &Error) -> bool {
    match error {
        Error::WatchFailed(_) => true,
        Error::WatchError(status) => status.code == 410,
        _ => false,
    }
}

/// How long to wait after so many failures in a row: not all agents at the same moment.
fn wait(failures: u32) -> Duration {
    let longest = FIRST_WAIT.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_WAIT);
    let random = RandomState::new().build_hasher().finish();
    longest.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}
