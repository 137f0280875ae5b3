//! What the agent counts of itself, in OpenMetrics text.
//!
//! Names end in their unit, as Prometheus asks: seconds, bytes, or none for a number. Labels are bounded: by the Services
//! there are, or by words in the code.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;

use plimsoll_api::Status;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Service {
    pub(crate) service: String,
}

/// Counters that the tasks keep; gauges are taken from the status at each scrape.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Events the balancer took in.
    pub(crate) events: Family<Kind, Counter>,
    /// Events and reports that a full queue cost.
    pub(crate) dropped: Family<Kind, Counter>,
    /// What the balancer found worth telling.
    pub(crate) notices: Family<Kind, Counter>,
    /// Plans, applied or refused.
    pub(crate) plans: Family<Kind, Counter>,
    /// Renewals that came after the leases had run out.
    pub(crate) late_renewals: Counter,
    /// Connections to the HTTP API that were ended for others' sake.
    pub(crate) cut_connections: Family<Kind, Counter>,
    /// How long plans took.
    pub(crate) apply_seconds: Histogram,
    /// How long reading the counters took.
    pub(crate) read_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let seconds = || Histogram::new(exponential_buckets(0.0001, 2.0, 14));
        Metrics {
            events: Family::default(),
            // What is worth an alarm is there from the beginning: a rate of what comes up later misses its first time.
            dropped: at_zero(["counts", "heard", "plan", "report"]),
            notices: at_zero(["limited", "node_left", "refused"]),
            plans: at_zero(["applied", "refused"]),
            late_renewals: Counter::default(),
            cut_connections: at_zero(["crowded", "late"]),
            apply_seconds: seconds(),
            read_seconds: seconds(),
        }
    }
}

/// A family with a counter for each of these kinds.
fn at_zero<const N: usize>(kinds: [&'static str; N]) -> Family<Kind, Counter> {
    let family = Family::default();
    for kind in kinds {
        drop(family.get_or_create(&Kind { kind }));
    }
    family
}

/// The health of the edges, as of the scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct EdgeHealth {
    pub(crate) discovery: plimsoll_discovery::Health,
    pub(crate) store: plimsoll_store::Health,
}

impl Metrics {
    /// All metrics as OpenMetrics text.
    pub(crate) fn render(&self, status: &Status, health: &EdgeHealth) -> String {
        let mut registry = Registry::with_prefix("plimsoll");
        self.register(&mut registry);
        register_status(&mut registry, status);
        register_discovery(&mut registry, &health.discovery);
        register_store(&mut registry, &health.store);
        let mut out = String::new();
        if text::encode(&mut out, &registry).is_err() {
            out.clear();
            let _ = writeln!(out, "# EOF");
        }
        out
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("events", "Events the balancer took in", self.events.clone());
        registry.register("dropped", "Events and reports lost to a full queue", self.dropped.clone());
        registry.register("notices", "Transitions worth telling", self.notices.clone());
        registry.register("plans", "Plans, by how they ended", self.plans.clone());
        registry.register(
            "late_renewals",
            "Renewals that came after the leases had run out",
            self.late_renewals.clone(),
        );
        registry.register(
            "api_cut_connections",
            "Connections to the HTTP API ended by the agent: past their deadline, or to make room",
            self.cut_connections.clone(),
        );
        let mut seconds = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds("apply", "Time to apply a plan", &self.apply_seconds);
        seconds("read", "Time to read the counters", &self.read_seconds);
    }
}

/// What a scrape shows, with one sample of every metric: for the reference.
pub fn sample() -> String {
    let metrics = Metrics::default();
    let Metrics { events, dropped, notices, plans, cut_connections, .. } = &metrics;
    for family in [events, dropped, notices, plans, cut_connections] {
        family.get_or_create(&Kind { kind: "kind" }).inc();
    }
    let service = plimsoll_api::ServiceSummary {
        service: "web/ipv4".into(),
        max_over_mean: Some(1.0),
        ..plimsoll_api::ServiceSummary::default()
    };
    let status = Status {
        plan_age_seconds: Some(1.0),
        counts_age_seconds: Some(1.0),
        services: vec![service],
        nodes: vec![plimsoll_api::Node::default()],
        ..Status::default()
    };
    metrics.render(&status, &EdgeHealth::default())
}

