//! Counting connections as they open and close, per endpoint and age.
//!
//! Rules in filter hooks before NAT see the packets that open and close connections and count them in dynamic sets,
//! keyed by the endpoint: the source of the connection's replies, whoever translated. Two counts are kept. The
//! host's is of all connections to an endpoint in `hosted4`/`hosted6`; the sender's of those that this node
//! translated to one in `known4`/`known6`. Both see the same packets, so they share the bits of the mark.
//!
//! A TCP connection is counted as opened when the client's ACK comes after the endpoint's SYN-ACK, as closed at the
//! first FIN or RST; others as opened at the first reply. Which connections are to be counted is asked once, when they
//! open: until then the mark of any TCP connection may say that its SYN was accepted, and what leads to no endpoint
//! of ours loses that again. From then on a packet passes one test of the mark and one of the TCP flags.
//!
//! The number of the current age slot is written into the mark when a connection opens. Opens and closes are counted
//! in sets of the slot's own, a *pair*; [`PAIRS`] pairs take turns. Closes of slots that are too old are counted
//! together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use plimsoll_core::load::AGE_SLOTS;
use plimsoll_core::service::{EndpointId, Family, Protocol};

use super::batch::{Batch, GET_ELEMENT, Hook, OUTPUT, PREROUTING};
use super::element::{Bytes, DYNAMIC, Data, Element, Kind, Set};
use super::expression::{ACKNOWLEDGE, Direction, FIN, RST, Rule, SYN, Verdict};
use super::frame::{FAMILIES, of_family};
use super::mark::{MarkBits, NUMBERS};
use super::notes::{self, Order};
use crate::netlink::{Attribute, Builder, DUMP, Error, Message, Socket, nfgenmsg};

/// Pairs of sets that take turns: one per live slot, and one that rests between its last reading and its next use.
pub const PAIRS: usize = AGE_SLOTS + 1;
/// The most endpoints that a set counts. The kernel makes room for as many in advance, 2 MiB for each of the 144 sets,
/// but takes the number as one of 16 bits: at this one it begins small and grows.
const SIZE: u32 = 65_536;
/// After conntrack, before NAT: replies still carry the endpoint's own address.
const PRIORITY: i32 = -150;

const TCP: [u8; 1] = [Protocol::Tcp.number()];
const OTHERS: [u8; 2] = [Protocol::Udp.number(), Protocol::Sctp.number()];
/// The chains that open connections, and of which protocols.
const OPEN: [(&str, &[u8]); 2] = [("open", &TCP), ("open_others", &OTHERS)];
/// Room in the map of ages: told how many there can be, the kernel takes its fastest kind of set.
const AGES: u32 = 32;

/// An age slot: the number that marks carry and the pair of sets that counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Below [`NUMBERS`].
    pub number: u8,
    /// Below [`PAIRS`].
    pub pair: u8,
}

/// What [`rotate`](super::Nftables::rotate) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The new current slot.
    pub began: Slot,
    /// The slot that is not live any more: its connections are old from now on.
    pub retired: Option<Slot>,
}

/// One of the counters, both families together. An endpoint for which nothing was counted is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// Connections that hosted endpoints refused, in all.
    Refused,
    /// Connections to hosted endpoints opened while this pair was the current slot's.
    HostedOpened(u8),
    /// Of those, closed.
    HostedClosed(u8),
    /// Closed connections to hosted endpoints from slots that are not live.
    HostedClosedOld,
    /// Connections from this node that known endpoints refused, in all.
    SentRefused,
    /// Connections from this node opened while this pair was the current slot's.
    SentOpened(u8),
    /// Of those, closed.
    SentClosed(u8),
    /// Closed connections from this node from slots that are not live.
    SentClosedOld,
}

impl Counter {
    fn set(self, family: Family) -> String {
        let digit = of_family(family, "4", "6");
        match self {
            Counter::Refused => format!("hosted_refused{digit}"),
            Counter::HostedOpened(pair) => format!("hosted_opened{digit}_{pair}"),
            Counter::HostedClosed(pair) => format!("hosted_closed{digit}_{pair}"),
            Counter::HostedClosedOld => format!("hosted_closed{digit}_old"),
            Counter::SentRefused => format!("sent_refused{digit}"),
            Counter::SentOpened(pair) => format!("sent_opened{digit}_{pair}"),
            Counter::SentClosed(pair) => format!("sent_closed{digit}_{pair}"),
            Counter::SentClosedOld => format!("sent_closed{digit}_old"),
        }
    }

    /// The four of one pair.
    fn of_pair(pair: u8) -> [Counter; 4] {
        [
            Counter::HostedOpened(pair),
            Counter::HostedClosed(pair),
            Counter::SentOpened(pair),
            Counter::SentClosed(pair),
        ]
    }

