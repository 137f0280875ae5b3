//! Which part of the CPU follows new connections (`phi_y`), and which stays with old ones: seen from how the CPU of
//! the endpoints goes with either.
//!
//! With the parts `u`, `f` and `g` that an endpoint has of the group's CPU, of the new connections and of the old ones,
//! `u = phi f + (1 - phi) g` but for noise. Shares move the new connections about, so `f - g` differs between endpoints
//! and over time, and least squares of `u - g` over `f - g` tell `phi`. Noise in `g` draws the result towards 1, the
//! safe side; chance in `f` does not draw it towards 0 as long as CPU and rates are filtered alike, since CPU follows
//! the connections that really came.

use super::fill::Vessel;

/// What was seen longer ago than this, in seconds, is forgotten.
const SECONDS: f64 = 20.0;
/// How much is to be seen before it counts as much as the assumption that all CPU follows new connections: as if the
/// new connections had gone for so many seconds where no old one is.
const DOUBT: f64 = 1.0;

/// What was seen of one group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// The sum of squares of `f - g`, and that of its products with `u - g`, times the endpoints and the seconds.
    moved: f64,
    followed: f64,
}

impl Traffic {
    /// The part of the CPU in use that young connections carry, 0 to 1; 1 where nothing tells.
    pub(super) fn of_young(self) -> f64 {
        ((self.followed + DOUBT) / (self.moved + DOUBT)).clamp(0.0, 1.0)
    }

    /// Takes note of the figures now, `elapsed` seconds after the last time.
    pub(super) fn observe(&mut self, vessels: &[Vessel], elapsed: f64) {
        let keep = libm::exp(-elapsed / SECONDS);
        self.moved *= keep;
        self.followed *= keep;
        let (mut cpu, mut opens, mut old) = (0.0, 0.0, 0.0);
        for vessel in vessels {
            cpu += vessel.cpu;
            opens += vessel.opens;
            old += vessel.open - vessel.young;
        }
        if cpu <= 0.0 || opens <= 0.0 || old <= 0.0 {
            return;
        }
        // As much as is forgotten: one look after a long pause says no more than one.
        let weight = SECONDS * (1.0 - keep) * vessels.len() as f64;
        for vessel in vessels.iter().filter(|vessel| !vessel.cpu_guessed) {
            let stays = (vessel.open - vessel.young) / old;
            let moved = vessel.opens / opens - stays;
            self.moved += weight * moved * moved;
            self.followed += weight * moved * (vessel.cpu / cpu - stays);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is learned in 30 s from endpoints whose CPU follows new connections to this part.
    fn learned(phi: f64, old: f64) -> f64 {
        let mut traffic = Traffic::default();
        for tick in 0..60 {
            // Every endpoint in turn gets most of the new connections.
            let opens = |endpoint: usize| if endpoint == tick / 4 % 4 { 7.0 } else { 1.0 };
            let stay = |endpoint: usize| if endpoint == 0 { 2.0 * old } else { old };
            let vessels: Vec<_> = (0..4)
                .map(|endpoint| Vessel {
                    opens: opens(endpoint),
                    open: stay(endpoint) + 3.0,
                    young: 3.0,
                    cpu: if old > 0.0 {
                        phi * opens(endpoint) / 10.0 + (1.0 - phi) * stay(endpoint) / (5.0 * old)
                    } else {
                        opens(endpoint) / 10.0
                    },
                    ..Vessel::default()
                })
                .collect();
            traffic.observe(&vessels, 0.5);
        }
        traffic.of_young()
    }

    #[test]
    fn what_cpu_follows_is_learned_in_half_a_minute() {
        for phi in [0.0, 0.3, 0.7, 1.0] {
            let learned = learned(phi, 20.0);
            assert!((learned - phi).abs() < 0.1, "{learned} is not {phi}");
        }
    }

    #[test]
    fn one_look_after_a_long_pause_does_not_outweigh_the_rest() {
        let mut traffic = Traffic::default();
        let vessel = |opens, open, cpu| Vessel { open, opens, cpu, ..Vessel::default() };
        let follows_old = [vessel(9.0, 1.0, 1.0), vessel(1.0, 9.0, 9.0)];
        traffic.observe(&follows_old, 3600.0);
        let after_a_pause = traffic.of_young();
        (0..200).for_each(|_| traffic.observe(&follows_old, 0.5));
        assert!(traffic.of_young() <= after_a_pause, "{} {after_a_pause}", traffic.of_young());
        let follows_new = [vessel(9.0, 1.0, 9.0), vessel(1.0, 9.0, 1.0)];
        (0..100).for_each(|_| traffic.observe(&follows_new, 0.5));
        assert!(traffic.of_young() > 0.9, "{}", traffic.of_young());
    }

    #[test]
    fn without_old_connections_or_any_difference_all_cpu_follows_new_ones() {
        assert!(learned(1.0, 0.0) >= 1.0);
        let mut traffic = Traffic::default();
        let alike = [Vessel { opens: 1.0, open: 10.0, cpu: 1.0, ..Vessel::default() }; 3];
        traffic.observe(&alike, 100.0);
        assert!(traffic.of_young() >= 1.0);
        traffic.observe(&[Vessel::default(); 3], 1.0);
        assert!(traffic.of_young() >= 1.0);
    }
}
