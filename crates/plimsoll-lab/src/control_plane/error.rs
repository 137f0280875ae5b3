//! What can go wrong with a control plane.

use std::io;
use std::path::PathBuf;

/// A step with a control plane that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such program.
    #[error("{0}")]
    Missing(String),
    /// A program ended, or did not become ready in time.
    #[error("{name}: {what}; its log ({}) ends:\n{tail}", log.display())]
    Program {
        /// Which.
        name: String,
        /// What happened.
        what: String,
        /// Where its log is, as long as the control plane is.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The API server refused something, or did not answer.
    #[error("`kubectl {command}` failed: {message}")]
    Refused {
        /// The command's arguments.
        command: String,
        /// What it said.
        message: String,
    },
    /// containerd refused something, or did not answer.
    #[error("`ctr {command}` failed: {message}")]
    Runtime {
        /// The command's arguments.
        command: String,
        /// What it said.
        message: String,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("a certificate for {name}: {source}")]
    Certificate {
        /// Whose.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A client certificate names at most two groups here.
    #[error("{user} is to be in {count} groups; a certificate made here has room for two")]
    TooManyGroups {
        /// Whose certificate.
        user: String,
        /// In how many groups.
        count: usize,
    },
}

/// Says what was tried when the operating system refuses it.
pub(super) fn trying(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::System { what, source }
}
