//! The one task that knows the cluster: learns from the watches, and tells the balancer what changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use plimsoll_core::service::{Family, NodeName, ServiceChange};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::config::{Assumed, Config};
use super::events::Events;
use super::facts::Facts;
use super::known::{Known, Step};
use super::news::{News, Source};
use super::{nodes, object, until, watches};
use crate::below::{DropsForwarded, LocalSources, Proxy};
use crate::remark::{Remark, Remarks};
use crate::{Error, Health, Node};

/// How much news may wait.
const NEWS: usize = 256;
/// How long more is awaited once something changed: a rollout changes the slices of a Service in bursts.
const SETTLE: Duration = Duration::from_millis(20);
/// How long nothing of a Service that is new may have come, at least, before it is taken for complete; twice as long at
/// most.
const ROUND: Duration = Duration::from_millis(250);
/// How long kube-proxy is waited for at the start, where nothing is assumed of it: it may be starting too.
const AWAIT_PROXY: Duration = Duration::from_secs(10);

/// More Services of which something is left to kube-proxy are told by their number, at the start.
const MANY: usize = 10;

/// Where what is found out goes.
pub(super) struct Outlets {
    pub(super) changes: mpsc::Sender<Result<ServiceChange, Error>>,
    pub(super) nodes: watch::Sender<Arc<[Node]>>,
    pub(super) health: watch::Sender<Health>,
    pub(super) remarks: watch::Sender<Remarks>,
    pub(super) proxy: watch::Sender<Option<Proxy>>,
    pub(super) events: Option<Events>,
}

/// What is known, and what is not.
pub(super) struct Follower {
    client: Client,
    name: NodeName,
    outlets: Outlets,
    cluster: Cluster,
    assumed: Option<Assumed>,
    facts: Option<Facts>,
    /// The families of which this node drops what comes through it, unless a rule accepts it.
    drops: Vec<Family>,
    node: Option<object::Node>,
    agents: Known<object::Agents>,
    /// All watches, and who asks and writes besides.
    running: JoinSet<()>,
    /// Of those, the watches of the slices of one Service each.
    alone: BTreeMap<Arc<str>, AbortHandle>,
    troubles: BTreeMap<Source, String>,
    /// What the first look still waits for; a failure of these is waited for too, but not longer.
    awaited: Vec<Source>,
    sender: mpsc::Sender<News>,
}

/// Nobody listens any more, or a watch is lost.
#[derive(Debug)]
pub(super) struct End;

/// Follows a cluster until nobody listens.
pub(super) async fn follow(
    client: Client,
    config: &Config,
    name: NodeName,
    drops_forwarded: DropsForwarded,
    outlets: Outlets,
) {
    let (sender, news) = mpsc::channel(NEWS);
    let mut running = JoinSet::new();
    watches::start(&mut running, &client, config, &name, drops_forwarded, &sender);
    if let Some(events) = &outlets.events {
        running.spawn(events.clone().write(client.clone(), sender.clone()));
    }
    let mut awaited = vec![Source::Node];
    if config.namespace_defaults {
        awaited.push(Source::Namespaces);
    }
    if config.kube_proxy.assume.is_none() {
        awaited.push(Source::Proxy);
    }
    let follower = Follower {
        client,
        name,
        outlets,
        cluster: Cluster::default(),
        assumed: config.kube_proxy.assume.clone(),
        facts: None,
        drops: Vec::new(),
        node: None,
        agents: Known::default(),
        running,
        alone: BTreeMap::new(),
        troubles: BTreeMap::new(),
        awaited,
        sender,
    };
    let closed = follower.outlets.changes.clone();
    tokio::select! {
        () = closed.closed() => {}
        _ = follower.run(news) => {}
    }
}

impl Follower {
    async fn run(mut self, mut news: mpsc::Receiver<News>) -> Result<(), End> {
        self.until_listed(&mut news).await?;
        let proxy = self.proxy();
        self.cluster.proxy(proxy.clone());
        self.outlets.proxy.send_replace(proxy.clone());
        let (services, remarks) = self.cluster.all();
        let is_left = |remarks: &[Remark]| remarks.iter().any(|remark| matches!(remark, Remark::Left(_)));
        let left = remarks.values().filter(|remarks| is_left(remarks)).count();
        let many = left > MANY;
        if many {
            tracing::info!(
                "{left} Services are left to kube-proxy, wholly or in part; level debug says which, and why"
            );
        }
        for (service, remarks) in &remarks {
            log(service, remarks, many);
            self.note(service, remarks, false);
        }
        self.outlets.remarks.send_replace(remarks);
        self.tell(ServiceChange::All(services)).await?;
        self.keep_up(&mut news, proxy.as_ref()).await
    }

    /// Learns until a first look makes sense.
    async fn until_listed(&mut self, news: &mut mpsc::Receiver<News>) -> Result<(), End> {
        let patience = Instant::now() + AWAIT_PROXY;
        while !(self.cluster.is_listed() && self.awaited.is_empty()) {
            tokio::select! {
                news = self.news(news) => self.learn(news?),
                () = tokio::time::sleep_until(patience), if self.awaited.contains(&Source::Proxy) => {
                    self.answered(&Source::Proxy);
                }
            }
        }
        Ok(())
    }

