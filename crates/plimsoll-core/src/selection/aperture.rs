//! The ring aperture: which part of the shares each node serves, so that each endpoint is fed by few nodes and a
//! node's own connections say more about it, while all nodes together still send the shares.
//!
//! Endpoints own arcs of the circle `[0, 1)` as long as their shares, nodes arcs as long as their part of the
//! traffic; a node's flow goes to the endpoints under its own arc blurred with a box of the aperture's width. The
//! idea is Finagle's deterministic aperture (Twitter, 2019), made continuous.

/// The least width, and the least number of endpoints that an aperture covers.
const LEAST_WIDTH: f64 = 0.25;
const LEAST_ENDPOINTS: f64 = 4.0;

/// What one node serves of the shares, summing to 1, into `parts`. Nodes and endpoints are told by keys that have
/// nothing to do with their order, such as hashes of their names, and that all nodes agree on. `nodes` has the key and
/// the connections per second of each node, `here` the place of this one; `endpoints` the key and share of each.
pub fn parts(nodes: &[(u64, f64)], here: usize, endpoints: &[(u64, f64)], parts: &mut Vec<f64>) {
    let mut ring: Vec<usize> = (0..nodes.len()).collect();
    ring.sort_by_key(|node| nodes[*node].0);
    let rates: Vec<f64> = ring.iter().map(|node| nodes[*node].1).collect();
    let arc = ring.iter().position(|node| *node == here).map_or((0.0, 1.0), |place| arcs(&rates)[place]);
    let mut order: Vec<usize> = (0..endpoints.len()).collect();
    order.sort_by_key(|endpoint| endpoints[*endpoint].0);
    let shares: Vec<f64> = order.iter().map(|endpoint| endpoints[*endpoint].1).collect();
    let mut served = Vec::new();
    masses(arc, &shares, width(shares.len(), LEAST_WIDTH, LEAST_ENDPOINTS), &mut served);
    let sum: f64 = served.iter().sum();
    parts.clear();
    parts.resize(endpoints.len(), 0.0);
    for (endpoint, (mass, share)) in order.iter().zip(served.iter().zip(&shares)) {
        parts[*endpoint] = if sum > 0.0 { mass / sum } else { *share };
    }
}

/// The aperture's width on the circle, 0 to 1: at least `least_width` and wide enough to cover `least_endpoints`
/// of `endpoints`. 1 means that all nodes serve all endpoints alike.
pub fn width(endpoints: usize, least_width: f64, least_endpoints: f64) -> f64 {
    least_width.max(least_endpoints / endpoints as f64).min(1.0)
}

/// The arc of each node, from and to, by the connections per second that each sends. A node that sends nothing
/// gets a fiftieth of the mean, so that its first connections find endpoints.
pub fn arcs(rates: &[f64]) -> Vec<(f64, f64)> {
    let sum: f64 = rates.iter().sum();
    let count = rates.len() as f64;
    // Without any traffic: all alike.
    let floor = if sum > 0.0 { 0.02 * sum / count } else { 1.0 };
    let total = sum + floor * count;
    let mut from = 0.0;
    rates
        .iter()
        .map(|rate| {
            let to = from + (rate + floor) / total;
            let arc = (from, to);
            from = to;
            arc
        })
        .collect()
}

/// The part of all connections that the node with this arc sends to each endpoint, `m_je`, into `masses`. Over
/// the endpoints they sum to the arc's length, over the nodes to the endpoint's share. `shares` sum to 1, in the
/// order that all nodes agree on.
pub fn masses(arc: (f64, f64), shares: &[f64], width: f64, masses: &mut Vec<f64>) {
    let (a, b) = arc;
    let ramp = |x: f64| x.max(0.0) * x.max(0.0) / 2.0;
    let blurred = |x: f64| ramp(x + width / 2.0) - ramp(x - width / 2.0);
    let mut from = 0.0;
    masses.clear();
    masses.extend(shares.iter().map(|share| {
        let (c, d) = (from, from + share);
        from = d;
        let turns = [-1.0, 0.0, 1.0];
        let mass = |i: f64| blurred(b - c - i) - blurred(b - d - i) - blurred(a - c - i) + blurred(a - d - i);
        (turns.into_iter().map(mass).sum::<f64>() / width).max(0.0)
    }));
}
