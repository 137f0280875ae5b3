//! What is known of the cluster, and which changes of Services follow from what is learnt: the work is in proportion
//! to the Services that something touches. Pure.

mod due;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use plimsoll_core::service::{Service, ServiceChange};

use self::due::Due;
use super::known::{Known, Step};
use super::mapping::{self, Mapped, Setting};
use super::object::{self, Namespace, Slice};
use crate::below::Proxy;
use crate::remark::{Remark, Remarks};

/// What is known of the cluster.
#[derive(Default)]
pub(super) struct Cluster {
    services: Known<object::Service>,
    /// The slices that carry our label.
    labelled: Known<Slice>,
    /// The names of those, by Service. They may come before it.
    of_service: HashMap<Arc<str>, BTreeSet<Box<str>>>,
    /// All slices of each Service that is watched alone.
    alone: BTreeMap<Arc<str>, Known<Slice>>,
    namespaces: Known<Namespace>,
    proxy: Option<Proxy>,
    /// The addresses of nodes, as far as they are known.
    nodes: BTreeSet<IpAddr>,
    /// What each Service stood for when it was last looked at.
    mapped: BTreeMap<Arc<str>, Mapped>,
    /// The Services that have to be looked at again.
    due: Due,
}

impl Cluster {
    /// Whether all that a first look needs has been listed once.
    pub(super) fn is_listed(&self) -> bool {
        self.services.is_listed() && self.labelled.is_listed()
    }

    /// Learns of Services.
    pub(super) fn services(&mut self, step: Step<object::Service>) {
        let (due, alone) = (&mut self.due, &mut self.alone);
        let is_listed = self.services.is_listed();
        self.services.take(step, |before, after| {
            let Some(service) = after.or(before) else { return };
            let is_alone = after.is_some_and(needs_own_watch);
            if is_alone {
                alone.entry(service.name.clone()).or_default();
            } else {
                alone.remove(&service.name);
            }
            if before.is_none() && is_listed && !is_alone {
                due.comes(&service.name);
            } else if after.is_none() {
                due.goes(&service.name);
            } else {
                due.touch(&service.name);
            }
        });
    }

    /// Learns of slices that carry our label.
    pub(super) fn slices(&mut self, step: Step<Slice>) {
        let (due, of_service) = (&mut self.due, &mut self.of_service);
        self.labelled.take(step, |before, after| {
            if let Some(slice) = before {
                if let Some(names) = of_service.get_mut(&slice.service) {
                    names.remove(&slice.name);
                    if names.is_empty() {
                        of_service.remove(&slice.service);
                    }
                }
                due.touch_slices(&slice.service);
            }
            if let Some(slice) = after {
                of_service.entry(slice.service.clone()).or_default().insert(slice.name.clone());
                due.touch_slices(&slice.service);
            }
        });
    }

    /// Learns of slices of a Service that is watched alone.
    pub(super) fn slices_of(&mut self, service: &Arc<str>, step: Step<Slice>) {
        // It may not be watched any more.
        let Some(slices) = self.alone.get_mut(service) else { return };
        let was_listed = slices.is_listed();
        let mut is_due = false;
        slices.take(step, |_, _| is_due = true);
        if is_due || slices.is_listed() != was_listed {
            self.due.touch(service);
        }
    }

    /// Learns of namespaces.
    pub(super) fn namespaces(&mut self, step: Step<Namespace>) {
        let (due, services) = (&mut self.due, &self.services);
        self.namespaces.take(step, |before, after| {
            // Most say nothing of ours.
            let says = |namespace: Option<&Namespace>| namespace.is_some_and(|n| !n.annotations.is_empty());
            let Some(namespace) = after.or(before).filter(|_| says(before) || says(after)) else { return };
            let prefix = format!("{}/", namespace.name);
            services.beginning_with(&prefix).for_each(|service| due.touch(&service.name));
        });
    }

    /// Learns what kube-proxy does.
    pub(super) fn proxy(&mut self, proxy: Option<Proxy>) {
        if self.proxy != proxy {
            self.proxy = proxy;
            self.touch_all();
        }
    }

