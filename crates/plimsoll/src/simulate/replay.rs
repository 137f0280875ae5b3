//! Recordings to be replayed: read, one Service chosen, merged, or listed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use plimsoll_sim::batch::Named;
use plimsoll_sim::recording::{self, Contents, How};
use plimsoll_sim::replay::{self, MOST_CONNECTIONS, Part};

/// The largest recording that is read, a little more than `plimsoll record` writes at most.
const LARGEST: u64 = (1 << 30) + (1 << 20);
/// So many lines, of a Service and an endpoint, are listed of each recording.
const MOST_LISTED: usize = 1 << 16;
/// So many Services and endpoints are told in a message.
const MOST_TOLD: usize = 20;

/// Options for a replay.
#[derive(Debug, clap::Args)]
pub(super) struct Recordings {
    /// Replay recordings instead, one of each node; `plimsoll record` makes them. What really happened is a line of
    /// its own, `as-recorded`
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "scenarios")]
    pub(super) replay: Vec<PathBuf>,
    /// The Service to be replayed, by its name or its address and port; needed if there are several. Without the
    /// family, the one of its families that more was sent to
    #[arg(long, value_name = "NAME", requires = "replay")]
    service: Option<String>,
    /// The capacity of an endpoint relative to the others, which have 1; may be given several times
    #[arg(long, value_name = "ENDPOINT=N", requires = "replay", value_parser = capacity)]
    capacity: Vec<(String, f64)>,
}

fn capacity(text: &str) -> Result<(String, f64), String> {
    let parts = text.rsplit_once('=').and_then(|(name, number)| Some((name, number.parse::<f64>().ok()?)));
    match parts {
        Some((name, number)) if (1e-3..=1e6).contains(&number) => Ok((name.to_owned(), number)),
        _ => Err("write an endpoint's name and a number from 0.001 to 1000000, as in `tcp/10.0.1.11:8080=2`"
            .into()),
    }
}

/// A recording that was read and is whole.
struct Whole {
    path: PathBuf,
    /// Kept, since not every file can be read twice.
    bytes: Vec<u8>,
    contents: Contents,
    /// By Service, its connections, those refused or not answered left out.
    counts: Vec<u64>,
}

impl Whole {
    fn read(path: &Path) -> anyhow::Result<Whole> {
        let bytes = read(path)?;
        let mut counts: Vec<u64> = Vec::new();
        let contents = contents(path, &bytes, |connection| {
            let place = connection.service as usize;
            if counts.len() <= place {
                counts.resize(place + 1, 0);
            }
            counts[place] += u64::from(connection.how != How::Unanswered);
        })?;
        counts.resize(contents.services.len(), 0);
        Ok(Whole { path: path.to_owned(), bytes, contents, counts })
    }

    /// The connections of a Service; nothing if these and `count` are more than can be replayed.
    fn part(self, service: &str, count: &mut usize) -> anyhow::Result<Option<Part>> {
        let number = self.contents.services.iter().position(|name| name == service);
        let mut connections = Vec::new();
        contents(&self.path, &self.bytes, |connection| {
            if Some(connection.service as usize) == number {
                *count += 1;
                if *count <= MOST_CONNECTIONS {
                    connections.push(*connection);
                }
            }
        })?;
        let part = Part { name: self.path.display().to_string(), contents: self.contents, connections };
        Ok((*count <= MOST_CONNECTIONS).then_some(part))
    }
}

