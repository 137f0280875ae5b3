//! What holds for every policy.

use proptest::prelude::*;

use crate::service::PolicyKind as Kind;

use super::*;
use crate::service::Protocol;

/// Endpoint number `i`.
pub(crate) fn endpoint(i: u32) -> EndpointId {
    let address = std::net::IpAddr::from(0x0a00_0000_u32.wrapping_add(i).to_be_bytes());
    EndpointId { address, port: 80, protocol: Protocol::Tcp }
}

/// A row without any connections; nothing is known of its load.
pub(crate) fn row(i: u32) -> Row {
    Row {
        endpoint: endpoint(i),
        capacity: Some(1.0),
        trusted: false,
        load: Load::default(),
        age: 0.0,
        heard: None,
        seconds_eligible: f64::INFINITY,
    }
}

/// The group of these rows, half a second after the last decision.
pub(crate) fn group(rows: &[Row]) -> Group<'_> {
    Group { rows, elapsed: 0.5, delay: 1.0, horizon: 2.0, slow_start: Duration::ZERO, floor: None }
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Waterline, Kind::LvsFeedback, Kind::Equal, Kind::Static];

fn any_figure() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 0.0..200.0f64,
        1 => prop::sample::select(vec![
            f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, -0.0, 1e300, 1e-300, 1e12, f64::MIN_POSITIVE,
        ]),
    ]
}

fn maybe<T: Clone + std::fmt::Debug>(figures: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop_oneof![3 => figures.prop_map(Some), 1 => Just(None)]
}

/// Rows with any figures at all, good and bad.
pub(crate) fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    let counts = (any_figure(), any_figure(), any_figure(), any_figure(), any_figure(), any_figure());
    let load = (maybe(any_figure()), any::<bool>(), maybe(any_figure()), maybe(any_figure()));
    let heard = (any_figure(), any_figure(), any_figure(), any_figure());
    let heard = maybe(heard.prop_map(|(young, opens_per_second, failures_per_second, seconds)| {
        let load = Load { open: young, young, opens_per_second, failures_per_second, ..Load::default() };
        Heard { load, seconds }
    }));
    prop::collection::btree_map(0..40u32, (counts, load, heard), 0..12).prop_map(|rows| {
        let rows = rows.into_iter().map(|(i, ((n, y, z, o, bad, age), (c, trusted, u, p), heard))| Row {
            capacity: c,
            trusted,
            age: 0.0,
            heard,
            seconds_eligible: age,
            load: Load {
                open: n,
                young: y,
                middle: z,
                opens_per_second: o,
                failures_per_second: bad,
                cpu: u,
                pressure: p.map(|p| p / 100.0),
            },
            ..row(i)
        });
        rows.collect()
    })
}

pub(crate) fn sound(rows: &[Row], shares: &[Share]) -> Result<(), TestCaseError> {
    prop_assert_eq!(rows.len(), shares.len());
    if !rows.is_empty() {
        let sum: f64 = shares.iter().map(|s| s.share).sum();
        prop_assert!((sum - 1.0).abs() < 1e-9, "the sum is {}", sum);
        let targets: f64 = shares.iter().map(|s| s.target).sum();
        prop_assert!((targets - 1.0).abs() < 1e-9, "the targets' sum is {}", targets);
    }
    for share in shares {
        prop_assert!(share.share > 0.0 && share.target > 0.0 && share.capacity > 0.0, "{:?}", share);
    }
    if let [only] = shares {
        prop_assert!(only.share == 1.0 && only.limit.is_none());
    }
    Ok(())
}

