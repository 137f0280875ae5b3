//! How weights become steps: the number of steps, the width of each endpoint's interval, the order of the steps.

/// The fewest steps a Service has.
const LEAST: u32 = 1024;
/// The most: a step's number travels in the 16 minor bits of the packet's priority.
const MOST: u32 = 32_768;
/// Steps per endpoint below which shares become too coarse.
const PER_ENDPOINT: usize = 64;

/// How many steps a list of this many endpoints has: a power of two; `None` when there are too many endpoints for
/// each to get a fair share of the steps.
pub(super) fn steps(endpoints: usize) -> Option<u32> {
    let wanted = endpoints.checked_mul(PER_ENDPOINT)?.checked_next_power_of_two()?;
    let steps = u32::try_from(wanted).unwrap_or(MOST).clamp(LEAST, MOST);
    (endpoints <= steps as usize / 2).then_some(steps)
}

/// How many of the `steps` each weight gets: in proportion (largest remainder), at least one each, summing to
/// `steps`. There must be at least one weight, none 0, and at most `steps / 2` of them.
pub(super) fn lay_out(weights: &[u32], steps: u32) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    let exact = |weight: u32| u64::from(weight) * u64::from(steps);
    let mut widths: Vec<u32> = weights.iter().map(|&weight| (exact(weight) / sum).max(1) as u32).collect();
    let total: u32 = widths.iter().sum();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|&at| std::cmp::Reverse(exact(weights[at]) % sum));
    for &at in by_remainder.iter().cycle().take(steps.saturating_sub(total) as usize) {
        widths[at] += 1;
    }
    // The least steps of very small weights come from the widest.
    for _ in steps..total {
        let widest = (0..widths.len()).max_by_key(|&at| widths[at]).expect("there is a weight");
        widths[widest] -= 1;
    }
    widths
}

/// The step after `count` choices: the bits of the count reversed (a van der Corput sequence, which spreads any
/// interval evenly over time), turned by the node's own `offset`, and 1 more: priority 0 means "none".
pub(super) fn step(count: u32, steps: u32, offset: u16) -> u32 {
    let bits = steps.trailing_zeros();
    ((count.reverse_bits() >> (u32::BITS - bits)) ^ (u32::from(offset) & (steps - 1))) + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_grow_with_the_endpoints() {
        assert_eq!(
            [1, 16, 17, 512, 513, 16_384].map(steps),
            [1024, 1024, 2048, 32_768, 32_768, 32_768].map(Some)
        );
        assert_eq!(steps(16_385), None);
    }

    #[test]
    fn every_step_comes_once_and_evenly() {
        let mut seen: Vec<u32> = (0..1024).map(|count| step(count, 1024, 77)).collect();
        assert!(
            seen[..4].iter().map(|step| (step - 1) / 256).collect::<std::collections::BTreeSet<_>>().len()
                == 4
        );
        seen.sort_unstable();
        assert_eq!(seen, (1..=1024).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn widths_sum_and_none_is_zero(weights in proptest::collection::vec(1u32..100_000, 1..500)) {
            let steps = steps(weights.len()).unwrap();
            let widths = lay_out(&weights, steps);
            prop_assert_eq!(widths.iter().sum::<u32>(), steps);
            prop_assert!(widths.iter().all(|&width| width > 0));
        }
    }
}
