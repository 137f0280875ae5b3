//! The API's objects for a Service of the table: the Service itself, its slices, its load balancer's status.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::table::{Endpoint, Service};

/// The label by which agents know what is theirs.
pub const LABEL: &str = "plimsoll.dev/balance";
/// The namespace of everything here.
pub const NAMESPACE: &str = "default";
/// The first port of a Service, and the second of those that have one.
pub const PORTS: [u16; 2] = [80, 9090];
/// Where endpoints listen: so many ports from these on, one of each for each Service, so that none counts another's
/// connections.
pub const LISTEN: [u16; 2] = [8000, 9000];

/// Where the endpoints of a Service listen, for its first and its second port.
pub fn at_endpoint(service: &Service) -> [u16; 2] {
    LISTEN.map(|first| first + service.number as u16)
}

/// An address of a Service, by its kind and its number in the table.
fn address(v4: [u8; 2], v6: &str, number: usize, is_v6: bool) -> IpAddr {
    let number = u8::try_from(number).expect("the table has fewer than 256 Services");
    if is_v6 {
        let network: Ipv6Addr = v6.parse().expect("the address plan gives valid addresses");
        Ipv6Addr::from(u128::from(network) | (0x100 + u128::from(number))).into()
    } else {
        Ipv4Addr::new(v4[0], v4[1], 1, number).into()
    }
}

/// Its cluster address.
pub fn cluster_ip(service: &Service, v6: bool) -> IpAddr {
    address([10, 96], "fd96::", service.number, v6)
}

/// Its external address.
pub fn external_ip(service: &Service, v6: bool) -> IpAddr {
    address([198, 18], "fd98::", service.number, v6)
}

/// Its load balancer's address.
pub fn load_balancer_ip(service: &Service, v6: bool) -> IpAddr {
    address([198, 19], "fd99::", service.number, v6)
}

/// An address of the Services' network that no Service has.
pub fn unallocated_ip(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0xfafa).into() } else { [10, 96, 250, 250].into() }
}

/// The node port that goes with a port.
pub fn node_port(service: &Service, port: u16) -> u16 {
    30_000 + 2 * service.number as u16 + u16::from(port == PORTS[1])
}

/// The node port at which kube-proxy tells whether it has an endpoint on the node.
pub fn health_port(service: &Service) -> u16 {
    32_000 + service.number as u16
}

/// What an endpoint is in the API.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its addresses, IPv4 and IPv6.
    pub addresses: [IpAddr; 2],
    /// The node it is on, with its zone.
    pub node: Option<(String, String)>,
}

/// The manifest of a Service. `addresses_of` gives those of a host of the rig, for source ranges.
pub fn service(service: &Service, addresses_of: impl Fn(&str) -> [IpAddr; 2]) -> String {
    let mut spec = String::new();
    let families: Vec<bool> = service.families().collect();
    if !service.is("no-selector") {
        let _ = writeln!(spec, "  selector: {{app: {}}}", service.name);
    }
    if service.is("external-name") {
        let _ = writeln!(spec, "  type: ExternalName\n  externalName: example.org");
        return head(service) + &spec;
    }
    let kind = match () {
        () if service.is("load-balancer") || service.is("lb-proxy") => "LoadBalancer",
        () if service.is("node-port") => "NodePort",
        () => "ClusterIP",
    };
    let _ = writeln!(spec, "  type: {kind}");
    if service.is("headless") {
        let _ = writeln!(spec, "  clusterIP: None");
    } else {
        let addresses: Vec<String> = families.iter().map(|v6| quoted(cluster_ip(service, *v6))).collect();
        let _ = writeln!(spec, "  clusterIP: {}\n  clusterIPs: [{}]", addresses[0], addresses.join(", "));
    }
    let names: Vec<&str> = families.iter().map(|v6| if *v6 { "IPv6" } else { "IPv4" }).collect();
    let policy = if families.len() == 2 { "RequireDualStack" } else { "SingleStack" };
    let _ = writeln!(spec, "  ipFamilyPolicy: {policy}\n  ipFamilies: [{}]", names.join(", "));
    if service.is("external-ip") {
        let addresses: Vec<String> = families.iter().map(|v6| quoted(external_ip(service, *v6))).collect();
        let _ = writeln!(spec, "  externalIPs: [{}]", addresses.join(", "));
    }
    if service.is("external-local") {
        let _ = writeln!(spec, "  externalTrafficPolicy: Local");
        if kind == "LoadBalancer" {
            let _ = writeln!(spec, "  healthCheckNodePort: {}", health_port(service));
        }
    }
    if service.is("internal-local") {
        let _ = writeln!(spec, "  internalTrafficPolicy: Local");
    }
    if let Some(seconds) = service.affinity {
        let _ = writeln!(
            spec,
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}"
        );
    }
    if service.is("no-node-ports") {
        let _ = writeln!(spec, "  allocateLoadBalancerNodePorts: false");
    }
    if service.is("publish") {
        let _ = writeln!(spec, "  publishNotReadyAddresses: true");
    }
    if !service.ranges.is_empty() {
        let ranges = service.ranges.iter().flat_map(|name| {
            let [v4, v6] = addresses_of(name);
            [format!("{v4}/32"), format!("'{v6}/128'")]
        });
        let _ = writeln!(spec, "  loadBalancerSourceRanges: [{}]", ranges.collect::<Vec<_>>().join(", "));
    }
    head(service) + &spec + &ports(service)
}

