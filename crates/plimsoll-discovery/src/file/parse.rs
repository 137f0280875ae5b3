//! From a text to nodes and Services, or to problems with their places in it.

use std::fmt;
use std::sync::Arc;

use plimsoll_core::service::Service;
use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Options};

use super::format::File;
use super::locate::{Path, Place, path_at, place_of};
use super::validate::{Finding, Findings, Names, validate};
use crate::Node;

/// The largest file that is read, in bytes: about 500,000 endpoints.
pub const MAX_BYTES: usize = 64 << 20;

/// What a Services file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The nodes with an agent; empty where the file does not name them.
    pub nodes: Vec<Node>,
    /// One for each Service, port and family, sorted by id.
    pub services: Vec<Arc<Service>>,
}

/// Reads a Services file. Time and memory grow with the length of `text` alone, whatever it says.
pub fn parse(text: &str) -> Result<Contents, Problems> {
    if text.len() > MAX_BYTES {
        return Err(Problems::whole(format!(
            "the file has {} bytes, and at most {MAX_BYTES} are read; give fewer Services to each group of nodes",
            text.len()
        )));
    }
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Err(Problems::whole(
            "the file is empty; where there are no Services, write `services: []`".into(),
        ));
    }
    // A little more than the length, so that a small file may use aliases freely.
    let file: File = serde_saphyr::from_str_with_options(text, options(text.len(), text.len().max(10_000)))
        .map_err(|error| Problems::malformed(text, &error))?;
    validate(&file, &mut Names::default()).map_err(|findings| Problems::found(text, &findings))
}

/// Reads a part of a file, under the same limits; `None` where it makes no sense alone.
pub(super) fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_saphyr::from_str_with_options(text, options(text.len(), text.len())).ok()
}

/// Everything is bounded by the length of the text, aliases included: they may not multiply it.
fn options(bytes: usize, replayed: usize) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            // More than any text of this length has, aliases that stay within their limit included.
            max_events: 2 * bytes + 20_000,
            max_nodes: 2 * bytes + 20_000,
            max_depth: 16,
            max_documents: 2,
            // One list of ports may serve a thousand Services; what that costs is limited below.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: replayed,
            max_replay_stack_depth: 8,
        },
        emit_comments: false,
        with_snippet: false,
    }
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Which field; the top where it is the file as a whole.
    pub field: Path,
    /// What is wrong, and what to do.
    pub what: String,
}

/// What is wrong with a file: at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The first few, in the order of the file.
    pub first: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl Problems {
    fn one(place: Place, field: Path, what: String) -> Problems {
        Problems { first: vec![Problem { place, field, what }], more: 0 }
    }

    fn whole(what: String) -> Problems {
        Problems::one(Place { line: 1, column: 1 }, Path::TOP, what)
    }

    pub(super) fn not_text(line: usize) -> Problems {
        let what = "this is not UTF-8 text; save the file as UTF-8";
        Problems::one(Place { line, column: 1 }, Path::TOP, what.into())
    }

    fn malformed(text: &str, error: &Error) -> Problems {
        let place = error.location().filter(|l| l.line() > 0).map_or(Place { line: 1, column: 1 }, |l| {
            Place { line: l.line() as usize, column: l.column() as usize }
        });
        // A missing field is reported where the value begins that should have it.
        let outermost = matches!(error.without_snippet(), Error::SerdeMissingField { .. });
        Problems::one(place, path_at(text, place, outermost), explain(error))
    }

    fn found(text: &str, findings: &Findings) -> Problems {
        let mut first: Vec<Problem> = findings
            .first
            .iter()
            .map(|finding| Problem {
                place: place_of(text, &finding.field),
                field: finding.field.clone(),
                what: match &finding.other {
                    Some(other) => {
                        let line = place_of(text, other).line;
                        finding.what.replace(Finding::OTHER, &format!("{other} (line {line})"))
                    }
                    None => finding.what.clone(),
                },
            })
            .collect();
        first.sort_by_key(|problem| problem.place);
        Problems { first, more: findings.more }
    }

    /// The problems, a line each, as places in the file with this name.
    pub fn in_file<'a>(&'a self, path: &'a std::path::Path) -> impl fmt::Display + 'a {
        InFile(self, Some(path))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        InFile(self, None).fmt(f)
    }
}

struct InFile<'a>(&'a Problems, Option<&'a std::path::Path>);

impl fmt::Display for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.first.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            if let Some(path) = self.1 {
                write!(f, "{}:", path.display())?;
            }
            write!(f, "{}:{}: ", problem.place.line, problem.place.column)?;
            if problem.field != Path::TOP {
                write!(f, "{}: ", problem.field)?;
            }
            f.write_str(&problem.what)?;
        }
        if self.0.more > 0 {
            write!(f, "\nand {} more", self.0.more)?;
        }
        Ok(())
    }
}

/// What the YAML reader complains of, in the words of this file.
fn explain(error: &Error) -> String {
    match error.without_snippet() {
        Error::Message { msg, .. } => msg.clone(),
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("there is no field `{field}`; there are {}", listed(expected, "and"))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is not one of the choices; write {}", listed(expected, "or"))
        }
        Error::SerdeMissingField { field, .. } => format!("the field `{field}` is missing; add it"),
        Error::DuplicateMappingKey { key, .. } => {
            format!("the field `{}` is given twice; remove one", key.as_deref().unwrap_or("?"))
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("found {unexpected} where {expected} belongs; correct the value")
        }
        Error::InvalidScalar { ty, .. } => format!("this is not {}; correct the value", kind(ty)),
        Error::Unexpected { expected, .. } => {
            format!("{} belongs here; check the value and its indentation", kind(expected))
        }
        Error::MultipleDocuments { .. } => "a second document begins; a Services file has one".into(),
        Error::Budget { breach, .. } => format!("too much of it: {breach:?}; simplify the file"),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "aliases multiply the file; write the values out".into()
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "this alias is inside what it stands for; write the value out".into()
        }
        Error::UnknownAnchor { .. } => {
            "nothing above has this anchor; correct the alias or write the value out".into()
        }
        Error::NullIntoString { .. } => "the value is missing; write a text".into(),
        Error::AliasError { error, .. } => explain(error),
        Error::ExternalMessage { msg, .. } => {
            format!("this is not YAML: {msg}; check indentation and quotes")
        }
        // The place is told by us.
        other => other.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
    }
}

fn kind(ty: &str) -> &str {
    match ty {
        "u16" => "a whole number from 0 to 65535",
        "floating point" => "a number",
        "mapping start" => "a mapping (`name: value`)",
        "sequence start" => "a list (`[…]` or lines that begin with `-`)",
        "string" | "string scalar" => "a text",
        "boolean" => "`true` or `false`",
        other => other,
    }
}

/// `a`, `a or b`, `a, b or c`.
fn listed(names: &[&str], last: &str) -> String {
    match names {
        [] => "none".into(),
        [one] => format!("`{one}`"),
        [first @ .., end] => {
            format!("`{}` {last} `{end}`", first.join("`, `"))
        }
    }
}
