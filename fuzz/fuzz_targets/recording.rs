//! Recordings: no bytes make their reader panic, and what it shows is what the end of the file says it holds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_sim::recording::check_bytes;

fuzz_target!(|bytes: &[u8]| {
    check_bytes(bytes);
});
