//! The Services file: no text makes its reader panic, and reading by pieces is reading the whole.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_discovery::file::{Reader, parse};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let mut reader = Reader::default();
        let by_pieces = reader.read(text);
        assert_eq!(by_pieces, parse(text));
        if let Err(problems) = by_pieces {
            assert!(!problems.to_string().is_empty());
        }
    }
});
