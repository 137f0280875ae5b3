//! From a Service of the API, its slices and what is known of kube-proxy to the Services that are balanced: one per
//! port and family, with the keys that can be taken over, and a remark on each that cannot. Pure.
//!
//! Which endpoints may serve (readiness, hints, traffic policies) the core decides; what is decided here is what
//! kube-proxy decides when it reads the objects. Case by case that is how kube-proxy 1.35 was seen to behave.

mod endpoints;
mod keys;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::service::{Family, Mode, Service, ServiceId};

use self::endpoints::endpoints;
use self::keys::{keys, leave_what_is_dropped};
use super::annotations::{self, Tuning};
use super::object;
use crate::below::Proxy;
use crate::remark::{LeftAlone, Problem, Reason, Remark};

/// What holds for all Services of a namespace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Setting<'a> {
    /// What the namespace says of its Services, if that is asked for.
    pub(super) namespace: Option<&'a object::Namespace>,
    /// What is known of kube-proxy.
    pub(super) proxy: Option<&'a Proxy>,
    /// The addresses of nodes, as far as they are known.
    pub(super) nodes: Option<&'a BTreeSet<IpAddr>>,
}

/// What a Service of the API stands for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mapped {
    /// The Services that are balanced, sorted by id.
    pub(super) services: Vec<Arc<Service>>,
    /// What there is to say, sorted.
    pub(super) remarks: Arc<[Remark]>,
}

/// What a Service of the API stands for.
pub(super) fn map<'a>(
    service: &object::Service,
    slices: impl IntoIterator<Item = &'a object::Slice>,
    setting: Setting<'_>,
) -> Mapped {
    let mut problems = Vec::new();
    let mut left = Vec::new();
    let Some(mode) = annotations::mode(service, &mut problems) else {
        return Mapped { services: Vec::new(), remarks: remarks(left, problems) };
    };
    let tuning = tuning(service, setting, &mut problems);
    if let Some(reason) = unserved(service) {
        left.push(LeftAlone { key: None, reason });
        return Mapped { services: Vec::new(), remarks: remarks(left, problems) };
    }
    let mode = match only_observed(service, tuning, setting.proxy) {
        Some(reason) if mode == Mode::Enabled => {
            left.push(LeftAlone { key: None, reason });
            Mode::Observe
        }
        _ => mode,
    };
    let slices: Vec<&object::Slice> = slices.into_iter().collect();
    problems.extend(slices.iter().filter_map(|slice| bad_address(slice)));
    let mut services = Vec::new();
    for family in families(service) {
        for port in &service.ports {
            let endpoints = endpoints(port, family, &slices, &mut problems);
            let mut keys = keys(service, port, family, setting.proxy, &mut left, &mut problems);
            leave_what_is_dropped(service, &mut keys, &endpoints, setting, &mut left);
            services.push(Arc::new(Service {
                id: ServiceId { name: service.name.clone(), port: port.name.clone(), family },
                protocol: port.protocol,
                keys,
                internal_policy: service.internal_policy,
                external_policy: service.external_policy,
                affinity: service.affinity,
                mode,
                policy: tuning.policy,
                slow_start: tuning.slow_start.unwrap_or(Duration::ZERO),
                floor: tuning.floor,
                endpoints,
            }));
        }
    }
    services.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    // Names of ports are unique to the API server; the balancer must not depend on it.
    services.dedup_by(|b, a| a.id == b.id);
    Mapped { services, remarks: remarks(left, problems) }
}

fn tuning(service: &object::Service, setting: Setting<'_>, problems: &mut Vec<Problem>) -> Tuning {
    let own = Tuning::read(&format!("Service {}", service.name), &service.annotations, problems);
    let defaults = setting.namespace.map(|namespace| {
        Tuning::read(&format!("Namespace {}", namespace.name), &namespace.annotations, problems)
    });
    own.or(defaults.unwrap_or_default())
}

/// Why a proxy does not serve this Service at all.
fn unserved(service: &object::Service) -> Option<Reason> {
    if let Some(name) = &service.proxy_name {
        return Some(Reason::OtherProxy(name.clone()));
    }
    if service.is_external_name {
        return Some(Reason::ExternalName);
    }
    if service.is_headless {
        return Some(Reason::Headless);
    }
    families(service).next().is_none().then_some(Reason::NoAddress)
}

/// Why none of its connections may be steered, although that was asked for.
fn only_observed(service: &object::Service, tuning: Tuning, proxy: Option<&Proxy>) -> Option<Reason> {
    if proxy.is_none() {
        return Some(Reason::ProxyUnknown);
    }
    let asked = tuning.takes_affinity.unwrap_or(false);
    (service.affinity.is_some() && !asked).then_some(Reason::Affinity)
}

/// A family without a cluster address is not served, whatever other addresses there are.
fn families(service: &object::Service) -> impl Iterator<Item = Family> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| service.cluster_ips.iter().any(|address| Family::of(*address) == *family))
}

fn bad_address(slice: &object::Slice) -> Option<Problem> {
    let bad = slice.bad.as_ref()?;
    Some(Problem {
        object: format!("EndpointSlice {}", slice.name).into(),
        part: "endpoint address".into(),
        value: bad.chars().take(60).collect(),
        what: format!(
            "is no {} address that an endpoint can have; such endpoints are ignored; correct the slice",
            slice.family
        )
        .into(),
    })
}

fn remarks(left: Vec<LeftAlone>, problems: Vec<Problem>) -> Arc<[Remark]> {
    let left = left.into_iter().map(Remark::Left);
    let mut remarks: Vec<Remark> = left.chain(problems.into_iter().map(Remark::Problem)).collect();
    remarks.sort_unstable();
    remarks.dedup();
    remarks.into()
}

#[cfg(test)]
mod tests;
