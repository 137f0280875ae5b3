//! The HTTP API: its pages, what they answer, with an example of each.

use std::fmt::Write as _;

use plimsoll_agent::PAGES;
use plimsoll_api::{Endpoint, Explanation, Key, Node, Problem, ServiceSummary, Status};
use schemars::JsonSchema;
use serde::Serialize;

use super::fields;

/// A row for each page, a section for each answer.
pub(super) fn page() -> String {
    let mut text = format!(
        "# HTTP API\n\n\
        An agent answers at `api.listen`, 127.0.0.1:9653 by default. It only reads: nothing can be changed here, and \
        whoever reaches it can see which Services and endpoints there are. `plimsoll status`, `explain` and `top` ask \
        it too; with `-o json` they print what it answered.\n\n\
        Answers under `/v1` are JSON. Figures carry their unit in the name. Fields are only ever added: a reader ignores \
        those it does not know. Where the status is not 200, the answer under `/v1` and of unknown pages is a \
        [Problem](#problem); that of the probes is a line of text. `HEAD` is answered like `GET`, other methods with 405.\n\n\
        A connection is for one request, and ends {} s after it began however far that came. At most {} are open at a \
        time: for one more the agent ends the longest open, so that whoever holds connections open keeps out neither \
        probe nor scrape. Both are counted in `plimsoll_api_cut_connections_total`.\n\n\
        | ask for | status 200 | other status codes |\n|---|---|---|\n",
        plimsoll_agent::API_DEADLINE.as_secs(),
        plimsoll_agent::MOST_API_CONNECTIONS,
    );
    for page in &PAGES {
        let query = if page.query.is_empty() { String::new() } else { format!("?{}", page.query) };
        let others: Vec<String> =
            page.others.iter().map(|(status, when)| format!("{status}: {when}")).collect();
        let others = if others.is_empty() { "–".into() } else { others.join("; ") };
        let _ = writeln!(text, "| `GET {}{query}` | {} | {others} |", page.path, page.answer);
    }
    text += "\n\
        ## Probes\n\n\
        For Kubernetes: `livenessProbe` on `/livez`, `readinessProbe` on `/readyz`, and a `startupProbe` on `/readyz` if \
        a start is to be bounded; none of them asks a peer or the API server, so that a fault elsewhere restarts \
        nothing. A thread of the dataplane that has given no sign of life for three leases (10 s at least, 60 s at \
        most) fails both: its leases have expired by then, the proxy below serves, and a restart may help.\n\n\
        NAME is `web`, `shop/web`, `shop/web:http`, `shop/web:80` or `shop/web:http/ipv4`; \
        [`plimsoll explain`](commands.md#plimsoll-explain) says what each stands for.\n\n";
    section(&mut text, "Status", &status());
    section(&mut text, "Explanation", &explanation());
    section(
        &mut text,
        "Problem",
        &Problem { error: "there is no Service wev; there are 1: shop/web:http/ipv4".into() },
    );
    text
}

fn section<T: JsonSchema + Serialize>(text: &mut String, title: &str, example: &T) {
    let schema = schemars::schema_for!(T);
    *text += &fields::answer(schema.as_value(), title);
    let json = serde_json::to_string_pretty(example)
        .expect("an example has neither keys that are no text nor errors");
    let _ = write!(text, "Example:\n\n```json\n{json}\n```\n\n");
}

// Every field is named, so that one that is new finds its way into the examples.

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        node: "node-1".into(),
        uptime_seconds: 4210.5,
        ready: true,
        waiting_for: Vec::new(),
        troubles: vec!["the mesh's peer node-4 does not resolve: no answer".into()],
        plan_age_seconds: Some(1.8),
        counts_age_seconds: Some(0.1),
        dataplane: "nftables".into(),
        store: "mesh".into(),
        services: vec![ServiceSummary {
            service: "shop/web:http/ipv4".into(),
            mode: "enabled".into(),
            policy: "waterline".into(),
            keys_taken: 1,
            keys_left: 0,
            endpoints: 2,
            eligible: 2,
            open: 300.0,
            max_over_mean: Some(1.05),
            held_back: 0,
        }],
        nodes: vec![Node { node: "node-2".into(), age_seconds: 0.2, opens_per_second: 12.5 }],
    }
}

fn explanation() -> Explanation {
    Explanation {
        service: "shop/web:http/ipv4".into(),
        node: "node-1".into(),
        mode: "enabled".into(),
        policy: "waterline".into(),
        dry_run: false,
        keys: vec![Key {
            key: "tcp/10.96.0.1:80".into(),
            taken: true,
            because: "connections go to the cluster's endpoints".into(),
        }],
        endpoints: vec![Endpoint {
            endpoint: "tcp/10.0.1.11:8080".into(),
            node: Some("node-2".into()),
            share: Some(0.58),
            local_share: None,
            fair_share: 0.667,
            nominal_capacity: Some(2.0),
            capacity: 2.0,
            open: 210.0,
            sent: 140.0,
            young: 24.0,
            level: Some(1.05),
            opens_per_second: 8.5,
            failures_per_second: 0.0,
            cpu_cores: None,
            pressure: None,
            reported_by: "node-2".into(),
            age_seconds: Some(0.2),
            limit: None,
            because: "it holds 5 % more than its part, so it gets less".into(),
        }],
    }
}
