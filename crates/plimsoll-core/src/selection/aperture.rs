//! The ring aperture: which part of the shares each node serves, so that each endpoint is fed by few nodes and a
//! node's own connections say more about it, while all nodes together still send the shares.
//!
//! Endpoints own arcs of the circle `[0, 1)` as long as their shares, nodes arcs as long as their part of the
//! traffic; a node's flow goes to the endpoints under its own arc blurred with a box of the aperture's width. The
//! idea is Finagle's deterministic aperture (Twitter, 2019), made continuous.

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
