//! Tries the table for real, in a network namespace that goes with the process that made it. Where none can be made,
//! the kernel is asked for the parts in transactions that are never ended, so that it undoes them. Either way this
//! host's own tables stay as they are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Key, Place, Protocol, ServiceId};
use plimsoll_core::table::{Choose, KeyEntry, Masquerade, ServiceTable, Weighted};
use plimsoll_dataplane::netlink::{self, ACK, APPEND, Builder, CREATE, Socket, nfgenmsg};
use plimsoll_dataplane::nftables::{Config, Nftables, Setup};
use plimsoll_lab::namespace;
use serde::{Deserialize, Serialize};

use super::finding::Finding;

/// The nftables expressions that our rules are made of, and what a kernel is built with to have them.
const EXPRESSIONS: [(&str, &str); 13] = [
    ("bitwise", "CONFIG_NF_TABLES"),
    ("byteorder", "CONFIG_NF_TABLES"),
    ("cmp", "CONFIG_NF_TABLES"),
    ("counter", "CONFIG_NF_TABLES"),
    ("ct", "CONFIG_NFT_CT"),
    ("dynset", "CONFIG_NF_TABLES"),
    ("fib", "CONFIG_NFT_FIB_INET"),
    ("immediate", "CONFIG_NF_TABLES"),
    ("lookup", "CONFIG_NF_TABLES"),
    ("masq", "CONFIG_NFT_MASQ"),
    ("meta", "CONFIG_NF_TABLES"),
    ("nat", "CONFIG_NFT_NAT"),
    ("numgen", "CONFIG_NFT_NUMGEN"),
];
/// `ENOENT`: the kernel has no such expression. Any other refusal is about what it was not told.
const NO_SUCH: i32 = 2;

/// What was found in the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tried {
    /// Why there is no `nf_tables`, if there is none.
    pub(super) no_nf_tables: Option<String>,
    /// Expressions that the kernel does not have.
    pub(super) missing: Vec<String>,
    /// Why a whole table with a Service of each kind could not be made.
    pub(super) no_table: Option<String>,
    /// Why that was not tried.
    pub(super) untried: Option<String>,
    /// Whether the kernel removes the table when its process ends.
    pub(super) owned: bool,
}

/// Tries it in a namespace, by another process of this program; else asks for the parts here.
pub(super) fn tried() -> Tried {
    elsewhere().unwrap_or_else(|why| {
        let mut tried = Tried { untried: Some(format!("{why:#}")), ..Tried::default() };
        parts(&mut tried);
        tried
    })
}

/// An error says why no namespace can be made.
fn elsewhere() -> anyhow::Result<Tried> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let output = Command::new(program)
        .args(["doctor", "--try-table"])
        .stdin(Stdio::null())
        .output()
        .context("cannot start this program again")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("plimsoll: "));
    }
    serde_json::from_slice(&output.stdout).context("this program answered itself something unknown")
}

/// Tries it in a namespace of this process's own, and prints what came of it. To be called before there are threads.
pub(super) fn answer() -> anyhow::Result<()> {
    let namespace = namespace::enter_rootless().and_then(|()| namespace::Namespace::bare("for doctor"));
    let namespace = match namespace {
        Ok(namespace) => namespace,
        // It says its source itself.
        Err(error) => bail!("{error}"),
    };
    let tried = namespace.run(|| {
        let mut tried = Tried::default();
        parts(&mut tried);
        if tried.no_nf_tables.is_none() {
            match table() {
                Ok(owned) => tried.owned = owned,
                Err(error) => tried.no_table = Some(error.to_string()),
            }
        }
        tried
    });
    crate::output::json(&tried)
}

fn parts(tried: &mut Tried) {
    let asked = Socket::open(netlink::Protocol::Netfilter).and_then(|mut socket| {
        tried.owned = undone(&mut socket, OWNER, &[])?.is_empty();
        undone(&mut socket, 0, &EXPRESSIONS.map(|(name, _)| name))
    });
    match asked {
        Ok(refused) => {
            // The table itself comes first.
            if let Some((_, errno)) = refused.iter().find(|(index, _)| *index == 0) {
                tried.no_nf_tables = Some(std::io::Error::from_raw_os_error(*errno).to_string());
                return;
            }
            tried.missing = refused
                .iter()
                .filter(|(index, errno)| *index > 1 && *errno == NO_SUCH)
                .map(|(index, _)| EXPRESSIONS[index - 2].0.to_owned())
                .collect();
        }
        Err(error) => tried.no_nf_tables = Some(error.to_string()),
    }
}

