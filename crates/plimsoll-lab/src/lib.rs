//! A laboratory of network namespaces: nodes, endpoints and clients on one machine, for the tests, the demo and the
//! benchmarks.
//!
//! Everything happens in kernel namespaces without a name: they live as long as something of this process is in
//! them, so nothing is left when it ends, however it ends. It needs the rights `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` over its own
//! namespaces: root, or `unshare -Urnm PROGRAM` ([`namespace::enter_rootless`] does the same from within).
//! Traffic never leaves these namespaces; all loads are bounded in number and in time.

mod poll;
pub mod random;
pub mod namespace;
pub mod cluster;
pub mod proxy;
pub mod server;
pub mod client;
pub mod control_plane;

use std::time::{Duration, Instant};

/// Whether tests that need namespaces and these programs can run here. If not it says so on stderr, and panics where
/// `PLIMSOLL_REQUIRE_ALL_TESTS=1` asks for all tests.
pub fn available(programs: &[&str]) -> bool {
    let missing = match namespace::Namespace::new("probe") {
        Err(error) => {
            Some(format!("no network namespace can be made ({error}): run as root, or under `unshare -Urnm`"))
        }
        Ok(_) => programs.iter().find(|program| !installed(program)).map(|program| {
            format!("`{program}` is not installed: `apt-get install iproute2 nftables conntrack util-linux` brings it")
        }),
    };
    let Some(missing) = missing else { return true };
    skip(&missing);
    false
}

/// Says on stderr that a test cannot run, and panics where all tests are asked for.
fn skip(missing: &str) {
    assert!(std::env::var_os("PLIMSOLL_REQUIRE_ALL_TESTS").is_none_or(|v| v != "1"), "cannot run: {missing}");
    #[allow(clippy::print_stderr)]
    {
        eprintln!("SKIPPED: {missing}");
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|directory| std::path::Path::new(directory).join(program).exists())
}

/// Asks until the answer is yes or the time is up; returns the last answer.
pub fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
