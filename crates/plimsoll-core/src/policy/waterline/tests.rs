//! Golden cases and laws of water-filling.

// Exact figures are meant to be exact.
#![allow(clippy::float_cmp)]

use proptest::prelude::*;

use super::capacity::{follow, from_pressure};
use super::fill::Flow;
use super::*;
use crate::load::Load;
use crate::policy::tests::{group, row};

const DEFAULTS: Situation = Situation {
    young_survive: 0.5,
    old_survive: 1.0,
    young_traffic: 1.0,
    load: false,
    delay: 1.0,
    floor: 0.02,
};

fn vessel(capacity: f64, open: f64, young: f64, cpu: f64, opens: f64) -> Vessel {
    Vessel { capacity, open, young, opens, cpu, ..Vessel::default() }
}

/// Shares with equal priors.
fn fill(situation: Situation, vessels: &mut [Vessel]) -> (Flow, Vec<Line>, Vec<Share>) {
    let parameters = Parameters::default();
    let count = vessels.len() as f64;
    for vessel in vessels.iter_mut() {
        vessel.prior = 1.0 / count;
    }
    let (mut lines, mut shares) = (vec![], vec![]);
    fill::targets(&parameters, situation.load, vessels);
    let flow = fill::lines(&parameters, &situation, vessels, &mut lines);
    fill::shares(vessels, &lines, &mut shares);
    (flow, lines, shares)
}

/// What a golden case holds the fill against.
struct Golden<'a> {
    omega: f64,
    phi: f64,
    flow: f64,
    target: &'a [f64],
    base: &'a [f64],
    least: &'a [f64],
    most: &'a [f64],
    share: &'a [f64],
}

fn check(situation: Situation, mut vessels: Vec<Vessel>, golden: &Golden<'_>) {
    let (flow, lines, shares) = fill(situation, &mut vessels);
    let near = |what: &str, a: &[f64], b: &[f64]| {
        assert!(
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5),
            "{what}: {a:?} is not {b:?}"
        );
    };
    near("flow", &[flow.omega, flow.phi, flow.size], &[golden.omega, golden.phi, golden.flow]);
    let of_lines = |f: &dyn Fn(&Line) -> f64| lines.iter().map(f).collect::<Vec<_>>();
    near("target", &shares.iter().map(|s| s.target).collect::<Vec<_>>(), golden.target);
    near("base", &of_lines(&|line| (line.slope - line.start) * flow.size), golden.base);
    near("least", &of_lines(&|line| line.least), golden.least);
    near("most", &of_lines(&|line| line.most), golden.most);
    near("share", &shares.iter().map(|s| s.share).collect::<Vec<_>>(), golden.share);
}

#[test]
fn golden_a_counts_only_equal_sizes() {
    check(
        Situation { young_survive: 0.5, old_survive: 0.98, ..DEFAULTS },
        [40.0, 25.0, 10.0].map(|n| vessel(1.0, n, 10.0, 0.0, 12.0)).to_vec(),
        &Golden {
            omega: 1.0,
            phi: 1.0,
            flow: 0.323_661,
            target: &[0.333_333; 3],
            base: &[0.389_509, 0.225_446, 0.061_384],
            least: &[0.006_667; 3],
            most: &[1.0; 3],
            share: &[0.006_667, 0.243_218, 0.750_115],
        },
    );
}

#[test]
fn golden_b_counts_only_a_new_endpoint() {
    check(
        Situation { young_survive: 0.25, old_survive: 0.99, ..DEFAULTS },
        vec![
            vessel(1.0, 30.0, 2.0, 0.0, 5.0),
            vessel(2.0, 60.0, 4.0, 0.0, 10.0),
            vessel(4.0, 120.0, 8.0, 0.0, 20.0),
            vessel(2.0, 0.0, 0.0, 0.0, 0.0),
        ],
        &Golden {
            omega: 1.0,
            phi: 1.0,
            flow: 0.061_165,
            target: &[0.111_111, 0.222_222, 0.444_444, 0.222_222],
            base: &[0.135_128, 0.267_903, 0.533_453, 0.002_352],
            least: &[0.002_222, 0.004_444, 0.008_889, 0.004_444],
            most: &[0.333_333, 0.666_667, 1.0, 0.666_667],
            share: &[0.025_641, 0.089_744, 0.217_949, 0.666_667],
        },
    );
}