    /// Those that are never flushed.
    const LASTING: [Counter; 4] =
        [Counter::Refused, Counter::HostedClosedOld, Counter::SentRefused, Counter::SentClosedOld];
}

/// Whose connections are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Members {
    Hosted,
    Known,
}

impl Members {
    fn set(self, family: Family) -> &'static str {
        match self {
            Members::Hosted => of_family(family, "hosted4", "hosted6"),
            Members::Known => of_family(family, "known4", "known6"),
        }
    }
}

/// Which slot is current, counted from the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    first: u8,
    count: u64,
    /// The next pair still holds the counts of a retired slot.
    pub(super) unclean: bool,
}

impl Turn {
    pub(super) fn new(first: u8) -> Turn {
        Turn { first, count: 0, unclean: false }
    }

    fn slot(self, turn: u64) -> Slot {
        let number = (u64::from(self.first) + turn) % u64::from(NUMBERS);
        Slot { number: number as u8, pair: (turn % PAIRS as u64) as u8 }
    }

    pub(super) fn current(self) -> Slot {
        self.slot(self.count)
    }

    /// Newest first.
    pub(super) fn live(self) -> impl Iterator<Item = Slot> {
        let oldest = self.count.saturating_sub(AGE_SLOTS as u64 - 1);
        (oldest..=self.count).rev().map(move |turn| self.slot(turn))
    }

    /// The slot after this one, and the rotation that leads there.
    pub(super) fn next(self) -> (Turn, Rotation) {
        let next = Turn { count: self.count + 1, ..self };
        let retired = next.count.checked_sub(AGE_SLOTS as u64).map(|turn| self.slot(turn));
        (Turn { unclean: retired.is_some(), ..next }, Rotation { began: next.current(), retired })
    }
}

/// Writes the sets, chains and hooks that count.
pub(super) fn make(batch: &mut Batch, bits: MarkBits, turn: Turn) {
    make_sets(batch);
    let notes = notes::verdicts_by(Order::Host);
    batch.set(&Set { size: AGES, notes: &notes, ..Set::map("age", Kind::MARK, Kind::VERDICT) });
    make_close(batch, bits, turn);
    make_refuse(batch, bits);
    for (chain, _) in OPEN {
        batch.chain(chain);
    }
    fill_open(batch, bits, turn);
    make_events(batch, bits);
    for (name, number) in [("count_prerouting", PREROUTING), ("count_output", OUTPUT)] {
        batch.base_chain(name, Hook { kind: "filter", number, priority: PRIORITY });
        make_hook(batch, name, bits);
    }
}

fn make_sets(batch: &mut Batch) {
    let notes = notes::concatenation();
    for family in FAMILIES {
        for members in [Members::Hosted, Members::Known] {
            batch.set(&Set { notes: &notes, ..Set::new(members.set(family), Kind::endpoint(family)) });
        }
        for counter in Counter::LASTING.into_iter().chain((0..PAIRS as u8).flat_map(Counter::of_pair)) {
            let name = counter.set(family);
            let set = Set::new(&name, Kind::endpoint(family));
            batch.set(&Set { flags: DYNAMIC, size: SIZE, counter: true, notes: &notes, ..set });
        }
    }
}

/// nft reads the port of a tuple only after the protocol has been tested in the same rule.
fn guard(r: &mut Rule<'_>, protocols: &[u8], anonymous: u32) {
    if protocols == TCP {
        r.protocol(Protocol::Tcp);
    } else {
        r.protocols(anonymous);
    }
}

fn anonymous(batch: &mut Batch, protocols: &[u8]) -> u32 {
    if protocols == TCP { 0 } else { batch.protocols(protocols) }
}

/// Goes on only for connections whose count can be that of `members`.
fn begin<'r, 'b>(r: &'r mut Rule<'b>, members: Members) -> &'r mut Rule<'b> {
    match members {
        Members::Hosted => r,
        Members::Known => r.translated(),
    }
}

/// Counts the endpoint of the packet's connection for the host and for the sender, if it is one of theirs, and does
/// `first` with those that are counted.
///
/// Keys are what costs most, so both counts share one where both apply; the rule after it is for endpoints that are
/// not hosted. The other family's rules are not looked at once the sender has counted.
fn count(
    batch: &mut Batch,
    chain: &str,
    protocols: &[u8],
    [hosted, sent]: [Counter; 2],
    first: impl Fn(&mut Rule<'_>),
) {
    for family in FAMILIES {
        let send = |r: &mut Rule<'_>| {
            r.update(&sent.set(family), None).verdict(Verdict::Return);
        };
        let set = anonymous(batch, protocols);
        batch.rule(chain, |r| {
            guard(r, protocols, set);
            first(r.endpoint(family).member(Members::Hosted.set(family)));
            r.update(&hosted.set(family), None);
            send(r.translated_beside_key().member(Members::Known.set(family)));
        });
        let set = anonymous(batch, protocols);
        batch.rule(chain, |r| {
            guard(r.translated(), protocols, set);
            first(r.endpoint(family).member(Members::Known.set(family)));
            send(r);
        });
    }
}