/// `linux/netfilter/nf_tables.h`, `nfnetlink.h`
const INET: u8 = 1;
const NF_TABLES: u16 = 10;
const NEW_TABLE: u16 = NF_TABLES << 8;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const NEW_RULE: u16 = NEW_TABLE | 6;
const BATCH_BEGIN: u16 = 16;
const OWNER: u32 = 2;
const TABLE: &str = "plimsoll_doctor";
const CHAIN: &str = "expressions";

/// Asks for a table with these flags, a chain, and a rule with each expression that is not told anything, in a batch
/// without an end: the kernel checks all of it and undoes it. Returns what was refused, by its place, with the error.
fn undone(socket: &mut Socket, flags: u32, names: &[&str]) -> Result<Vec<(usize, i32)>, netlink::Error> {
    let mut batch = Builder::new();
    batch.message(BATCH_BEGIN, 0, &nfgenmsg(0, NF_TABLES), |_| {});
    let first = batch.message(NEW_TABLE, CREATE | ACK, &nfgenmsg(INET, 0), |m| {
        m.text(1, TABLE);
        m.be32(2, flags);
    });
    batch.message(NEW_CHAIN, CREATE, &nfgenmsg(INET, 0), |m| {
        m.text(1, TABLE);
        m.text(3, CHAIN);
    });
    for name in names {
        batch.message(NEW_RULE, CREATE | APPEND, &nfgenmsg(INET, 0), |m| {
            m.text(1, TABLE);
            m.text(2, CHAIN);
            m.nest(4, |m| m.nest(1, |m| m.text(1, name)));
        });
    }
    let mut refusals = Vec::new();
    socket.transact(batch.bytes(), &mut refusals)?;
    // A refusal of the batch itself names its begin, and is one of the table.
    let place = |seq: u32| seq.saturating_sub(first) as usize;
    Ok(refusals.iter().map(|refusal| (place(refusal.seq), refusal.errno)).collect())
}

/// Makes the agent's table with a Service of each family, with and without affinity, and says whether it is owned.
fn table() -> anyhow::Result<bool> {
    let sources = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("they are networks"));
    let config = Config { local_sources: sources.into(), ..Config::default() };
    let mut nftables = Nftables::open(config, Setup::default())?;
    let mut plan = Plan { fresh: true, renew: true, ..Plan::default() };
    for (protocol, affinity) in [
        (Protocol::Tcp, None),
        (Protocol::Tcp, Some(Duration::from_hours(3))),
        (Protocol::Udp, None),
        (Protocol::Sctp, None),
    ] {
        for family in [Family::V4, Family::V6] {
            let (change, endpoint) = service(family, protocol, affinity);
            plan.changes.push(change);
            plan.host.insert(endpoint);
            plan.know.insert(endpoint);
        }
    }
    nftables.apply(&plan)?;
    Ok(nftables.is_owned())
}

fn service(family: Family, protocol: Protocol, affinity: Option<Duration>) -> (Change, EndpointId) {
    let (vip, address): (IpAddr, IpAddr) = match family {
        Family::V4 => ([192, 0, 2, 1].into(), [192, 0, 2, 2].into()),
        Family::V6 => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into()),
    };
    let port = if affinity.is_some() { 81 } else { 80 };
    let name = format!("{protocol}-{port}");
    let key = |place, choose, masquerade| KeyEntry { key: Key { place, port, protocol }, choose, masquerade };
    let endpoint = EndpointId { address, port: 8080, protocol };
    let endpoints = vec![Weighted { endpoint, weight: 1 }];
    let table = ServiceTable {
        protocol,
        keys: vec![
            key(Place::Internal(vip), Choose::Cluster, Masquerade::FromOutside),
            key(Place::AnyLocal(family), Choose::LocalForOutside, Masquerade::FromNode),
        ],
        affinity,
        cluster: endpoints.clone(),
        local: endpoints,
    };
    let id = ServiceId { name: name.into(), port: "".into(), family };
    (Change::Replace(id, table), endpoint)
}

