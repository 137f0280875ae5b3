//! Files under /proc.

/// A kernel parameter that is a number, in the network namespace of the calling thread: `net/ipv4/ip_forward`.
pub(super) fn setting(name: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}
