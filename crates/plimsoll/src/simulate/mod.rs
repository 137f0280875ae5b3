//! `plimsoll simulate`: a cluster in virtual time, under our policies and under those people use today.

mod progress;
mod svg;
mod page;
mod replay;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use plimsoll_sim::against;
use plimsoll_sim::batch::{self, Named, Progress, Run, Traced};
use plimsoll_sim::catalogue::{self, Contender};
use plimsoll_sim::results::{self, Row};
use plimsoll_sim::scenario::{self, Scenario};
use plimsoll_sim::selection::Kind;
use serde::Serialize;

use crate::part::Part;

/// What is simulated when nothing else is asked for.
const USUAL_SCENARIOS: [&str; 2] = ["c-mix", "p-mix"];
/// Who competes when nobody else is asked for.
const USUAL_POLICIES: &str = "jsq-work,random,round-robin,wlc,waterline:counter,waterline:edf";

/// Options of `plimsoll simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plimsoll simulate                                     two usual cases, six policies
  plimsoll simulate --list                              every scenario and policy in a sentence
  plimsoll simulate p-rollout --seeds 5                 medians of five runs with other random numbers
  plimsoll simulate mine.toml --policies random,wlc,waterline:wrr
  plimsoll simulate c-scaleup --html page.html          with pictures
  plimsoll simulate all --json > results.json
  plimsoll simulate --replay web.plr                    your own connections, as `plimsoll record` recorded them
  plimsoll simulate --replay n1.plr n2.plr --service shop/web:http --policies all
  plimsoll simulate --replay web.plr --list             what is in a recording

