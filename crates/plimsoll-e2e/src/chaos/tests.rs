//! When a fault passes, and when not.

use super::*;

#[test]
fn what_an_agent_leaves_where_it_should_serve_fails_the_fault() {
    let calm = [[9, 0]; NODES];
    let on_first = [[9, 5], [9, 0], [9, 0]];
    let on_two = [[9, 5], [9, 1], [9, 0]];
    for (left, noted) in [
        (Left::Nothing, calm),
        (Left::On(0, 5), on_first),
        (Left::Anywhere(5), calm),
        (Left::Anywhere(5), on_two),
    ] {
        assert_eq!(wrong(left, &noted), [""; 0]);
    }
    for (left, noted, told) in [
        (Left::Nothing, on_first, "n1: 5 connections"),
        (Left::On(0, 4), on_first, "n1: 5 connections"),
        (Left::On(0, 5), on_two, "n2: 1 connections"),
        (Left::On(0, 5), calm, "n1: no connection was left"),
        (Left::Anywhere(4), on_two, "n1: 5 connections"),
        (Left::Nothing, [[9, 0], [9, 0], [0, 0]], "n3: nothing was seen"),
    ] {
        let problems = wrong(left, &noted);
        assert!(problems.len() == 1 && problems[0].starts_with(told), "{problems:?}");
    }
}
