//! Others in the same place: chains that decide before ours, writers of our mark bits, flowtables, saved rulesets.

use plimsoll_dataplane::nftables::Config;

use super::finding::Finding;
use super::ruleset::{Hook, Ruleset};

/// Where distributions keep the rules that are loaded at boot.
const SAVED: [&str; 2] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf"];

pub(super) fn check(ruleset: &Ruleset, config: &Config) -> Vec<Finding> {
    let mut findings = vec![table(ruleset, config)];
    findings.extend(order(ruleset, config));
    findings.push(mark(ruleset, config));
    findings.extend(flowtables(ruleset, config));
    findings.push(saved(config));
    findings
}

fn is_ours(family: &str, table: &str, config: &Config) -> bool {
    family == "inet" && table == config.table
}

/// Whether the table is there already, and whose it is.
fn table(ruleset: &Ruleset, config: &Config) -> Finding {
    let name = &config.table;
    match ruleset.tables.iter().find(|table| is_ours(table.family, &table.name, config)) {
        None => Finding::ok("table", format!("no table inet {name} yet")),
        Some(table) if table.owned => {
            Finding::ok("table", format!("table inet {name} belongs to a running agent"))
        }
        Some(_) => Finding::warning(
            "table",
            format!("table inet {name} is there and belongs to no process"),
            format!(
                "an agent that starts replaces it; if none is to run here, `nft delete table inet {name}`. It is \
                 left over from a kernel below 5.12 or was loaded from a saved ruleset"
            ),
        ),
    }
}

/// Which nat chains see a new connection before ours, and which after.
fn order(ruleset: &Ruleset, config: &Config) -> Vec<Finding> {
    let ours = config.priority;
    let mut findings = Vec::new();
    let mut below = Vec::new();
    for chain in &ruleset.chains {
        let Some(base) = &chain.base else { continue };
        let hooked = matches!(base.hook, Hook::Prerouting | Hook::Output);
        if base.kind != "nat" || !hooked || is_ours(chain.family, &chain.table, config) {
            continue;
        }
        let shown = format!("{} {} {} at {}", chain.family, chain.table, chain.name, base.priority);
        if base.priority > ours {
            below.push(shown);
            continue;
        }
        let who = if base.priority < ours { "decides before ours" } else { "decides before ours or after" };
        findings.push(Finding::warning(
            "order",
            format!("nat chain {shown} {who}, at {ours}: what it translates never comes to us"),
            format!(
                "if it translates addresses of balanced Services, set `dataplane.nftables.priority` below {} \
                 (-199 at least), or raise that chain's priority; otherwise nothing",
                base.priority
            ),
        ));
    }
    if findings.is_empty() {
        let what = if below.is_empty() {
            format!("no other nat chain; ours come at {ours}")
        } else {
            format!("ours, at {ours}, decide before {}", below.join(", "))
        };
        findings.push(Finding::ok("order", what));
    }
    if below.is_empty() {
        findings.push(Finding::note(
            "proxy-below",
            "nothing in nftables comes after our chains: when the agent ends, nobody answers for its Services",
            "let another proxy serve the same addresses (kube-proxy, or rules of your own at priority -100), \
             unless it is iptables-legacy, IPVS or eBPF, which is not looked at here",
        ));
    }
    findings
}

/// Who else writes into our bits of the conntrack mark.
fn mark(ruleset: &Ruleset, config: &Config) -> Finding {
    let mask = config.mark_mask;
    let mut chains: Vec<String> = ruleset
        .rules
        .iter()
        .filter(|rule| rule.mark_bits & mask != 0 && !is_ours(rule.family, &rule.table, config))
        .map(|rule| format!("{} {} {} ({:#010x})", rule.family, rule.table, rule.chain, rule.mark_bits))
        .collect();
    chains.sort();
    chains.dedup();
    if chains.is_empty() {
        return Finding::ok("mark", format!("no rule of others writes conntrack mark bits {mask:#010x}"));
    }
    Finding::warning(
        "mark",
        format!("rules of others may write our conntrack mark bits {mask:#010x}: {}", chains.join(", ")),
        "counts go wrong where they do: give those rules a mask (`ct mark set ct mark & ~BITS | VALUE`, CONNMARK \
         with a mask), or choose eleven other bits with `dataplane.nftables.mark_mask`, the same in all agents",
    )
}

