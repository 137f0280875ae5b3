//! One list of endpoints that connections are chosen from, with the memory of its policy and its guard.

use crate::guard::{self, Guard};
use crate::load::Loads;
use crate::policy::{self, Group, Limit, Policy, Row, Share};
use crate::service::{EndpointId, PolicyKind, Service};
use crate::table::Weighted;
use crate::time::Timestamp;
use crate::view::{Member, View};

use super::claims::Claims;

/// What a decision needs beside the list itself.
pub(super) struct Setting<'a> {
    pub(super) now: Timestamp,
    pub(super) view: &'a View,
    pub(super) loads: &'a Loads,
    pub(super) claims: &'a Claims,
    pub(super) delay: f64,
    pub(super) horizon: f64,
}

/// One list of endpoints.
pub(super) struct List {
    members: Vec<Member>,
    policy: Box<dyn Policy>,
    guard: Guard,
    dead_band: f64,
    decided: Option<Timestamp>,
    rows: Vec<Row>,
    shares: Vec<Share>,
    installed: Vec<Weighted>,
    /// The sum of the installed weights.
    sum: u32,
}

impl List {
    pub(super) fn new(kind: PolicyKind, policies: &policy::Parameters, guard: &guard::Parameters) -> List {
        List {
            members: Vec::new(),
            policy: policy::build(kind, policies),
            guard: Guard::new(guard),
            dead_band: guard.dead_band,
            decided: None,
            rows: Vec::new(),
            shares: Vec::new(),
            installed: Vec::new(),
            sum: 0,
        }
    }

    /// Goes on with another policy, which has no memory; the guard's stays.
    pub(super) fn set_policy(&mut self, kind: PolicyKind, policies: &policy::Parameters) {
        self.policy = policy::build(kind, policies);
    }

    /// Sets who is in the list. Who was in it keeps its history; who joins a list that was decided before is new.
    pub(super) fn set_members(&mut self, now: Timestamp, service: &Service, eligible: &[usize], view: &View) {
        let members = eligible.iter().map(|&i| {
            let endpoint = &service.endpoints[i];
            let known = self.members.binary_search_by_key(&endpoint.id, |member| member.endpoint);
            let since = match known {
                Ok(at) => self.members[at].eligible,
                Err(_) => self.decided.map(|_| now),
            };
            let number = view.number(&endpoint.id).expect("a Service's endpoints are known");
            Member { endpoint: endpoint.id, number, capacity: endpoint.capacity, eligible: since }
        });
        self.members = members.collect();
    }

    /// Decides anew; whether what is to be installed changed.
    pub(super) fn decide(&mut self, setting: &Setting<'_>, service: &Service) -> bool {
        setting.view.rows(setting.now, setting.loads, &self.members, &mut self.rows);
        let group = Group {
            rows: &self.rows,
            elapsed: self.decided.map_or(0.0, |before| setting.now.seconds_since(before)),
            delay: setting.delay,
            horizon: setting.horizon,
            slow_start: service.slow_start,
            floor: service.floor,
        };
        self.decided = Some(setting.now);
        self.policy.decide(&group, &mut self.shares);
        self.guard.bound(&group, &mut self.shares);
        let wanted = guard::install(&self.installed, &self.rows, &self.shares, self.dead_band);
        let changed = wanted != self.installed;
        self.sum = wanted.iter().map(|entry| entry.weight).sum();
        self.installed = wanted;
        changed
    }

    pub(super) fn installed(&self) -> &[Weighted] {
        &self.installed
    }

    /// One endpoint's figures and share, as of the last decision.
    pub(super) fn decision(&self, endpoint: &EndpointId) -> Option<(&Row, &Share)> {
        let at = self.rows.binary_search_by_key(endpoint, |row| row.endpoint).ok()?;
        Some((&self.rows[at], &self.shares[at]))
    }

    /// The part of the connections that an endpoint gets.
    pub(super) fn part(&self, endpoint: &EndpointId) -> Option<f64> {
        let at = self.installed.binary_search_by_key(endpoint, |entry| entry.endpoint).ok()?;
        Some(f64::from(self.installed[at].weight) / f64::from(self.sum))
    }

    /// Each endpoint's figures and share, as of the last decision.
    fn decisions(&self) -> impl Iterator<Item = (&Row, &Share)> {
        self.rows.iter().zip(&self.shares)
    }

    /// The guard's hold on each endpoint, as of the last decision. That connections do not last like those of the
    /// peers is no hold: with few of them it comes and goes by chance.
    pub(super) fn held(&self) -> impl Iterator<Item = (EndpointId, Option<Limit>)> {
        self.decisions().map(|(row, share)| {
            let held = share
                .limit
                .filter(|limit| matches!(limit, Limit::Failing | Limit::Recovering | Limit::Frozen));
            (row.endpoint, held)
        })
    }
}
