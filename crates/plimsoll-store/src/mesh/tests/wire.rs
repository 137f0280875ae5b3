//! Codecs: what was written is read back, and foreign bytes never do harm.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use foca::{Header, Member, Message as Foca, State};
use plimsoll_core::report::{EndpointReport, Report};
use plimsoll_core::service::{EndpointId, NodeName, Protocol};
use plimsoll_core::time::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::mesh::incoming::{Incoming, Took};
use crate::mesh::membership::{Identity, Membership};
use crate::mesh::outgoing::Outgoing;
use crate::mesh::part::{self, List, Part, Position, rounded};
use crate::mesh::seal::{MAX_MESSAGE, Start};
use crate::mesh::wire::{self, Message};
use crate::mesh::{decode, pack};

fn some_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4, 1u8..=255).prop_map(|(c, d)| IpAddr::V4(Ipv4Addr::new(10, 1, c, d))),
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits | 1))),
        (0u16..300).prop_map(|h| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, h + 1))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits | 1))),
    ]
}

fn some_position() -> impl Strategy<Value = Position> {
    let list = prop_oneof![4 => Just(List::Hosted), 1 => Just(List::Sent)];
    let port = prop_oneof![3 => Just(8080), 1 => any::<u16>()];
    let protocol = prop_oneof![3 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)];
    (list, some_address(), port, protocol)
        .prop_map(|(list, address, port, protocol)| (list, EndpointId { address, port, protocol }))
}

fn some_rate() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.0), 0.0f32..1000.0, any::<f32>()]
}

fn some_load() -> impl Strategy<Value = EndpointReport> {
    let count = || prop_oneof![Just(0), 0u32..5000, any::<u32>()];
    let signal = || proptest::option::of(some_rate());
    (count(), count(), count(), some_rate(), some_rate(), signal(), signal()).prop_map(
        |(open, young, middle, opens_per_second, failures_per_second, cpu, pressure)| EndpointReport {
            endpoint: EndpointId {
                address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 1,
                protocol: Protocol::Tcp,
            },
            open,
            young,
            middle,
            opens_per_second,
            failures_per_second,
            cpu,
            pressure,
        },
    )
}

fn some_report(most: usize) -> impl Strategy<Value = Report> {
    (btree_map(some_position(), some_load(), 0..most), some_rate(), 0u64..100_000).prop_map(
        |(loads, opens, age)| {
            let of = |list: List| {
                let mine = loads.iter().filter(move |(position, _)| position.0 == list);
                mine.map(|(position, load)| EndpointReport { endpoint: position.1, ..load.clone() }).collect()
            };
            Report {
                node: NodeName::new("n"),
                age: Duration::from_millis(age),
                opens_per_second: opens,
                hosted: of(List::Hosted),
                sent: of(List::Sent),
            }
        },
    )
}

fn looks(report: &Report) -> Report {
    Report {
        opens_per_second: pack::unpack_float(pack::pack_float(report.opens_per_second)),
        hosted: report.hosted.iter().map(rounded).collect(),
        sent: report.sent.iter().map(rounded).collect(),
        ..report.clone()
    }
}

fn parts(messages: &[Vec<u8>]) -> Vec<Part> {
    let part = |message: &Vec<u8>| match decode(message) {
        Ok(Message::Report(part)) => part,
        other => panic!("not a report: {other:?}"),
    };
    messages.iter().map(part).collect()
}

fn some_identity() -> impl Strategy<Value = Identity> {
    ("[a-z0-9.-]{1,253}", any::<u64>(), any::<u32>(), any::<[u8; 16]>(), some_address(), any::<u16>())
        .prop_map(|(name, generation, renewal, start, ip, port)| Identity {
            name: NodeName::new(&name),
            generation,
            renewal,
            start: Start(start),
            address: SocketAddr::new(ip, port),
        })
}