/// What it means.
pub(super) fn judge(tried: &Tried) -> Vec<Finding> {
    if let Some(why) = &tried.no_nf_tables {
        return vec![match &tried.untried {
            None => Finding::problem(
                "nf-tables",
                format!("the kernel has no nf_tables: {why}"),
                "`modprobe nf_tables`, or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
            ),
            Some(reason) => Finding::note(
                "nf-tables",
                format!(
                    "it is not known whether this kernel can do it: {why}; no namespace to try it in: {reason}"
                ),
                "run doctor as root, or where users may make namespaces",
            ),
        }];
    }
    let mut findings = Vec::new();
    if !tried.missing.is_empty() {
        let options: BTreeSet<&str> = EXPRESSIONS
            .iter()
            .filter(|(name, _)| tried.missing.iter().any(|missing| missing == name))
            .map(|(_, option)| *option)
            .collect();
        let options: Vec<&str> = options.into_iter().collect();
        findings.push(Finding::problem(
            "nf-tables",
            format!("nf_tables lacks what our rules need: {}", tried.missing.join(", ")),
            format!("load their modules, or use a kernel with {}", options.join(", ")),
        ));
        return findings;
    }
    findings.push(match (&tried.no_table, &tried.untried) {
        (Some(why), _) => Finding::problem(
            "nf-tables",
            format!("our table cannot be made: {why}"),
            "use kernel 5.12 or newer with nf_tables, inet nat, concatenated and interval maps",
        ),
        (None, Some(reason)) => Finding::note(
            "nf-tables",
            format!(
                "nf_tables has all expressions we need; the whole table was not tried, for want of a network \
                 namespace: {reason}"
            ),
            "run doctor as root with all rights to be sure",
        ),
        (None, None) => Finding::ok("nf-tables", "our table was made in a namespace of its own and is gone"),
    });
    if tried.no_table.is_none() {
        findings.push(owner(tried.owned));
    }
    findings
}

fn owner(owned: bool) -> Finding {
    if owned {
        return Finding::ok("owner", "the kernel removes the table at once when the agent ends");
    }
    Finding::warning(
        "owner",
        "this kernel cannot tie a table to a process: when the agent is killed, its Services stay until their \
         leases expire",
        "use kernel 5.12 or newer, or shorten `dataplane.nftables.lease`",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn verdicts(tried: &Tried) -> Vec<(String, Verdict)> {
        judge(tried).into_iter().map(|finding| (finding.check, finding.verdict)).collect()
    }

    #[test]
    fn what_was_tried_is_judged() {
        let of = |verdict| ("nf-tables".to_owned(), verdict);
        let all = Tried { owned: true, ..Tried::default() };
        assert_eq!(verdicts(&all), [of(Verdict::Ok), ("owner".into(), Verdict::Ok)]);
        assert_eq!(verdicts(&Tried::default())[1], ("owner".into(), Verdict::Warning));
        let none = Tried { no_nf_tables: Some("no".into()), ..Tried::default() };
        assert_eq!(verdicts(&none), [of(Verdict::Problem)]);
        let broken = Tried { no_table: Some("no".into()), ..Tried::default() };
        assert_eq!(verdicts(&broken), [of(Verdict::Problem)]);
        let parts = Tried { untried: Some("not allowed".into()), owned: true, ..Tried::default() };
        assert_eq!(verdicts(&parts), [of(Verdict::Note), ("owner".into(), Verdict::Ok)]);
        let unknown = Tried { untried: Some("not allowed".into()), ..none };
        assert_eq!(verdicts(&unknown), [of(Verdict::Note)]);
    }

    #[test]
    fn missing_expressions_name_the_options_of_the_kernel() {
        let tried = Tried {
            missing: vec!["numgen".into(), "fib".into()],
            no_table: Some("x".into()),
            ..Tried::default()
        };
        let findings = judge(&tried);
        assert_eq!(findings.len(), 1);
        let todo = findings[0].todo.as_deref().unwrap();
        assert!(todo.contains("CONFIG_NFT_FIB_INET, CONFIG_NFT_NUMGEN"), "{todo}");
    }

    #[test]
    fn what_is_asked_for_is_undone_and_what_is_unknown_is_seen() {
        if !plimsoll_lab::available(&["nft"]) {
            return;
        }
        let namespace = namespace::Namespace::bare("parts").unwrap();
        let refused = namespace.run(|| {
            let mut socket = Socket::open(netlink::Protocol::Netfilter).unwrap();
            undone(&mut socket, OWNER, &["numgen", "no_such_thing", "nat"]).unwrap()
        });
        let missing: Vec<usize> =
            refused.iter().filter(|(_, errno)| *errno == NO_SUCH).map(|(place, _)| *place).collect();
        assert_eq!(missing, [3], "{refused:?}");
        assert_eq!(namespace.text("nft", &["list", "ruleset"]).unwrap(), "");
        let tried = namespace.run(|| {
            let mut tried = Tried::default();
            parts(&mut tried);
            tried
        });
        assert_eq!(tried, Tried { owned: true, ..Tried::default() });
    }
}