/// Small endpoints do not look full because nobody has a connection yet.
#[test]
fn where_nothing_is_known_everybody_gets_its_capacity_share() {
    let sizes = [1.0, 2.0, 4.0, 64.0];
    let shares = fill(DEFAULTS, &mut sizes.map(|size| vessel(size, 0.0, 0.0, 0.0, 0.0))).2;
    for (share, size) in shares.iter().zip(sizes) {
        assert!((share.share - size / 71.0).abs() < 1e-9, "{shares:?}");
    }
}

#[test]
fn golden_c_with_cpu_short_requests() {
    check(
        Situation { young_survive: 0.0, load: true, ..DEFAULTS },
        vec![
            vessel(1.0, 2.0, 2.0, 0.9, 35.0),
            vessel(2.0, 3.0, 3.0, 1.2, 70.0),
            vessel(4.0, 6.0, 6.0, 2.4, 140.0),
        ],
        &Golden {
            omega: 0.2,
            phi: 1.0,
            flow: 0.973_913,
            target: &[0.096_366, 0.266_457, 0.637_177],
            base: &[0.051_790, -0.007_197, -0.018_506],
            least: &[0.001_927, 0.005_329, 0.012_744],
            most: &[0.289_098, 0.799_371, 1.0],
            share: &[0.045_770, 0.280_984, 0.673_246],
        },
    );
}

#[test]
fn golden_d_with_cpu_half_of_it_from_old_connections() {
    let vessels = [(60.0, 1.9), (40.0, 1.2), (40.0, 1.2), (20.0, 0.6)];
    check(
        Situation { young_survive: 0.1, old_survive: 0.99, young_traffic: 0.3, load: true, ..DEFAULTS },
        vessels.map(|(n, u)| vessel(2.0, n, 5.0, u, 10.0)).to_vec(),
        &Golden {
            omega: 0.2,
            phi: 0.45,
            flow: 0.435_248,
            target: &[0.25; 4],
            base: &[0.288_830, 0.150_040, 0.150_040, 0.027_576],
            least: &[0.005; 4],
            most: &[0.75; 4],
            share: &[0.005, 0.237_878, 0.237_878, 0.519_244],
        },
    );
}

#[test]
fn golden_e_capacity_from_pressure() {
    let cases = [
        (1.0, 0.03, 3.304_083),
        (1.0, 0.2, 1.941_645),
        (1.0, 0.6, 1.270_864),
        (1.0, 1.0, 1.0),
        (0.5, 0.5, 0.726_086),
        (3.0, 0.1, 5.642_589),
    ];
    for (cpu, pressure, expected) in cases {
        let c = from_pressure(cpu, pressure);
        assert!((c - expected).abs() < 1e-5, "{cpu} {pressure}: {c} is not {expected}");
    }
    let gain = 1.0 - libm::exp(-0.5 / 5.0);
    let step = |c, pressure| {
        let usage = Usage { cpu: 0.7, pressure: Some(pressure), nominal: 2.0, trusted: true };
        follow(&Parameters::default(), c, usage, gain)
    };
    let mut c = 2.0;
    let mut seen = vec![];
    for pressure in [0.9; 10].into_iter().chain([0.0; 10]) {
        c = step(c, pressure);
        seen.push(c);
    }
    for (index, expected) in
        [(0, 0.777_778), (1, 0.774_246), (9, 0.755_754), (10, 0.983_925), (19, 2.033_604)]
    {
        assert!((seen[index] - expected).abs() < 1e-5, "{index}: {} is not {expected}", seen[index]);
    }
}

