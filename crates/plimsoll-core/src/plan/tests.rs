//! Applying a difference gives what was desired.

use proptest::prelude::*;

use super::*;
use crate::service::{Family, Key, Place, Protocol};
use crate::table::{Choose, KeyEntry, Masquerade, Weighted};

fn endpoint(i: u8) -> EndpointId {
    EndpointId { address: [10, 0, 0, i].into(), port: 80, protocol: Protocol::Tcp }
}

fn any_service() -> impl Strategy<Value = ServiceTable> {
    (prop::collection::btree_set(0u16..4, 0..3), prop::collection::btree_map(0u8..6, 1u32..9, 0..5)).prop_map(
        |(ports, weights)| ServiceTable {
            protocol: Protocol::Tcp,
            keys: ports
                .into_iter()
                .map(|port| KeyEntry {
                    key: Key { place: Place::AnyLocal(Family::V4), port, protocol: Protocol::Tcp },
                    choose: Choose::Cluster,
                    masquerade: Masquerade::Always,
                })
                .collect(),
            affinity: None,
            cluster: weights
                .into_iter()
                .map(|(i, weight)| Weighted { endpoint: endpoint(i), weight })
                .collect(),
            local: Vec::new(),
        },
    )
}

proptest! {
    #[test]
    fn a_change_leads_from_what_is_there_to_what_is_wanted(
        present in prop::option::of(any_service()),
        wanted in any_service(),
    ) {
        let id = ServiceId { name: "web".into(), port: "".into(), family: Family::V4 };
        match change(&id, present.as_ref(), &wanted) {
            None => prop_assert_eq!(present, Some(wanted)),
            Some(Change::Reweight(_, service)) => {
                prop_assert_eq!(present.map(|present| present.keys), Some(service.keys.clone()));
                prop_assert_eq!(service, wanted);
            }
            Some(Change::Replace(_, service)) => {
                prop_assert!(present.is_none_or(|present| present.keys != service.keys));
                prop_assert_eq!(service, wanted);
            }
            Some(Change::Remove(_)) => prop_assert!(false, "it is wanted"),
        }
    }

    #[test]
    fn what_is_taken_back_is_not_in_the_plan(turns in prop::collection::vec((0u8..4, any::<bool>()), 0..20)) {
        let (mut plan, mut before, mut after) = (Plan::default(), BTreeSet::new(), BTreeSet::new());
        for (number, (last, known)) in turns.iter().enumerate() {
            // The first half is in the dataplane already.
            if number == turns.len() / 2 {
                plan = Plan::default();
                before.clone_from(&after);
            }
            match (known, after.contains(&endpoint(*last))) {
                (true, false) => { plan.know(endpoint(*last)); after.insert(endpoint(*last)); }
                (false, true) => { plan.forget(endpoint(*last)); after.remove(&endpoint(*last)); }
                _ => {}
            }
        }
        prop_assert_eq!(plan.know, &after - &before);
        prop_assert_eq!(plan.forget, &before - &after);
    }
}
