//! The container image: a static program in an OCI archive, made without a daemon.

mod layout;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

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

/// What an image is made of; the program's name is that of its binary target.
struct Contents {
    title: &'static str,
    links: &'static [&'static str],
    arguments: &'static [&'static str],
}

// kubectl finds its plugins by their names.
const PLIMSOLL: Contents =
    Contents { title: "plimsoll", links: &["kubectl-plimsoll"], arguments: &["agent"] };
/// What Pods of the tests run.
const POD: Contents = Contents { title: "plimsoll-pod", links: &[], arguments: &[] };

pub(crate) fn image(arguments: &Arguments) -> Result<()> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => build("release", &["plimsoll"])?.join(PLIMSOLL.title),
    };
    let (path, digest) = write(&PLIMSOLL, &program, &arguments.name, "image")?;
    eprintln!("{} MB", path.metadata()?.len() / 1_000_000);
    #[allow(clippy::print_stdout)]
    {
        println!("{} {digest}", path.display());
    }
    Ok(())
}

/// For the tests: the same image but for its program, which is not optimized, and that of what their Pods run.
pub(crate) fn for_tests() -> Result<[PathBuf; 2]> {
    let built = build("dev", &["plimsoll", "plimsoll-lab"])?;
    let write = |contents: &Contents| {
        let name = format!("docker.io/library/{}", contents.title);
        write(contents, &built.join(contents.title), &name, "image-for-tests").map(|(path, _)| path)
    };
    Ok([write(&PLIMSOLL)?, write(&POD)?])
}

/// Writes an image into a directory of the target directory; gives back the archive and its digest.
fn write(contents: &Contents, program: &Path, name: &str, directory: &str) -> Result<(PathBuf, String)> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("there is no image for {other}; x86_64 and aarch64 there are"),
    };
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    let directory = Workspace::read()?.target.join(directory);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(format!("{}-{version}-{architecture}.tar", contents.title));
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let image = Image {
        title: contents.title,
        program: &bytes,
        links: contents.links,
        arguments: contents.arguments,
        architecture,
        version,
        name: &format!("{name}:{version}"),
    };
    let digest = image.write(BufWriter::new(file))?;
    Ok((path, digest))
}

/// The programs of these packages without a dynamic linker, which the image does not have either; the directory they
/// are in.
fn build(profile: &str, packages: &[&str]) -> Result<PathBuf> {
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
    let packages = packages.iter().map(|name| format!("--package={name}"));
    run(cargo()
        .current_dir(root())
        .args(["build", "--locked", "--bins", "--profile", profile, "--target", &target])
        .args(packages)
        // Line tables would be three quarters of it; the names of functions stay, for backtraces.
        .env(format!("CARGO_PROFILE_{}_STRIP", profile.to_uppercase()), "debuginfo")
        .env(format!("CC_{variable}"), "musl-gcc")
        .env(format!("CARGO_TARGET_{}_RUSTFLAGS", variable.to_uppercase()), flags))?;
    // Cargo has its own word for it.
    let directory = if profile == "dev" { "debug" } else { profile };
    Ok(Workspace::read()?.target.join(target).join(directory))
}
