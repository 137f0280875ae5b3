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

fn any_table() -> impl Strategy<Value = Table> {
    let endpoints = || prop::collection::btree_set((0u8..6).prop_map(endpoint), 0..6).prop_map(Arc::new);
    let id = (0u8..5).prop_map(|i| ServiceId {
        name: format!("s{i}").into(),
        port: "".into(),
        family: Family::V4,
    });
    (prop::collection::btree_map(id, any_service(), 0..5), endpoints(), endpoints())
        .prop_map(|(services, hosted, known)| Table { services, hosted, known })
}

proptest! {
    #[test]
    fn a_difference_applied_gives_the_desired_table(mut actual in any_table(), desired in any_table()) {
        let plan = diff(&actual, &desired);
        apply(&mut actual, &plan);
        prop_assert_eq!(&actual, &desired);
        prop_assert!(diff(&actual, &desired).is_empty());
    }

    #[test]
    fn a_fresh_plan_does_not_depend_on_what_was_there(mut actual in any_table(), desired in any_table()) {
        let plan = Plan { fresh: true, ..diff(&Table::default(), &desired) };
        apply(&mut actual, &plan);
        prop_assert_eq!(actual, desired);
    }
}