How to read the tables, and how to write a scenario: docs/simulator.md")]
pub(crate) struct Options {
    /// Names of scenarios, files of your own, or `all`
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    #[command(flatten)]
    recordings: replay::Recordings,
    /// Who competes: names from --list, some with a way to choose behind a colon, or `all`
    #[arg(long, value_name = "POLICY,…", default_value = USUAL_POLICIES)]
    policies: String,
    /// How many runs with different random numbers; results are medians
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Fail if anybody does worse than this policy in any run, by more than 3 %: by max/mean, p99 or what failed,
    /// whichever the scenario is about, or if there was nothing to compare; in a replay `as-recorded` is what really happened
    #[arg(long, value_name = "POLICY")]
    against: Option<String>,
    /// Write a page with pictures to this file, too: load, weights, churn, latency
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Explain every scenario, policy and way to choose in a sentence, or what is in the recordings, and simulate
    /// nothing
    #[arg(long, conflicts_with_all = ["service", "capacity", "json", "html", "against"])]
    list: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Results<'a> {
    results: &'a [Row],
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let replayed = &options.recordings.replay;
    if options.list {
        if replayed.is_empty() {
            list()?;
        } else {
            replay::list(replayed)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut contenders = contenders(&options.policies, !replayed.is_empty())?;
    let scenarios = if replayed.is_empty() {
        scenarios(&options.scenarios)?
    } else {
        vec![replay::scenario(&options.recordings)?]
    };
    let is_recorded = |name: &str| name == Contender::AS_RECORDED.policy.name() && !replayed.is_empty();
    let other = match options.against.as_deref() {
        Some(name) if is_recorded(name) => Some(Contender::AS_RECORDED),
        name => name.map(Contender::named).transpose()?,
    };
    contenders.extend(other.filter(|other| !contenders.contains(other)));
    if let Some(path) = &options.html {
        // What cannot be written is told now, not when all is simulated.
        drop(Part::begin_over(path)?);
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let progress = Progress::default();
    let traced = if options.html.is_some() { Traced::First } else { Traced::None };
    let runs = progress::shown(&progress, work(&scenarios, &contenders, options.seeds), || {
        batch::run_all(&scenarios, &contenders, options.seeds, threads, traced, &progress)
    });
    let rows = results::rows(&scenarios, &contenders, &runs);
    if options.json {
        crate::output::json(&Results { results: &rows })?;
    } else {
        tables(&scenarios, &rows, options.seeds)?;
    }
    if let Some(path) = &options.html {
        page::write(path, &scenarios, &contenders, &runs, &rows)?;
    }
    let Some(other) = other else { return Ok(ExitCode::SUCCESS) };
    // What happened is no competitor.
    let is_rival = |contender: &Contender| *contender != Contender::AS_RECORDED || other == *contender;
    let (rivals, runs) = rivals(contenders, runs, is_rival);
    judge(&against::compare(&scenarios, &rivals, &runs, other), other)
}

/// Only these contenders, with their runs.
fn rivals(
    contenders: Vec<Contender>,
    runs: Vec<Vec<Vec<Run>>>,
    is_rival: impl Fn(&Contender) -> bool,
) -> (Vec<Contender>, Vec<Vec<Vec<Run>>>) {
    let of_rivals = |runs: Vec<Vec<Run>>| {
        let pairs = contenders.iter().zip(runs);
        pairs.filter(|(contender, _)| is_rival(contender)).map(|(_, runs)| runs).collect()
    };
    let runs = runs.into_iter().map(of_rivals).collect();
    (contenders.into_iter().filter(is_rival).collect(), runs)
}

/// Tells how they did against `other`; a success if nobody did worse.
fn judge(comparison: &against::Comparison, other: Contender) -> anyhow::Result<ExitCode> {
    let against::Comparison { compared, incomparable, worse } = comparison;
    if *compared == 0 {
        bail!(
            "nothing could be compared with {other}: no connection was open at the looks each half second, or nobody \
             else competes; record or simulate for longer, and name a policy with --policies"
        );
    }
    let told = worse.iter().map(|worse| {
        let against::Worse { scenario, contender, seed, figure, reached, other } = worse;
        let figure = figure.name();
        format!("  {contender} in {scenario}, seed {seed}: {figure} {reached:.4} instead of {other:.4}\n")
    });
    let told: String = told.collect();
    eprint!("\nworse than {other} in {} of {compared} runs\n{told}", worse.len());
    if *incomparable > 0 {
        eprintln!("{incomparable} runs could not be compared: there was nothing to measure in them");
    }
    Ok(if worse.is_empty() && *incomparable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How much there is to do: runs, and seconds of virtual time.
fn work(scenarios: &[Named], contenders: &[Contender], seeds: u64) -> progress::Work {
    let per_scenario = contenders.len() as f64 * seeds as f64;
    let seconds = |named: &Named| named.scenario.until.0.as_secs_f64() * per_scenario;
    progress::Work {
        runs: scenarios.len() * contenders.len() * seeds as usize,
        seconds: scenarios.iter().map(seconds).sum(),
    }
}

fn scenarios(wanted: &[String]) -> anyhow::Result<Vec<Named>> {
    let usual = USUAL_SCENARIOS.map(str::to_owned);
    let wanted = if wanted.is_empty() { &usual[..] } else { wanted };
    let mut named: Vec<Named> = Vec::new();
    for name in wanted {
        if name == "all" {
            for (name, text) in scenario::library() {
                named.push(Named { name: name.to_owned(), scenario: Scenario::parse(name, text)? });
            }
        } else {
            named.push(one_scenario(name)?);
        }
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = named.iter().find(|named| !names.insert(&named.name)) {
        bail!(
            "two scenarios are called {}; their results could not be told apart: rename or drop one",
            twice.name
        );
    }
    Ok(named)
}

fn one_scenario(name: &str) -> anyhow::Result<Named> {
    if let Some(scenario) = scenario::find(name) {
        return Ok(Named { name: name.to_owned(), scenario: scenario? });
    }
    let path = PathBuf::from(name);
    let is_file = path.extension().is_some_and(|extension| extension == "toml") || name.contains('/');
    if !is_file {
        bail!(
            "there is no scenario `{name}`; there are {}, and files of your own that end in .toml",
            scenario::library().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
        );
    }
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the scenario {name}; is the path right?"))?;
    let stem = path.file_stem().map_or(name.into(), |stem| stem.to_string_lossy());
    // Errors name the file, results what is left when path and ending are taken off.
    Ok(Named { scenario: Scenario::parse(name, &text)?, name: stem.into_owned() })
}

/// Who competes; in a replay what really happened comes first, asked for or not.
fn contenders(wanted: &str, is_replay: bool) -> anyhow::Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    contenders.extend(is_replay.then_some(Contender::AS_RECORDED));
    for name in wanted.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if is_replay && name == Contender::AS_RECORDED.policy.name() {
            continue;
        }
        let named = if name == "all" { Contender::all() } else { vec![Contender::named(name)?] };
        for contender in named {
            if !contenders.contains(&contender) {
                contenders.push(contender);
            }
        }
    }
    if contenders.is_empty() {
        bail!("--policies names nobody; name one of {}", catalogue::names().join(", "));
    }
    Ok(contenders)
}

fn tables(scenarios: &[Named], rows: &[Row], seeds: u64) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for (number, named) in scenarios.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        let plural = if seeds == 1 { "" } else { "s" };
        writeln!(out, "{} ({seeds} seed{plural}): {}", named.name, named.scenario.about)?;
        let rows: Vec<Row> = rows.iter().filter(|row| row.scenario == named.name).cloned().collect();
        write!(out, "{}", results::table(&rows))?;
    }
    let scores = results::scores(rows);
    if scenarios.len() > 1 && !scores.is_empty() {
        writeln!(
            out,
            "\nover all, relative to jsq-work (geometric means; 1 is as good as perfect knowledge)"
        )?;
        write!(out, "{}", results::score_table(&scores))?;
    }
    Ok(())
}

fn list() -> anyhow::Result<()> {
    let mut scenarios = Vec::new();
    for (name, text) in scenario::library() {
        scenarios.push(vec![name.to_owned(), Scenario::parse(name, text)?.about]);
    }
    crate::output::columns(&["SCENARIO", "WHAT HAPPENS"], &scenarios)?;
    writeln!(std::io::stdout())?;
    let policies: Vec<Vec<String>> = catalogue::Policy::ALL
        .into_iter()
        .map(|policy| {
            let colon = if policy.usual_selection().is_some() { "[:…]" } else { "" };
            vec![format!("{}{colon}", policy.name()), policy.about().to_owned(), policy.source().to_owned()]
        })
        .collect();
    crate::output::columns(&["POLICY", "WHAT IT DOES", "SOURCE"], &policies)?;
    writeln!(std::io::stdout())?;
    let selections: Vec<Vec<String>> = Kind::ALL
        .into_iter()
        .map(|kind| vec![format!(":{}", kind.name()), kind.about().to_owned()])
        .collect();
    crate::output::columns(&["WAY TO CHOOSE", "WHAT IT IS"], &selections)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_ones_exist() {
        assert_eq!(scenarios(&[]).unwrap().len(), USUAL_SCENARIOS.len());
        assert_eq!(contenders(USUAL_POLICIES, false).unwrap().len(), 6);
        assert!(contenders("all", false).unwrap().len() > 20);
        assert_eq!(scenarios(&["all".into()]).unwrap().len(), scenario::library().count());
    }

    #[test]
    fn a_comparison_of_nothing_fails() {
        let judged = |compared, incomparable| {
            let comparison = against::Comparison { compared, incomparable, worse: Vec::new() };
            judge(&comparison, Contender::AS_RECORDED)
        };
        let error = judged(0, 3).unwrap_err().to_string();
        assert!(error.contains("nothing could be compared with as-recorded"), "{error}");
        assert_eq!(judged(2, 1).unwrap(), ExitCode::FAILURE);
        assert_eq!(judged(2, 0).unwrap(), ExitCode::SUCCESS);
    }

    #[test]
    fn nobody_competes_twice() {
        assert_eq!(contenders("wlc, waterline,waterline:counter,wlc", false).unwrap().len(), 2);
        let replayed = contenders("wlc,as-recorded,waterline", true).unwrap();
        assert_eq!((replayed.len(), replayed[0]), (3, Contender::AS_RECORDED));
        assert!(contenders("as-recorded", false).is_err(), "there is nothing recorded");
    }

    #[test]
    fn what_is_unknown_is_told_with_what_there_is() {
        let told = |outcome: anyhow::Result<()>| format!("{:#}", outcome.unwrap_err());
        let scenario = |name: &str| told(scenarios(&[name.to_owned()]).map(drop));
        let policy = |name: &str| told(contenders(name, false).map(drop));
        assert!(scenario("c-mxi").starts_with("there is no scenario `c-mxi`; there are c-mix, c-few"));
        let twice = scenarios(&["c-mix".into(), "all".into()]).map(drop);
        assert!(told(twice).contains("two scenarios are called c-mix"));
        assert!(scenario("no/such.toml").contains("is the path right?"));
        assert!(policy("watrline").starts_with("there is no policy `watrline`; there are waterline, "));
        assert!(policy("waterline:best").contains("no way to choose `best`; there are random, counter"));
        assert!(policy("wlc:edf").contains("wlc chooses by itself"));
        assert!(policy(" ,").contains("names nobody"));
    }
}
