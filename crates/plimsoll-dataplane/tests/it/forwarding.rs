//! What a node drops that comes through it, by the policy that iptables or nft gave the chain.

use plimsoll_core::service::Family;
use plimsoll_dataplane::forwarding::dropped;

use crate::namespace::{in_namespace, load};

#[test]
fn what_a_node_drops_is_the_policy_of_iptables() {
    in_namespace(|| {
        assert_eq!(dropped(), []);
        let chain = |family: &str, table: &str, policy: &str| {
            load(&format!(
                "table {family} {table} {{ chain FORWARD {{ type filter hook forward priority filter; policy {policy}; }}; }}"
            ))
            .unwrap();
        };
        chain("ip", "filter", "drop");
        assert_eq!(dropped(), [Family::V4]);
        chain("ip", "filter", "accept");
        chain("ip6", "filter", "drop");
        assert_eq!(dropped(), [Family::V6]);
        // Nobody's accept helps there.
        chain("ip", "other", "drop");
        assert_eq!(dropped(), [Family::V6]);
    });
}
