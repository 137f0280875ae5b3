//! The notes nft keeps in a set's user data: without them it could not list a set the way it was written.
//!
//! They are lists of (type, length, value) with one byte each for type and length, values in the machine's byte
//! order, as libnftnl's `NFTNL_UDATA_SET_*` and nft's `typeof` records have them. The kernel does not read them.

use plimsoll_core::service::Family;

/// Byte order of a field: 1 host, 2 network, 0 mixed (concatenations, verdicts).
const KEY_ORDER: u8 = 0;
const DATA_ORDER: u8 = 1;
const KEY_TYPE_OF: u8 = 3;
const DATA_TYPE_OF: u8 = 4;
const DATA_INTERVAL: u8 = 6;

/// A byte order.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Order {
    Mixed = 0,
    Host = 1,
    Network = 2,
}

fn put(into: &mut Vec<u8>, kind: u8, value: &[u8]) {
    into.push(kind);
    into.push(value.len() as u8);
    into.extend_from_slice(value);
}

fn number(into: &mut Vec<u8>, kind: u8, value: u32) {
    put(into, kind, &value.to_ne_bytes());
}

fn nested(into: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    body(&mut inner);
    put(into, kind, &inner);
}

/// Notes about an expression: its number in nft and its own parameters.
fn expression(into: &mut Vec<u8>, number_of: u32, body: impl FnOnce(&mut Vec<u8>)) {
    number(into, 0, number_of);
    nested(into, 1, body);
}

/// `meta priority`
fn priority(into: &mut Vec<u8>) {
    expression(into, 9, |m| number(m, 0, 2));
}

/// A field of a header: nft's number of the header and of the field.
fn payload(into: &mut Vec<u8>, header: u32, field: u32) {
    expression(into, 7, |m| {
        number(m, 0, header);
        number(m, 1, field);
    });
}

/// nft's numbers of `ip`/`ip6` and of their `saddr` and `daddr`, and of `th` and its `dport`.
const fn ip(family: Family) -> (u32, u32, u32) {
    match family {
        Family::V4 => (12, 11, 12),
        Family::V6 => (13, 8, 9),
    }
}
const TRANSPORT: (u32, u32) = (11, 2);

/// `typeof numgen inc mod STEPS : meta priority`
pub(super) fn order(steps: u32) -> Vec<u8> {
    let mut notes = Vec::new();
    number(&mut notes, KEY_ORDER, Order::Host as u32);
    number(&mut notes, DATA_ORDER, Order::Host as u32);
    nested(&mut notes, KEY_TYPE_OF, |m| {
        expression(m, 23, |m| {
            number(m, 0, 0);
            number(m, 1, steps);
            number(m, 2, 0);
        });
    });
    nested(&mut notes, DATA_TYPE_OF, priority);
    number(&mut notes, DATA_INTERVAL, 0);
    notes
}

/// `typeof meta priority : ip daddr . th dport`
pub(super) fn destinations(family: Family) -> Vec<u8> {
    let mut notes = Vec::new();
    let (header, _, daddr) = ip(family);
    number(&mut notes, KEY_ORDER, Order::Host as u32);
    number(&mut notes, DATA_ORDER, Order::Mixed as u32);
    nested(&mut notes, KEY_TYPE_OF, priority);
    nested(&mut notes, DATA_TYPE_OF, |m| {
        expression(m, 13, |m| {
            nested(m, 0, |m| payload(m, header, daddr));
            nested(m, 1, |m| payload(m, TRANSPORT.0, TRANSPORT.1));
        });
    });
    number(&mut notes, DATA_INTERVAL, 0);
    notes
}

/// `typeof meta priority : meta priority`
pub(super) fn numbers() -> Vec<u8> {
    let mut notes = Vec::new();
    number(&mut notes, KEY_ORDER, Order::Host as u32);
    number(&mut notes, DATA_ORDER, Order::Host as u32);
    nested(&mut notes, KEY_TYPE_OF, priority);
    nested(&mut notes, DATA_TYPE_OF, priority);
    number(&mut notes, DATA_INTERVAL, 0);
    notes
}

/// `typeof ip saddr : meta priority`
pub(super) fn clients(family: Family) -> Vec<u8> {
    let mut notes = Vec::new();
    let (header, saddr, _) = ip(family);
    number(&mut notes, KEY_ORDER, Order::Network as u32);
    number(&mut notes, DATA_ORDER, Order::Host as u32);
    nested(&mut notes, KEY_TYPE_OF, |m| payload(m, header, saddr));
    nested(&mut notes, DATA_TYPE_OF, priority);
    number(&mut notes, DATA_INTERVAL, 0);
    notes
}

/// An anonymous set of values of `meta l4proto`.
pub(super) fn protocols() -> Vec<u8> {
    let mut notes = key_order(Order::Host);
    nested(&mut notes, KEY_TYPE_OF, |m| expression(m, 9, |m| number(m, 0, 16)));
    notes
}

/// A set whose key is one field, without `typeof`.
pub(super) fn key_order(order: Order) -> Vec<u8> {
    let mut notes = Vec::new();
    number(&mut notes, KEY_ORDER, order as u32);
    notes
}

/// A set whose key is a concatenation, without `typeof`.
pub(super) fn concatenation() -> Vec<u8> {
    let mut notes = key_order(Order::Mixed);
    nested(&mut notes, KEY_TYPE_OF, |m| expression(m, 13, |_| {}));
    notes
}

/// A verdict map whose key is a concatenation, without `typeof`.
pub(super) fn verdicts() -> Vec<u8> {
    let mut notes = key_order(Order::Mixed);
    number(&mut notes, DATA_ORDER, Order::Mixed as u32);
    nested(&mut notes, KEY_TYPE_OF, |m| expression(m, 13, |_| {}));
    number(&mut notes, DATA_INTERVAL, 0);
    notes
}

/// A verdict map whose key is one field, without `typeof`.
pub(super) fn verdicts_by(order: Order) -> Vec<u8> {
    let mut notes = key_order(order);
    number(&mut notes, DATA_ORDER, Order::Mixed as u32);
    number(&mut notes, DATA_INTERVAL, 0);
    notes
}