    /// The next news. A watch ends by itself only if it panics, and what it watched would be taken for as it was then,
    /// for ever.
    async fn news(&mut self, news: &mut mpsc::Receiver<News>) -> Result<News, End> {
        loop {
            tokio::select! {
                Some(news) = news.recv() => return Ok(news),
                Some(ended) = self.running.join_next() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        return Err(End);
                    }
                }
                else => return Err(End),
            }
        }
    }

    async fn keep_up(
        &mut self,
        news: &mut mpsc::Receiver<News>,
        at_start: Option<&Proxy>,
    ) -> Result<(), End> {
        let (mut look_at, mut round_at): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            if look_at.is_none() && self.cluster.is_due() {
                look_at = Some(Instant::now() + SETTLE);
            }
            if round_at.is_none() && self.cluster.waits() {
                round_at = Some(Instant::now() + ROUND);
            }
            tokio::select! {
                news = self.news(news) => {
                    let news = news?;
                    let is_below = matches!(news, News::Proxy(_) | News::Forwarding(_) | News::Node(_));
                    self.learn(news);
                    if is_below {
                        self.look_below(at_start).await?;
                    }
                }
                () = until(look_at) => {
                    look_at = None;
                    self.look().await?;
                }
                () = until(round_at) => {
                    round_at = None;
                    self.cluster.round();
                }
            }
        }
    }

    /// Tells what changed of the Services that something touched.
    async fn look(&mut self) -> Result<(), End> {
        while let Some(news) = self.cluster.next() {
            if let Some(remarks) = news.remarks {
                log(&news.service, &remarks, false);
                self.note(&news.service, &remarks, true);
                self.outlets.remarks.send_modify(|known| {
                    if remarks.is_empty() {
                        known.remove(&news.service);
                    } else {
                        known.insert(news.service, remarks);
                    }
                });
            }
            for change in news.changes {
                self.tell(change).await?;
            }
        }
        Ok(())
    }

    /// What the dataplane was made with does not change while it runs: where the proxy below treats clients in
    /// another way than at the start, everything has to start anew.
    async fn look_below(&mut self, at_start: Option<&Proxy>) -> Result<(), End> {
        let proxy = self.proxy();
        let clients = |proxy: &Proxy| (proxy.local.clone(), proxy.masquerade_all);
        let unknown = (LocalSources::Ranges(Vec::new()), false);
        if let Some(now) = proxy.as_ref().map(clients)
            && at_start.map_or(unknown, clients) != now
        {
            let _ = self.outlets.changes.send(Err(Error::ProxyChanged)).await;
            return Err(End);
        }
        self.outlets.proxy.send_if_modified(|known| {
            let is_news = *known != proxy;
            known.clone_from(&proxy);
            is_news
        });
        self.cluster.proxy(proxy);
        Ok(())
    }

    /// Notes what there is to say of a Service now. `is_new`: it was otherwise just before.
    fn note(&self, service: &Arc<str>, remarks: &[Remark], is_new: bool) {
        if let Some(events) = &self.outlets.events {
            events.note(service, self.cluster.uid(service), remarks, is_new);
        }
    }

    async fn tell(&self, change: ServiceChange) -> Result<(), End> {
        self.outlets.changes.send(Ok(change)).await.map_err(|_| End)
    }

    fn learn(&mut self, news: News) {
        if is_end_of_list(&news) {
            self.outlets.health.send_modify(|health| health.loaded += 1);
        }
        match news {
            News::Services(step) => {
                self.cluster.services(step);
                self.watch_alone();
            }
            News::Slices(step) => self.cluster.slices(step),
            News::SlicesOf(service, step) => self.cluster.slices_of(&service, step),
            News::Namespaces(step) => {
                if step == Step::Listed {
                    self.answered(&Source::Namespaces);
                }
                self.cluster.namespaces(step);
            }
            News::Agents(step) => self.agents(step),
            News::Node(step) => self.node(step),
            News::Proxy(facts) => {
                self.facts = Some(facts);
                self.answered(&Source::Proxy);
            }
            News::Forwarding(drops) => self.drops = drops,
            News::Fails(source, what) => {
                // kube-proxy may be starting: that is waited for.
                if source != Source::Proxy {
                    self.answered(&source);
                }
                self.fails(source, what);
            }
            News::Works(source) => self.works(&source),
        }
    }

    fn answered(&mut self, source: &Source) {
        self.awaited.retain(|awaited| awaited != source);
    }

    /// There is one at most.
    fn node(&mut self, step: Step<object::Node>) {
        match step {
            Step::Set(node) => {
                self.node = Some(node);
                self.tell_nodes();
                self.works(&Source::Node);
            }
            // A Node that is made anew comes back at once; one that is gone for good has no agent.
            Step::Begin | Step::Gone(_) => {}
            Step::Listed => {
                self.answered(&Source::Node);
                if self.node.is_none() {
                    let what = format!(
                        "this node's Node: there is no Node `{}`; set `node` in the agent's configuration (or \
                         PLIMSOLL_NODE) to this node's name in the cluster",
                        self.name
                    );
                    self.fails(Source::Node, what);
                }
            }
        }
    }

    fn agents(&mut self, step: Step<object::Agents>) {
        let mut is_news = false;
        self.agents.take(step, |_, _| is_news = true);
        if is_news {
            self.tell_nodes();
        }
        // The cluster's controller makes a slice for a Service that has no endpoints, too.
        if self.agents.iter().next().is_some() {
            self.works(&Source::NoAgents);
        } else if self.agents.is_listed() {
            let what = "the agents: the Service that `discovery.kubernetes.agents` names has no EndpointSlices, so no \
                        other node is met through it; does it exist in that namespace, and does its selector fit the \
                        agents' Pods?";
            self.fails(Source::NoAgents, what.into());
        }
    }

    fn tell_nodes(&mut self) {
        let listed = nodes::listed(&self.name, self.node.as_ref(), self.agents.iter());
        self.cluster.nodes(listed.iter().flat_map(|node| &node.addresses).copied().collect());
        self.outlets.nodes.send_if_modified(|known| {
            let is_news = *known != listed;
            *known = listed;
            is_news
        });
    }

    /// What is known of kube-proxy, with what it means on this node.
    fn proxy(&mut self) -> Option<Proxy> {
        let node = self.node.as_ref();
        let Some(facts) = &self.facts else {
            return self.assumed.as_ref().map(|assumed| assumed.on(node, &self.drops));
        };
        match facts.on(node, self.assumed.as_ref(), &self.drops) {
            Ok(proxy) => {
                self.works(&Source::ProxyHere);
                Some(proxy)
            }
            Err(what) => {
                self.fails(Source::ProxyHere, format!("kube-proxy: {what}; Services are only observed"));
                None
            }
        }
    }

    /// Watches the slices of the Services that need it, and of no others.
    fn watch_alone(&mut self) {
        let cluster = &self.cluster;
        self.alone.retain(|service, watch| {
            let stays = cluster.is_alone(service);
            if !stays {
                watch.abort();
            }
            stays
        });
        for service in self.cluster.alone() {
            self.alone.entry(service.clone()).or_insert_with(|| {
                self.running.spawn(watches::slices_of(&self.client, service, &self.sender))
            });
        }
        let gone =
            |source: &Source| matches!(source, Source::SlicesOf(name) if !self.alone.contains_key(name));
        let gone: Vec<Source> = self.troubles.keys().filter(|source| gone(source)).cloned().collect();
        for source in &gone {
            self.works(source);
        }
    }

    fn fails(&mut self, source: Source, what: String) {
        let is_news = self.troubles.get(&source) != Some(&what);
        if is_news {
            tracing::warn!("{what}");
            self.troubles.insert(source, what);
        }
        let all = self.all_troubles();
        self.outlets.health.send_modify(|health| {
            health.refused += 1;
            if is_news {
                health.last_error = all;
            }
        });
    }

    fn works(&mut self, source: &Source) {
        if self.troubles.remove(source).is_some() {
            tracing::info!("{source}: works again");
            let all = self.all_troubles();
            self.outlets.health.send_modify(|health| health.last_error = all);
        }
    }

    fn all_troubles(&self) -> Option<Arc<str>> {
        let all: Vec<&str> = self.troubles.values().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; and ").into())
    }
}