fn some_membership() -> impl Strategy<Value = Membership> {
    let state = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
    let member =
        (some_identity(), any::<u16>(), state).prop_map(|(id, inc, state)| Member::new(id, inc, state));
    let kind = (0u8..10, any::<u8>(), some_identity()).prop_map(|(kind, probe_number, other)| match kind {
        0 => Foca::Ping(probe_number),
        1 => Foca::Ack(probe_number),
        2 => Foca::PingReq { target: other, probe_number },
        3 => Foca::IndirectPing { origin: other, probe_number },
        4 => Foca::IndirectAck { target: other, probe_number },
        5 => Foca::ForwardedAck { origin: other, probe_number },
        6 => Foca::Announce,
        7 => Foca::Feed,
        8 => Foca::Gossip,
        _ => Foca::TurnUndead,
    });
    (some_identity(), any::<u16>(), some_identity(), kind, vec(member, 0..5)).prop_map(
        |(src, src_incarnation, dst, message, mut updates)| {
            if matches!(message, Foca::Announce | Foca::TurnUndead) {
                updates.clear();
            }
            Membership { header: Header { src, src_incarnation, dst, message }, updates }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_full_report_arrives_whole_in_any_order(report in some_report(300), rotate in 0usize..100) {
        let round = Outgoing::default().next(&report, true);
        prop_assert!(round.full.iter().all(|message| message.len() <= MAX_MESSAGE));
        let mut parts = parts(&round.full);
        let by = rotate % parts.len();
        parts.rotate_left(by);
        let mut incoming = Incoming::default();
        let last = parts.len() - 1;
        for (index, part) in parts.into_iter().enumerate() {
            prop_assert!(incoming.needs_full());
            prop_assert_eq!(incoming.take(Timestamp::ZERO, part.clone()), if index == last { Took::Whole } else { Took::Some });
            prop_assert_eq!(incoming.take(Timestamp::ZERO, part), Took::Late);
        }
        prop_assert!(!incoming.needs_full());
        let heard = incoming.hand_out(Timestamp::ZERO, &report.node);
        prop_assert_eq!(heard, Some(looks(&report)));
        prop_assert_eq!(incoming.hand_out(Timestamp::ZERO, &report.node), None);
    }

    /// Figures differ by no more than rounding and stillness, and endpoints come and go, as long as no two reports
    /// in a row lose a datagram.
    #[test]
    fn one_lost_datagram_costs_nothing(
        reports in vec(some_report(60), 2..25),
        losses in vec(any::<Option<u8>>(), 25),
    ) {
        let (mut outgoing, mut incoming) = (Outgoing::default(), Incoming::default());
        let mut lost_before = true;
        for (report, loss) in reports.iter().zip(losses) {
            let mut arriving = parts(&outgoing.next(report, false).changed);
            let whole = arriving.len();
            if let Some(which) = loss.filter(|_| !lost_before) {
                arriving.remove(usize::from(which) % whole);
            }
            lost_before = arriving.len() < whole;
            for part in arriving {
                incoming.take(Timestamp::ZERO, part);
            }
            prop_assert!(!incoming.needs_full());
            if lost_before {
                continue;
            }
            let heard = incoming.hand_out(Timestamp::ZERO, &report.node).unwrap();
            for (heard, told) in [(&heard.hosted, &report.hosted), (&heard.sent, &report.sent)] {
                prop_assert_eq!(heard.len(), told.len());
                for (heard, told) in heard.iter().zip(told) {
                    let told = rounded(told);
                    prop_assert_eq!(
                        (heard.endpoint, heard.open, heard.young, heard.middle),
                        (told.endpoint, told.open, told.young, told.middle)
                    );
                    let close = |a: f32, b: f32| (a - b).abs() <= 0.006 + 0.022 * a.max(b);
                    prop_assert!(close(heard.opens_per_second, told.opens_per_second));
                    prop_assert!(close(heard.failures_per_second, told.failures_per_second));
                    prop_assert!(close(heard.cpu.unwrap_or(-1.0), told.cpu.unwrap_or(-1.0)) || told.cpu.is_none() && heard.cpu.is_none());
                    prop_assert_eq!(heard.pressure.is_some(), told.pressure.is_some());
                }
            }
        }
    }

}

proptest! {
    #[test]
    fn membership_messages_come_back(membership in some_membership()) {
        let mut bytes = vec![wire::MEMBERSHIP];
        membership.encode(&mut bytes);
        prop_assert_eq!(decode(&bytes), Ok(Message::Membership(membership)));
    }

    #[test]
    fn other_messages_come_back(by in some_identity(), live: bool, echo: u64, token: [u8; 16]) {
        prop_assert_eq!(decode(&wire::superseded(&by, live)), Ok(Message::Superseded { by: by.clone(), live }));
        prop_assert_eq!(decode(&wire::welcome(&by)), Ok(Message::Welcome(by)));
        prop_assert_eq!(decode(&wire::challenge(echo, &token)), Ok(Message::Challenge { echo, token }));
        prop_assert_eq!(decode(&wire::answer(&token)), Ok(Message::Answer { token }));
        prop_assert_eq!(decode(&wire::hello()), Ok(Message::Hello));
        prop_assert_eq!(decode(&[wire::ASK]), Ok(Message::Ask));
        prop_assert_eq!(decode(&[wire::WHO]), Ok(Message::Who));
        prop_assert_eq!(wire::hello().len(), wire::challenge(echo, &token).len());
    }

    #[test]
    fn foreign_bytes_do_no_harm(kind in 0u8..12, bytes in vec(any::<u8>(), 0..MAX_MESSAGE)) {
        let mut message = vec![kind];
        message.extend(bytes);
        let _ = decode(&message);
    }

    #[test]
    fn mutated_reports_do_no_harm(report in some_report(80), flips in vec((any::<u16>(), any::<u8>()), 1..6)) {
        let mut incoming = Incoming::default();
        for mut message in Outgoing::default().next(&report, true).full {
            for (at, with) in &flips {
                let length = message.len();
                message[usize::from(*at) % length] ^= with;
            }
            if let Ok(Message::Report(part)) = decode(&message) {
                prop_assert!(part.records.windows(2).all(|pair| pair[0].position < pair[1].position));
                incoming.take(Timestamp::ZERO, part);
            }
        }
        incoming.hand_out(Timestamp::ZERO, &report.node);
    }
}

/// The format as docs/mesh-wire.md describes it, byte for byte.
#[test]
fn a_part_in_bytes() {
    let load = |last: u8, open, young| EndpointReport {
        endpoint: EndpointId { address: IpAddr::from([10, 1, 2, last]), port: 8080, protocol: Protocol::Tcp },
        open,
        young,
        middle: 0,
        opens_per_second: if young > 0 { 1.0 } else { 0.0 },
        failures_per_second: 0.0,
        cpu: None,
        pressure: None,
    };
    let loads = [load(3, 0, 0), load(4, 300, 5), load(9, 1, 0)];
    let heading =
        part::Heading { sequence: 7, full: true, age: Duration::from_millis(300), opens_per_second: 2.0 };
    let records = loads.iter().map(|load| ((List::Hosted, load.endpoint), Some(load)));
    let bytes = part::encode(wire::REPORT, &heading, records, MAX_MESSAGE);
    assert_eq!(
        bytes,
        [vec![
            6, 1, 7, 0, 1, 0xac, 2, 0x58,
            0, // report, full, number 7, part 0 of 1, 300 ms, 2.0 a second
            0b111, 4, 10, 1, 2, 3, 0x1f, 0x90, 6, 1, // 10.1.2.3, port 8080, TCP: 0 open
            0b100_0001, 0xad, 2, 5, 0, 0x54,
            0, // the next address: 300 open, 5 young, 0 middle, 1.0 a second
            0b10, 9, 2, // the address that ends in 9: 1 open
        ]]
    );
}
