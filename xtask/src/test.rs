//! All tests, with the rights that those on the real kernel need.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::control_plane;
use crate::run::{cargo, command, run, succeeds};
use crate::setup::{ensure, is_root};

/// Runs all tests, with whatever they need.
///
/// Installs missing system programs or names them, builds everything first, also the Kubernetes control plane that
/// some tests run (some minutes, once: `cargo xtask control-plane`), and runs the tests as root or in a user
/// namespace, where those on the real kernel can make their networks. Where something is impossible the tests that
/// need it say so and are left out; with `PLIMSOLL_REQUIRE_ALL_TESTS=1` they fail.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test -p plimsoll-core\n  \
                        cargo xtask test -p plimsoll-dataplane -- --nocapture counts")]
pub(crate) struct Arguments {
    /// Arguments for `cargo test`; without `-p`, all packages are tested.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

pub(crate) fn test(arguments: &Arguments) -> Result<()> {
    tests(arguments, |_| {})
}

/// All tests of all packages; one that cannot run fails. The properties are tried with the same cases each time,
/// so that a check speaks of the change it checks: `cargo xtask test` draws others each time.
pub(crate) fn every_one() -> Result<()> {
    let arguments = Arguments { rest: vec!["--locked".into()] };
    tests(&arguments, |command| {
        command.env("PLIMSOLL_REQUIRE_ALL_TESTS", "1");
        if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
            command.env("PROPTEST_RNG_SEED", "1");
        }
    })
}

fn tests(arguments: &Arguments, prepare: fn(&mut Command)) -> Result<()> {
    ensure()?;
    let for_cargo = arguments.rest.split(|argument| argument == "--").next().unwrap_or_default();
    let chosen = for_cargo.iter().filter_map(|argument| argument.to_str()).any(|argument| {
        argument.starts_with("-p")
            || argument.starts_with("--package")
            || argument.starts_with("--manifest-path")
    });
    let all: &[&str] = if chosen { &[] } else { &["--workspace"] };
    run(cargo().args(["test", "--no-run"]).args(all).args(for_cargo))?;
    let mut tests = if is_root()? { cargo() } else { in_namespace() };
    if !chosen || control_plane::is_needed(for_cargo)? {
        match control_plane::for_tests() {
            Ok(programs) => {
                tests.env(control_plane::ASSETS, programs);
            }
            Err(error) => eprintln!("tests with a control plane cannot run: {error:#}"),
        }
    }
    prepare(&mut tests);
    run(tests.arg("test").args(all).args(&arguments.rest))
}

/// Cargo as root of a user, network and mount namespace of its own, with loopback up; as it is where that is not
/// allowed.
fn in_namespace() -> Command {
    const NAMESPACE: [&str; 3] = ["--map-root-user", "--net", "--mount"];
    let plain = cargo();
    if !succeeds(command("unshare").args(["--user"]).args(NAMESPACE).arg("true")) {
        eprintln!(
            "user namespaces are not allowed here: tests on the real kernel are left out. Allow them with\n\n    \
             sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0    (Ubuntu)\n    \
             sudo sysctl -w kernel.unprivileged_userns_clone=1                (Debian)\n\nor run this as root.\n"
        );
        return plain;
    }
    let mut inside = command("unshare");
    inside.arg("--user").args(NAMESPACE).args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
    inside.arg(plain.get_program());
    inside
}
