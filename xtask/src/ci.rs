//! All that has to hold before a change is merged.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::run::{cargo, run};
use crate::{chart, control_plane, docs, licences, setup, test, tidy};

/// Runs all that has to pass before a change is merged, the same here and in CI.
///
/// Formatting, lints, the project's own rules, all tests (none may be left out), documentation, reference pages and
/// licences. Goes on after a failure, and tells at the end what took how long and what failed.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 10] = [
    ("setup", setup::ensure),
    ("fmt", || run(cargo().args(["fmt", "--all", "--check"]))),
    ("clippy", || {
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
    }),
    ("tidy", || tidy::tidy(&tidy::Arguments {})),
    ("control", || control_plane::for_tests().map(drop)),
    ("chart", || chart::chart(&chart::Arguments { check: true })),
    ("test", test::every_one),
    ("doc", || {
        run(cargo().args(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("reference", || docs::docs(&docs::Arguments { check: true })),
    ("licences", || licences::licences(&licences::Arguments {})),
];

pub(crate) fn ci(_: &Arguments) -> Result<()> {
    let began = Instant::now();
    let mut results: Vec<(&str, Duration, bool)> = Vec::new();
    for (name, step) in STEPS {
        eprintln!("== {name}");
        let began = Instant::now();
        let result = step();
        if let Err(error) = &result {
            eprintln!("{name}: {error:#}");
        }
        let took = began.elapsed();
        eprintln!("== {name}: {} in {:.1} s", verdict(result.is_ok()), took.as_secs_f64());
        results.push((name, took, result.is_ok()));
    }
    eprintln!();
    for (name, took, ok) in &results {
        eprintln!("{name:<9} {:>7.1} s  {}", took.as_secs_f64(), verdict(*ok));
    }
    eprintln!("{:<9} {:>7.1} s", "total", began.elapsed().as_secs_f64());
    let failed: Vec<&str> = results.iter().filter(|(.., ok)| !ok).map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}; each says why above", failed.join(", "));
    }
    Ok(())
}

const fn verdict(ok: bool) -> &'static str {
    if ok { "ok" } else { "FAILED" }
}
