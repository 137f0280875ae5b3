//! A real control plane for the tests: its programs, built from their Go modules and kept.

pub(crate) mod pins;
mod go;
mod build;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use go::Go;
use pins::{PROGRAMS, Program};

/// Builds etcd, the Kubernetes API server and their relatives, for the tests, and prints the directory they are in.
///
/// They are built once from their pinned Go modules and kept in a cache directory (`PLIMSOLL_CACHE`, or `plimsoll` in
/// `XDG_CACHE_HOME` or ~/.cache): minutes and 4 GB of disk the first time, then nothing and 410 MB. Where
/// `KUBEBUILDER_ASSETS` names a directory, the programs there are used, and nothing is built. Go is fetched if it is
/// missing or too old.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask control-plane\n  cargo xtask control-plane kwok helm\n  \
                        KUBEBUILDER_ASSETS=/opt/kubernetes/bin cargo xtask test")]
pub(crate) struct Arguments {
    /// All programs, also those that only some jobs need.
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Only these programs; without any, those that the tests need.
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(PROGRAMS.iter().map(|p| p.name)))]
    names: Vec<String>,
}

/// The variable that names a directory with the programs; the tests read it as well.
pub(crate) const ASSETS: &str = "KUBEBUILDER_ASSETS";

pub(crate) fn control_plane(arguments: &Arguments) -> Result<()> {
    let wanted: Vec<&Program> = PROGRAMS
        .iter()
        .filter(|program| match arguments.names.as_slice() {
            [] => arguments.all || program.needed,
            names => names.iter().any(|name| name == program.name),
        })
        .collect();
    let directory = programs(&wanted)?;
    // The only thing on standard output, for `KUBEBUILDER_ASSETS=$(cargo xtask control-plane)`.
    #[allow(clippy::print_stdout)]
    {
        println!("{}", directory.display());
    }
    Ok(())
}

/// The directory with the programs that the tests need.
pub(crate) fn for_tests() -> Result<PathBuf> {
    programs(&PROGRAMS.iter().filter(|program| program.needed).collect::<Vec<_>>())
}

/// The directory with the programs that a node needs as well, to run Pods.
pub(crate) fn for_pods() -> Result<PathBuf> {
    let of_node = ["kubelet", "kube-scheduler"];
    let wanted = PROGRAMS.iter().filter(|program| program.needed || of_node.contains(&program.name));
    programs(&wanted.collect::<Vec<_>>())
}

/// helm, for the chart.
pub(crate) fn helm() -> Result<PathBuf> {
    let helm: Vec<&Program> = PROGRAMS.iter().filter(|program| program.name == "helm").collect();
    Ok(programs(&helm)?.join("helm"))
}

/// Whether a package that these arguments of `cargo test` choose has tests that may need a control plane: those that
/// use the laboratory.
pub(crate) fn is_needed(chosen: &[OsString]) -> Result<bool> {
    const LABORATORY: &str = "plimsoll-lab";
    let names: Vec<&str> = chosen.iter().filter_map(|argument| argument.to_str()).map(package).collect();
    let workspace = Workspace::read()?;
    Ok(workspace.members.iter().any(|member| {
        names.contains(&member.name.as_str())
            && (member.name == LABORATORY || member.needs.iter().any(|need| need == LABORATORY))
    }))
}

/// The package that an argument names: `NAME` after a lone `-p`, `-pNAME`, `--package=NAME`.
fn package(argument: &str) -> &str {
    argument.strip_prefix("--package=").or_else(|| argument.strip_prefix("-p")).unwrap_or(argument)
}

/// The directory in which these programs are, built if need be.
fn programs(wanted: &[&Program]) -> Result<PathBuf> {
    if let Some(given) = env::var_os(ASSETS).filter(|given| !given.is_empty()) {
        // The tests run in directories of their own.
        let given = std::path::absolute(given)?;
        let missing = missing(&given, wanted);
        if !missing.is_empty() {
            bail!(
                "{ASSETS} is {}, where there is no {}; put it there, or unset {ASSETS} to have all built here",
                given.display(),
                names(&missing)
            );
        }
        return Ok(given);
    }
    let place = cache()?.join("control-plane").join(pins::key());
    let programs = place.join("bin");
    if missing(&programs, wanted).is_empty() {
        return Ok(programs);
    }
    fs::create_dir_all(&programs).with_context(|| format!("cannot make {}", programs.display()))?;
    let _lock = lock(&place.join("lock"))?;
    // Another run may have built some of them while this one waited.
    let missing = missing(&programs, wanted);
    if missing.is_empty() {
        return Ok(programs);
    }
    eprintln!("building {} in {}; some minutes, once", names(&missing), place.display());
    let began = Instant::now();
    let scratch = place.join("build");
    let go = Go::find(&scratch)?;
    for program in missing {
        build::build(&go, &scratch, program, &programs)?;
    }
    // What a failed build leaves is kept, and spares the next try the part that went well.
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    eprintln!("the control plane is built, in {:.0} s", began.elapsed().as_secs_f64());
    Ok(programs)
}

/// Those that are not in a directory. What is there is whole: it was built elsewhere and then given its name.
fn missing<'a>(directory: &Path, wanted: &[&'a Program]) -> Vec<&'a Program> {
    wanted.iter().copied().filter(|program| !directory.join(program.name).is_file()).collect()
}

fn names(programs: &[&Program]) -> String {
    programs.iter().map(|program| program.name).collect::<Vec<_>>().join(", ")
}

/// Where this user's caches of this project are.
pub(crate) fn cache() -> Result<PathBuf> {
    let directory = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    directory("PLIMSOLL_CACHE")
        .or_else(|| directory("XDG_CACHE_HOME").map(|path| path.join("plimsoll")))
        .or_else(|| directory("HOME").map(|path| path.join(".cache/plimsoll")))
        .context(
            "no place for what is built: none of PLIMSOLL_CACHE, XDG_CACHE_HOME and HOME is an absolute path",
        )
}

/// Waits until no other run builds; the lock ends with the file, and with the process.
fn lock(path: &Path) -> Result<File> {
    let context = || format!("cannot lock {}", path.display());
    let file = File::create(path).with_context(context)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => eprintln!("another run builds the control plane; waiting for it"),
        Err(TryLockError::Error(error)) => return Err(error).with_context(context),
    }
    file.lock().with_context(context)?;
    Ok(file)
}