#[test]
fn who_was_thought_too_small_is_not_kept_idle_by_that() {
    let gain = 1.0 - libm::exp(-0.5 / 5.0);
    let after = |trusted, start| {
        let usage = Usage { cpu: 0.001, pressure: Some(0.0), nominal: 4.0, trusted };
        (0..120).fold(start, |c, _| follow(&Parameters::default(), c, usage, gain))
    };
    for trusted in [false, true] {
        let c = after(trusted, 0.2);
        assert!(c > 3.9, "{c} a minute later, trusted: {trusted}");
    }
    assert_eq!(after(false, 16.0), 16.0, "what it once showed is not forgotten for a guess");
}

/// The capacity by bisection, straight from the formula.
fn bisected(cpu: f64, pressure: f64) -> f64 {
    let (mut low, mut high) = (cpu.max(1e-6), (cpu / pressure).max(1.0001 * cpu));
    for _ in 0..200 {
        let c = f64::midpoint(low, high);
        if libm::pow(cpu / c, libm::sqrt(2.0 * (c + 1.0))) > pressure {
            low = c;
        } else {
            high = c;
        }
    }
    low
}

#[derive(Clone, Debug)]
struct Case {
    vessels: Vec<Vessel>,
    situation: Situation,
}

fn case(load: bool, least: usize) -> impl Strategy<Value = Case> {
    let group = |most: u32| {
        let one =
            (0.5..4.5f64, 0..most, 0.0..1.0f64, 0.0..1.0f64, 0.0..20.0f64).prop_map(|(c, n, y, u, o)| {
                let n = n as f64;
                vessel(c, n, n * y, c * u, o)
            });
        prop::collection::vec(one, least..12)
    };
    // Many connections, and so few that each one counts.
    let vessels = prop_oneof![group(200), group(6)];
    (vessels, 0.0..1.0f64, 0.9..1.0f64, 0.0..1.0f64).prop_map(
        move |(vessels, young_survive, old_survive, young_traffic)| Case {
            vessels,
            situation: Situation { young_survive, old_survive, young_traffic, load, delay: 1.0, floor: 0.02 },
        },
    )
}

fn share_of(case: &Case, index: usize) -> f64 {
    fill(case.situation, &mut case.vessels.clone()).2[index].share
}