fn head(service: &Service) -> String {
    let mut labels = Vec::new();
    labels.extend(balance(service));
    if service.is("headless-label") {
        labels.push("service.kubernetes.io/headless: ''".into());
    }
    if service.is("proxy-name") {
        labels.push("service.kubernetes.io/service-proxy-name: another".into());
    }
    // Equal shares, so that few connections show all endpoints.
    let policy = if service.is("waterline") { "waterline" } else { "equal" };
    let mut annotations = format!("plimsoll.dev/policy: {policy}");
    if service.is("take-over") {
        annotations.push_str(", plimsoll.dev/affinity: take-over");
    }
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: {NAMESPACE}\n  \
         labels: {{{}}}\n  annotations: {{{annotations}}}\nspec:\n",
        service.name,
        labels.join(", ")
    )
}

/// The label, if the Service has one.
fn balance(service: &Service) -> Option<String> {
    let word = match () {
        () if service.is("unlabelled") => return None,
        () if service.is("disabled") => "disabled",
        () if service.is("observe") => "observe",
        () => "enabled",
    };
    Some(format!("{LABEL}: {word}"))
}

/// Name, number and number at the endpoint of each port. Two protocols at one port are two ports to the API.
fn ports_of(service: &Service) -> Vec<(String, u16, u16, &'static str)> {
    let mut ports = Vec::new();
    let [first, second] = at_endpoint(service);
    for (index, protocol) in service.protocols.iter().enumerate() {
        let name = match index {
            _ if service.is("unnamed") => String::new(),
            0 => "first".into(),
            _ => format!("first-{}", protocol.name().to_lowercase()),
        };
        ports.push((name, PORTS[0], first, protocol.name()));
    }
    if service.is("two-ports") {
        ports.push(("second".into(), PORTS[1], second, service.protocols[0].name()));
    }
    ports
}

fn ports(service: &Service) -> String {
    let mut text = String::from("  ports:\n");
    for (name, port, at_endpoint, protocol) in ports_of(service) {
        // By name where it has one, as most Services do: what counts is what the slices say.
        let at_endpoint = if name == "first" { "web".to_owned() } else { at_endpoint.to_string() };
        let _ = write!(text, "  - {{port: {port}, protocol: {protocol}, targetPort: {at_endpoint}");
        if !name.is_empty() {
            let _ = write!(text, ", name: {name}");
        }
        if service.has_node_ports() {
            let _ = write!(text, ", nodePort: {}", node_port(service, port));
        }
        text.push_str("}\n");
    }
    text
}

/// The status of a Service with a load balancer.
pub fn status(service: &Service) -> Option<String> {
    let mode = match () {
        () if service.is("load-balancer") => "VIP",
        () if service.is("lb-proxy") => "Proxy",
        () => return None,
    };
    let ingress =
        service.families().map(|v6| format!("{{ip: '{}', ipMode: {mode}}}", load_balancer_ip(service, v6)));
    Some(format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {}, namespace: {NAMESPACE}}}\n\
         status: {{loadBalancer: {{ingress: [{}]}}}}\n",
        service.name,
        ingress.collect::<Vec<_>>().join(", ")
    ))
}

/// The slices of a Service, one for each family (two where they are given twice).
pub fn slices(service: &Service, listed: impl Fn(&str) -> Listed) -> String {
    let copies: &[&str] = if service.is("twice") { &["", "-again"] } else { &[""] };
    let mut text = String::new();
    for copy in copies {
        for v6 in service.families() {
            text.push_str(&slice(service, v6, copy, &listed));
        }
    }
    text
}

fn slice(service: &Service, v6: bool, copy: &str, listed: impl Fn(&str) -> Listed) -> String {
    let family = if v6 { "IPv6" } else { "IPv4" };
    let mut labels = format!("kubernetes.io/service-name: {}", service.name);
    // As the cluster's controller does it for a Service with a selector.
    if let Some(label) = balance(service).filter(|_| !service.is("no-selector")) {
        let _ = write!(labels, ", {label}");
    }
    if service.is("headless") {
        labels.push_str(", service.kubernetes.io/headless: ''");
    }
    let ports = ports_of(service).into_iter().map(|(name, _, number, protocol)| {
        let name = if service.is("misnamed") { "other".to_owned() } else { name };
        format!("{{name: '{name}', port: {number}, protocol: {protocol}}}")
    });
    let endpoints = service.endpoints.iter().filter(|e| e.only_v6.is_none_or(|only| only == v6));
    let endpoints = endpoints.map(|e| endpoint(e, &listed(&e.name), v6));
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
         metadata: {{name: {}-{}{copy}, namespace: {NAMESPACE}, labels: {{{labels}}}}}\n\
         ports: [{}]\nendpoints: [{}]\n",
        service.name,
        family.to_lowercase(),
        ports.collect::<Vec<_>>().join(", "),
        endpoints.collect::<Vec<_>>().join(", ")
    )
}

fn endpoint(endpoint: &Endpoint, listed: &Listed, v6: bool) -> String {
    let mut text = format!("{{addresses: [{}]", quoted(listed.addresses[usize::from(v6)]));
    if let Some([ready, serving, terminating]) = endpoint.conditions {
        let _ =
            write!(text, ", conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}");
    }
    if let Some((node, zone)) = &listed.node {
        let _ = write!(text, ", nodeName: {node}, zone: {zone}");
        let _ = write!(text, ", targetRef: {{kind: Pod, name: {}, namespace: {NAMESPACE}}}", endpoint.name);
    }
    let mut hints = Vec::new();
    hints.extend(endpoint.for_zone.as_ref().map(|zone| format!("forZones: [{{name: {zone}}}]")));
    hints.extend(endpoint.for_node.as_ref().map(|node| format!("forNodes: [{{name: {node}}}]")));
    if !hints.is_empty() {
        let _ = write!(text, ", hints: {{{}}}", hints.join(", "));
    }
    text + "}"
}

fn quoted(address: IpAddr) -> String {
    format!("'{address}'")
}