/// Reads the recordings and makes a scenario of them. What is to be kept in mind goes to the standard error.
pub(super) fn scenario(options: &Recordings) -> anyhow::Result<Named> {
    let read = options.replay.iter().map(|path| Whole::read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let service = choose(options.service.as_deref(), &services(&read))?;
    let mut count = 0;
    let mut parts = Vec::new();
    for whole in read {
        let Some(part) = whole.part(&service, &mut count)? else {
            bail!(
                "{service} has more than {MOST_CONNECTIONS} connections, too many to be replayed; record for a shorter \
                 time"
            );
        };
        parts.push(part);
    }
    let capacities: BTreeMap<String, f64> = options.capacity.iter().cloned().collect();
    let replay = match replay::merge(&service, &parts, &capacities) {
        Ok(replay) => replay,
        Err(what) => bail!("cannot replay: {what}"),
    };
    for note in &replay.notes {
        eprintln!("plimsoll: {note}");
    }
    Ok(Named { name: service, scenario: replay.scenario })
}

/// Every Service in the recordings, with its connections, those refused or not answered left out.
fn services(read: &[Whole]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for whole in read {
        for (name, count) in whole.contents.services.iter().zip(&whole.counts) {
            *all.entry(name.clone()).or_default() += count;
        }
    }
    all
}

/// The Service that is meant, if it is clear.
fn choose(wanted: Option<&str>, services: &BTreeMap<String, u64>) -> anyhow::Result<String> {
    let told = || {
        let mut by_count: Vec<_> = services.iter().collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let told: Vec<String> = by_count
            .iter()
            .take(MOST_TOLD)
            .map(|(name, count)| format!("{name} ({count} connections)"))
            .collect();
        let more = services.len().saturating_sub(MOST_TOLD);
        let more = if more == 0 { String::new() } else { format!(", and {more} more, which --list tells") };
        told.join(", ") + &more
    };
    // Also without the protocol or the family.
    let fits = |name: &str, wanted: &str| {
        name == wanted
            || name.split_once('/').is_some_and(|(_, rest)| rest == wanted)
            || name.rsplit_once('/').is_some_and(|(rest, _)| rest == wanted)
    };
    let meant: Vec<&String> = match wanted {
        Some(wanted) if services.contains_key(wanted) => return Ok(wanted.to_owned()),
        Some(wanted) => services.keys().filter(|name| fits(name, wanted)).collect(),
        // One that nobody ever reached is not meant.
        None => services.iter().filter(|(_, count)| **count > 0).map(|(name, _)| name).collect(),
    };
    // A Service of two families is two; what is replayed is the one that more was sent to.
    let without_family = |name: &&String| {
        let (rest, family) = name.rsplit_once('/')?;
        ["ipv4", "ipv6"].contains(&family).then(|| rest.to_owned())
    };
    let families = meant.iter().map(without_family).collect::<BTreeSet<_>>();
    let is_one = families.len() == 1 && !families.contains(&None) && wanted.is_some();
    match (&meant[..], wanted) {
        ([one], _) => Ok((*one).clone()),
        ([first, rest @ ..], Some(wanted)) if is_one => {
            let most = rest
                .iter()
                .fold(first, |most, name| if services[*name] > services[*most] { name } else { most });
            let (count, others) = (services[*most], meant.iter().map(|name| services[*name]).sum::<u64>());
            eprintln!(
                "plimsoll: {wanted} was reached by several families; replayed is {most}, with {count} of {others} connections"
            );
            Ok((*most).clone())
        }
        ([], Some(wanted)) if !services.is_empty() => {
            bail!("there is no Service {wanted} in the recordings; there are {}", told())
        }
        ([], _) => bail!("nothing was recorded; was it the node that clients connect through?"),
        (_, Some(wanted)) => bail!("{wanted} could be several Services; there are {}", told()),
        (_, None) => bail!("the recordings hold several Services; choose one with --service: {}", told()),
    }
}

/// Tells what is in the recordings.
pub(super) fn list(paths: &[PathBuf]) -> anyhow::Result<()> {
    for (number, path) in paths.iter().enumerate() {
        let bytes = read(path)?;
        let mut counts = Counts::default();
        let contents = contents(path, &bytes, |connection| counts.add(connection, MOST_LISTED))?;
        if number > 0 {
            writeln!(std::io::stdout())?;
        }
        let Contents { head, services, endpoints, tail } = &contents;
        writeln!(
            std::io::stdout(),
            "{}: node {}, {:.0} s, {} connections, {} losses, {} left out",
            path.display(),
            head.node,
            tail.length as f64 / 1e3,
            tail.connections,
            tail.losses,
            tail.left_out
        )?;
        let rows: Vec<Vec<String>> = counts
            .listed
            .iter()
            .map(|((service, endpoint), (all, open, failed))| {
                let names = [&services[*service as usize], &endpoints[*endpoint as usize]].map(Clone::clone);
                let numbers = [all, open, failed].map(ToString::to_string);
                names.into_iter().chain(numbers).collect()
            })
            .collect();
        let names = ["SERVICE", "ENDPOINT", ">CONNECTIONS", ">OPEN AT THE END", ">UNANSWERED"];
        crate::output::columns(&names, &rows)?;
        if counts.others > 0 {
            let others = counts.others;
            writeln!(std::io::stdout(), "and {others} connections of other Services with other endpoints")?;
        }
    }
    Ok(())
}

/// Connections by Service and endpoint.
#[derive(Default)]
struct Counts {
    /// Answered ones, those open at the end, and those not answered.
    listed: BTreeMap<(u32, u32), (u64, u64, u64)>,
    /// Connections of what is not listed, for want of room.
    others: u64,
}

impl Counts {
    fn add(&mut self, connection: &recording::Connection, most: usize) {
        let key = (connection.service, connection.endpoint);
        if self.listed.len() >= most && !self.listed.contains_key(&key) {
            self.others += 1;
            return;
        }
        let (all, open, failed) = self.listed.entry(key).or_default();
        *all += u64::from(connection.how != How::Unanswered);
        *open += u64::from(connection.how == How::Open);
        *failed += u64::from(connection.how == How::Unanswered);
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read the recording {}; is the path right?", path.display()))?;
    if bytes.len() as u64 > LARGEST {
        bail!("{} is larger than any recording (1 GiB)", path.display());
    }
    Ok(bytes)
}

fn contents(path: &Path, bytes: &[u8], each: impl FnMut(&recording::Connection)) -> anyhow::Result<Contents> {
    match recording::read(bytes, each) {
        Ok(contents) => Ok(contents),
        Err(error) => bail!("the recording {}, {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_chosen_by_any_name_that_is_clear() {
        let names = ["tcp/10.96.0.1:80", "udp/10.96.0.2:53", "tcp/10.96.0.2:53", "shop/web/ipv4"];
        let services: BTreeMap<String, u64> =
            names.into_iter().zip(1..).map(|(name, count)| (name.to_owned(), count)).collect();
        let chosen = |wanted: &str| choose(Some(wanted), &services).map_err(|error| error.to_string());
        assert_eq!(chosen("10.96.0.1:80").unwrap(), "tcp/10.96.0.1:80");
        assert_eq!(chosen("shop/web").unwrap(), "shop/web/ipv4");
        assert_eq!(chosen("udp/10.96.0.2:53").unwrap(), "udp/10.96.0.2:53");
        assert!(chosen("10.96.0.2:53").unwrap_err().contains("several"));
        assert!(chosen("tcp").unwrap_err().contains("several"));
        let both = ["shop/web:http/ipv4", "shop/web:http/ipv6", "shop/web:https/ipv6"];
        let both: BTreeMap<String, u64> =
            both.into_iter().zip([3, 5, 9]).map(|(name, n)| (name.to_owned(), n)).collect();
        assert_eq!(choose(Some("shop/web:http"), &both).unwrap(), "shop/web:http/ipv6", "either family");
        assert_eq!(choose(Some("shop/web:http/ipv4"), &both).unwrap(), "shop/web:http/ipv4");
        assert!(choose(None, &both).unwrap_err().to_string().contains("--service"));
        let error = chosen("shop").unwrap_err();
        assert!(
            error.contains("no Service shop") && error.contains("shop/web/ipv4 (4 connections)"),
            "{error}"
        );
        let error = choose(None, &services).unwrap_err().to_string();
        assert!(error.contains("--service") && error.contains("udp/10.96.0.2:53 (2 connections)"), "{error}");
        let one = BTreeMap::from([("a".to_owned(), 1), ("refused".to_owned(), 0)]);
        assert_eq!(choose(None, &one).unwrap(), "a");
        assert!(choose(None, &BTreeMap::new()).unwrap_err().to_string().contains("nothing was recorded"));
    }

    #[test]
    fn what_is_listed_has_an_end() {
        let mut counts = Counts::default();
        for (endpoint, how) in [(1, How::Open), (2, How::Reset), (3, How::Reset), (1, How::Unanswered)] {
            counts.add(&recording::Connection { service: 0, endpoint, began: None, until: 0, how }, 2);
        }
        assert_eq!(counts.listed, BTreeMap::from([((0, 1), (1, 1, 1)), ((0, 2), (1, 0, 0))]));
        assert_eq!(counts.others, 1);
    }

    #[test]
    fn a_capacity_has_a_name_and_a_number() {
        assert_eq!(capacity("tcp/10.0.1.11:8080=2"), Ok(("tcp/10.0.1.11:8080".into(), 2.0)));
        assert!(["a", "a=", "a=0", "a=x", "a=NaN"].iter().all(|text| capacity(text).is_err()));
    }
}
