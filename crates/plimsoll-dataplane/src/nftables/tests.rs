//! What the kernel answers is read; what is damaged is survived.

use std::net::IpAddr;

use plimsoll_core::service::Protocol as Transport;
use proptest::prelude::*;

use super::*;
use crate::netlink::{Builder, messages, nfgenmsg};

/// A counter's element and a node's address, as the kernel gives them.
fn answer() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.message(0x0a0c, 0, &nfgenmsg(1, 0), |m| {
        m.text(1, "plimsoll");
        m.nest(3, |m| {
            m.nest(1, |m| {
                m.nest(1, |m| m.bytes_of(1, &[10, 1, 0, 11, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]));
                m.nest(7, |m| {
                    m.text(1, "counter");
                    m.nest(2, |m| {
                        m.be64(1, 640);
                        m.be64(2, 12);
                    });
                });
            });
        });
    });
    builder.message(20, 0, &[2, 24, 0, 0, 1, 0, 0, 0], |m| m.bytes_of(2, &[192, 168, 0, 1]));
    builder.bytes().to_vec()
}

#[test]
fn counts_and_addresses_are_found() {
    let bytes = answer();
    assert_eq!(check_bytes(&bytes), (1, 1));
    let mut counts = Vec::new();
    messages(&bytes).for_each(|message| counting::read_elements(&message, &mut counts));
    let address = IpAddr::from([10, 1, 0, 11]);
    assert_eq!(counts, [(EndpointId { address, port: 8080, protocol: Transport::Tcp }, 12)]);
}

proptest! {
    #[test]
    fn damaged_answers_never_panic(at in 0usize..200, value: u8, keep in 0usize..200) {
        let mut bytes = answer();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(keep);
        check_bytes(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        check_bytes(&bytes);
    }
}
