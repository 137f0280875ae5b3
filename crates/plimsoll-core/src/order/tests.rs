//! The order against smooth weighted round robin.

use super::*;

/// Smooth weighted round robin: each gains its weight, the largest credit wins and pays the sum.
fn smooth(parts: &[u32]) -> Vec<usize> {
    let sum: i64 = parts.iter().map(|&p| i64::from(p)).sum();
    let mut credit = vec![0i64; parts.len()];
    let choose = |_| {
        let mut best = 0;
        for i in 0..parts.len() {
            credit[i] += i64::from(parts[i]);
            if credit[i] > credit[best] {
                best = i;
            }
        }
        credit[best] -= sum;
        best
    };
    (0..sum).map(choose).collect()
}

fn ours(parts: &[u32], offset: u32) -> Vec<usize> {
    let w: u32 = parts.iter().sum();
    let owner: Vec<usize> = parts.iter().enumerate().flat_map(|(i, &p)| vec![i; p as usize]).collect();
    (0..w).map(|i| owner[value(i, w, offset) as usize - 1]).collect()
}

/// The largest deviation of any endpoint's count from its exact share over all prefixes.
fn deviation(parts: &[u32], chosen: &[usize]) -> f64 {
    let w = chosen.len() as f64;
    let mut counts = vec![0.0; parts.len()];
    let mut worst = 0.0f64;
    for (m, &c) in chosen.iter().enumerate() {
        counts[c] += 1.0;
        for (count, &part) in counts.iter().zip(parts) {
            worst = worst.max((count - (m + 1) as f64 * part as f64 / w).abs());
        }
    }
    worst
}

fn vectors() -> Vec<Vec<u32>> {
    let mut state = 7u64;
    let mut dice = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    (0..1000)
        .map(|_| {
            let k = 2 + dice() % 49;
            (0..k).map(|_| 1 + dice() % 4096).collect()
        })
        .collect()
}

#[test]
fn measure() {
    let (mut ratios, mut a, mut b) = (vec![], vec![], vec![]);
    for weights in vectors() {
        let parts = lay_out(&weights, steps(weights.len()).unwrap());
        let (x, y) = (deviation(&parts, &ours(&parts, 0)), deviation(&parts, &smooth(&parts)));
        ratios.push(x / y);
        a.push(x);
        b.push(y);
    }
    for v in [&mut ratios, &mut a, &mut b] {
        v.sort_by(f64::total_cmp);
        println!(
            "mean {:.3} p50 {:.3} p99 {:.3} max {:.3}",
            v.iter().sum::<f64>() / 1000.0,
            v[500],
            v[990],
            v[999]
        );
    }
}
