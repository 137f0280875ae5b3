//! How much an endpoint can take, read from how much CPU it uses and how often its tasks wait for it.
//!
//! Source: H. Sakasegawa, "An approximation formula", Annals of the Institute of Statistical Mathematics 29, 1977:
//! the probability of waiting in a queue with `c` servers of which `U` are busy on average is close to
//! `(U / c)^sqrt(2 (c + 1))`. CPU pressure is that probability, so usage and pressure tell `c`.

use super::Parameters;

/// Newton steps. The start is an upper bound and the function convex and rising, so each step comes closer from
/// above and doubles the correct digits; the tests hold it against bisection over the whole range.
const STEPS: usize = 5;

/// The capacity in cores at which `cpu` cores in use show this pressure: the `c >= cpu` with
/// `(cpu / c)^sqrt(2 (c + 1)) = pressure`. `cpu` is above 0, `pressure` above 0 and at most 1.
pub(super) fn from_pressure(cpu: f64, pressure: f64) -> f64 {
    // With u = ln(c / cpu): u sqrt(2 (c + 1)) = -ln(pressure).
    let wanted = -libm::log(pressure);
    let mut u = wanted / libm::sqrt(2.0 * (cpu + 1.0));
    for _ in 0..STEPS {
        let c = cpu * libm::exp(u);
        let root = libm::sqrt(2.0 * (c + 1.0));
        let excess = u * root - wanted;
        u = (u - excess / (root + u * c / root)).max(0.0);
    }
    cpu * libm::exp(u)
}

/// What is known of one endpoint when its capacity is estimated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// CPU in use, in cores.
    pub(super) cpu: f64,
    /// CPU pressure, 0 to 1; `None` where nobody knows.
    pub(super) pressure: Option<f64>,
    /// The nominal capacity `c0`.
    pub(super) nominal: f64,
    /// Whether the nominal capacity is a promise.
    pub(super) trusted: bool,
}

/// The next estimate after `capacity`. `gain` is the filter's: `1 - exp(-dt / capacity_seconds)`.
pub(super) fn follow(parameters: &Parameters, capacity: f64, usage: Usage, gain: f64) -> f64 {
    let Usage { cpu, pressure, nominal, trusted } = usage;
    let mut c = capacity;
    if let Some(pressure) = pressure {
        let towards_nominal = |c: f64| if trusted { c + gain / 2.0 * (nominal - c) } else { c };
        if cpu > 0.02 * nominal {
            let floor = parameters.pressure_floor;
            let shown = from_pressure(cpu, pressure.max(floor));
            if pressure > floor {
                c += gain * (shown - c);
            } else {
                c = towards_nominal(c);
                // At least what would have shown pressure at the floor.
                if c < shown {
                    c += gain * (shown - c);
                }
            }
        } else {
            // Idle, it shows nothing: and one that was once thought too small would be kept idle by that.
            c = towards_nominal(c);
            if !trusted && c < nominal {
                c += gain / 2.0 * (nominal - c);
            }
        }
        if pressure > 0.2 && cpu > 0.01 * nominal {
            c = c.min(cpu / pressure);
        }
    }
    c.max(cpu).max(0.05 * nominal)
}
