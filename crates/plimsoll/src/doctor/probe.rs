//! Tries the table for real, in a network namespace that goes with the process that made it: this host's own
//! tables are never touched.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
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
    /// Whether the kernel removes the table when its process ends.
    pub(super) owned: bool,
}

/// Has another process of this program try it in a namespace; an error says why no namespace can be made.
pub(super) fn elsewhere() -> anyhow::Result<Tried> {
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

/// Tries it in a namespace of the calling process's own. To be called before there are threads.
pub(super) fn here() -> anyhow::Result<Tried> {
    namespace::enter_rootless()?;
    let namespace = namespace::Namespace::bare("doctor")?;
    Ok(namespace.run(try_all))
}

fn try_all() -> Tried {
    let mut tried = Tried::default();
    match missing() {
        Ok(missing) => tried.missing = missing,
        Err(error) => {
            tried.no_nf_tables = Some(error.to_string());
            return tried;
        }
    }
    match table() {
        Ok(owned) => tried.owned = owned,
        Err(error) => tried.no_table = Some(error.to_string()),
    }
    tried
}

/// Adds a rule with each expression, without telling it anything.
fn missing() -> anyhow::Result<Vec<String>> {
    let mut socket = Socket::open(netlink::Protocol::Netfilter)?;
    commit(&mut socket, |batch| {
        batch.message(NEW_TABLE, CREATE | ACK, &nfgenmsg(INET, 0), |m| m.text(1, TABLE));
        batch.message(NEW_CHAIN, CREATE, &nfgenmsg(INET, 0), |m| {
            m.text(1, TABLE);
            m.text(3, CHAIN);
        });
    })?
    .map_or(Ok(()), |errno| Err(std::io::Error::from_raw_os_error(errno)))?;
    let mut missing = Vec::new();
    for (name, _) in EXPRESSIONS {
        let refused = commit(&mut socket, |batch| {
            batch.message(NEW_RULE, CREATE | APPEND | ACK, &nfgenmsg(INET, 0), |m| {
                m.text(1, TABLE);
                m.text(2, CHAIN);
                m.nest(4, |m| m.nest(1, |m| m.text(1, name)));
            });
        })?;
        if refused == Some(NO_SUCH) {
            missing.push(name.to_owned());
        }
    }
    Ok(missing)
}

/// `linux/netfilter/nf_tables.h`, `nfnetlink.h`
const INET: u8 = 1;
const NF_TABLES: u16 = 10;
const NEW_TABLE: u16 = NF_TABLES << 8;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const NEW_RULE: u16 = NEW_TABLE | 6;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const TABLE: &str = "plimsoll_doctor";
const CHAIN: &str = "expressions";

/// Sends a transaction; the number of the first error, if it was refused.
fn commit(socket: &mut Socket, write: impl FnOnce(&mut Builder)) -> Result<Option<i32>, netlink::Error> {
    let mut batch = Builder::new();
    batch.message(BATCH_BEGIN, 0, &nfgenmsg(0, NF_TABLES), |_| {});
    write(&mut batch);
    batch.message(BATCH_END, 0, &nfgenmsg(0, NF_TABLES), |_| {});
    let mut refusals = Vec::new();
    socket.transact(batch.bytes(), &mut refusals)?;
    Ok(refusals.first().map(|refusal| refusal.errno))
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

/// What it means; `why` the table could not be tried, if it could not.
pub(super) fn judge(tried: Result<&Tried, &anyhow::Error>) -> Vec<Finding> {
    let tried = match tried {
        Ok(tried) => tried,
        Err(why) => {
            return vec![Finding::note(
                "nf-tables",
                format!(
                    "the table could not be tried, so it is not known whether this kernel can do it: {why:#}"
                ),
                "run doctor as root, or where users may make namespaces",
            )];
        }
    };
    if let Some(why) = &tried.no_nf_tables {
        return vec![Finding::problem(
            "nf-tables",
            format!("the kernel has no nf_tables: {why}"),
            "`modprobe nf_tables`, or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
        )];
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
    }
    match &tried.no_table {
        Some(why) if findings.is_empty() => findings.push(Finding::problem(
            "nf-tables",
            format!("our table cannot be made: {why}"),
            "use kernel 5.12 or newer with nf_tables, inet nat, concatenated and interval maps",
        )),
        Some(_) => {}
        None => {
            findings
                .push(Finding::ok("nf-tables", "our table was made in a namespace of its own and is gone"));
            findings.push(owner(tried.owned));
        }
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

/// Prints what was tried: what [`elsewhere`] reads.
pub(super) fn answer() -> anyhow::Result<()> {
    let tried = here().map_err(|error| anyhow!("no network namespace: {error:#}"))?;
    crate::output::json(&tried)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn verdicts(tried: &Tried) -> Vec<(String, Verdict)> {
        judge(Ok(tried)).into_iter().map(|finding| (finding.check, finding.verdict)).collect()
    }

    #[test]
    fn what_was_tried_is_judged() {
        let all = Tried { owned: true, ..Tried::default() };
        assert_eq!(verdicts(&all), [("nf-tables".into(), Verdict::Ok), ("owner".into(), Verdict::Ok)]);
        assert_eq!(verdicts(&Tried::default())[1], ("owner".into(), Verdict::Warning));
        let none = Tried { no_nf_tables: Some("no".into()), ..Tried::default() };
        assert_eq!(verdicts(&none), [("nf-tables".into(), Verdict::Problem)]);
        let broken = Tried { no_table: Some("no".into()), ..Tried::default() };
        assert_eq!(verdicts(&broken), [("nf-tables".into(), Verdict::Problem)]);
        let unknown = judge(Err(&anyhow!("not allowed")));
        assert_eq!((unknown.len(), unknown[0].verdict), (1, Verdict::Note));
        assert!(unknown[0].what.contains("not allowed"));
    }

    #[test]
    fn missing_expressions_name_the_options_of_the_kernel() {
        let tried = Tried {
            missing: vec!["numgen".into(), "fib".into()],
            no_table: Some("x".into()),
            ..Tried::default()
        };
        let findings = judge(Ok(&tried));
        assert_eq!(findings.len(), 1);
        let todo = findings[0].todo.as_deref().unwrap();
        assert!(todo.contains("CONFIG_NFT_FIB_INET, CONFIG_NFT_NUMGEN"), "{todo}");
    }
}
