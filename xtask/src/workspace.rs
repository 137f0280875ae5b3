//! The workspace as its manifests and its files tell it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::run::{cargo, output};

/// Where the workspace is.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the workspace").to_owned()
}

/// A crate of the workspace.
pub(crate) struct Member {
    /// Its name.
    pub(crate) name: String,
    /// Its directory, relative to the workspace.
    pub(crate) directory: PathBuf,
    /// The crates of the workspace that it depends on, also only in tests.
    pub(crate) needs: Vec<String>,
}

/// The workspace, and where cargo puts what it builds.
pub(crate) struct Workspace {
    /// The crates, in the order of the list in the manifest.
    pub(crate) members: Vec<Member>,
    /// The target directory.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Workspace> {
        let root = root();
        let text = output(cargo().current_dir(&root).args(["metadata", "--format-version=1", "--no-deps"]))?;
        let metadata: Value =
            serde_json::from_str(&text).context("cargo metadata wrote something that is not JSON")?;
        let manifest =
            fs::read_to_string(root.join("Cargo.toml")).context("cannot read the workspace's Cargo.toml")?;
        let mut members: Vec<Member> =
            entries(&metadata["packages"]).map(|package| member(&root, package)).collect::<Result<_>>()?;
        members.sort_by_key(|member| manifest.find(&format!("\"{}\"", member.directory.display())));
        let target = text_of(&metadata["target_directory"])?.into();
        Ok(Workspace { members, target })
    }
}

fn member(root: &Path, package: &Value) -> Result<Member> {
    let manifest = PathBuf::from(text_of(&package["manifest_path"])?);
    let directory = manifest.parent().and_then(|directory| directory.strip_prefix(root).ok());
    Ok(Member {
        name: text_of(&package["name"])?.to_owned(),
        directory: directory.context("a member of the workspace is outside of it")?.to_owned(),
        needs: entries(&package["dependencies"])
            .filter(|dependency| dependency["path"].is_string())
            .map(|dependency| text_of(&dependency["name"]).map(str::to_owned))
            .collect::<Result<_>>()?,
    })
}

fn entries(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text_of(value: &Value) -> Result<&str> {
    value
        .as_str()
        .context("cargo metadata lacks a text where one belongs; is this cargo newer than the pinned one?")
}

/// All files under a directory, sorted, relative to the workspace; without what is built and what git keeps.
pub(crate) fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let root = root();
    let mut found = Vec::new();
    let mut open = vec![root.join(directory)];
    while let Some(directory) = open.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = entry.file_name();
            if kind.is_dir() && name != "target" && name != ".git" && name != "artifacts" {
                open.push(entry.path());
            } else if kind.is_file() && name != ".git" {
                found.extend(entry.path().strip_prefix(&root).map(Path::to_owned));
            }
        }
    }
    found.sort();
    Ok(found)
}
