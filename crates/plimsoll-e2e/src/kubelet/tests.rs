//! When a step passes, and when not.

use super::*;

fn row(opened: [u64; 2], failed: [u64; 2], fell_back: u64) -> Row {
    let traffic = Traffic { opened, failed, fell_back };
    Row { step: "a step", seen: "seen".into(), traffic, problems: Vec::new() }
}

#[test]
fn a_step_without_traffic_or_with_the_wrong_one_fails() {
    assert!(wrong(Left::NoLoad, &row([0, 0], [0, 0], 0).traffic).is_empty());
    assert!(wrong(Left::None, &row([9, 9], [1, 1], 0).traffic).is_empty());
    assert!(wrong(Left::Some, &row([9, 9], [0, 0], 3).traffic).is_empty());
    for (left, row) in [
        (Left::None, row([9, 0], [0, 0], 0)),
        (Left::None, row([9, 9], [0, 1], 0)),
        (Left::None, row([9, 9], [0, 0], 1)),
        (Left::Some, row([9, 9], [0, 0], 0)),
        (Left::Some, row([9, 9], [2, 3], 4)),
    ] {
        assert_eq!(wrong(left, &row.traffic).len(), 1, "{row}");
    }
}

#[test]
fn a_row_tells_what_was_seen_and_what_is_wrong() {
    let mut told = row([9, 8], [1, 2], 3);
    told.problems.push("this is wrong".into());
    let text = told.to_string();
    assert!(text.starts_with("FAILED a step") && text.ends_with("this is wrong"), "{text}");
    assert!(text.contains("failed alone 1, with Plimsoll 2 of 8; 3 fell back"), "{text}");
    assert!(!row([0, 0], [0, 0], 0).to_string().contains("alone"));
}
