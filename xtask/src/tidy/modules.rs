//! Which module may name which: those declared above it in `lib.rs` or `main.rs`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Findings;
use super::crates::{CORE, EDGES};
use crate::workspace::{Member, Workspace, files, root};

pub(super) fn check(workspace: &Workspace, findings: &mut Findings) -> Result<()> {
    for member in &workspace.members {
        let source = member.directory.join("src");
        for top in ["lib.rs", "main.rs"] {
            let top = source.join(top);
            if root().join(&top).exists() {
                member_modules(member, &source, &top, findings)?;
            }
        }
    }
    Ok(())
}

fn member_modules(member: &Member, source: &Path, top: &Path, findings: &mut Findings) -> Result<()> {
    let read = |path: &Path| {
        fs::read_to_string(root().join(path)).with_context(|| format!("cannot read {}", path.display()))
    };
    let text = read(top)?;
    let modules = declared(&text);
    if member.name == CORE
        && let Some((number, line)) = beside_modules(&text)
    {
        findings.breaches.push(format!(
            "{}:{number}: `{line}`: the core's root holds documentation and `mod` lines only, so that nothing can be \
             named through it",
            top.display()
        ));
    }
    for path in files(source)? {
        let Some(module) = top_module(&path, source) else { continue };
        let Some(own) = modules.iter().position(|name| *name == module) else { continue };
        let root_may_be_named = EDGES.contains(&member.name.as_str());
        for (number, name) in named(&read(&path)?, depth(&path, source)) {
            let place = format!("{}:{number}", path.display());
            match modules.iter().position(|module| *module == name) {
                Some(other) if other > own => findings.breaches.push(format!(
                    "{place}: `{module}` names `{name}`, which is declared below it in {}; look up, never down",
                    top.display()
                )),
                None if !root_may_be_named => findings.breaches.push(format!(
                    "{place}: `{name}` is not a module: what is at the crate's root is below all modules; move it into \
                     one"
                )),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The names of the modules that a text declares, in order.
fn declared(text: &str) -> Vec<&str> {
    text.lines().filter_map(declaration).collect()
}

fn declaration(line: &str) -> Option<&str> {
    let line = line.trim().strip_suffix(';')?;
    let line = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub ")).unwrap_or(line);
    line.strip_prefix("mod ")
}

/// The first line that is neither documentation nor a module.
fn beside_modules(text: &str) -> Option<(usize, &str)> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    lines.find(|(_, line)| {
        !line.is_empty() && !line.starts_with("//") && !line.starts_with("#[") && declaration(line).is_none()
    })
}

/// The module at the top that a file belongs to; `None` for the top itself and for other programs.
fn top_module(path: &Path, source: &Path) -> Option<String> {
    let inside = path.strip_prefix(source).ok()?;
    let first = inside.iter().next()?.to_str()?;
    let name = first.trim_end_matches(".rs");
    (path.extension()? == "rs" && name != "lib" && name != "main" && name != "bin").then(|| name.to_owned())
}

/// How many `super::` lead from a file's module to the crate's root.
fn depth(path: &Path, source: &Path) -> usize {
    let inside = path.strip_prefix(source).unwrap_or(path);
    let is_directory = inside.file_name().is_some_and(|name| name == "mod.rs");
    inside.iter().count() - usize::from(is_directory)
}

/// The names right below the crate's root that a text names, each with its line.
fn named(text: &str, depth: usize) -> Vec<(usize, String)> {
    // Only a module inside the file makes `super` mean something else.
    let has_inner = text.lines().any(|line| line.trim_start().starts_with("mod ") && line.contains('{'));
    let by_super = "super::".repeat(depth);
    let starts: &[&str] = if has_inner { &["crate::"] } else { &["crate::", &by_super] };
    let mut names = Vec::new();
    for (number, line) in without_comments(text).lines().enumerate() {
        for start in starts {
            for (at, _) in line.match_indices(start) {
                let before = line[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | ':')) {
                    continue;
                }
                let after = &line[at + start.len()..];
                if !after.starts_with("super::") {
                    names.extend(first_names(after).into_iter().map(|name| (number + 1, name)));
                }
            }
        }
    }
    names
}

/// `a` of `a::b`, and `a` and `c` of `{a::b, c}`.
fn first_names(after: &str) -> Vec<String> {
    let identifier = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = after.strip_prefix('{') else { return vec![identifier(after)] };
    let mut names = Vec::new();
    let mut nested = 0;
    let mut begin = 0;
    for (i, c) in group.char_indices() {
        match c {
            '{' => nested += 1,
            '}' if nested > 0 => nested -= 1,
            ',' | '}' if nested == 0 => {
                names.push(identifier(&group[begin..i]));
                begin = i + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The line without what is inside quotes. A string over several lines is not understood; none names a module.
fn without_strings(line: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    let mut before = ' ';
    for c in line.chars() {
        if c == '"' && before != '\\' && before != '\'' {
            quoted = !quoted;
        }
        if !quoted {
            out.push(c);
        }
        before = if before == '\\' && c == '\\' { ' ' } else { c };
    }
    out
}

/// The text with strings and comments blanked and groups over several lines joined to their first line.
fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut joined = 0;
    let mut open = 0_i32;
    for line in text.lines() {
        let line = without_strings(line);
        let code = line.split("//").next().unwrap_or_default();
        out.push_str(code);
        let in_use = open > 0 || code.trim_start().trim_start_matches("pub ").starts_with("use ");
        if in_use {
            open += code.matches('{').count() as i32 - code.matches('}').count() as i32;
        }
        if open > 0 {
            joined += 1;
        } else {
            // As many lines as were joined, so that numbers stay right.
            out.push_str(&"\n".repeat(joined + 1));
            joined = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, depth: usize) -> Vec<String> {
        named(text, depth).into_iter().map(|(number, name)| format!("{number} {name}")).collect()
    }

    #[test]
    fn declarations_are_read_in_order() {
        assert_eq!(
            declared("//! Doc.\npub mod time;\nmod a;\npub(crate) mod b;\nmod c {}\nuse x;\n"),
            ["time", "a", "b"]
        );
    }

    #[test]
    fn all_ways_to_name_a_module_are_seen() {
        assert_eq!(names("use crate::time::Timestamp;\n", 1), ["1 time"]);
        assert_eq!(
            names("\nuse crate::{\n    a::{x, y},\n    b,\n};\nlet z = crate::c::d();\n", 1),
            ["2 a", "2 b", "6 c"]
        );
        assert_eq!(names("use super::a;\n", 1), ["1 a"]);
        assert_eq!(names("use super::a;\nuse super::super::b;\n", 2), ["2 b"]);
        assert_eq!(names("let a = \"crate::a // crate::b\"; crate::c();", 1), ["1 c"]);
        assert_eq!(names("// crate::a\n/// [`crate::b`]\n", 1), Vec::<String>::new());
        assert_eq!(
            names("use plimsoll_crate::a;\n$crate::b\nmod tests {\n    use super::c;\n}\n", 1),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_root_with_more_than_modules_is_seen() {
        assert_eq!(beside_modules("//! Doc.\n\npub mod a;\n"), None);
        assert_eq!(beside_modules("//! Doc.\npub use a::B;\n"), Some((2, "pub use a::B;")));
    }

    #[test]
    fn files_know_their_module_and_depth() {
        let source = Path::new("x/src");
        let of = |path: &str| (top_module(Path::new(path), source), depth(Path::new(path), source));
        assert_eq!(of("x/src/lib.rs"), (None, 1));
        assert_eq!(of("x/src/a.rs"), (Some("a".into()), 1));
        assert_eq!(of("x/src/a/mod.rs"), (Some("a".into()), 1));
        assert_eq!(of("x/src/a/b.rs"), (Some("a".into()), 2));
    }
}
