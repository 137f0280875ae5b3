//! What changes and counts cost in the kernel, against the nft program on a table of the same content.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use plimsoll_core::order::{Interval, lay_out, steps};
use plimsoll_core::plan::{Change, Plan};
use plimsoll_dataplane::nftables::{Config, Counter, Nftables, Setup};
use plimsoll_lab::namespace::Namespace;

use crate::row::{Bound, Row, Unit, milliseconds, quantile};
use crate::scene::{ENDPOINTS, PORT, SERVICES, Scene};

/// Opens a table in a namespace and loads the scene.
pub(crate) fn open(namespace: &Namespace, plan: &Plan) -> Result<Nftables> {
    let config = Config { local_sources: vec!["10.0.0.0/10".parse()?], ..Config::default() };
    let mut nftables = namespace.run(|| Nftables::open(config, Setup::default()))?;
    nftables.apply(plan)?;
    Ok(nftables)
}

fn reweight(scene: &Scene, services: impl Iterator<Item = usize>, round: usize) -> Plan {
    let changes = services.map(|service| Change::Reweight(Scene::id(service), scene.table(service, round)));
    Plan { changes: changes.collect(), ..Plan::default() }
}

/// All 1,000 Services get new weights: our batch, and the same change as a file for `nft -f`.
pub(crate) fn reweight_all() -> Result<Vec<Row>> {
    const ROUNDS: usize = 15;
    let scene = Scene::new();
    let (ours, theirs) = (Namespace::new("ours")?, Namespace::new("twin")?);
    let mut nftables = open(&ours, &scene.first_plan(110))?;
    theirs.nft(&twin(&ours.text("nft", &["list", "table", "inet", "plimsoll"])?))?;
    let maps = maps_of(&ours)?;
    let mut laid = vec![Vec::new(); SERVICES];
    // What the listing has: the next weights are laid out by it.
    nft_file(&scene, &maps, 0, &mut laid)?;
    let (mut raw, mut by_nft) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let plan = reweight(&scene, 0..SERVICES, round);
        let start = Instant::now();
        nftables.apply(&plan)?;
        raw.push(milliseconds(start.elapsed()));
        let text = nft_file(&scene, &maps, round, &mut laid)?;
        let start = Instant::now();
        theirs.nft(&text)?;
        by_nft.push(milliseconds(start.elapsed()));
    }
    // Both did the same.
    for map in [&maps[0], &maps[SERVICES / 2], &maps[SERVICES - 1]] {
        let list = |namespace: &Namespace| namespace.text("nft", &["list", "map", "inet", "plimsoll", map]);
        ensure!(list(&ours)?.contains(PORT.to_string().as_str()), "map {map} has no endpoints");
        ensure!(
            elements(&list(&ours)?) == elements(&list(&theirs)?),
            "map {map} differs from its twin after the same change"
        );
    }
    let note = format!("least {:.1} and {:.1} ms", quantile(&mut raw, 0.0), quantile(&mut by_nft, 0.0));
    let (raw, by_nft) = (quantile(&mut raw, 0.5), quantile(&mut by_nft, 0.5));
    let bound = Bound::AtLeast(2.5);
    Ok(vec![Row::against("reweight-all", raw, by_nft, Unit::Milliseconds, bound).noting(note)])
}

/// One Service gets new weights: from the call to the kernel's acknowledgement.
pub(crate) fn reweight_one() -> Result<Vec<Row>> {
    let scene = Scene::new();
    let namespace = Namespace::new("one")?;
    let mut nftables = open(&namespace, &scene.first_plan(110))?;
    let mut times = Vec::new();
    for round in 1..=2000 {
        let plan = reweight(&scene, std::iter::once(round % SERVICES), round);
        let start = Instant::now();
        nftables.apply(&plan)?;
        times.push(milliseconds(start.elapsed()));
    }
    let note = format!("p99 {:.3} ms, 1,000 Services loaded", quantile(&mut times, 0.99));
    let median = quantile(&mut times, 0.5);
    Ok(vec![Row::recorded("reweight-one", median, Unit::Milliseconds, Bound::AtMost(0.1)).noting(note)])
}

