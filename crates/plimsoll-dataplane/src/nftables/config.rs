//! The configuration of the nftables dataplane.

use std::time::Duration;

use ipnet::IpNet;
use plimsoll_core::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mark::MarkBits;
use crate::Error;

/// The nftables dataplane's section of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name of the table, in the family `inet`.
    pub table: String,
    /// How long a Service stays in the kernel without being renewed. An agent that hangs hands its Services back
    /// to the proxy below after this time.
    pub lease: Span,
    /// The priority of the chains that choose. The proxy below has -100; whoever is lower decides. Between -199
    /// and -101.
    pub priority: i32,
    /// Eleven bits of the conntrack mark that nobody else uses: the lowest three for the state of a connection,
    /// the other eight for its age.
    #[serde(with = "hexadecimal")]
    #[schemars(with = "u32")]
    pub mark_mask: u32,
    /// The addresses of clients inside the cluster (the pod ranges). Connections of others to an address inside
    /// the cluster get the node's address as their source. None of a family: nobody is known to
    /// be outside, so those connections keep their source.
    #[schemars(with = "Vec<String>")]
    pub local_sources: Vec<IpNet>,
    /// The interface that packets of clients inside the cluster come by, or the beginning of its name and `*`; in
    /// place of `local_sources`. Linux 5.7 or later.
    pub local_interface: Option<String>,
    /// Connections to addresses inside the cluster get the node's address as their source, whoever opened them.
    pub masquerade_all: bool,
    /// The most clients remembered per Service with client affinity. More are served, but not remembered.
    pub affinity_clients: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            table: "plimsoll".to_owned(),
            lease: Span::from_secs(10),
            priority: -105,
            mark_mask: 0x0ff7_0000,
            local_sources: Vec::new(),
            local_interface: None,
            masquerade_all: false,
            affinity_clients: 65_536,
        }
    }
}

/// What a table may not be called: words of the nft language that could not be read back.
const WORDS: [&str; 12] = [
    "table",
    "chain",
    "set",
    "map",
    "rule",
    "drop",
    "accept",
    "masquerade",
    "fwd",
    "element",
    "inet",
    "counter",
];

/// A lease shorter than this expires between two wake-ups of a busy machine.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

impl Config {
    /// The bits of the conntrack mark, if there are as many as are needed.
    pub(crate) fn mark_bits(&self) -> Result<MarkBits, Error> {
        MarkBits::new(self.mark_mask).ok_or_else(|| Error::Config {
            field: "mark_mask",
            problem: format!("{:#010x} does not have 11 bits", self.mark_mask),
        })
    }

    /// Checks each field, for an agent that renews leases every `renewal`.
    pub fn check(&self, renewal: Duration) -> Result<(), Error> {
        let wrong = |field, problem: String| Err(Error::Config { field, problem });
        let name = &self.table;
        let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.len() > 64 || !letters || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return wrong(
                "table",
                format!("`{name}` is no table name; use up to 64 letters, digits and _, a letter first"),
            );
        }
        if WORDS.contains(&name.as_str()) {
            return wrong("table", format!("`{name}` is a word of the nft language; choose another name"));
        }
        if self.lease.0 < SHORTEST_LEASE || self.lease.0 < renewal * 3 {
            return wrong(
                "lease",
                format!(
                    "{} is too short: it must outlast three renewals of {} and be 100ms at least",
                    self.lease,
                    Span(renewal)
                ),
            );
        }
        if self.lease.0 > Duration::from_hours(1) {
            return wrong("lease", format!("{} is too long: an hour at most", self.lease));
        }
        if !(-199..=-101).contains(&self.priority) {
            return wrong(
                "priority",
                format!(
                    "{} is not between -199 (after conntrack) and -101 (before the proxy)",
                    self.priority
                ),
            );
        }
        if MarkBits::new(self.mark_mask).is_none() {
            let bits = self.mark_mask.count_ones();
            return wrong("mark_mask", format!("{:#010x} has {bits} bits; it must have 11", self.mark_mask));
        }
        if let Some(name) = &self.local_interface {
            let beginning = name.strip_suffix('*').unwrap_or(name);
            let is_name = |c: char| c.is_ascii_graphic() && !"*\"/\\".contains(c);
            if !(1..16).contains(&beginning.len()) || !beginning.chars().all(is_name) {
                return wrong(
                    "local_interface",
                    format!("`{name}` is no name of an interface, nor the beginning of one and `*`"),
                );
            }
            if !self.local_sources.is_empty() {
                return wrong(
                    "local_interface",
                    "clients are told by it or by `local_sources`; remove one of both".into(),
                );
            }
        }
        if !(1..=16_777_216).contains(&self.affinity_clients) {
            return wrong(
                "affinity_clients",
                format!("{} is not between 1 and 16777216", self.affinity_clients),
            );
        }
        Ok(())
    }
}

/// Masks as operators write them: `0x0ff70000`. Read as a number, too.
mod hexadecimal {
    use serde::de::{self, Deserializer, Visitor};
    use serde::ser::Serializer;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(mask: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mask:#010x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_any(Mask)
    }

    struct Mask;

    impl Visitor<'_> for Mask {
        type Value = u32;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a mask of 32 bits, as in 0x0ff70000")
        }

        fn visit_u64<E: de::Error>(self, mask: u64) -> Result<u32, E> {
            u32::try_from(mask).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(mask), &self))
        }

        fn visit_i64<E: de::Error>(self, mask: i64) -> Result<u32, E> {
            u32::try_from(mask).map_err(|_| E::invalid_value(de::Unexpected::Signed(mask), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u32, E> {
            let digits = text.strip_prefix("0x").unwrap_or_default();
            u32::from_str_radix(digits, 16).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of(change: impl FnOnce(&mut Config)) -> Option<&'static str> {
        let mut config = Config::default();
        change(&mut config);
        match config.check(Duration::from_secs(1)) {
            Err(Error::Config { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
            Ok(()) => None,
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        assert_eq!(field_of(|_| {}), None);
        assert_eq!(field_of(|c| c.lease = Span::from_millis(2_999)), Some("lease"));
        assert_eq!(field_of(|c| c.lease = Span::from_secs(7200)), Some("lease"));
        assert_eq!(field_of(|c| c.table = "drop".into()), Some("table"));
        assert_eq!(field_of(|c| c.table = "a b".into()), Some("table"));
        assert_eq!(field_of(|c| c.table = String::new()), Some("table"));
        assert_eq!(field_of(|c| c.priority = -100), Some("priority"));
        assert_eq!(field_of(|c| c.priority = -200), Some("priority"));
        assert_eq!(field_of(|c| c.mark_mask = 0xff), Some("mark_mask"));
        assert_eq!(field_of(|c| c.affinity_clients = 0), Some("affinity_clients"));
        for name in ["cni0", "cali*"] {
            assert_eq!(field_of(|c| c.local_interface = Some(name.into())), None, "{name}");
        }
        for name in ["", "*", "a b", "c*i", "sixteen-letters-"] {
            assert_eq!(
                field_of(|c| c.local_interface = Some(name.into())),
                Some("local_interface"),
                "{name}"
            );
        }
        let both = |c: &mut Config| {
            c.local_interface = Some("cni0".into());
            c.local_sources = vec!["10.1.0.0/16".parse().unwrap()];
        };
        assert_eq!(field_of(both), Some("local_interface"));
    }
}
