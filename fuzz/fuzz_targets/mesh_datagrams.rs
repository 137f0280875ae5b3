//! Datagrams of strangers and of a member gone mad: a node of the mesh survives them and cannot be made to amplify.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_store::mesh::machine::check_bytes;

fuzz_target!(|bytes: &[u8]| {
    check_bytes(bytes);
});
