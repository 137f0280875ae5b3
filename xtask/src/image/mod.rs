//! The container image: a static program in an OCI archive, made without a daemon.

mod layout;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, command, is_installed, output, run};
use crate::setup::ensure_programs;
use crate::workspace::{Workspace, root};
use layout::Image;

/// Builds the container image as an OCI archive, and prints where it is and its digest.
///
/// One static program, nothing else. No daemon is needed, and the same source with the same toolchain gives the same
/// digest. Push it with any tool that reads OCI archives, or import it on a node.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask image
  skopeo copy oci-archive:target/image/plimsoll-0.1.0-amd64.tar docker://registry.example/plimsoll:0.1.0
  ctr --namespace k8s.io images import target/image/plimsoll-0.1.0-amd64.tar")]
pub(crate) struct Arguments {
    /// The name under which the image is imported; the version follows it
    #[arg(long, value_name = "NAME", default_value = "docker.io/library/plimsoll")]
    name: String,
    /// A program that was built elsewhere, instead of building it here
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

pub(crate) fn image(arguments: &Arguments) -> Result<()> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("there is no image for {other}; x86_64 and aarch64 there are"),
    };
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    let directory = Workspace::read()?.target.join("image");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(format!("plimsoll-{version}-{architecture}.tar"));
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let image =
        Image { program: &bytes, architecture, version, name: &format!("{}:{version}", arguments.name) };
    let digest = image.write(BufWriter::new(file))?;
    eprintln!("{} MB", path.metadata()?.len() / 1_000_000);
    #[allow(clippy::print_stdout)]
    {
        println!("{} {digest}", path.display());
    }
    Ok(())
}

/// The program without a dynamic linker, which the image does not have either.
fn build() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    // For the few crates that bring C.
    ensure_programs(&[("musl-gcc", "musl-tools")])?;
    if is_installed("rustup") {
        let installed =
            output(command("rustup").args(["target", "list", "--installed"]).current_dir(root()))?;
        if !installed.lines().any(|line| line == target) {
            run(command("rustup").args(["target", "add", &target]).current_dir(root()))?;
        }
    }
    // Where the source lies is not part of what it is.
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .unwrap_or_default();
    let flags = format!("--remap-path-prefix={}=. --remap-path-prefix={cargo_home}=cargo", root().display());
    let variable = target.replace('-', "_");
    run(cargo()
        .current_dir(root())
        .args(["build", "--release", "--locked", "--package=plimsoll", "--bin=plimsoll", "--target", &target])
        // Line tables would be three quarters of it; the names of functions stay, for backtraces.
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .env(format!("CC_{variable}"), "musl-gcc")
        .env(format!("CARGO_TARGET_{}_RUSTFLAGS", variable.to_uppercase()), flags))?;
    Ok(Workspace::read()?.target.join(target).join("release/plimsoll"))
}
