//! Netlink messages: no bytes make their reader panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_dataplane::netlink::check_bytes;

fuzz_target!(|bytes: &[u8]| {
    check_bytes(bytes);
});
