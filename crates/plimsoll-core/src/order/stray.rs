//! How far the visits of an interval of steps are away from its exact share.
//!
//! The first `n` values of the van der Corput sequence are blocks of a power of two, one for each 1 in `n`. A block
//! has one value in each cell of a grid, and where it lies in its cell follows from the digits of `n` above. So
//! only the two cells at the interval's ends matter, and of those only whether the value lies before the end. That
//! answer is passed on from digit to digit, and the extremes over all `n` need one walk along the digits. The
//! decomposition is the usual proof that the sequence is of low discrepancy (H. Niederreiter, "Random number
//! generation and quasi-Monte Carlo methods", SIAM 1992, theorem 3.6).

/// The most that the connections to the steps from `from` to before `to` (around the end where `to` is not above
/// `from`) are away from their exact share, over all numbers of connections, in connections times `steps`, which are
/// at most 2^16.
pub(super) fn stray(from: u32, to: u32, steps: u32, offset: u32) -> i32 {
    // What is around the end strays as what is not; all of the circle does not stray at all.
    let digits = steps.trailing_zeros();
    // By whether the value so far lies before `from` (1) and before `to` (2): the extremes of what is visited too often.
    let mut least = [0, NOT_SEEN, NOT_SEEN, NOT_SEEN];
    let mut most = [0, -NOT_SEEN, -NOT_SEEN, -NOT_SEEN];
    for digit in (0..digits).rev() {
        let bit = digits - 1 - digit;
        let cell = (2u32 << bit) - 1;
        // What the block has in its cell before each end, if it lies there, less its part of it.
        let part = |end: u32| ((end & cell) << digit) as i32;
        let parts = part(from) - part(to);
        let bit_of = |x: u32| (x >> bit) & 1;
        let shift = bit_of(offset);
        let lies_before = |value: u32, end: u32, so_far: u32| {
            let (value, end) = (value ^ shift, bit_of(end));
            if value == end { so_far } else { u32::from(value < end) }
        };
        let state = |value: u32, so_far: u32| {
            lies_before(value, from, so_far & 1) | lies_before(value, to, so_far >> 1) << 1
        };
        let (mut next_least, mut next_most) = ([NOT_SEEN; 4], [-NOT_SEEN; 4]);
        for so_far in 0..4u32 {
            // The block of this digit has a 0 here; there is one only where the number has a 1.
            let block = state(0, so_far);
            let excess = parts + ((block >> 1) as i32 - (block & 1) as i32) * steps as i32;
            for (value, excess) in [(block, 0), (state(1, so_far), excess)] {
                let (so_far, value) = (so_far as usize, value as usize);
                next_least[value] = next_least[value].min(least[so_far] + excess);
                next_most[value] = next_most[value].max(most[so_far] + excess);
            }
        }
        (least, most) = (next_least, next_most);
    }
    (0..4).map(|state| most[state].max(-least[state])).max().unwrap_or_default()
}

/// The least of a state that no number leads to; what is added to it does not bring it near the others.
const NOT_SEEN: i32 = i32::MAX / 2;

#[cfg(test)]
mod tests {
    use super::super::value;
    use super::*;

    #[test]
    fn the_walk_finds_what_counting_finds() {
        for (steps, offset) in [(1u32, 0), (2, 1), (8, 0), (8, 5), (64, 0), (64, 0b10_1101)] {
            for from in 0..steps {
                for to in 0..steps {
                    let width = (to.wrapping_sub(from) & (steps - 1)) as i32;
                    let (mut visits, mut most) = (0, 0i32);
                    for count in 0..steps {
                        let step = value(count, steps, offset) - 1;
                        visits += i32::from(((step.wrapping_sub(from) & (steps - 1)) as i32) < width);
                        most = most.max((visits * steps as i32 - (count + 1) as i32 * width).abs());
                    }
                    assert_eq!(stray(from, to, steps, offset), most, "{from} to {to} of {steps}, {offset}");
                }
            }
        }
    }
}
