//! Messages about connections: no bytes make their reader panic, and what was read can be written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_dataplane::conntrack::check_bytes;

fuzz_target!(|bytes: &[u8]| {
    check_bytes(bytes);
});