    /// Learns the addresses of nodes.
    pub(super) fn nodes(&mut self, addresses: BTreeSet<IpAddr>) {
        let matters = self.proxy.as_ref().is_some_and(|proxy| !proxy.accepts_marked.is_empty());
        if matters && self.nodes != addresses {
            self.touch_all();
        }
        self.nodes = addresses;
    }

    /// The Services whose slices have to be watched one by one.
    pub(super) fn alone(&self) -> impl Iterator<Item = &Arc<str>> {
        self.alone.keys()
    }

    /// Whether those of this one have to be.
    pub(super) fn is_alone(&self, service: &str) -> bool {
        self.alone.contains_key(service)
    }

    /// Which Service of this name is there; empty if none is.
    pub(super) fn uid(&self, service: &str) -> &str {
        self.services.get(service).map_or("", |service| &service.uid)
    }

    fn touch_all(&mut self) {
        self.services.iter().for_each(|service| self.due.touch(&service.name));
    }

    /// Whether there is a Service to look at again.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_due()
    }

    /// Whether a Service that is new waits for its slices.
    pub(super) fn waits(&self) -> bool {
        self.due.waits()
    }

    /// While one waits, a round has passed.
    pub(super) fn round(&mut self) {
        let of_service = &self.of_service;
        self.due.round(|service| of_service.contains_key(service));
    }

    /// Looks at all of it.
    pub(super) fn all(&mut self) -> (Vec<Arc<Service>>, Remarks) {
        self.due = Due::default();
        let names: Vec<Arc<str>> = self.services.iter().map(|service| service.name.clone()).collect();
        self.mapped = names.into_iter().map(|name| (name.clone(), self.map(&name))).collect();
        let services = self.mapped.values().flat_map(|mapped| mapped.services.iter().cloned()).collect();
        let with_remarks = self.mapped.iter().filter(|(_, mapped)| !mapped.remarks.is_empty());
        (services, with_remarks.map(|(name, mapped)| (name.clone(), mapped.remarks.clone())).collect())
    }

    /// Looks at one Service again that has to be, with what goes before what comes.
    pub(super) fn next(&mut self) -> Option<News> {
        let service = self.due.next()?;
        let after = self.map(&service);
        let before = match self.services.get(&service) {
            Some(_) => self.mapped.insert(service.clone(), after.clone()),
            None => self.mapped.remove(&service),
        };
        let before = before.unwrap_or_default();
        let find = |mapped: &Mapped, other: &Service| {
            let place = mapped.services.binary_search_by(|service| service.id.cmp(&other.id));
            place.ok().map(|place| mapped.services[place].clone())
        };
        let gone = before.services.iter().filter(|old| find(&after, old).is_none());
        let mut changes: Vec<ServiceChange> = gone.map(|old| ServiceChange::Remove(old.id.clone())).collect();
        let news = after.services.iter().filter(|new| find(&before, new).as_ref() != Some(new));
        changes.extend(news.cloned().map(ServiceChange::Set));
        let remarks = (before.remarks != after.remarks).then_some(after.remarks);
        Some(News { service, changes, remarks })
    }

    fn map(&self, name: &str) -> Mapped {
        let Some(service) = self.services.get(name) else { return Mapped::default() };
        let namespace = self.namespaces.get(service.namespace());
        let setting = Setting { namespace, proxy: self.proxy.as_ref(), nodes: Some(&self.nodes) };
        match self.alone.get(name) {
            // Some of its endpoints are not all.
            Some(slices) if !slices.is_listed() => Mapped::default(),
            Some(slices) => mapping::map(service, slices.iter(), setting),
            None => {
                let names = self.of_service.get(name).into_iter().flatten();
                mapping::map(service, names.filter_map(|slice| self.labelled.get(slice)), setting)
            }
        }
    }
}

/// Nobody copies the labels of a Service without a selector to its slices.
fn needs_own_watch(service: &object::Service) -> bool {
    !(service.has_selector || service.is_external_name || service.is_headless)
}

/// What came of looking at a Service again.
#[derive(Debug)]
pub(super) struct News {
    /// Which one, by its name.
    pub(super) service: Arc<str>,
    /// What is to be told to the balancer, in this order.
    pub(super) changes: Vec<ServiceChange>,
    /// The remarks there are now, if they changed.
    pub(super) remarks: Option<Arc<[Remark]>>,
}

#[cfg(test)]
mod tests;
