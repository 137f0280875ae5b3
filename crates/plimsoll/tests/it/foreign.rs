//! What other programs do to the ruleset does not touch what the agent has there.

use std::process::Command;

use plimsoll_lab::{available, eventually};

use crate::stage::{Endpoint, Held, Load, PROGRAMS, SOON, Stage};

/// A node whose agent serves connections that are open and ones that come.
struct Serving {
    // Before the stage they run on goes.
    load: Load,
    held: Held,
    /// Our rules, before anybody meddles.
    before: String,
    stage: Stage,
}

/// Nothing where there can be none.
fn serving() -> Option<Serving> {
    if !available(PROGRAMS) {
        return None;
    }
    let stage = Stage::running(1, 3);
    let held = stage.hold(0, 20);
    let load = stage.load();
    let before = rules(&stage);
    Some(Serving { load, held, before, stage })
}

/// The table without what the agent itself changes: elements, counters, and the chains that name the age slot.
fn rules(stage: &Stage) -> String {
    let node = &stage.cluster.nodes[0].host.namespace;
    let listing = node.text("nft", &["-s", "-t", "list", "table", "inet", "plimsoll"]).unwrap();
    let kept: Vec<&str> = listing.split("\n\n").filter(|block| !block.contains("chain open")).collect();
    kept.join("\n\n")
}

#[test]
fn foreign_edits_are_refused() {
    let Some(Serving { load, held, before, stage }) = serving() else { return };
    let node = &stage.cluster.nodes[0].host.namespace;
    let names = |kind: &str| -> Vec<String> {
        let words = before.lines().filter_map(|line| line.trim().strip_prefix(kind)?.strip_suffix(" {"));
        words.map(str::to_owned).collect()
    };
    let (chains, maps) = (names("chain "), names("map "));
    assert!(!chains.is_empty() && !maps.is_empty(), "{before}");
    let mut edits = vec![
        "delete table inet plimsoll".to_owned(),
        "flush table inet plimsoll".to_owned(),
        "add chain inet plimsoll foreign".to_owned(),
        "add table inet plimsoll { flags dormant; }".to_owned(),
    ];
    for chain in &chains {
        edits.push(format!("flush chain inet plimsoll {chain}"));
        edits.push(format!("insert rule inet plimsoll {chain} drop"));
    }
    edits.extend(maps.iter().map(|map| format!("flush map inet plimsoll {map}")));
    for edit in &edits {
        let done = node.output(Command::new("nft").arg(edit)).unwrap();
        assert!(!done.status.success(), "`nft {edit}` went through");
    }
    eprintln!("{} foreign edits were refused", edits.len());
    load.pass(20);
    assert!(rules(&stage) == before, "was\n{before}\nis\n{}", rules(&stage));
    assert_eq!(stage.probe(0, 20), 0, "the agent chooses");
    load.finish();
    held.assert_alive();
    assert_eq!(stage.fell_through(0), 0);
}

/// How often the ruleset is flushed again where the agent could not keep up.
const ATTEMPTS: usize = 5;

#[test]
fn flushing_the_ruleset_passes_our_table_by() {
    // The table below goes with the first flush. So where this machine is too busy for the agent to renew its leases
    // in time, connections fail, as they must; the agent counts that, and nothing is learnt from such a run.
    let kept_up = (0..ATTEMPTS).any(|_| serving().is_none_or(flush));
    assert!(kept_up, "leases ran out in each of {ATTEMPTS} runs: this machine is too busy for its agent");
}

/// Whether the agent renewed its leases in time; if so, nothing failed.
fn flush(Serving { load, held, before, stage }: Serving) -> bool {
    let node = &stage.cluster.nodes[0].host.namespace;
    for _ in 0..20 {
        node.nft("flush ruleset").unwrap();
        load.pass(3);
    }
    let tables = node.text("nft", &["list", "tables"]).unwrap();
    assert_eq!(tables.trim(), "table inet plimsoll", "everybody else's table is gone, ours is there");
    assert!(rules(&stage) == before, "was\n{before}\nis\n{}", rules(&stage));
    let accepted: Vec<u64> = stage.endpoints.iter().map(Endpoint::accepted).collect();
    load.pass(20);
    for (endpoint, before) in stage.endpoints.iter().zip(accepted) {
        assert!(endpoint.accepted() > before, "it does not choose among all any more");
    }
    let failed = load.end();
    held.assert_alive();
    let late = || stage.agents[0].metric("plimsoll_late_renewals_total") > 0.0;
    // The renewal may still be to come.
    if late() || (!failed.is_empty() && eventually(SOON, late)) {
        eprintln!("leases were renewed too late: {} connections failed", failed.len());
        return false;
    }
    assert!(failed.is_empty(), "{} connections failed: {failed:?}", failed.len());
    true
}
