//! Time as an argument: a point on one process's monotonic clock, and lengths of time as people write them.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds since an origin of the caller's choice, or before it; only differences mean anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The origin.
    pub const ZERO: Timestamp = Timestamp(0);
    /// Later than anything: "no need to wake up".
    pub const NEVER: Timestamp = Timestamp(i64::MAX);

    /// The point `nanos` nanoseconds after the origin; what is further than 292 years is never.
    pub const fn from_nanos(nanos: u64) -> Timestamp {
        if nanos > i64::MAX as u64 { Timestamp::NEVER } else { Timestamp(nanos as i64) }
    }

    /// The point this long after the origin.
    pub fn from_duration(since_origin: Duration) -> Timestamp {
        Timestamp(nanos(since_origin))
    }

    /// Nanoseconds since the origin; 0 for what was before it.
    pub const fn as_nanos(self) -> u64 {
        if self.0 < 0 { 0 } else { self.0 as u64 }
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// The same in seconds.
    pub fn seconds_since(self, earlier: Timestamp) -> f64 {
        self.nanos_since(earlier) as f64 * 1e-9
    }

    /// The point this much earlier, which may be before the origin: what was measured before this process began is
    /// as old as it is.
    #[must_use]
    pub fn before(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(nanos(by)))
    }

    const fn nanos_since(self, earlier: Timestamp) -> u64 {
        if self.0 > earlier.0 { self.0.abs_diff(earlier.0) } else { 0 }
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(nanos(by)))
    }
}

fn nanos(length: Duration) -> i64 {
    i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)
}

/// A length of time as people write it: whole numbers with units, `250ms`, `10s`, `1m30s`, `3h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String")]
pub struct Span(pub Duration);

impl Span {
    /// That many milliseconds.
    pub const fn from_millis(millis: u64) -> Span {
        Span(Duration::from_millis(millis))
    }

    /// That many seconds.
    pub const fn from_secs(seconds: u64) -> Span {
        Span(Duration::from_secs(seconds))
    }

    /// Reads `1h30m`; `None` where it is not a length of time or does not fit.
    pub fn parse(text: &str) -> Option<Span> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() || text.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let number: u64 = rest[..digits].parse().ok()?;
            let after = &rest[digits..];
            let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let one = match &after[..letters] {
                "ms" => Duration::from_millis(number),
                "s" => Duration::from_secs(number),
                "m" => Duration::from_secs(number.checked_mul(60)?),
                "h" => Duration::from_secs(number.checked_mul(3600)?),
                _ => return None,
            };
            total = total.checked_add(one)?;
            rest = &after[letters..];
        }
        Some(Span(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let parts =
            [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (u64::from(millis), "ms")];
        if self.0 < Duration::from_millis(1) {
            return f.write_str("0s");
        }
        parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_str(SpanText)
    }
}

struct SpanText;

impl Visitor<'_> for SpanText {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a length of time")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        Span::parse(text).ok_or_else(|| {
            E::custom(format!(
                "`{text}` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`"
            ))
        })
    }
}

#[cfg(test)]
mod tests;
