//! What came of each case, for people and for programs.

use std::fmt;

use serde::Serialize;

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// kube-proxy's mode.
    pub mode: &'static str,
    /// The Service and the case.
    pub case: String,
    /// What was seen with kube-proxy alone.
    pub alone: String,
    /// What was seen with Plimsoll in front.
    pub with_plimsoll: String,
    /// By whom it was to be served then: `taken`, `left`, or `-` where packets do not get as far.
    pub served: &'static str,
    /// What is wrong; nothing: it passed.
    pub problems: Vec<String>,
}

impl Outcome {
    /// Whether all is as it should be.
    pub fn passed(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { mode, case, alone, with_plimsoll, served, .. } = self;
        let verdict = if self.passed() { "ok" } else { "FAILED" };
        write!(f, "{verdict:<6} {mode:<8} {case:<58} {served:<5} {alone}")?;
        if alone != with_plimsoll {
            write!(f, "  with Plimsoll: {with_plimsoll}")?;
        }
        tell(&self.problems, f)
    }
}

/// Problems, a line each, below what they are about.
pub(crate) fn tell(problems: &[String], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    problems.iter().try_for_each(|problem| write!(f, "\n       {problem}"))
}
