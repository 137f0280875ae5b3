//! How people switch a Service on and tune it: one label, and annotations on the Service or, as defaults, on its
//! Namespace. What is not understood leaves the default in place and is told.

use std::time::Duration;

use plimsoll_core::service::{self, Mode, PolicyKind};
use plimsoll_core::time::Span;

use super::object::{Annotations, BALANCE, Service};
use crate::remark::Problem;

const POLICY: &str = "plimsoll.dev/policy";
const SLOW_START: &str = "plimsoll.dev/slow-start";
const FLOOR: &str = "plimsoll.dev/floor";
const AFFINITY: &str = "plimsoll.dev/affinity";
/// A name with a meaning to come.
const RESERVED: &str = "plimsoll.dev/signals";
/// What belongs on a Pod.
const OF_PODS: &str = "plimsoll.dev/capacity";
/// All that has a meaning on a Service or Namespace, for those who mistyped it.
const KNOWN: &str =
    "`plimsoll.dev/policy`, `plimsoll.dev/slow-start`, `plimsoll.dev/floor` and `plimsoll.dev/affinity`";
/// As in a Services file.
const LONGEST_SLOW_START: Duration = Duration::from_hours(24);

const POLICIES: [(&str, PolicyKind); 4] = [
    ("waterline", PolicyKind::Waterline),
    ("lvs-feedback", PolicyKind::LvsFeedback),
    ("equal", PolicyKind::Equal),
    ("static", PolicyKind::Static),
];

/// What people asked for; `None` where they did not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tuning {
    pub(super) policy: Option<PolicyKind>,
    pub(super) slow_start: Option<Duration>,
    /// As a part of the fair share.
    pub(super) floor: Option<f64>,
    /// Whether a Service whose clients stay with their endpoints is taken over.
    pub(super) takes_affinity: Option<bool>,
}

impl Tuning {
    /// What the annotations of an object ask for, and what is wrong with them.
    pub(super) fn read(object: &str, annotations: &Annotations, problems: &mut Vec<Problem>) -> Tuning {
        let mut tuning = Tuning::default();
        for (name, value) in annotations {
            let outcome = match &**name {
                POLICY => policy(value).map(|policy| tuning.policy = Some(policy)),
                SLOW_START => slow_start(value).map(|time| tuning.slow_start = Some(time)),
                FLOOR => floor(value).map(|part| tuning.floor = Some(part)),
                AFFINITY => affinity(value).map(|takes| tuning.takes_affinity = Some(takes)),
                BALANCE => Err("is written as an annotation and means nothing here; make it a label".into()),
                OF_PODS => Err("means nothing here and is ignored; it belongs on Pods".into()),
                RESERVED => Err("is ignored: the name is reserved and means nothing yet; remove it".into()),
                _ => {
                    Err(format!("is ignored: nothing has this name; there are {KNOWN}; correct or remove it"))
                }
            };
            problems.extend(outcome.err().map(|what| Problem {
                object: object.into(),
                part: format!("annotation {name}").into(),
                value: shortened(value),
                what: what.into(),
            }));
        }
        tuning
    }

    /// These wishes, and those of `defaults` where there is none.
    pub(super) fn or(self, defaults: Tuning) -> Tuning {
        Tuning {
            policy: self.policy.or(defaults.policy),
            slow_start: self.slow_start.or(defaults.slow_start),
            floor: self.floor.or(defaults.floor),
            takes_affinity: self.takes_affinity.or(defaults.takes_affinity),
        }
    }
}

/// Whether the label switches a Service on, and how; and what is wrong with our labels.
pub(super) fn mode(service: &Service, problems: &mut Vec<Problem>) -> Option<Mode> {
    let object = || format!("Service {}", service.name).into();
    problems.extend(service.strange_labels.iter().map(|name| Problem {
        object: object(),
        part: "label".into(),
        value: shortened(name),
        what:
            format!("is ignored: the one label is `{BALANCE}`; what tunes a Service is an annotation").into(),
    }));
    match &*service.balance {
        "enabled" => Some(Mode::Enabled),
        "observe" => Some(Mode::Observe),
        "disabled" => None,
        other => {
            problems.push(Problem {
                object: object(),
                part: format!("label {BALANCE}").into(),
                value: shortened(other),
                what: "is not one of the choices; write `enabled`, `observe` or `disabled`; until then it is left to \
                       the proxy below"
                    .into(),
            });
            None
        }
    }
}

fn policy(value: &str) -> Result<PolicyKind, String> {
    let known = POLICIES.iter().find(|(word, _)| *word == value);
    known.map(|(_, policy)| *policy).ok_or_else(|| {
        "is not one of the choices; write `waterline`, `lvs-feedback`, `equal` or `static`; until then the default is \
         used"
            .to_owned()
    })
}

fn slow_start(value: &str) -> Result<Duration, String> {
    let time = Span::parse(value).map(|Span(time)| time).filter(|time| *time <= LONGEST_SLOW_START);
    time.ok_or_else(|| {
        "is not a length of time from `0s` to `24h`; write whole numbers with units, as in `30s` or `1m30s`; until \
         then the default is used"
            .to_owned()
    })
}

