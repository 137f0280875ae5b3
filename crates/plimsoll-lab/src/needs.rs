//! What tests need of the machine, and what happens where it is not there.

use crate::namespace::Namespace;

/// Whether tests that need namespaces and these programs can run here. If not it says so on stderr, and panics where
/// `PLIMSOLL_REQUIRE_ALL_TESTS=1` asks for all tests.
pub fn available(programs: &[&str]) -> bool {
    let missing = match Namespace::new("probe") {
        Err(error) => {
            Some(format!("no network namespace can be made ({error}): run as root, or under `unshare -Urnm`"))
        }
        Ok(_) => programs.iter().find(|program| !installed(program)).map(|program| {
            format!("`{program}` is not installed: `apt-get install iproute2 nftables iptables conntrack util-linux` brings it")
        }),
    };
    let Some(missing) = missing else { return true };
    skip(&missing);
    false
}

/// Says on stderr that a test cannot run, and panics where all tests are asked for.
pub(crate) fn skip(missing: &str) {
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
