//! The agent's metrics, read from what a scrape would show.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A metric as its lines describe it.
#[derive(Debug, Default)]
struct Metric {
    name: String,
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// A row for each metric of an OpenMetrics text, which must hold one sample of each.
pub(super) fn page(scrape: &str) -> String {
    let mut text = "# Metrics\n\n\
        `GET /metrics` at the agent's address (`api.listen`, 127.0.0.1:9653 by default) answers in OpenMetrics text. \
        Counters count since the start of the agent; ages are as of the scrape. A `service` is `name:port/family`, one \
        of those that the discovery finds; a `kind` is one of a few words. Each port and family of a Service has five series.\n\n\
        | metric | kind | labels | meaning |\n|---|---|---|---|\n"
        .to_owned();
    for metric in metrics(scrape) {
        let name = match metric.kind.as_str() {
            "counter" => format!("{}_total", metric.name),
            "info" => format!("{}_info", metric.name),
            _ => metric.name,
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".into() } else { labels.join(", ") };
        let _ = writeln!(text, "| `{name}` | {} | {labels} | {} |", metric.kind, metric.help);
    }
    text
}

fn metrics(scrape: &str) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for line in scrape.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            metrics.push(Metric { name: name.into(), help: help.into(), ..Metric::default() });
        } else if let Some(rest) = line.strip_prefix("# TYPE ")
            && let (Some(metric), Some((_, kind))) = (metrics.last_mut(), rest.split_once(' '))
        {
            metric.kind = kind.into();
        } else if let (Some(metric), Some((_, labels))) = (metrics.last_mut(), line.split_once('{'))
            && let Some((labels, _)) = labels.split_once('}')
        {
            let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name);
            metric.labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
        }
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_read() {
        let scrape = "# HELP a_plans Plans.\n# TYPE a_plans counter\na_plans_total{kind=\"x\",y=\"z\"} 1\n\
                      # HELP a_up Up.\n# TYPE a_up gauge\na_up 1\n# EOF\n";
        let page = page(scrape);
        assert!(page.contains("| `a_plans_total` | counter | `kind`, `y` | Plans. |"), "{page}");
        assert!(page.contains("| `a_up` | gauge | – | Up. |"), "{page}");
    }
}
