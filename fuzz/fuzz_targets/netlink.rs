//! Netlink: no bytes make its reader panic, nor that of connections.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_dataplane::{conntrack, netlink};

fuzz_target!(|bytes: &[u8]| {
    let (messages, _) = netlink::check_bytes(bytes);
    assert!(conntrack::check_bytes(bytes) <= messages);
});