proptest! {
    #[test]
    fn capacity_agrees_with_bisection(cpu in -5.0..7.0f64, pressure in 0.01..1.0f64) {
        let cpu = libm::exp(cpu * core::f64::consts::LN_10 / 2.0);
        let (newton, bisected) = (from_pressure(cpu, pressure), bisected(cpu, pressure));
        prop_assert!((newton - bisected).abs() < 1e-9 * bisected, "{} {}", newton, bisected);
        prop_assert!(newton >= cpu && newton <= cpu / pressure * (1.0 + 1e-12));
    }

    // Invariant 1: the sum and the bounds.
    #[test]
    fn shares_keep_their_bounds(case in prop_oneof![case(false, 1), case(true, 1)]) {
        let (_, lines, shares) = fill(case.situation, &mut case.vessels.clone());
        prop_assert!((shares.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-9);
        for (line, share) in lines.iter().zip(&shares) {
            prop_assert!(share.share > 0.0);
            prop_assert!(share.share >= line.least - 1e-9 && share.share <= line.most + 1e-9);
        }
    }

    // Invariant 4.
    #[test]
    fn one_more_old_connection_attracts_nothing(case in case(false, 2)) {
        let mut more = case.clone();
        more.vessels[0].open += 1.0;
        prop_assert!(share_of(&more, 0) <= share_of(&case, 0) + 1e-9);
    }

    // Invariant 5.
    #[test]
    fn cpu_that_moves_here_attracts_nothing(case in case(true, 2), part in 0.0..1.0f64) {
        let mut moved = case.clone();
        let others: f64 = case.vessels[1..].iter().map(|v| v.cpu).sum();
        for vessel in &mut moved.vessels[1..] {
            vessel.cpu *= 1.0 - part;
        }
        moved.vessels[0].cpu += part * others;
        prop_assert!(share_of(&moved, 0) <= share_of(&case, 0) + 1e-9);
    }

    // Invariant 6.
    #[test]
    fn a_smaller_capacity_attracts_nothing(
        case in prop_oneof![case(false, 2), case(true, 2)],
        part in 0.3..1.0f64,
    ) {
        let mut smaller = case.clone();
        smaller.vessels[0].capacity = (case.vessels[0].capacity * part).max(case.vessels[0].cpu);
        prop_assert!(share_of(&smaller, 0) <= share_of(&case, 0) + 1e-9);
    }

    // Invariant 6.
    #[test]
    fn more_pressure_is_never_more_capacity(
        c in 0.5..4.5f64, cpu in 0.0..4.5f64, p in 0.0301..1.0f64, q in 0.0301..1.0f64, trusted in any::<bool>(),
    ) {
        let next = |pressure| {
            let usage = Usage { cpu, pressure: Some(pressure), nominal: 2.0, trusted };
            follow(&Parameters::default(), c, usage, 0.1)
        };
        prop_assert!(next(p.max(q)) <= next(p.min(q)) + 1e-12);
        prop_assert!(next(p) >= cpu);
    }

    // Invariant 7.
    #[test]
    fn only_relative_sizes_count(case in case(false, 1), by in 0.1..10.0f64) {
        let mut scaled = case.clone();
        for vessel in &mut scaled.vessels {
            vessel.capacity *= by;
        }
        for index in 0..case.vessels.len() {
            prop_assert!((share_of(&scaled, index) - share_of(&case, index)).abs() < 1e-9);
        }
    }
}

// Invariant 10: under common overload capacities become what is used, so shares stay near the flow shares.
#[test]
fn a_common_overload_moves_little() {
    let rows: Vec<Row> = (0..6)
        .map(|i| Row {
            capacity: Some(2.0),
            load: Load {
                open: 40.0,
                young: 40.0,
                opens_per_second: 20.0,
                cpu: Some(1.0 + 0.1 * i as f64),
                pressure: Some(0.95),
                ..Load::default()
            },
            ..row(i)
        })
        .collect();
    let mut policy = Waterline::new(&Parameters::default());
    let mut shares = vec![];
    for _ in 0..200 {
        policy.decide(&group(&rows), &mut shares);
    }
    for (row, share) in rows.iter().zip(&shares) {
        assert!((share.capacity / row.load.cpu.unwrap() - 1.0).abs() < 0.06, "{share:?}");
        assert!((share.share * 6.0 - 1.0).abs() < 0.35, "{share:?}");
    }
}

#[test]
fn survival_is_learnt_from_ages() {
    let mut survival = Survival::new();
    // 20 opened per horizon of 2 s, half of them live for a second one; of the 100 older ones 5 % end in each.
    for _ in 0..400 {
        survival.observe(Ages { open: 130.0, young: 20.0, middle: 10.0 }, 2.0, 0.5);
    }
    assert!((survival.of_young() - 0.5).abs() < 0.01, "{}", survival.of_young());
    // 110 were older than a horizon; 100 of now are older than two.
    assert!((survival.of_old() - 100.0 / 110.0).abs() < 1e-6, "{}", survival.of_old());
}

#[test]
fn endpoints_that_leave_do_not_look_like_connections_that_end() {
    let rows: Vec<Row> = (0..4)
        .map(|i| Row { load: Load { open: 100.0, opens_per_second: 1.0, ..Load::default() }, ..row(i) })
        .collect();
    let mut policy = Waterline::new(&Parameters::default());
    let mut shares = vec![];
    for _ in 0..20 {
        policy.decide(&group(&rows), &mut shares);
    }
    for _ in 0..20 {
        policy.decide(&group(&rows[1..]), &mut shares);
    }
    assert_eq!(policy.survival.of_old(), 1.0);
}

#[test]
fn memory_follows_identity() {
    let mut rows: Vec<Row> = (0..3).map(|i| Row { capacity: Some(2.0), ..row(2 * i) }).collect();
    for (row, cpu) in rows.iter_mut().zip([0.2, 1.0, 0.2]) {
        (row.load.cpu, row.load.pressure) = (Some(cpu), Some(0.9));
    }
    let mut policy = Waterline::new(&Parameters::default());
    let mut shares = vec![];
    policy.decide(&group(&rows), &mut shares);
    let known = shares[1].capacity;
    let new = Row { capacity: Some(2.0), ..row(1) };
    rows.insert(1, new);
    rows.remove(0);
    policy.decide(&group(&rows), &mut shares);
    assert_eq!(shares[0].capacity, 2.0);
    assert!((shares[1].capacity - known).abs() < 0.01 && known < 1.2, "{shares:?}");
}

#[test]
fn an_endpoint_without_readings_is_as_loaded_as_the_group() {
    let mut rows: Vec<Row> = (0..4)
        .map(|i| Row {
            load: Load { cpu: Some(0.5), pressure: Some(0.1), open: 5.0, ..Load::default() },
            ..row(i)
        })
        .collect();
    (rows[2].load.cpu, rows[2].load.pressure) = (None, Some(f64::NAN));
    let mut shares = vec![];
    Waterline::new(&Parameters::default()).decide(&group(&rows), &mut shares);
    assert!(shares.iter().all(|s| (s.share - 0.25).abs() < 0.02), "{shares:?}");
}

#[test]
fn a_slow_start_eases_in() {
    let mut rows: Vec<Row> = (0..4)
        .map(|i| Row {
            load: Load { open: 100.0, young: 10.0, opens_per_second: 50.0, ..Load::default() },
            ..row(i)
        })
        .collect();
    (rows[3].load.open, rows[3].load.young) = (0.0, 0.0);
    let mut shares = vec![];
    for (age, most) in [(0.0, 0.1), (5.0, 0.1 + 0.45 + 0.5)] {
        rows[3].seconds_eligible = age;
        let group = Group { slow_start: std::time::Duration::from_secs(10), ..group(&rows) };
        Waterline::new(&Parameters::default()).decide(&group, &mut shares);
        assert!((shares[3].share - 0.25 * most).abs() < 1e-9, "{shares:?}");
        assert_eq!(shares[3].limit, Some(crate::policy::Limit::SlowStart));
    }
    rows[3].seconds_eligible = 10.0;
    Waterline::new(&Parameters::default()).decide(&group(&rows), &mut shares);
    assert!((shares[3].share - 0.75).abs() < 1e-9, "{shares:?}");
}

#[test]
fn the_floor_of_a_service_counts_before_the_configured_one() {
    let mut rows: Vec<Row> = (0..4).map(row).collect();
    for row in &mut rows {
        row.load.opens_per_second = 50.0;
    }
    rows[3].load.open = 1e6;
    let mut shares = vec![];
    for (floor, part) in [(None, 0.02), (Some(0.1), 0.1), (Some(0.005), 0.005)] {
        Waterline::new(&Parameters::default()).decide(&Group { floor, ..group(&rows) }, &mut shares);
        assert!((shares[3].share - 0.25 * part).abs() < 1e-9, "{shares:?}");
        assert_eq!(shares[3].limit, Some(crate::policy::Limit::Floor));
    }
}

#[test]
fn an_endpoint_without_readings_does_not_keep_the_flow_it_has() {
    let mut policy = Waterline::new(&Parameters::default());
    let mut shares = vec![];
    let mut rows: Vec<Row> = (0..3).map(row).collect();
    let mut flow = [0.8, 0.1, 0.1];
    for _ in 0..200 {
        for (row, part) in rows.iter_mut().zip(flow) {
            // Short requests: CPU follows the flow at once.
            (row.load.opens_per_second, row.load.open, row.load.young) =
                (300.0 * part, 3.0 * part, 3.0 * part);
            (row.load.cpu, row.load.pressure) = (Some(1.5 * part), Some(0.0));
        }
        (rows[0].load.cpu, rows[0].load.pressure) = (None, None);
        policy.decide(&group(&rows), &mut shares);
        flow = [shares[0].share, shares[1].share, shares[2].share];
    }
    assert!((flow[0] - shares[0].target).abs() < 0.05, "{flow:?}, targets {shares:?}");
}
