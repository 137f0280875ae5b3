//! One program from its module.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::go::Go;
use super::pins::{Module, Program};
use crate::run::shown;

/// Builds a program and puts it, whole, into a directory.
pub(super) fn build(go: &Go, scratch: &Path, program: &Program, into: &Path) -> Result<()> {
    let (name, module) = (program.name, program.module);
    eprintln!("building {name} ({} {})", module.path, module.version);
    let began = Instant::now();
    let wrapper = wrap(go, scratch, module)?;
    let built = scratch.join(name);
    let mut flags = String::from("-s -w");
    for (variable, value) in module.says {
        let _ = write!(flags, " -X {variable}={value}");
    }
    let package = format!("{}{}", module.path, program.package);
    let mut command = go.command(&["build", "-mod=mod", "-trimpath", "-ldflags", &flags, "-o"]);
    text(command.arg(&built).arg(&package).current_dir(&wrapper))?;
    let place = into.join(name);
    // In the same file system: nobody ever sees half a program.
    fs::rename(&built, &place).with_context(|| format!("cannot put {name} into {}", into.display()))?;
    let megabytes = fs::metadata(&place)?.len() as f64 / 1e6;
    eprintln!("built {name} in {:.0} s, {megabytes:.0} MB", began.elapsed().as_secs_f64());
    Ok(())
}

/// A module that only asks for another one, in the directory returned.
///
/// `go install` refuses modules with replacements; a main module may have them. What the other one replaces by
/// directories of its own repository is replaced by the module that was published from there.
fn wrap(go: &Go, scratch: &Path, module: &Module) -> Result<PathBuf> {
    let wrapper = scratch.join(module.path.replace('/', "-"));
    let manifest = wrapper.join("go.mod");
    if manifest.exists() {
        return Ok(wrapper);
    }
    fs::create_dir_all(&wrapper)?;
    let named = format!("{}@{}", module.path, module.version);
    let told = json(go.command(&["mod", "download", "-json", &named]).current_dir(scratch))?;
    let theirs =
        told["GoMod"].as_str().with_context(|| format!("Go did not say where go.mod of {named} is"))?;
    let theirs = json(&mut go.command(&["mod", "edit", "-json", theirs]))?;
    let text = manifest_of(module, &theirs)?;
    let unfinished = wrapper.join("go.mod.new");
    fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &manifest))?;
    Ok(wrapper)
}

/// The wrapper's go.mod, made from that of the module.
fn manifest_of(module: &Module, theirs: &Value) -> Result<String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut text = format!("module plimsoll/control-plane\n\ngo {}\n\n", word(&theirs["Go"]));
    for setting in list(&theirs["Godebug"]) {
        let _ = writeln!(text, "godebug {}={}", word(&setting["Key"]), word(&setting["Value"]));
    }
    let _ = writeln!(text, "\nrequire {} {}\n", module.path, module.version);
    for replacement in list(&theirs["Replace"]) {
        let (old, new) = (word(&replacement["Old"]["Path"]), word(&replacement["New"]["Path"]));
        if old.is_empty() || new.is_empty() {
            bail!("go.mod of {} replaces something without a name", module.path);
        }
        if !new.starts_with('.') {
            let _ = writeln!(text, "replace {old} => {new} {}", word(&replacement["New"]["Version"]));
        } else if let Some(version) = module.staging {
            let _ = writeln!(text, "replace {old} => {old} {version}");
        }
    }
    Ok(text)
}

fn json(command: &mut Command) -> Result<Value> {
    serde_json::from_str(&text(command)?).context("Go wrote something that is not JSON")
}

/// What Go writes; what it complains of only if it fails, for it tells every module that it downloads.
fn text(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let told = command.output().with_context(|| format!("cannot start `{shown}`"))?;
    if !told.status.success() {
        let said = String::from_utf8_lossy(&told.stderr);
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("go: downloading ")).collect();
        let last = lines[lines.len().saturating_sub(30)..].join("\n");
        bail!(
            "`{shown}` failed ({}):\n{last}\nIs the module proxy reachable (GOPROXY), and is there room on the disk?",
            told.status
        );
    }
    String::from_utf8(told.stdout).context("Go wrote something that is not text")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn directories_of_the_repository_become_published_modules() {
        let module = Module { path: "k8s.io/a", version: "v1.2.3", staging: Some("v0.2.3"), says: &[] };
        let theirs = json!({
            "Go": "1.25.0",
            "Godebug": [{"Key": "default", "Value": "go1.25"}],
            "Replace": [
                {"Old": {"Path": "k8s.io/b"}, "New": {"Path": "./staging/src/k8s.io/b"}},
                {"Old": {"Path": "x.org/c"}, "New": {"Path": "y.org/c", "Version": "v1.0.0"}},
            ],
        });
        let text = manifest_of(&module, &theirs).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(
            lines,
            [
                "module plimsoll/control-plane",
                "go 1.25.0",
                "godebug default=go1.25",
                "require k8s.io/a v1.2.3",
                "replace k8s.io/b => k8s.io/b v0.2.3",
                "replace x.org/c => y.org/c v1.0.0",
            ]
        );
        let without = Module { staging: None, ..module };
        assert!(!manifest_of(&without, &theirs).unwrap().contains("k8s.io/b"));
    }
}
