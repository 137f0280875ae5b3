//! The scenarios that come with the program.

use super::{Error, Scenario};

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*]
    };
}

/// Name and text of each, in the order in which results are shown.
const LIBRARY: &[(&str, &str)] = scenarios![
    "c-mix",
    "c-few",
    "c-sparse",
    "c-many",
    "c-hetero",
    "c-burst",
    "c-scaleup",
    "c-rollout",
    "c-storm",
    "c-part",
    "c-refuse",
    "c-refuse-half",
    "c-outside",
    "p-homog",
    "p-many",
    "p-manymix",
    "p-hetero",
    "p-unknown",
    "p-hot",
    "p-mix",
    "p-mixhomog",
    "p-mixhot",
    "p-few",
    "p-long",
    "p-noisy",
    "p-noisymix",
    "p-scaleup",
    "p-rollout",
    "p-burst",
    "p-part",
    "p-meas",
    "p-heavy",
    "p-par",
    "p-refuse",
];

/// Name and text of every scenario that comes with the program.
pub fn library() -> impl Iterator<Item = (&'static str, &'static str)> {
    LIBRARY.iter().copied()
}

/// The scenario of this name that comes with the program; `None` if there is none.
pub fn find(name: &str) -> Option<Result<Scenario, Error>> {
    let (name, text) = LIBRARY.iter().find(|(known, _)| *known == name)?;
    Some(Scenario::parse(name, text))
}
