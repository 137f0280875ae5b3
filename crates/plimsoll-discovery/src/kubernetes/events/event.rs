//! An Event as the API server takes it, and what comes of writing it.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use plimsoll_core::service::NodeName;
use serde_json::json;

use super::appointed::number;
use super::notebook::{Kind, Note};

/// Who the Events are from.
const CONTROLLER: &str = "plimsoll.dev/agent";
/// As long as the API takes it.
const LONGEST_INSTANCE: usize = 128;
/// What came about twice within this many seconds is the same, seen by two.
const SAME: i64 = 60;

/// Writes what there is to tell, unless it was told already. The name of the Event follows from what it says: whoever
/// writes it a second time finds it there, and counts it up only if it was otherwise in between.
pub(super) async fn write(client: &Client, me: &NodeName, note: &Note) -> Result<(), Error> {
    let (namespace, _) = note.service.split_once('/').unwrap_or(("default", ""));
    let events = Api::<Event>::namespaced(client.clone(), namespace);
    let event = event(me, note);
    let name = event.metadata.name.clone().unwrap_or_default();
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.code == 409 && note.is_new => count_up(&events, &name).await,
        Err(Error::Api(status)) if is_moot(status.code, &status.message) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What came about again is told by the same Event.
async fn count_up(events: &Api<Event>, name: &str) -> Result<(), Error> {
    let patch = async |patch: serde_json::Value| {
        events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
    };
    // A patch of nothing tells what is there, without the right to read.
    let known = patch(json!({})).await?;
    let last = known.series.as_ref().map(|series| &series.last_observed_time).or(known.event_time.as_ref());
    let now = Timestamp::now();
    if last.is_some_and(|last| now.as_second() - last.0.as_second() < SAME) {
        return Ok(());
    }
    let count = known.series.map_or(1, |series| series.count);
    patch(json!({"series": {"count": count + 1, "lastObservedTime": MicroTime(now)}})).await.map(|_| ())
}

/// Whether an answer says that it was written before, or that there is nobody to tell any more.
fn is_moot(code: u16, message: &str) -> bool {
    matches!(code, 404 | 409) || (code == 403 && message.contains("is being terminated"))
}

fn event(me: &NodeName, note: &Note) -> Event {
    let (namespace, service) = note.service.split_once('/').unwrap_or(("default", &note.service));
    let (reason, kind, action) = match note.kind {
        Kind::NotUnderstood => ("NotUnderstood", "Warning", "Read"),
        Kind::LeftToProxy => ("LeftToProxy", "Normal", "TakeOver"),
    };
    let name = format!("{service}.{:016x}", number(&[&note.uid, reason, &note.text]));
    let me = me.as_str();
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(me[..me.floor_char_boundary(LONGEST_INSTANCE)].to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(service.to_owned()),
            uid: Some(note.uid.to_string()),
            ..ObjectReference::default()
        }),
        action: Some(action.to_owned()),
        reason: Some(reason.to_owned()),
        type_: Some(kind.to_owned()),
        note: Some(note.text.to_string()),
        ..Event::default()
    }
}
