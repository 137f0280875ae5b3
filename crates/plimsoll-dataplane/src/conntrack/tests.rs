//! Messages about connections: what the kernel sends is understood, what is damaged is survived.

use std::net::SocketAddr;

use plimsoll_core::service::{EndpointId, Protocol};
use proptest::prelude::*;

use super::*;
use crate::netlink::messages;

/// A translated IPv4 TCP connection in zone 7, as the kernel tells of its end.
fn sample(state: u8, zone: Option<u16>) -> Vec<u8> {
    let mut builder = Builder::new();
    let direction = |m: &mut Builder, kind, source: [u8; 4], destination: [u8; 4], ports: (u16, u16)| {
        m.nest(kind, |m| {
            m.nest(1, |m| {
                m.bytes_of(1, &source);
                m.bytes_of(2, &destination);
            });
            m.nest(2, |m| {
                m.u8(1, 6);
                m.be16(2, ports.0);
                m.be16(3, ports.1);
            });
        });
    };
    builder.message(DELETE, 0, &nfgenmsg(2, 0), |m| {
        direction(m, 1, [10, 1, 0, 11], [10, 96, 0, 1], (40_000, 80));
        direction(m, 2, [10, 1, 1, 12], [10, 1, 0, 11], (8080, 40_000));
        m.be32(3, 0x2e);
        m.nest(4, |m| m.nest(1, |m| m.u8(1, state)));
        m.be32(8, 0x0ff7_0000);
        m.be32(12, 99);
        if let Some(zone) = zone {
            m.be16(18, zone);
        }
    });
    builder.bytes().to_vec()
}

#[test]
fn an_entry_names_its_endpoint_and_its_state() {
    let bytes = sample(3, Some(7));
    let entry = Entry::parse(&messages(&bytes).next().unwrap()).unwrap();
    let address = "10.1.1.12".parse().unwrap();
    assert_eq!(entry.endpoint(), Some(EndpointId { address, port: 8080, protocol: Protocol::Tcp }));
    assert_eq!(entry.original.destination, "10.96.0.1:80".parse::<SocketAddr>().unwrap());
    assert_eq!((entry.id, entry.mark, entry.zone), (Some(99), 0x0ff7_0000, 7));
    assert!(entry.is_answered() && entry.is_translated());
    assert_eq!(entry.tcp, Some(TcpState::Established));
    for (number, state) in [(1, TcpState::Opening), (2, TcpState::Opening), (7, TcpState::Closing)] {
        let bytes = sample(number, None);
        assert_eq!(Entry::parse(&messages(&bytes).next().unwrap()).unwrap().tcp, Some(state));
    }
}

#[test]
fn a_flow_is_written_as_it_was_read() {
    let bytes = sample(3, Some(7));
    let entry = Entry::parse(&messages(&bytes).next().unwrap()).unwrap();
    let mut builder = Builder::new();
    builder.message(NEW, 0, &nfgenmsg(2, 0), |m| {
        entry.flow().write(m);
        write_reply(m, &entry);
    });
    let again = Entry::parse(&messages(builder.bytes()).next().unwrap()).unwrap();
    assert_eq!(again.flow(), entry.flow());
}

/// An entry is not read without a reply direction.
fn write_reply(m: &mut Builder, entry: &Entry) {
    m.nest(2, |m| {
        m.nest(1, |m| {
            m.bytes_of(1, &[10, 1, 1, 12]);
            m.bytes_of(2, &[10, 1, 0, 11]);
        });
        m.nest(2, |m| m.u8(1, entry.protocol));
    });
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        check_bytes(&bytes);
    }

    #[test]
    fn damaged_entries_never_panic(at in 0usize..220, value: u8, keep in 0usize..260) {
        let mut bytes = sample(3, Some(1));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(keep);
        check_bytes(&bytes);
    }
}

/// What a kernel sent: dumps and ends of connections in both families, refusals, and answers about tables.
#[test]
fn the_corpus_of_netlink_is_understood_and_survives_damage() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/netlink");
    let mut understood = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        understood += check_bytes(&bytes);
        for end in 0..bytes.len() {
            let mut damaged = bytes[..end].to_vec();
            check_bytes(&damaged);
            damaged.resize(bytes.len(), 0xff);
            check_bytes(&damaged);
        }
    }
    assert!(understood >= 6, "{understood} connections: where is the corpus?");
}