fn flowtables(ruleset: &Ruleset, config: &Config) -> Option<Finding> {
    let rule =
        ruleset.rules.iter().find(|rule| rule.offloads && !is_ours(rule.family, &rule.table, config))?;
    Some(Finding::warning(
        "flowtable",
        format!(
            "table {} {} hands connections to a flowtable in chain {}: their ends pass us by and are counted \
             when conntrack lets go of them",
            rule.family, rule.table, rule.chain
        ),
        "take connections to balanced endpoints out of the flowtable, or accept that ends are counted late",
    ))
}

/// A file with our table in it cannot be loaded while an agent owns the table.
fn saved(config: &Config) -> Finding {
    let holds =
        |path: &&str| std::fs::read_to_string(path).is_ok_and(|text| saves_table(&text, &config.table));
    let with_ours: Vec<&str> = SAVED.into_iter().filter(holds).collect();
    if with_ours.is_empty() {
        return Finding::ok("saved-ruleset", "no saved ruleset holds our table");
    }
    Finding::warning(
        "saved-ruleset",
        format!("{} holds table inet {}", with_ours.join(" and "), config.table),
        "remove that table from the file: while an agent runs, the kernel refuses the whole file with EPERM; \
         without one it loads Services that nobody keeps up to date",
    )
}

fn saves_table(text: &str, table: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split(|c: char| c.is_whitespace() || c == '{').filter(|word| !word.is_empty());
        let words: [Option<&str>; 4] = std::array::from_fn(|_| words.next());
        match words {
            [Some("add" | "create"), Some("table"), Some("inet"), Some(name)]
            | [Some("table"), Some("inet"), Some(name), _] => name == table,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::ruleset::{Base, Chain, Rule, Table};
    use super::*;

    fn nat(table: &str, hook: Hook, priority: i32) -> Chain {
        let base = Base { kind: "nat".into(), hook, priority, drops: false };
        Chain { family: "ip", table: table.into(), name: "c".into(), base: Some(base) }
    }

    fn verdict(findings: &[Finding], check: &str) -> Verdict {
        findings.iter().find(|finding| finding.check == check).expect(check).verdict
    }

    #[test]
    fn the_lower_number_decides() {
        let config = Config::default();
        let of = |priority| {
            let ruleset =
                Ruleset { chains: vec![nat("x", Hook::Prerouting, priority)], ..Ruleset::default() };
            order(&ruleset, &config)
        };
        assert_eq!(verdict(&of(-100), "order"), Verdict::Ok);
        assert!(of(-100)[0].what.contains("ip x c at -100"));
        assert_eq!(of(-100).len(), 1, "there is a proxy below");
        assert_eq!(verdict(&of(-105), "order"), Verdict::Warning);
        assert_eq!(verdict(&of(-110), "order"), Verdict::Warning);
        assert_eq!(verdict(&of(-110), "proxy-below"), Verdict::Note);
        let elsewhere = Ruleset { chains: vec![nat("x", Hook::Other, -300)], ..Ruleset::default() };
        assert_eq!(verdict(&order(&elsewhere, &config), "order"), Verdict::Ok);
    }

    #[test]
    fn only_overlapping_bits_of_others_matter() {
        let config = Config::default();
        let of = |family, table: &str, mark_bits| {
            let rule = Rule { family, table: table.into(), mark_bits, ..Rule::default() };
            mark(&Ruleset { rules: vec![rule], ..Ruleset::default() }, &config).verdict
        };
        assert_eq!(of("ip", "x", 0x0000_4000), Verdict::Ok);
        assert_eq!(of("ip", "x", 0x0001_4000), Verdict::Warning);
        assert_eq!(of("inet", "plimsoll", u32::MAX), Verdict::Ok);
        assert_eq!(of("ip", "plimsoll", u32::MAX), Verdict::Warning);
    }

    #[test]
    fn a_table_without_an_owner_is_a_leftover() {
        let of = |owned| {
            let table_there = Table { family: "inet", name: "plimsoll".into(), owned };
            table(&Ruleset { tables: vec![table_there], ..Ruleset::default() }, &Config::default()).verdict
        };
        assert_eq!((of(true), of(false)), (Verdict::Ok, Verdict::Warning));
    }

    #[test]
    fn saved_tables_are_found_however_they_are_written() {
        for text in ["table inet plimsoll {", "\ttable  inet plimsoll{", "add table inet plimsoll"] {
            assert!(saves_table(text, "plimsoll"), "{text}");
        }
        for text in
            ["table ip plimsoll {", "table inet plimsoll2 {", "# table inet plimsoll", "flush ruleset"]
        {
            assert!(!saves_table(text, "plimsoll"), "{text}");
        }
    }
}
