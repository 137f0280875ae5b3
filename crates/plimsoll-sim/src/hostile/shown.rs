//! Events and plans in a line each, for the journal.

use plimsoll_core::balancer::Event;
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::ServiceChange;

/// An event in a line.
pub(super) fn event(event: &Event) -> String {
    match event {
        Event::Services(ServiceChange::All(all)) => format!("learns of {} Services", all.len()),
        Event::Services(ServiceChange::Set(service)) => {
            format!("learns of {} with {} endpoints", service.id, service.endpoints.len())
        }
        Event::Services(ServiceChange::Remove(id)) => format!("learns that {id} is gone"),
        Event::Counts(counts) => {
            let open: u64 = counts.hosted.iter().map(|count| u64::from(count.open)).sum();
            format!("counts {open} open at {} endpoints", counts.hosted.len())
        }
        Event::Sample(sample) => {
            format!("reads {:?} and {:?} of {}", sample.cpu, sample.pressure, sample.endpoint)
        }
        Event::Report(report) => {
            format!("hears from {}, {:?} old, of {} endpoints", report.node, report.age, report.hosted.len())
        }
        Event::Applied(outcome) => format!("hears of its plan: {outcome:?}"),
        event => format!("{event:?}"),
    }
}

/// A plan in a line.
pub(super) fn plan(plan: &Plan) -> String {
    let changes: Vec<String> = plan
        .changes
        .iter()
        .map(|change| match change {
            Change::Replace(id, table) => {
                format!("{id} anew with {} endpoints", table.cluster.len())
            }
            Change::Reweight(id, table) => {
                format!("{id} with {} endpoints", table.cluster.len())
            }
            Change::Remove(id) => format!("{id} gone"),
        })
        .collect();
    let fresh = if plan.fresh { "from nothing, " } else { "" };
    let renew = if plan.renew { "renewed, " } else { "" };
    format!("{fresh}{renew}[{}]", changes.join(", "))
}