fn floor(value: &str) -> Result<f64, String> {
    let is_plain = |number: &&str| {
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str, most| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        digits(whole, 2) && digits(part, 6)
    };
    let percent = value.strip_suffix('%').filter(is_plain).and_then(|number| number.parse::<f64>().ok());
    let part = percent.map(|percent| percent / 100.0).filter(|part| service::Service::FLOORS.contains(part));
    part.ok_or_else(|| {
        "is not a part of the fair share from `0.5%` to `10%`; until then the default is used".to_owned()
    })
}

fn affinity(value: &str) -> Result<bool, String> {
    match value {
        "take-over" => Ok(true),
        "leave" => Ok(false),
        _ => {
            Err("is not one of the choices; write `take-over` or `leave`; until then the default is used"
                .into())
        }
    }
}

/// A value is anybody's text: as much as is needed to find it.
fn shortened(value: &str) -> Box<str> {
    match value.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &value[..end]).into(),
        None => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize as _;
    use serde::de::IntoDeserializer as _;
    use serde::de::value::StrDeserializer;

    use super::*;

    fn read(annotations: &[(&str, &str)]) -> (Tuning, Vec<String>) {
        let annotations = annotations.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut problems = Vec::new();
        let tuning = Tuning::read("Service shop/web", &annotations, &mut problems);
        (tuning, problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn the_words_for_policies_are_those_of_the_configuration() {
        for (word, policy) in POLICIES {
            let from: StrDeserializer<'_, serde::de::value::Error> = word.into_deserializer();
            assert_eq!(PolicyKind::deserialize(from).unwrap(), policy);
        }
    }

    #[test]
    fn all_that_can_be_said() {
        let (tuning, problems) = read(&[
            ("plimsoll.dev/policy", "lvs-feedback"),
            ("plimsoll.dev/slow-start", "1m30s"),
            ("plimsoll.dev/floor", "5%"),
            ("plimsoll.dev/affinity", "take-over"),
        ]);
        assert_eq!(problems, [""; 0]);
        assert_eq!(tuning.policy, Some(PolicyKind::LvsFeedback));
        assert_eq!(tuning.slow_start, Some(Duration::from_secs(90)));
        assert_eq!((tuning.floor, tuning.takes_affinity), (Some(0.05), Some(true)));
    }

    #[test]
    fn what_is_not_understood_is_told_with_what_would_be_right() {
        let (tuning, problems) = read(&[
            ("plimsoll.dev/affinity", "yes"),
            ("plimsoll.dev/balance", "enabled"),
            ("plimsoll.dev/capacity", "2"),
            ("plimsoll.dev/floor", "0.1"),
            ("plimsoll.dev/signals", "cpu"),
            ("plimsoll.dev/polcy", "equal"),
            ("plimsoll.dev/policy", "fastest"),
            ("plimsoll.dev/slow-start", "25h"),
        ]);
        assert_eq!(tuning, Tuning::default());
        expect_test::expect![[r"
            Service shop/web: annotation plimsoll.dev/affinity: `yes` is not one of the choices; write `take-over` or `leave`; until then the default is used
            Service shop/web: annotation plimsoll.dev/balance: `enabled` is written as an annotation and means nothing here; make it a label
            Service shop/web: annotation plimsoll.dev/capacity: `2` means nothing here and is ignored; it belongs on Pods
            Service shop/web: annotation plimsoll.dev/floor: `0.1` is not a part of the fair share from `0.5%` to `10%`; until then the default is used
            Service shop/web: annotation plimsoll.dev/polcy: `equal` is ignored: nothing has this name; there are `plimsoll.dev/policy`, `plimsoll.dev/slow-start`, `plimsoll.dev/floor` and `plimsoll.dev/affinity`; correct or remove it
            Service shop/web: annotation plimsoll.dev/policy: `fastest` is not one of the choices; write `waterline`, `lvs-feedback`, `equal` or `static`; until then the default is used
            Service shop/web: annotation plimsoll.dev/signals: `cpu` is ignored: the name is reserved and means nothing yet; remove it
            Service shop/web: annotation plimsoll.dev/slow-start: `25h` is not a length of time from `0s` to `24h`; write whole numbers with units, as in `30s` or `1m30s`; until then the default is used"]]
        .assert_eq(&problems.join("\n"));
    }

    #[test]
    fn what_the_service_says_comes_before_what_its_namespace_says() {
        let (own, _) = read(&[("plimsoll.dev/slow-start", "0s")]);
        let (defaults, _) = read(&[("plimsoll.dev/slow-start", "1m"), ("plimsoll.dev/policy", "equal")]);
        let both = own.or(defaults);
        assert_eq!((both.slow_start, both.policy), (Some(Duration::ZERO), Some(PolicyKind::Equal)));
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let (_, problems) = read(&[("plimsoll.dev/policy", &"ä".repeat(100_000))]);
        assert!(problems[0].len() < 400, "{}", problems[0]);
    }
}
