//! One Service and what is decided for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::plan::{self, Change};
use crate::policy::Limit;
use crate::service::{EndpointId, Key, Service};
use crate::table::{self, Left, ServiceTable};

use super::claims::Claims;
use super::list::{List, Setting};
use super::{Command, Notice};

/// One Service and what is decided for it.
pub(super) struct Balanced {
    pub(super) service: Arc<Service>,
    pub(super) cluster: List,
    /// Where some of its traffic must not leave the node.
    pub(super) local: Option<List>,
    pub(super) keys: Vec<table::KeyEntry>,
    pub(super) left: Vec<(Key, Left)>,
    pub(super) held: BTreeMap<EndpointId, Limit>,
    /// Whether something changed that may change which keys are taken.
    pub(super) keys_due: bool,
    /// What the dataplane holds once the plan under way is carried out.
    pub(super) table: Option<ServiceTable>,
}

impl Balanced {
    /// A Service of which nothing is decided yet, with an empty list.
    pub(super) fn new(service: Arc<Service>, cluster: List) -> Balanced {
        Balanced {
            service,
            cluster,
            local: None,
            keys: Vec::new(),
            left: Vec::new(),
            held: BTreeMap::new(),
            keys_due: true,
            table: None,
        }
    }

    /// Decides anew; whether what is to be in the dataplane changed.
    pub(super) fn decide(&mut self, setting: &Setting<'_>, commands: &mut Vec<Command>) -> bool {
        let mut changed = self.cluster.decide(setting, &self.service);
        if let Some(local) = &mut self.local {
            changed |= local.decide(setting, &self.service);
        }
        self.tell_limits(commands);
        if std::mem::take(&mut self.keys_due) {
            changed |= self.decide_keys(setting.claims, commands);
        }
        changed
    }

    fn decide_keys(&mut self, claims: &Claims, commands: &mut Vec<Command>) -> bool {
        let cluster = self.cluster.installed().len();
        let local = self.local.as_ref().map_or(0, |local| local.installed().len());
        let is_claimed = |key| claims.rival(&self.service.id, key).is_some();
        let (keys, left) = table::keys(&self.service, cluster, local, is_claimed);
        if keys == self.keys && left == self.left {
            return false;
        }
        let service = &self.service.id;
        for entry in keys.iter().filter(|entry| !self.keys.contains(entry)) {
            commands.push(Command::Tell(Notice::Taken { service: service.clone(), key: entry.key }));
        }
        for (key, reason) in left.iter().filter(|left| !self.left.contains(left)) {
            commands.push(Command::Tell(Notice::Left {
                service: service.clone(),
                key: *key,
                reason: *reason,
            }));
        }
        self.keys = keys;
        self.left = left;
        true
    }

    fn tell_limits(&mut self, commands: &mut Vec<Command>) {
        for (endpoint, limit) in self.cluster.held() {
            let before = match limit {
                Some(limit) => self.held.insert(endpoint, limit),
                None => self.held.remove(&endpoint),
            };
            let service = || self.service.id.clone();
            match limit {
                Some(limit) if before != Some(limit) => {
                    let service = service();
                    commands.push(Command::Tell(Notice::Limited { service, endpoint, limit }));
                }
                None if before.is_some() => {
                    let service = service();
                    commands.push(Command::Tell(Notice::Unlimited { service, endpoint }));
                }
                _ => {}
            }
        }
        // Mostly nobody is held.
        if !self.held.is_empty() {
            let members: BTreeSet<EndpointId> = self.cluster.held().map(|(endpoint, _)| endpoint).collect();
            self.held.retain(|endpoint, _| members.contains(endpoint));
        }
    }

    /// What leads from what the dataplane holds to what was decided; it counts as done then.
    pub(super) fn change(&mut self) -> Option<Change> {
        let wanted = self.wanted();
        let change = plan::change(&self.service.id, self.table.as_ref(), &wanted);
        self.table = Some(wanted);
        change
    }

    fn wanted(&self) -> ServiceTable {
        // Without a key nobody chooses from the lists, and a list that no dataplane can hold is without keys.
        let list = |list: Option<&List>| {
            list.filter(|_| !self.keys.is_empty()).map(|list| list.installed().to_vec()).unwrap_or_default()
        };
        ServiceTable {
            protocol: self.service.protocol,
            keys: self.keys.clone(),
            affinity: self.service.affinity,
            cluster: list(Some(&self.cluster)),
            local: list(self.local.as_ref()),
        }
    }
}
