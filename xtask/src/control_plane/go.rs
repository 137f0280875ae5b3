//! The Go toolchain: the machine's own if it is new enough, else the pinned one from the module proxy.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::pins::{GO, GO_ZIPS};
use crate::run::{command, output, run};
use crate::setup;

/// Where modules come from unless `GOPROXY` says otherwise; Go's own default.
const PROXY: &str = "https://proxy.golang.org";
/// Where Linux systems keep the certificates of those that one may trust; Go looks there as well.
const TRUSTED: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// A Go that builds here, into caches of its own.
pub(super) struct Go {
    program: PathBuf,
    scratch: PathBuf,
}

impl Go {
    /// Looks for Go, or fetches it into a directory for things that are removed in the end.
    pub(super) fn find(scratch: &Path) -> Result<Go> {
        fs::create_dir_all(scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        if env::var_os("SSL_CERT_FILE").is_none() && !TRUSTED.iter().any(|path| Path::new(path).exists()) {
            setup::ensure_programs(&[("update-ca-certificates", "ca-certificates")])?;
        }
        let scratch = scratch.to_owned();
        let installed = Go { program: "go".into(), scratch: scratch.clone() };
        if installed.version().is_some_and(|version| version >= numbers(GO)) {
            return Ok(installed);
        }
        let program = fetch(&scratch).with_context(|| {
            format!("there is no Go {GO} or newer in the PATH, and it cannot be fetched; install it, and try again")
        })?;
        Ok(Go { program, scratch })
    }

    /// A command of Go that sees nothing of its user's caches and settings but where modules come from.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut go = command(&self.program);
        go.args(arguments)
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            .env("GOFLAGS", "-modcacherw -buildvcs=false")
            .env("CGO_ENABLED", "0")
            .env("GOMODCACHE", self.scratch.join("modules"))
            .env("GOCACHE", self.scratch.join("objects"))
            .env_remove("GOROOT")
            .env_remove("GOOS")
            .env_remove("GOARCH");
        go
    }

    /// Its version; none if it is not there.
    fn version(&self) -> Option<Vec<u32>> {
        let told = self.command(&["env", "GOVERSION"]).output().ok().filter(|told| told.status.success())?;
        Some(numbers(String::from_utf8_lossy(&told.stdout).trim().strip_prefix("go")?))
    }
}

/// The numbers of a version, to compare: `1.26.8-x` gives 1, 26, 8.
fn numbers(version: &str) -> Vec<u32> {
    let plain = version.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    plain.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Fetches the pinned Go as a module, checks it and unpacks it; gives its program.
fn fetch(scratch: &Path) -> Result<PathBuf> {
    let machine = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let Some((_, expected)) = GO_ZIPS.iter().find(|(name, _)| *name == machine) else {
        bail!("no Go is pinned for this machine ({machine})");
    };
    let version = format!("v0.0.1-go{GO}.linux-{machine}");
    let root = scratch.join(format!("golang.org/toolchain@{version}"));
    let program = root.join("bin/go");
    let whole = scratch.join("go-is-unpacked");
    if whole.exists() {
        return Ok(program);
    }
    setup::ensure_programs(&[("curl", "curl"), ("unzip", "unzip")])?;
    let zip = scratch.join("go.zip");
    download(&format!("golang.org/toolchain/@v/{version}.zip"), &zip)?;
    let sum = output(command("sha256sum").arg(&zip))?;
    if sum.split_whitespace().next() != Some(expected) {
        bail!("what came as Go {GO} has the SHA-256 {} instead of {expected}", sum.trim());
    }
    run(command("unzip").args(["-q", "-o"]).arg(&zip).arg("-d").arg(scratch))?;
    fs::remove_file(&zip)?;
    // Module zips keep no permissions.
    for directory in [root.join("bin"), root.join(format!("pkg/tool/linux_{machine}"))] {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("cannot list {} of the toolchain", directory.display()))?;
        for entry in entries {
            fs::set_permissions(entry?.path(), Permissions::from_mode(0o755))?;
        }
    }
    fs::write(whole, "")?;
    Ok(program)
}

/// A file of the module proxy, from the first of those in `GOPROXY` that has it.
fn download(path: &str, to: &Path) -> Result<()> {
    let list = env::var("GOPROXY").unwrap_or_default();
    let mut proxies: Vec<&str> = list.split([',', '|']).filter(|proxy| proxy.contains("://")).collect();
    if list.is_empty() {
        proxies.push(PROXY);
    }
    for proxy in &proxies {
        let url = format!("{}/{path}", proxy.trim_end_matches('/'));
        let mut curl = command("curl");
        curl.args(["--fail", "--silent", "--show-error", "--location", "--retry", "3", "--output"]);
        if run(curl.arg(to).arg(url)).is_ok() {
            return Ok(());
        }
    }
    bail!("none of {} module proxies (GOPROXY) has {path}", proxies.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("1.26.10") > numbers("1.26.8"));
        assert!(numbers("1.27rc1") > numbers("1.26.8"));
        assert!(numbers("1.26.8-custom") >= numbers("1.26.8"));
        assert!(numbers("1.9.9") < numbers("1.26.8"));
    }
}