proptest! {
    // Invariants 1, 2 and 9, with rows that come and go.
    #[test]
    fn any_input_gives_sound_shares(
        decisions in prop::collection::vec((any_rows(), any_figure(), any_figure(), any_figure()), 1..6),
        slow in 0..100u64,
    ) {
        for kind in KINDS {
            let mut policy = build(kind, &Parameters::default());
            let mut shares = vec![];
            for (rows, elapsed, delay, horizon) in &decisions {
                let group = Group {
                    rows,
                    elapsed: *elapsed,
                    delay: *delay,
                    horizon: *horizon,
                    slow_start: Duration::from_secs(slow),
                    floor: None,
                };
                policy.decide(&group, &mut shares);
                sound(rows, &shares)?;
            }
        }
    }

    // Invariants 3 and 13, for every policy: figures that change places take their shares along. Sums in another
    // order round otherwise, and a group with 10^12 connections and a single young one magnifies that without
    // bound; so nothing here is larger than a group can be.
    #[test]
    fn shares_follow_figures_not_places(mut rows in any_rows(), turn in 0..12usize) {
        for row in &mut rows {
            let Load { open, young, middle, opens_per_second, .. } = &mut row.load;
            for figure in [open, young, middle, opens_per_second] {
                *figure = if figure.is_finite() { figure.min(1e6) } else { *figure };
            }
        }
        for kind in KINDS {
            let decide = |rows: &[Row]| {
                let mut policy = build(kind, &Parameters::default());
                let mut shares = vec![];
                policy.decide(&group(rows), &mut shares);
                policy.decide(&group(rows), &mut shares);
                shares
            };
            let shares = decide(&rows);
            prop_assert_eq!(&shares, &decide(&rows));
            let turn = turn.min(rows.len());
            let mut turned = rows.clone();
            turned.rotate_left(turn);
            for (turned, row) in turned.iter_mut().zip(&rows) {
                turned.endpoint = row.endpoint;
            }
            let mut expected = shares.clone();
            expected.rotate_left(turn);
            for (a, b) in decide(&turned).iter().zip(&expected) {
                prop_assert!((a.share - b.share).abs() < 1e-9, "{:?} {:?}", a, b);
            }
        }
    }
}

#[test]
fn equal_inputs_give_equal_shares() {
    for kind in KINDS {
        let rows: Vec<Row> = (0..7)
            .map(|i| Row {
                load: Load { open: 9.0, young: 2.0, opens_per_second: 3.0, ..Load::default() },
                ..row(i)
            })
            .collect();
        let mut shares = vec![];
        let mut policy = build(kind, &Parameters::default());
        for _ in 0..20 {
            policy.decide(&group(&rows), &mut shares);
        }
        assert!(shares.iter().all(|s| (s.share - 1.0 / 7.0).abs() < 1e-12), "{kind:?} {shares:?}");
    }
}

#[test]
fn equal_and_static_know_what_they_say() {
    let rows = [
        Row { capacity: Some(1.0), load: Load { open: 50.0, ..Load::default() }, ..row(0) },
        Row { capacity: Some(3.0), ..row(1) },
    ];
    let mut shares = vec![];
    build(Kind::Equal, &Parameters::default()).decide(&group(&rows), &mut shares);
    assert_eq!([shares[0].share, shares[1].share], [0.5, 0.5]);
    build(Kind::Static, &Parameters::default()).decide(&group(&rows), &mut shares);
    assert_eq!([shares[0].share, shares[1].share], [0.25, 0.75]);
}

#[test]
fn lvs_feedback_moves_by_the_cube_root_each_five_seconds() {
    let rows = [
        Row { load: Load { open: 30.0, opens_per_second: 10.0, ..Load::default() }, ..row(0) },
        Row { load: Load { open: 10.0, opens_per_second: 30.0, ..Load::default() }, ..row(1) },
    ];
    let mut policy = build(Kind::LvsFeedback, &Parameters::default());
    let mut shares = vec![];
    for _ in 0..9 {
        policy.decide(&group(&rows), &mut shares);
    }
    assert_eq!(shares[0].share, 0.5);
    policy.decide(&group(&rows), &mut shares);
    // L = 0.95 n / mean n: A = 0.285 o / mean o + 0.7 L = 0.1425 + 0.9975 and 0.4275 + 0.3325.
    let step = 5.0 * libm::cbrt(0.19);
    let weights = [100.0 - step, 100.0 + step];
    assert!((shares[0].share - weights[0] / 200.0).abs() < 1e-12, "{shares:?}");
    assert!((shares[1].share - weights[1] / 200.0).abs() < 1e-12, "{shares:?}");
}

#[test]
fn parameters_out_of_range_are_named() {
    assert_eq!(Parameters::default().check(), Ok(()));
    let mut parameters = Parameters::default();
    parameters.waterline.boost = 9.0;
    assert_eq!(parameters.check(), Err("waterline: boost is 9, must be from 1.5 to 5".to_owned()));
    parameters = Parameters::default();
    parameters.lvs_feedback.step = f64::NAN;
    assert!(parameters.check().is_err());
}

proptest! {
    #[test]
    fn pouring_ends_at_one(
        raw in prop::collection::vec((-2.0..2.0f64, 0.01..50.0f64, 0.0..0.08f64, 0.0..1.0f64), 1..12),
    ) {
        let mut lines: Vec<Line> = raw
            .iter()
            .map(|&(start, slope, least, more)| Line { start, slope, least, most: least + more })
            .collect();
        lines[0].most = 1.0;
        let level = pour(&lines);
        let sum: f64 = lines.iter().map(|line| line.at(level)).sum();
        prop_assert!((sum - 1.0).abs() < 1e-10, "{}", sum);
    }
}