/// Refused and closed without having been opened: over loopback the same packet comes by twice.
fn make_refuse(batch: &mut Batch, bits: MarkBits) {
    batch.chain("refuse");
    for (members, counter) in [(Members::Hosted, Counter::Refused), (Members::Known, Counter::SentRefused)] {
        for family in FAMILIES {
            batch.rule("refuse", |r| {
                guard(begin(r, members), &TCP, 0);
                r.endpoint(family).member(members.set(family)).update(&counter.set(family), None);
                r.mark(0, bits.closed);
            });
        }
    }
}

/// Fills the chains that open a connection: the only ones that change with the slot. What leads to no endpoint of ours
/// keeps no mark.
fn fill_open(batch: &mut Batch, bits: MarkBits, turn: Turn) {
    let slot = turn.current();
    let counters = [Counter::HostedOpened(slot.pair), Counter::SentOpened(slot.pair)];
    for (chain, protocols) in OPEN {
        count(batch, chain, protocols, counters, |r| {
            r.mark_beside_key(bits.mask(), bits.opened | bits.with_slot(slot.number));
        });
    }
    batch.rule(OPEN[0].0, |r| {
        r.marked(bits.opened, 0).mark(bits.seen, 0);
    });
}

fn make_close(batch: &mut Batch, bits: MarkBits, turn: Turn) {
    for pair in 0..PAIRS as u8 {
        let chain = close_chain(pair);
        batch.chain(&chain);
        count(batch, &chain, &TCP, [Counter::HostedClosed(pair), Counter::SentClosed(pair)], |_| ());
    }
    batch.chain("close_old");
    count(batch, "close_old", &TCP, [Counter::HostedClosedOld, Counter::SentClosedOld], |_| ());
    batch.add("age", [age(bits, turn.current(), &close_chain(turn.current().pair))]);
    batch.chain("close");
    batch.rule("close", |r| {
        r.mark(0, bits.closed);
    });
    batch.rule("close", |r| {
        r.marked_bits(bits.slot).verdict_map("age");
    });
    batch.rule("close", |r| {
        r.verdict(Verdict::Goto("close_old"));
    });
}

/// The chains for what the hooks tell apart: which packets open, close or refuse.
fn make_events(batch: &mut Batch, bits: MarkBits) {
    let MarkBits { opened, closed, seen, .. } = bits;
    batch.chain("established");
    batch.rule("established", |r| {
        r.protocol(Protocol::Tcp).tcp_any_of(FIN | RST).verdict(Verdict::Goto("close"));
    });
    // The client's ACK, or its FIN if the ACK was lost: that opens and closes.
    batch.chain("confirmed");
    for (flags, verdict) in [(0, Verdict::Goto("open")), (FIN, Verdict::Jump("open"))] {
        batch.rule("confirmed", |r| {
            r.protocol(Protocol::Tcp).tcp_exactly(FIN | SYN | RST, flags).verdict(verdict);
        });
    }
    batch.rule("confirmed", |r| {
        r.marked(opened, opened).verdict(Verdict::Goto("established"));
    });
    batch.chain("tcp_answer");
    batch.rule("tcp_answer", |r| {
        r.protocol(Protocol::Tcp).tcp_exactly(SYN | ACKNOWLEDGE, SYN | ACKNOWLEDGE);
        r.marked(opened | seen, 0).mark(0, seen);
    });
    // A SYN that is refused: the RST has sequence 0. Other RSTs may belong to connections older than the table.
    batch.rule("tcp_answer", |r| {
        r.protocol(Protocol::Tcp).tcp_exactly(RST | ACKNOWLEDGE, RST | ACKNOWLEDGE);
        r.tcp_sequence_zero().marked(opened | closed | seen, 0).verdict(Verdict::Goto("refuse"));
    });
    batch.chain("answer");
    batch.rule("answer", |r| {
        r.protocol(Protocol::Tcp).tcp_any_of(SYN | RST).verdict(Verdict::Goto("tcp_answer"));
    });
    let others = batch.protocols(&OTHERS);
    batch.rule("answer", |r| {
        r.protocols(others).verdict(Verdict::Goto("open_others"));
    });
}

