//! Programs of this system's packages that are wanted beside what is installed, and not started as its services.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::control_plane::cache;
use crate::run::{command, is_installed, run};

/// The path of a program of a package, which is fetched by apt (that checks who made it) and unpacked into our cache.
pub(crate) fn program(package: &str, path: &str) -> Result<PathBuf> {
    let place = cache()?.join("debian").join(package);
    let program = place.join(path);
    if program.is_file() {
        return Ok(program);
    }
    if !(is_installed("apt-get") && is_installed("dpkg-deb")) {
        bail!("{package} is fetched from Debian or Ubuntu, by apt-get and dpkg-deb; this system has none");
    }
    let context = || format!("cannot write to {}", place.display());
    // What an earlier try left.
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).with_context(context)?;
    let fetch = || run(command("apt-get").args(["download", package]).current_dir(&place));
    if fetch().is_err() {
        run(command("apt-get").args(["update", "--quiet"]))?;
        fetch()?;
    }
    let fetched = fs::read_dir(&place).with_context(context)?.next().context("apt-get fetched nothing")?;
    let archive = fetched.with_context(context)?.path();
    run(command("dpkg-deb").arg("-x").arg(&archive).arg(&place))?;
    fs::remove_file(&archive).with_context(context)?;
    if !program.is_file() {
        bail!("this system's package {package} has no {path}");
    }
    Ok(program)
}
