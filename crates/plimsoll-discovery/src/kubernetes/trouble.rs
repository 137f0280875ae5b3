//! What is told of a failed request to the API server: what failed, and what to do.

use std::error::Error as _;

use kube::runtime::watcher;

use super::news::Source;

/// What failed in a watch of this, and what to do.
pub(super) fn describe(error: &watcher::Error, source: &Source) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => answered(status.code, &status.message, source),
            other => unanswered(&chain(other), source),
        },
        watcher::Error::WatchError(status) => answered(status.code, &status.message, source),
        watcher::Error::NoResourceVersion => {
            format!("{source}: the API server sends objects without a version")
        }
    }
}

/// The server answered with an error.
pub(super) fn answered(code: u16, message: &str, source: &Source) -> String {
    let (resource, group) = source.resource();
    let (doing, verbs) = match source {
        Source::Events => ("write", "`create` and `patch`"),
        _ => ("list and watch", "`list` and `watch`"),
    };
    match code {
        401 => format!(
            "{source}: the API server does not accept who this agent says it is (401): its token or certificate has \
             expired or is of another cluster; check the Pod's service account, or the user in the kubeconfig"
        ),
        403 => format!(
            "{source}: the API server does not let this agent {doing} them (403: {message}); give its \
             ClusterRole the verbs {verbs} on the resource `{resource}` of the API group \"{group}\""
        ),
        404 => format!(
            "{source}: the API server does not know the resource `{resource}` (404: {message}); discovery.k8s.io/v1 \
             needs Kubernetes 1.21"
        ),
        429 => {
            format!("{source}: the API server is asked too much (429: {message}); it is asked again later")
        }
        code => format!("{source}: the API server answers {code}: {message}; it is asked again"),
    }
}

/// The server was not reached, or what it said was not understood.
pub(super) fn unanswered(why: &str, source: &Source) -> String {
    if why.contains("certificate") {
        return format!(
            "{source}: the API server's certificate is not trusted, or ours is not accepted: {why}; check the \
             certificate authority in the kubeconfig, or in a Pod the service account's ca.crt"
        );
    }
    format!(
        "{source}: the API server does not answer: {why}; what was known stays, and it is asked again; check its \
         address and whether this node can reach it"
    )
}

/// The error with all that caused it.
pub(super) fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some repeat what caused them.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