/// Reads the counters of 10,000 endpoints that each had a connection.
pub(crate) fn read_counters() -> Result<Vec<Row>> {
    let scene = Scene::new();
    let namespace = Namespace::new("counters")?;
    // Every endpoint is an address of the node itself.
    namespace.ip("route add local 10.1.0.0/16 dev lo")?;
    let all = SERVICES * ENDPOINTS;
    let mut nftables = open(&namespace, &scene.first_plan(all))?;
    visit(&namespace, &scene)?;
    let pair = nftables.slot().pair;
    let set = format!("hosted_opened4_{pair}");
    let mut counts = Vec::new();
    let (mut ours, mut by_nft) = (Vec::new(), Vec::new());
    for round in 0..21 {
        let start = Instant::now();
        nftables.read_counter(Counter::HostedOpened(pair), &mut counts)?;
        ours.push(milliseconds(start.elapsed()));
        ensure!(counts.len() == all, "{} of {all} endpoints were counted", counts.len());
        if round % 3 == 0 {
            let start = Instant::now();
            let text = namespace.text("nft", &["-j", "list", "set", "inet", "plimsoll", &set])?;
            by_nft.push(milliseconds(start.elapsed()));
            ensure!(text.matches("\"counter\"").count() >= all, "nft lists fewer counters than there are");
        }
    }
    let (ours, by_nft) = (quantile(&mut ours, 0.5), quantile(&mut by_nft, 0.5));
    Ok(vec![Row::against("read-counters", ours, by_nft, Unit::Milliseconds, Bound::AtLeast(20.0))])
}

/// Opens and closes a connection to each endpoint.
fn visit(namespace: &Namespace, scene: &Scene) -> Result<()> {
    let listener = namespace.tcp_listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
    namespace.run(|| {
        for endpoint in scene.endpoints() {
            let to = SocketAddr::new(endpoint.address, endpoint.port);
            let client = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5))
                .with_context(|| format!("cannot connect to {to} on loopback"))?;
            // The client closes last, so that its port is free again at once.
            drop(listener.accept()?);
            drop(client);
        }
        Ok(())
    })
}

/// The listing of a table as a file that makes another of the same content without an owner.
fn twin(listing: &str) -> String {
    let mut text = String::new();
    for line in listing.lines() {
        let line = line.split(" # progname").next().unwrap_or_default();
        if !line.trim().starts_with("flags owner") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// For each Service, which map has its weights: told by the endpoints in it.
pub(crate) fn maps_of(namespace: &Namespace) -> Result<Vec<String>> {
    let listing = namespace.text("nft", &["list", "table", "inet", "plimsoll"])?;
    let scene = Scene::new();
    let addresses: BTreeMap<IpAddr, usize> =
        (0..SERVICES).map(|service| (scene.endpoint(service * ENDPOINTS).address, service)).collect();
    let mut maps = vec![String::new(); SERVICES];
    let mut map = "";
    for line in listing.lines() {
        if let Some(rest) = line.trim().strip_prefix("map ") {
            map = rest.trim_end_matches(" {");
        }
        if map.starts_with("w_") {
            for word in line.split_whitespace() {
                if let Some(service) = word.parse().ok().and_then(|address: IpAddr| addresses.get(&address)) {
                    map.clone_into(&mut maps[*service]);
                }
            }
        }
    }
    ensure!(maps.iter().all(|map| !map.is_empty()), "not every Service has a map in the listing");
    Ok(maps)
}

/// The change of `reweight` as a file for nft. `laid` are the intervals of each Service before and after.
fn nft_file(scene: &Scene, maps: &[String], round: usize, laid: &mut [Vec<Interval>]) -> Result<String> {
    let mut text = String::new();
    for (service, (map, laid)) in maps.iter().zip(laid).enumerate() {
        let table = scene.table(service, round);
        let weights: Vec<u32> = table.cluster.iter().map(|weighted| weighted.weight).collect();
        let steps = steps(weights.len()).context("ten endpoints have steps")?;
        let _ = write!(text, "flush map inet plimsoll {map}\nadd element inet plimsoll {map} {{ ");
        let mut from = 1;
        *laid = lay_out(&weights, steps, 0, laid);
        for interval in laid {
            let address = table.cluster[interval.endpoint].endpoint.address;
            let _ = write!(text, "0:{from:x}-0:{:x} : {address} . {PORT}, ", from + interval.steps - 1);
            from += interval.steps;
        }
        text.push_str("}\n");
    }
    Ok(text)
}

/// The elements in a listing, without white space.
fn elements(listing: &str) -> String {
    let begin = listing.find("elements").unwrap_or_default();
    listing[begin..].split_whitespace().collect()
}

/// Whether programs are there.
pub(crate) fn check_programs() -> Result<()> {
    for program in ["nft", "ip"] {
        let mut command = Command::new(program);
        command.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().with_context(|| {
            format!("cannot start `{program}`; `apt-get install nftables iproute2` brings what is needed")
        })?;
    }
    Ok(())
}
