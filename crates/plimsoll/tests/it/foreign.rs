//! What other programs do to the ruleset does not touch what the agent has there.

use std::process::Command;

use plimsoll_lab::available;

use crate::stage::{Held, Load, PROGRAMS, Stage};

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

/// The table without what the agent itself changes: elements, counters, and the chain that names the age slot.
fn rules(stage: &Stage) -> String {
    let node = &stage.cluster.nodes[0].host.namespace;
    let listing = node.text("nft", &["-s", "-t", "list", "table", "inet", "plimsoll"]).unwrap();
    let kept: Vec<&str> = listing.split("\n\n").filter(|block| !block.contains("chain open {")).collect();
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

#[test]
fn flushing_the_ruleset_passes_our_table_by() {
    let Some(Serving { load, held, before, stage }) = serving() else { return };
    let node = &stage.cluster.nodes[0].host.namespace;
    for _ in 0..20 {
        node.nft("flush ruleset").unwrap();
        load.pass(3);
    }
    let tables = node.text("nft", &["list", "tables"]).unwrap();
    assert_eq!(tables.trim(), "table inet plimsoll", "everybody else's table is gone, ours is there");
    assert!(rules(&stage) == before, "was\n{before}\nis\n{}", rules(&stage));
    let (outcomes, again) = (stage.hold(0, 20), &stage.endpoints);
    assert!(again.iter().all(|endpoint| outcomes.with(endpoint) > 0), "it still chooses among all");
    load.finish();
    held.assert_alive();
}
