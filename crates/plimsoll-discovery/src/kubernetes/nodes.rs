//! The nodes with an agent: this one by its Node, the others by the endpoints of the Service of the agents. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_core::service::NodeName;

use super::object;
use crate::Node;

/// The nodes with an agent, by name. An agent has an endpoint in each family of its Service.
pub(super) fn listed<'a>(
    name: &NodeName,
    node: Option<&object::Node>,
    agents: impl Iterator<Item = &'a object::Agents>,
) -> Arc<[Node]> {
    let own = node.map(|node| Node {
        name: name.clone(),
        zone: node.zone.clone(),
        addresses: node.addresses.clone(),
    });
    let mut nodes: BTreeMap<NodeName, Node> = own.into_iter().map(|node| (node.name.clone(), node)).collect();
    for agent in agents.flat_map(|slice| &slice.nodes) {
        let node = nodes
            .entry(agent.name.clone())
            .or_insert_with(|| Node { addresses: Vec::new(), ..agent.clone() });
        // While one Pod takes another's place, there are two of them on a node.
        for address in &agent.addresses {
            if !node.addresses.contains(address) {
                node.addresses.push(*address);
            }
        }
    }
    nodes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, nodes: &[(&str, &str)]) -> object::Agents {
        let node = |(name, address): &(&str, &str)| Node {
            name: NodeName::new(name),
            zone: Some("b".into()),
            addresses: vec![address.parse().unwrap()],
        };
        object::Agents { name: name.into(), nodes: nodes.iter().map(node).collect() }
    }

    #[test]
    fn each_node_once_with_all_its_addresses() {
        let own = object::Node {
            zone: Some("a".into()),
            pod_ranges: Vec::new(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
        };
        let slices = [
            slice("v4-1", &[("n1", "192.0.2.1"), ("n2", "192.0.2.2")]),
            slice("v4-2", &[("n2", "192.0.2.2"), ("n3", "192.0.2.3")]),
            slice("v6", &[("n2", "2001:db8::2")]),
        ];
        let listed = listed(&NodeName::new("n1"), Some(&own), slices.iter());
        let text =
            |node: &Node| format!("{} {:?} {:?}", node.name, node.zone.as_deref().unwrap(), node.addresses);
        let listed: Vec<String> = listed.iter().map(text).collect();
        assert_eq!(
            listed,
            ["n1 \"a\" [192.0.2.1]", "n2 \"b\" [192.0.2.2, 2001:db8::2]", "n3 \"b\" [192.0.2.3]"]
        );
    }

    #[test]
    fn nobody_is_listed_where_nobody_is_known() {
        assert!(listed(&NodeName::new("n1"), None, std::iter::empty()).is_empty());
    }
}
