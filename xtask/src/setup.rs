//! What a machine needs before anything can run on it: a few system programs, installed here or named.

use anyhow::{Result, bail};

use crate::run::{command, is_installed, output, run};

/// Installs the system programs that tests and demo need, or says how to.
///
/// On Debian and Ubuntu, as root, what is missing is installed; otherwise the exact command is printed. The other
/// commands do this by themselves.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Each program, and the package of Debian and Ubuntu that has it.
const PROGRAMS: [(&str, &str); 5] = [
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    // kube-proxy, which the tests run, in its older mode.
    ("iptables", "iptables"),
];

pub(crate) fn setup(_: &Arguments) -> Result<()> {
    ensure()?;
    let names: Vec<&str> = PROGRAMS.iter().map(|(program, _)| *program).collect();
    eprintln!("everything is there: {}", names.join(", "));
    Ok(())
}

/// Returns when everything is there.
pub(crate) fn ensure() -> Result<()> {
    ensure_programs(&PROGRAMS)
}

/// The same for these programs, each with its package.
pub(crate) fn ensure_programs(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<(&str, &str)> =
        programs.iter().copied().filter(|(program, _)| !is_installed(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs = missing.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", ");
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    if !is_installed("apt-get") {
        bail!(
            "missing programs: {programs}; install the packages that have them (on Debian: {}) with this system's \
             package manager, then try again",
            packages.join(" ")
        );
    }
    if !is_root()? {
        bail!(
            "missing programs: {programs}; install them, then try again:\n\n    sudo apt-get install {}\n",
            packages.join(" ")
        );
    }
    eprintln!("missing programs: {programs}; installing {}", packages.join(" "));
    let apt = || {
        let mut apt = command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
        apt
    };
    run(apt().args(["update", "--quiet"]))?;
    run(apt().args(["install", "--quiet", "--yes", "--no-install-recommends"]).args(&packages))?;
    if let Some((program, package)) = missing.iter().find(|(program, _)| !is_installed(program)) {
        bail!(
            "the package {package} is installed, but there is still no `{program}` in the PATH; look for it with `dpkg -L {package}`"
        );
    }
    Ok(())
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> Result<bool> {
    Ok(output(command("id").arg("-u"))?.trim() == "0")
}
