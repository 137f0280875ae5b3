//! The kernel, this process's rights, and conntrack.

use plimsoll_dataplane::netlink::{Buffers, Error, Protocol, Socket};

use super::files::setting;
use super::finding::Finding;

/// The bit of `CAP_NET_ADMIN`.
const NET_ADMIN: u32 = 12;
/// The buffers the dataplane asks for.
const RECEIVE: usize = 4 << 20;
const SEND: usize = 32 << 20;

pub(super) fn check() -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let buffers = Socket::open(Protocol::Netfilter).and_then(|socket| socket.set_buffers(RECEIVE, SEND));
    vec![
        version(read("/proc/sys/kernel/osrelease").trim()),
        rights(effective_capabilities(&read("/proc/self/status"))),
        room(buffers),
        conntrack(setting("net/netfilter/nf_conntrack_count"), setting("net/netfilter/nf_conntrack_max")),
        events(
            setting("net/netfilter/nf_conntrack_max").is_some(),
            setting("net/netfilter/nf_conntrack_events"),
        ),
    ]
}

/// nat chains in the family inet came with 5.2, owners of tables with 5.12.
fn version(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::note(
            "kernel",
            format!("cannot tell the version of kernel {release:?}"),
            "it must be 5.12 or newer",
        );
    };
    match (major, minor) {
        (0..=4, _) | (5, 0..=1) => Finding::problem(
            "kernel",
            format!("Linux {release} is too old: nat in tables of family inet came with 5.2"),
            "use kernel 5.12 or newer",
        ),
        (5, 2..=11) => Finding::warning(
            "kernel",
            format!("Linux {release}: a killed agent's Services stay until their leases expire"),
            "use kernel 5.12 or newer",
        ),
        _ => Finding::ok("kernel", format!("Linux {release}")),
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn rights(capabilities: Option<u64>) -> Finding {
    match capabilities {
        Some(bits) if bits & (1 << NET_ADMIN) != 0 => Finding::ok("rights", "CAP_NET_ADMIN is in effect"),
        Some(_) => Finding::problem(
            "rights",
            "this process lacks CAP_NET_ADMIN: an agent with the same rights cannot change or read anything",
            "run it as root, or with `AmbientCapabilities=CAP_NET_ADMIN` in its unit",
        ),
        None => Finding::note(
            "rights",
            "/proc/self/status does not say which rights this process has",
            "the agent needs CAP_NET_ADMIN",
        ),
    }
}

fn room(buffers: Result<Buffers, Error>) -> Finding {
    match buffers {
        Ok(buffers) if buffers.forced => {
            Finding::ok("buffers", "socket buffers may exceed net.core's limits")
        }
        Ok(buffers) => Finding::note(
            "buffers",
            format!(
                "socket buffers are limited: a plan of more than {} kB takes effect in several transactions, and \
                 bursts of ended connections make the counts be read anew",
                buffers.send / 1024
            ),
            "for thousands of endpoints, run the agent in the first user namespace, or raise `net.core.wmem_max` \
             and `net.core.rmem_max`",
        ),
        Err(error) => Finding::problem(
            "buffers",
            format!("no netfilter socket: {error}"),
            "the kernel needs CONFIG_NETFILTER_NETLINK, and a sandbox must allow AF_NETLINK",
        ),
    }
}

fn conntrack(count: Option<u64>, max: Option<u64>) -> Finding {
    const RAISE: &str = "raise it: `sysctl -w net.netfilter.nf_conntrack_max=NUMBER`, and in /etc/sysctl.d";
    match (count, max) {
        (_, None) => Finding::note(
            "conntrack",
            "conntrack is not loaded yet",
            "nothing, if the agent can load modules; else `modprobe nf_conntrack nf_conntrack_netlink`",
        ),
        (Some(count), Some(max)) if max > 0 => {
            let what = format!("conntrack holds {count} of {max} connections");
            match count as f64 / max as f64 {
                0.95.. => Finding::problem("conntrack", format!("{what}: new ones are being dropped"), RAISE),
                0.75.. => Finding::warning("conntrack", what, RAISE),
                _ => Finding::ok("conntrack", what),
            }
        }
        (_, Some(max)) => Finding::ok("conntrack", format!("conntrack may hold {max} connections")),
    }
}

fn events(loaded: bool, events: Option<u64>) -> Finding {
    match (loaded, events) {
        (_, Some(0)) => Finding::problem(
            "conntrack-events",
            "conntrack's events are off: UDP, and TCP that ends without FIN or RST, would never be counted as ended",
            "`sysctl -w net.netfilter.nf_conntrack_events=2`, and in /etc/sysctl.d",
        ),
        (_, Some(_)) => Finding::ok("conntrack-events", "conntrack tells when connections end"),
        (true, None) => Finding::problem(
            "conntrack-events",
            "this kernel's conntrack has no events",
            "use a kernel with CONFIG_NF_CONNTRACK_EVENTS",
        ),
        (false, None) => Finding::note(
            "conntrack-events",
            "not known before conntrack is loaded",
            "`modprobe nf_conntrack`, then run doctor again",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn versions() {
        for (release, verdict) in [
            ("6.18.44-generic", Verdict::Ok),
            ("5.12.0", Verdict::Ok),
            ("5.11.22", Verdict::Warning),
            ("5.2-rc1", Verdict::Warning),
            ("5.1.9", Verdict::Problem),
            ("4.19.0-27-amd64", Verdict::Problem),
            ("", Verdict::Note),
        ] {
            assert_eq!(version(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn rights_are_read_from_the_status() {
        let bits = effective_capabilities("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n");
        assert_eq!(bits, Some(0x1000));
        assert_eq!(rights(bits).verdict, Verdict::Ok);
        assert_eq!(rights(Some(!0x1000)).verdict, Verdict::Problem);
        assert_eq!(rights(effective_capabilities("")).verdict, Verdict::Note);
    }

    #[test]
    fn conntrack_must_have_room_and_events() {
        assert_eq!(conntrack(Some(10), Some(100)).verdict, Verdict::Ok);
        assert_eq!(conntrack(Some(75), Some(100)).verdict, Verdict::Warning);
        assert_eq!(conntrack(Some(95), Some(100)).verdict, Verdict::Problem);
        assert_eq!(conntrack(None, None).verdict, Verdict::Note);
        // A limit of 0 is none.
        assert_eq!(conntrack(Some(10), Some(0)).verdict, Verdict::Ok);
        assert_eq!(events(true, Some(2)).verdict, Verdict::Ok);
        assert_eq!(events(true, Some(0)).verdict, Verdict::Problem);
        assert_eq!(events(true, None).verdict, Verdict::Problem);
        assert_eq!(events(false, None).verdict, Verdict::Note);
    }
}
