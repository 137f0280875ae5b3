//! The inside of a datagram of the mesh: no bytes make its reader panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_store::mesh::decode;

fuzz_target!(|bytes: &[u8]| {
    if let Err(malformed) = decode(bytes) {
        assert!(!malformed.to_string().is_empty());
    }
});
