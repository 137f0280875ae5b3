//! Which of the live nodes writes a Service's Events. Pure.
//!
//! Every agent answers for itself and they agree, as far as they agree on who is alive: of all nodes the one whose name
//! gives the highest number with the Service's (rendezvous hashing, Thaler and Ravishankar 1996). When a node goes, only
//! its Services get another one.

use plimsoll_core::service::NodeName;

/// The node that writes what is to be told of a Service.
pub(super) fn appointed<'a>(
    service: &str,
    live: impl IntoIterator<Item = &'a NodeName>,
) -> Option<&'a NodeName> {
    live.into_iter().max_by_key(|node| (number(&[node.as_str(), service]), *node))
}

/// A number that is the same wherever and by whichever version of the agent it is made: FNV-1a, and the finishing of
/// `MurmurHash3`, without which names that differ in their end alone would all fall to the same node.
pub(super) fn number(words: &[&str]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0xff]));
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn nodes(count: usize) -> Vec<NodeName> {
        (0..count).map(|node| NodeName::new(&format!("node-{node}"))).collect()
    }

    fn services() -> Vec<String> {
        (0..1000).map(|service| format!("shop/web-{service}")).collect()
    }

    #[test]
    fn all_have_their_share_and_only_those_of_the_one_that_goes_move() {
        let (mut live, services) = (nodes(10), services());
        let before: Vec<NodeName> =
            services.iter().map(|service| appointed(service, &live).unwrap().clone()).collect();
        let mut shares: BTreeMap<&NodeName, usize> = BTreeMap::new();
        for node in &before {
            *shares.entry(node).or_default() += 1;
        }
        assert_eq!(shares.len(), 10);
        assert!(shares.values().all(|share| (60..150).contains(share)), "{shares:?}");

        let gone = live.remove(3);
        for (service, before) in services.iter().zip(&before) {
            let after = appointed(service, &live).unwrap();
            assert!(after == before || *before == gone, "{service} moved from {before} to {after}");
        }
    }

    #[test]
    fn the_order_of_the_nodes_means_nothing() {
        let (live, services) = (nodes(7), services());
        let other: Vec<NodeName> = live.iter().rev().cloned().collect();
        for service in &services {
            assert_eq!(appointed(service, &live), appointed(service, &other));
        }
        assert_eq!(appointed("shop/web", []), None);
    }

    #[test]
    fn the_numbers_stay_what_they_are() {
        // Agents of two versions have to agree.
        assert_eq!(number(&["node-1", "shop/web"]), 6_215_481_649_354_314_240);
        assert_ne!(number(&["ab", "c"]), number(&["a", "bc"]));
    }
}
