//! What each file is called, how it opens and how long it is.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Findings;
use crate::workspace::{files, root};

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 9] =
    ["util", "utils", "helper", "helpers", "common", "misc", "manager", "types", "shared"];
/// More lines than this, and a file is about more than one thing. Tests may be longer.
const LONG: usize = 500;
/// The first parts of paths that exist on one machine only.
const PRIVATE: [&str; 4] = ["home", "root", "work", "Users"];

pub(super) fn check(findings: &mut Findings) -> Result<()> {
    for path in files(Path::new(""))? {
        // What is not text has no lines.
        let bytes =
            fs::read(root().join(&path)).with_context(|| format!("cannot read {}", path.display()))?;
        if let Ok(text) = String::from_utf8(bytes) {
            file(&path, &text, findings);
        }
    }
    Ok(())
}

fn file(path: &Path, text: &str, findings: &mut Findings) {
    let shown = path.display();
    let mut parts = path.iter().filter_map(|part| part.to_str());
    for (number, line) in text.lines().enumerate() {
        if let Some(part) = PRIVATE.iter().find(|part| names_directory(line, part)) {
            let number = number + 1;
            findings.breaches.push(format!(
                "{shown}:{number}: names a path under /{part}/, which other machines do not have"
            ));
        }
    }
    if path.extension().is_none_or(|extension| extension != "rs") {
        return;
    }
    if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(&part.trim_end_matches(".rs"))) {
        findings
            .breaches
            .push(format!("{shown}: `{name}` does not say what is inside; name it after its concept"));
    }
    if !text.starts_with("//! ") {
        findings.breaches.push(format!("{shown}:1: a file opens with a `//!` sentence that says what it is"));
    }
    let is_test = path.iter().any(|part| part == "tests" || part == "tests.rs");
    let lines = text.lines().count();
    if lines > LONG && !is_test {
        findings.warnings.push(format!("{shown}: {lines} lines; over {LONG}, split it by meaning"));
    }
}

/// Whether a line names `/directory/`, at the root: not as a part of a longer path or address.
fn names_directory(line: &str, directory: &str) -> bool {
    let name = format!("/{directory}/");
    line.match_indices(&name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '/' | '-' | '_' | '.' | '}' | '>'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, text: &str) -> Findings {
        let mut findings = Findings::default();
        file(Path::new(path), text, &mut findings);
        findings
    }

    #[test]
    fn files_say_what_they_are() {
        assert!(told("src/order.rs", "//! The order.\n").breaches.is_empty());
        assert_eq!(told("src/order.rs", "use std::fmt;\n").breaches.len(), 1);
        assert_eq!(told("src/utils.rs", "//! This and that.\n").breaches.len(), 1);
        assert_eq!(told("src/common/order.rs", "//! The order.\n").breaches.len(), 1);
        assert!(told("docs/types.md", "# Types\n").breaches.is_empty());
    }

    #[test]
    fn long_files_are_warned_of_unless_they_are_tests() {
        let long = "//! Long.\n".repeat(LONG + 1);
        assert_eq!(told("src/order.rs", &long).warnings.len(), 1);
        assert!(told("src/order/tests.rs", &long).warnings.is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_told() {
        let path = |directory: &str| format!("see /{directory}/me/notes");
        for directory in PRIVATE {
            assert_eq!(told("README.md", &path(directory)).breaches.len(), 1, "{directory}");
        }
        assert!(told("README.md", &format!("https://example.org{}", &path("work")[4..])).breaches.is_empty());
    }
}
