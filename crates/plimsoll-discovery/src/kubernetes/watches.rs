//! Which objects are watched: those that are switched on, and what belongs to them.

use std::sync::Arc;

use kube::runtime::watcher;
use kube::{Api, Client};
use plimsoll_core::service::NodeName;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::config::{Config, KubeProxy};
use super::known::Step;
use super::news::{News, Source};
use super::object::{self, BALANCE, Names, SERVICE_NAME};
use super::watching::Watching;
use super::{kube_proxy, wire};
use crate::below::DropsForwarded;

/// Starts all that always run.
pub(super) fn start(
    running: &mut JoinSet<()>,
    client: &Client,
    config: &Config,
    node: &NodeName,
    drops_forwarded: DropsForwarded,
    sender: &mpsc::Sender<News>,
) {
    // Whatever its value, so that a wrong one can be told; but not what is switched off.
    let services = Watching {
        api: Api::<wire::Service>::all(client.clone()),
        selection: watcher::Config::default().labels(&format!("{BALANCE},{BALANCE}!=disabled")),
        source: Source::Services,
        read: Box::new(|object| Some(object::Service::read(object))),
        news: Box::new(News::Services),
        sender: sender.clone(),
    };
    running.spawn(services.run());
    let mut names = Names::default();
    let slices = Watching {
        api: Api::<wire::EndpointSlice>::all(client.clone()),
        selection: watcher::Config::default().labels(&format!("{BALANCE} in (enabled,observe)")),
        source: Source::Slices,
        read: Box::new(move |object| object::Slice::read(object, &mut names)),
        news: Box::new(News::Slices),
        sender: sender.clone(),
    };
    running.spawn(slices.run());
    if let Some(agents) = &config.agents {
        let (namespace, name) = agents.split_once('/').unwrap_or((client.default_namespace(), agents));
        let agents = Watching {
            api: Api::<wire::EndpointSlice>::namespaced(client.clone(), namespace),
            selection: watcher::Config::default().labels(&format!("{SERVICE_NAME}={name}")),
            source: Source::Agents,
            read: Box::new(|object| Some(object::Agents::read(object))),
            news: Box::new(News::Agents),
            sender: sender.clone(),
        };
        running.spawn(agents.run());
    }
    let node = Watching {
        api: Api::<wire::Node>::all(client.clone()),
        selection: watcher::Config::default().fields(&format!("metadata.name={node}")),
        source: Source::Node,
        read: Box::new(|object| Some(object::Node::read(object))),
        news: Box::new(News::Node),
        sender: sender.clone(),
    };
    running.spawn(node.run());
    if config.namespace_defaults {
        let namespaces = Watching {
            api: Api::<wire::Namespace>::all(client.clone()),
            selection: watcher::Config::default(),
            source: Source::Namespaces,
            read: Box::new(|object| Some(object::Namespace::read(object))),
            news: Box::new(News::Namespaces),
            sender: sender.clone(),
        };
        running.spawn(namespaces.run());
    }
    running.spawn(ask_proxy(config.kube_proxy.clone(), drops_forwarded, sender.clone()));
}

/// Watches all slices of one Service.
pub(super) fn slices_of(
    client: &Client,
    service: &Arc<str>,
    sender: &mpsc::Sender<News>,
) -> impl Future<Output = ()> + Send + use<> {
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    let mut names = Names::default();
    let whose = service.clone();
    let watching = Watching {
        api: Api::<wire::EndpointSlice>::namespaced(client.clone(), namespace),
        selection: watcher::Config::default().labels(&format!("{SERVICE_NAME}={name}")),
        source: Source::SlicesOf(service.clone()),
        read: Box::new(move |object| object::Slice::read(object, &mut names)),
        news: Box::new(move |step: Step<object::Slice>| News::SlicesOf(whose.clone(), step)),
        sender: sender.clone(),
    };
    watching.run()
}

/// Asks kube-proxy again and again, and the node what it drops. A proxy that does not answer where another is assumed is no trouble.
async fn ask_proxy(config: KubeProxy, drops_forwarded: DropsForwarded, sender: mpsc::Sender<News>) {
    let mut known = None;
    let mut dropped = Vec::new();
    let mut fails = false;
    // In the beginning more often: it may be starting.
    let mut wait = config.poll.0 / 16;
    loop {
        let drops = drops_forwarded();
        let forwarding = (drops != dropped).then(|| News::Forwarding(drops.clone()));
        dropped = drops;
        let news = match kube_proxy::ask(&config.url).await {
            Ok(facts) => {
                wait = config.poll.0;
                let works = std::mem::take(&mut fails).then_some(News::Works(Source::Proxy));
                let is_news = known.as_ref() != Some(&facts);
                known = Some(facts.clone());
                [works, is_news.then_some(News::Proxy(facts))]
            }
            Err(_) if config.assume.is_some() && known.is_none() => [None, None],
            Err(why) => {
                fails = true;
                let what = format!(
                    "kube-proxy: {why}; {}; is it running on this node, with this metricsBindAddress? see \
                     `discovery.kubernetes.kube_proxy` for its `url`, or `assume` where there is none",
                    if known.is_some() {
                        "what it said before is taken to hold"
                    } else {
                        "Services are only observed"
                    }
                );
                [Some(News::Fails(Source::Proxy, what)), None]
            }
        };
        for news in forwarding.into_iter().chain(news.into_iter().flatten()) {
            if sender.send(news).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(config.poll.0);
    }
}
