//! Recordings: no bytes make their reader panic, and what it shows is what the end of the file says it holds; nothing
//! that it shows makes the making of a scenario panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_sim::recording::check_bytes;
use plimsoll_sim::replay::check_recording;

fuzz_target!(|bytes: &[u8]| {
    check_bytes(bytes, |contents, connections| {
        check_recording(&contents, &connections);
    });
});
