//! What leaves the process: status and explanations, as the HTTP API and `-o json` show them.
//!
//! Figures carry their unit in the name. Fields are only ever added; a reader ignores those it does not know.

mod explanation;
mod status;

pub use explanation::{Endpoint, Explanation, Key};
pub use status::{Node, Problem, ServiceSummary, Status};
