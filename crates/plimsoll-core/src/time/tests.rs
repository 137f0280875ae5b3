//! Points in time, and lengths of time as people write them.

use super::*;

#[test]
fn what_was_before_the_origin_is_as_old_as_it_is() {
    let now = Timestamp::from_nanos(2_000_000_000);
    let then = now.before(Duration::from_secs(30));
    assert_eq!((now.since(then), then.since(now)), (Duration::from_secs(30), Duration::ZERO));
    assert_eq!(then + Duration::from_secs(30), now);
    assert!(then < Timestamp::ZERO && then.as_nanos() == 0);
    assert!(now.before(Duration::MAX) < then);
    assert_eq!(now + Duration::MAX, Timestamp::NEVER);
    assert_eq!(Timestamp::from_nanos(u64::MAX), Timestamp::NEVER);
}

#[test]
fn spans_read_what_they_write() {
    for text in ["0s", "250ms", "10s", "1m30s", "3h", "1h1m1s1ms"] {
        assert_eq!(Span::parse(text).map(|span| span.to_string()).as_deref(), Some(text));
    }
    assert_eq!(Span::parse("90s").map(|span| span.to_string()).as_deref(), Some("1m30s"));
}

#[test]
fn what_is_no_length_of_time_is_refused() {
    for text in ["", "10", "s", "1.5s", "-1s", "10 s", "99999999999999999999s", "18446744073709551615h", "1d"]
    {
        assert_eq!(Span::parse(text), None, "{text}");
    }
}