fn register_status(registry: &mut Registry, status: &Status) {
    let labels = [("version", &status.version), ("dataplane", &status.dataplane), ("store", &status.store)];
    let labels = labels.map(|(name, value)| (name, value.clone()));
    registry.register("build", "Which agent this is", Info::new(labels.to_vec()));
    number(registry, "ready", "Whether everything the agent needs answers", f64::from(status.ready));
    number(registry, "nodes", "Other nodes that reported", status.nodes.len() as f64);
    let mut seconds = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value);
            registry.register_with_unit(name, help, Unit::Seconds, gauge);
        }
    };
    let oldest = status.nodes.iter().map(|node| node.age_seconds).reduce(f64::max);
    seconds("uptime", "Time since the agent started", Some(status.uptime_seconds));
    seconds("plan_age", "Time since the dataplane carried out a plan", status.plan_age_seconds);
    seconds("counts_age", "Time since the dataplane counted", status.counts_age_seconds);
    seconds("oldest_report_age", "Age of the oldest of the other nodes' last reports", oldest);
    let open = Family::<Service, Gauge<f64, AtomicU64>>::default();
    let uneven = Family::<Service, Gauge<f64, AtomicU64>>::default();
    let taken = Family::<Service, Gauge>::default();
    let left = Family::<Service, Gauge>::default();
    let held = Family::<Service, Gauge>::default();
    for summary in &status.services {
        let label = Service { service: summary.service.clone() };
        open.get_or_create(&label).set(summary.open);
        if let Some(ratio) = summary.max_over_mean {
            uneven.get_or_create(&label).set(ratio);
        }
        taken.get_or_create(&label).set(summary.keys_taken as i64);
        left.get_or_create(&label).set(summary.keys_left as i64);
        held.get_or_create(&label).set(summary.held_back as i64);
    }
    registry.register("service_open_connections", "Open connections of the eligible endpoints", open);
    let help = "Fullest endpoint's connections per capacity, relative to the mean; 1 is even";
    registry.register("service_max_over_mean_ratio", help, uneven);
    registry.register("service_keys_taken", "Keys served by the dataplane", taken);
    registry.register("service_keys_left", "Keys left to the proxy below", left);
    registry.register("service_endpoints_held_back", "Endpoints that the guard holds back", held);
}

fn register_discovery(registry: &mut Registry, health: &plimsoll_discovery::Health) {
    total(registry, "discovery_loads", "Changes taken over", health.loaded);
    total(registry, "discovery_refusals", "Changes refused; what was known before stays", health.refused);
}

fn register_store(registry: &mut Registry, health: &plimsoll_store::Health) {
    number(registry, "mesh_members", "Live members besides this node", health.members.len() as f64);
    total(registry, "mesh_received_datagrams", "Datagrams that arrived", health.datagrams_in);
    bytes(registry, "mesh_received", "Bytes of the datagrams that arrived, without headers", health.bytes_in);
    total(registry, "mesh_sent_datagrams", "Datagrams sent", health.datagrams_out);
    bytes(registry, "mesh_sent", "Bytes of the datagrams sent, without headers", health.bytes_out);
    total(registry, "mesh_send_failures", "Datagrams the socket did not take", health.send_failures);
    total(registry, "mesh_reports", "Reports handed to the balancer", health.reports);
    // What nodes with different keys, and strangers, make rise.
    let rejected = at_zero(["forged", "unknown_key"]);
    for (kind, count) in &health.rejected {
        rejected.get_or_create(&Kind { kind }).inc_by(*count);
    }
    registry.register("mesh_rejected_datagrams", "Datagrams that changed nothing, by reason", rejected);
}

fn number(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn total(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, counted(value));
}

fn bytes(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register_with_unit(name, help, Unit::Bytes, counted(value));
}

fn counted(value: u64) -> Counter {
    let counter = Counter::default();
    counter.inc_by(value);
    counter
}