/// What every packet passes. Most belong to connections that are open, and leave after one test and one in
/// `established`.
fn make_hook(batch: &mut Batch, chain: &str, bits: MarkBits) {
    let MarkBits { opened, closed, seen, .. } = bits;
    batch.rule(chain, |r| {
        r.marked(opened | closed, opened).verdict(Verdict::Goto("established"));
    });
    batch.rule(chain, |r| {
        r.direction(Direction::Reply).verdict(Verdict::Goto("answer"));
    });
    batch.rule(chain, |r| {
        r.marked(opened | seen, seen).verdict(Verdict::Goto("confirmed"));
    });
    // Who comes back from the same port after the endpoint's RST gets the same entry, mark and all, until conntrack
    // has forgotten it (after a FIN, or a RST of the client's own, it makes a new one).
    batch.rule(chain, |r| {
        r.marked(closed, closed).protocol(Protocol::Tcp);
        r.tcp_exactly(FIN | SYN | RST | ACKNOWLEDGE, SYN).mark(bits.mask(), 0);
    });
}

fn close_chain(pair: u8) -> String {
    format!("close_{pair}")
}

fn age(bits: MarkBits, slot: Slot, chain: &str) -> Element<'_> {
    Element { key: Bytes::host(bits.with_slot(slot.number)), data: Data::Verdict(Verdict::Goto(chain)) }
}

/// Writes the change to the slot of `turn`.
pub(super) fn rotate(batch: &mut Batch, bits: MarkBits, turn: Turn, rotation: Rotation) {
    for (chain, _) in OPEN {
        batch.flush_chain(chain);
    }
    fill_open(batch, bits, turn);
    batch.add("age", [age(bits, rotation.began, &close_chain(rotation.began.pair))]);
    if let Some(retired) = rotation.retired {
        batch.delete("age", [age(bits, retired, &close_chain(retired.pair))]);
    }
}

/// Writes that the counters of a pair start from zero.
pub(super) fn clean(batch: &mut Batch, pair: u8) {
    for counter in Counter::of_pair(pair) {
        for family in FAMILIES {
            batch.flush_set(&counter.set(family));
        }
    }
}

fn elements(endpoints: &[EndpointId], family: Family) -> impl Iterator<Item = Element<'static>> {
    let of_family = endpoints.iter().filter(move |endpoint| Family::of(endpoint.address) == family);
    of_family.map(|endpoint| Element::member(Bytes::endpoint(endpoint)))
}

/// Writes that these endpoints' connections are counted from now on.
pub(super) fn join(batch: &mut Batch, members: Members, endpoints: &[EndpointId]) {
    for family in FAMILIES {
        batch.add_loosely(members.set(family), elements(endpoints, family));
    }
}

/// Writes that these endpoints' connections are not counted any more, and forgets what lasting counters have.
pub(super) fn leave(batch: &mut Batch, members: Members, endpoints: &[EndpointId]) {
    let lasting = match members {
        Members::Hosted => [Counter::Refused, Counter::HostedClosedOld],
        Members::Known => [Counter::SentRefused, Counter::SentClosedOld],
    };
    for family in FAMILIES {
        batch.delete(members.set(family), elements(endpoints, family));
        for counter in lasting {
            // Nobody knows whether it is there: added first, it can be deleted.
            let set = counter.set(family);
            batch.add(&set, elements(endpoints, family));
            batch.delete(&set, elements(endpoints, family));
        }
    }
}

/// Reads a counter of one family.
pub(super) fn read(
    socket: &mut Socket,
    table: &str,
    counter: Counter,
    into: &mut Vec<(EndpointId, u64)>,
) -> Result<(), Error> {
    let start = into.len();
    let mut request = Builder::new();
    for family in FAMILIES {
        request.clear();
        request.message(GET_ELEMENT, DUMP, &nfgenmsg(1, 0), |m| {
            m.text(1, table);
            m.text(2, &counter.set(family));
        });
        socket
            .dump(request.bytes(), |message| read_elements(&message, into))
            .inspect_err(|_| into.truncate(start))?;
    }
    Ok(())
}

/// The elements in one answer.
pub(super) fn read_elements(message: &Message<'_>, into: &mut Vec<(EndpointId, u64)>) {
    let Some(list) = message.attributes(4).find(3) else { return };
    for element in list.attributes() {
        into.extend(read_element(&element));
    }
}

fn read_element(element: &Attribute<'_>) -> Option<(EndpointId, u64)> {
    let attributes = element.attributes();
    let key = attributes.find(1)?.attributes().find(1)?.payload;
    let counter = attributes.find(7)?.attributes().find(2)?;
    // NFTA_COUNTER_PACKETS: one per event.
    let packets = counter.attributes().find(2)?.be64()?;
    let (address, rest) = match key.len() {
        12 => (IpAddr::V4(Ipv4Addr::from(*key.first_chunk::<4>()?)), &key[4..]),
        24 => (IpAddr::V6(Ipv6Addr::from(*key.first_chunk::<16>()?)), &key[16..]),
        _ => return None,
    };
    let protocol = Protocol::from_number(rest[0])?;
    let port = u16::from_be_bytes([rest[4], rest[5]]);
    Some((EndpointId { address, port, protocol }, packets))
}
