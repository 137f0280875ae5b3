//! Lengths of time as people write them.

use super::*;

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
