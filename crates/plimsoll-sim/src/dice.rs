//! Random numbers that are the same on every machine: one seed, separate streams, and floating point from `libm`.

/// A stream of random numbers.
///
/// Source: xoshiro256++ 1.0 by D. Blackman and S. Vigna, "Scrambled linear pseudorandom number generators", ACM
/// Transactions on Mathematical Software 47, 2021; seeded by `SplitMix64`, as its authors advise.
#[derive(Clone, Debug)]
pub struct Dice {
    state: [u64; 4],
}

impl Dice {
    /// The stream of this number of a seed. Streams with different numbers have nothing to do with each other, so
    /// that one more draw in one of them leaves the others as they were.
    pub fn new(seed: u64, stream: u64) -> Dice {
        let mut x = seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03);
        let mut next = || {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Dice { state: [next(), next(), next(), next()] }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// Evenly spread over `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// A whole number below `count`, each as likely as the others (to within 2^-64 of each other).
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// Evenly spread between two values.
    pub fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.unit()
    }

    /// Exponentially distributed with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * libm::log(1.0 - self.unit())
    }

    /// Normally distributed with mean 0 and standard deviation 1 (Box and Muller's way).
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }

    /// Log-normally distributed with this mean and this standard deviation of the logarithm.
    pub fn log_normal(&mut self, mean: f64, sigma: f64) -> f64 {
        mean * libm::exp(sigma * self.normal() - sigma * sigma / 2.0)
    }

    /// The length of a log-normally distributed span that is met at a random moment: long spans are met more often.
    pub fn log_normal_met(&mut self, mean: f64, sigma: f64) -> f64 {
        mean * libm::exp(sigma * self.normal() + sigma * sigma / 2.0)
    }

    /// How many events of a Poisson process happen where `mean` are expected.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 200.0 {
            return libm::round(mean + libm::sqrt(mean) * self.normal()).max(0.0) as u64;
        }
        let limit = libm::exp(-mean);
        let mut product = self.unit();
        let mut events = 0;
        while product > limit {
            product *= self.unit();
            events += 1;
        }
        events
    }

    /// An index with a chance in proportion to its weight, given the running sums of the weights.
    pub fn weighted(&mut self, sums: &[f64]) -> usize {
        let all = sums.last().copied().unwrap_or(0.0);
        let point = self.unit() * all;
        sums.partition_point(|sum| *sum <= point).min(sums.len().saturating_sub(1))
    }

    /// Puts the values into a random order.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_these_on_every_machine() {
        let mut dice = Dice::new(1, 0);
        let words: Vec<u64> = (0..3).map(|_| dice.bits()).collect();
        assert_eq!(words, [0xcfc5_d07f_6f03_c29b, 0xbf42_4132_963f_e08d, 0x19a3_7d57_57aa_f520]);
        assert_ne!(Dice::new(1, 1).bits(), words[0]);
        assert_eq!(format!("{:?}", dice.log_normal(2.0, 0.7)), "2.486029150878825");
    }

    /// The mean of many draws, which must lie within `within` of what is expected.
    fn mean(expected: f64, within: f64, mut draw: impl FnMut(&mut Dice) -> f64) {
        let mut dice = Dice::new(7, 3);
        let draws = 200_000;
        let mean = (0..draws).map(|_| draw(&mut dice)).sum::<f64>() / f64::from(draws);
        assert!((mean - expected).abs() < within, "{mean} instead of {expected}");
    }

    #[test]
    fn distributions_have_their_means() {
        mean(0.5, 0.005, Dice::unit);
        mean(2.0, 0.03, |dice| dice.exponential(2.0));
        mean(0.0, 0.01, Dice::normal);
        mean(1.0, 0.02, |dice| libm::pow(dice.normal(), 2.0));
        mean(3.0, 0.1, |dice| dice.log_normal(3.0, 1.0));
        mean(3.0 * libm::exp(1.0), 0.3, |dice| dice.log_normal_met(3.0, 1.0));
        mean(4.5, 0.05, |dice| dice.below(10) as f64);
        mean(3.0, 0.05, |dice| dice.poisson(3.0) as f64);
        mean(900.0, 0.5, |dice| dice.poisson(900.0) as f64);
        mean(1.5, 0.01, |dice| dice.weighted(&[1.0, 1.0, 4.0]) as f64);
    }

    #[test]
    fn an_endpoint_without_weight_is_never_drawn() {
        let mut dice = Dice::new(2, 0);
        assert!((0..10_000).all(|_| [1, 3].contains(&dice.weighted(&[0.0, 1.0, 1.0, 2.0]))));
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut values: Vec<u32> = (0..50).collect();
        Dice::new(3, 0).shuffle(&mut values);
        assert_ne!(values, (0..50).collect::<Vec<_>>());
        values.sort_unstable();
        assert_eq!(values, (0..50).collect::<Vec<_>>());
    }
}