fn is_end_of_list(news: &News) -> bool {
    matches!(
        news,
        News::Services(Step::Listed) | News::Slices(Step::Listed) | News::SlicesOf(_, Step::Listed)
    )
}

fn log(service: &str, remarks: &[Remark], many: bool) {
    for remark in remarks {
        match remark {
            Remark::Left(_) if many => tracing::debug!(service, "{remark}"),
            Remark::Left(_) => tracing::info!(service, "{remark}"),
            Remark::Problem(_) => tracing::warn!(service, "{remark}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_that_panics_is_the_end() {
        let client = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let (changes, _received) = mpsc::channel(1);
        let (sender, news) = mpsc::channel(1);
        let mut follower = Follower {
            client: Client::try_from(client).unwrap(),
            name: NodeName::new("n1"),
            outlets: Outlets {
                changes,
                nodes: watch::channel(Arc::from([])).0,
                health: watch::channel(Health::default()).0,
                remarks: watch::channel(Remarks::default()).0,
                proxy: watch::channel(None).0,
                events: None,
            },
            cluster: Cluster::default(),
            assumed: None,
            facts: None,
            drops: Vec::new(),
            node: None,
            agents: Known::default(),
            running: JoinSet::new(),
            alone: BTreeMap::new(),
            troubles: BTreeMap::new(),
            awaited: Vec::new(),
            sender,
        };
        // One that is not needed any more is none.
        follower.running.spawn(std::future::pending()).abort();
        follower.running.spawn(async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        let ended = tokio::time::timeout(Duration::from_secs(20), follower.run(news)).await;
        assert!(matches!(ended, Ok(Err(End))), "{ended:?}");
    }
}
