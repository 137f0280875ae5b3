//! What a check found: how it stands, in words, and what to do.

use serde::{Deserialize, Serialize};

/// How a check went, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing, or could not be found out.
    Note,
    /// Works, but not for everything or not as well as it could.
    Warning,
    /// Keeps Plimsoll from working.
    Problem,
}

impl Verdict {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Warning => "warning",
            Verdict::Problem => "PROBLEM",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finding {
    /// The check, in a word or two with hyphens.
    pub(super) check: String,
    /// How it went.
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) what: String,
    /// What to do; everything that is not ok has it.
    pub(super) todo: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &str, what: impl Into<String>) -> Finding {
        Finding { check: check.to_owned(), verdict: Verdict::Ok, what: what.into(), todo: None }
    }

    pub(super) fn note(check: &str, what: impl Into<String>, todo: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Note, what.into(), todo.into())
    }

    pub(super) fn warning(check: &str, what: impl Into<String>, todo: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Warning, what.into(), todo.into())
    }

    pub(super) fn problem(check: &str, what: impl Into<String>, todo: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Problem, what.into(), todo.into())
    }

    fn new(check: &str, verdict: Verdict, what: String, todo: String) -> Finding {
        Finding { check: check.to_owned(), verdict, what, todo: Some(todo) }
    }
}
