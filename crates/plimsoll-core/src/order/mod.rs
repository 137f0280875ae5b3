//! The order of choices in a kernel that can only count: each endpoint owns an interval of steps, and a counter
//! run through bit reversal (the van der Corput sequence) visits the intervals close to smooth weighted round
//! robin. How close depends on where an interval lies; so they are laid where none is visited too often or too
//! seldom at any time.

mod stray;
mod place;
#[cfg(test)]
mod tests;

/// The least number of steps.
const LEAST_STEPS: u32 = 1024;
/// Steps per endpoint, so that weights are kept to a percent or two.
const STEPS_PER_ENDPOINT: usize = 64;
/// The largest number of steps: the dataplane carries a step in 16 bits, and a power of two above this would need
/// one more.
const MOST_STEPS: u32 = 32_768;

/// The most endpoints a list may have: each must be able to weigh less than another.
pub const MAX_ENDPOINTS: usize = MOST_STEPS as usize / 2;

/// The number of steps `W` for so many endpoints: the smallest power of two that is at least 1,024 and at least 64
/// per endpoint, at most 32,768; `None` when there are more than `W / 2` endpoints, too many to weigh.
pub fn steps(endpoints: usize) -> Option<u32> {
    let wanted = endpoints.saturating_mul(STEPS_PER_ENDPOINT).min(MOST_STEPS as usize) as u32;
    let steps = wanted.next_power_of_two().max(LEAST_STEPS);
    (endpoints <= steps as usize / 2).then_some(steps)
}

/// The step, 1 to `steps`, that the counter's value `i` (below `steps`, a power of two) leads to on the node with
/// this offset. Offsets below `steps` keep nodes out of step with each other; steps start at 1 because some
/// dataplanes cannot hold a 0.
pub fn value(i: u32, steps: u32, offset: u32) -> u32 {
    (reversed(i, steps) ^ (offset & (steps - 1))) + 1
}

fn reversed(i: u32, steps: u32) -> u32 {
    // A single step has no bits to reverse.
    if steps == 1 { 0 } else { i.reverse_bits() >> (u32::BITS - steps.trailing_zeros()) }
}

/// Steps next to each other that lead to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Which endpoint, as the index of its weight.
    pub endpoint: usize,
    /// How many steps; never 0.
    pub steps: u32,
}

/// The intervals of the endpoints, in order from step 1, together `steps` steps (a power of two), on the node with
/// this offset. Each weight above 0 has one, but the last may belong to the endpoint of the first. There must be a
/// weight above 0 and no more of them than steps. `last` are the intervals of the same endpoints with the weights
/// before, or none.
pub fn lay_out(weights: &[u32], steps: u32, offset: u32, last: &[Interval]) -> Vec<Interval> {
    let parts = parts(weights, steps);
    let circle = place::Circle { steps, offset };
    circle.keep(&parts, last).unwrap_or_else(|| circle.place(&parts))
}

/// How many of `steps` steps each endpoint gets: in proportion to its weight by largest remainder, at least one
/// for each weight above 0, none for 0; the sum is exactly `steps`. There must be a weight above 0 and no more of
/// them than steps.
pub fn parts(weights: &[u32], steps: u32) -> Vec<u32> {
    let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    let wanted = |weight: u32| u64::from(weight) * u64::from(steps);
    let mut parts: Vec<u32> =
        weights.iter().map(|&weight| ((wanted(weight) / total) as u32).max(u32::from(weight > 0))).collect();
    let mut given: u32 = parts.iter().sum();
    // What is missing goes to the largest remainders; what is too much (least steps) comes from those that have
    // most above what they are due.
    let mut order: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0).collect();
    if given < steps {
        order.sort_by_key(|&i| (std::cmp::Reverse(wanted(weights[i]) % total), i));
        for &i in order.iter().cycle().take((steps - given) as usize) {
            parts[i] += 1;
        }
    }
    while given > steps {
        let excess = |i: usize| i64::from(parts[i]) * total as i64 - wanted(weights[i]) as i64;
        let Some(&most) = order.iter().filter(|&&i| parts[i] > 1).max_by_key(|&&i| excess(i)) else {
            break;
        };
        parts[most] -= 1;
        given -= 1;
    }
    parts
}
