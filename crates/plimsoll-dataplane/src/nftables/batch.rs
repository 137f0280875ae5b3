//! Transactions: what is to be made, changed and removed in our table, as nfnetlink batches.

use std::io;

use super::element::{ANONYMOUS_SET, Bytes, CONSTANT, Element, Kind, MAP, Set};
use super::expression::{ANONYMOUS, Rule};
use crate::Error;
use crate::netlink::{self, ACK, APPEND, Builder, CREATE, Message, Refusal, Socket, messages, nfgenmsg};

const INET: u8 = 1;
const NF_TABLES: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
pub(super) const NEW_TABLE: u16 = NF_TABLES;
pub(super) const DELETE_TABLE: u16 = NF_TABLES | 0x02;
const NEW_CHAIN: u16 = NF_TABLES | 0x03;
const DELETE_CHAIN: u16 = NF_TABLES | 0x05;
const NEW_RULE: u16 = NF_TABLES | 0x06;
const DELETE_RULE: u16 = NF_TABLES | 0x08;
const NEW_SET: u16 = NF_TABLES | 0x09;
const DELETE_SET: u16 = NF_TABLES | 0x0b;
const NEW_ELEMENT: u16 = NF_TABLES | 0x0c;
pub(super) const GET_ELEMENT: u16 = NF_TABLES | 0x0d;
const DELETE_ELEMENT: u16 = NF_TABLES | 0x0e;

/// Lists of elements are split into attributes below this; an attribute can hold 64 kB.
const LIST: usize = 60_000;

/// Where a base chain hooks in.
#[derive(Clone, Copy)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
}

/// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`, `NF_INET_POST_ROUTING`
pub(super) const PREROUTING: u32 = 0;
pub(super) const OUTPUT: u32 = 3;
pub(super) const POSTROUTING: u32 = 4;

/// Messages that are to take effect together.
#[derive(Debug)]
pub(super) struct Batch {
    messages: Builder,
    table: String,
    /// Lengths at which the batch may be cut in two if it is too large for one.
    cuts: Vec<usize>,
    sealed: Builder,
    anonymous: u32,
    refusals: Vec<Refusal>,
}

/// Bytes kept for the next batch: enough for the changes of a second, but not for a first plan.
const KEPT: usize = 1 << 18;

impl Batch {
    pub(super) fn new(table: &str) -> Batch {
        Batch {
            messages: Builder::new(),
            table: table.to_owned(),
            cuts: Vec::new(),
            sealed: Builder::new(),
            anonymous: 0,
            refusals: Vec::new(),
        }
    }

    /// Begins anew. Of what a large batch took, only a little is kept.
    pub(super) fn clear(&mut self) {
        for builder in [&mut self.messages, &mut self.sealed] {
            builder.clear();
            builder.shrink_to(KEPT);
        }
        self.cuts.clear();
        self.cuts.shrink_to(KEPT / 64);
    }

    /// What comes after may take effect in a later transaction than what came before.
    pub(super) fn cut(&mut self) {
        self.cuts.push(self.messages.len());
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Builder)) {
        let table = &self.table;
        self.messages.message(kind, flags, &nfgenmsg(INET, 0), |m| {
            m.text(1, table);
            body(m);
        });
    }

    pub(super) fn table(&mut self, flags: u32) {
        self.message(NEW_TABLE, CREATE, |m| m.be32(2, flags));
    }

    pub(super) fn delete_table(&mut self) {
        self.message(DELETE_TABLE, 0, |_| {});
    }

    pub(super) fn chain(&mut self, name: &str) {
        self.message(NEW_CHAIN, CREATE, |m| m.text(3, name));
    }

    pub(super) fn base_chain(&mut self, name: &str, hook: Hook) {
        self.message(NEW_CHAIN, CREATE, |m| {
            m.text(3, name);
            m.nest(4, |m| {
                m.be32(1, hook.number);
                m.be32(2, hook.priority as u32);
            });
            m.be32(5, 1);
            m.text(7, hook.kind);
        });
    }

    pub(super) fn flush_chain(&mut self, name: &str) {
        self.message(DELETE_RULE, 0, |m| m.text(2, name));
    }

    pub(super) fn delete_chain(&mut self, name: &str) {
        self.message(DELETE_CHAIN, 0, |m| m.text(3, name));
    }

    pub(super) fn rule(&mut self, chain: &str, body: impl FnOnce(&mut Rule<'_>)) {
        self.message(NEW_RULE, CREATE | APPEND, |m| {
            m.text(2, chain);
            m.nest(4, |m| body(&mut Rule::new(m)));
        });
    }

    pub(super) fn set(&mut self, set: &Set<'_>) {
        self.set_with_id(set, 0);
    }

    fn set_with_id(&mut self, set: &Set<'_>, id: u32) {
        self.message(NEW_SET, CREATE, |m| {
            m.text(2, set.name);
            let flags = set.flags | if set.data.is_some() { MAP } else { 0 };
            m.be32(3, flags);
            m.be32(4, set.key.number);
            m.be32(5, set.key.length);
            if let Some(data) = set.data {
                m.be32(6, data.number);
                m.be32(7, data.length);
            }
            m.be32(10, id);
            if set.size > 0 {
                m.nest(9, |m| m.be32(1, set.size));
            }
            if set.timeout > 0 {
                m.be64(11, set.timeout);
            }
            if !set.notes.is_empty() {
                m.bytes_of(13, set.notes);
            }
            if set.counter {
                m.nest(17, |m| {
                    m.text(1, "counter");
                    m.nest(2, |m| {
                        m.be64(1, 0);
                        m.be64(2, 0);
                    });
                });
            }
        });
    }

    /// Makes a set of protocols for the next rule alone and returns its number for
    /// [`Rule::protocols`].
    pub(super) fn protocols(&mut self, protocols: &[u8]) -> u32 {
        self.anonymous += 1;
        let id = self.anonymous;
        let set = Set {
            flags: ANONYMOUS_SET | CONSTANT,
            size: protocols.len() as u32,
            notes: &super::notes::protocols(),
            ..Set::new(ANONYMOUS, Kind::PROTOCOL)
        };
        self.set_with_id(&set, id);
        self.message(NEW_ELEMENT, CREATE, |m| {
            m.text(2, ANONYMOUS);
            m.be32(4, id);
            m.nest(3, |m| {
                for protocol in protocols {
                    Element::member(Bytes::new(&[&[*protocol]])).write(m);
                }
            });
        });
        id
    }

    pub(super) fn delete_set(&mut self, name: &str) {
        self.message(DELETE_SET, 0, |m| m.text(2, name));
    }

    pub(super) fn flush_set(&mut self, name: &str) {
        self.message(DELETE_ELEMENT, 0, |m| m.text(2, name));
    }

    pub(super) fn add<'e>(&mut self, set: &str, elements: impl IntoIterator<Item = Element<'e>>) {
        self.elements(NEW_ELEMENT, CREATE, set, false, elements);
    }

    /// As [`add`](Batch::add); the batch may be cut between the elements.
    pub(super) fn add_loosely<'e>(&mut self, set: &str, elements: impl IntoIterator<Item = Element<'e>>) {
        self.elements(NEW_ELEMENT, CREATE, set, true, elements);
    }

    pub(super) fn delete<'e>(&mut self, set: &str, elements: impl IntoIterator<Item = Element<'e>>) {
        self.elements(DELETE_ELEMENT, 0, set, false, elements);
    }

    fn elements<'e>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        loosely: bool,
        elements: impl IntoIterator<Item = Element<'e>>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.message(kind, flags, |m| {
                m.text(2, set);
                let start = m.len();
                m.nest(3, |m| {
                    while m.len() - start < LIST
                        && let Some(element) = elements.next()
                    {
                        element.write(m);
                    }
                });
            });
            if loosely {
                self.cut();
            }
        }
    }

    /// How many transactions of at most `limit` bytes it takes.
    pub(super) fn parts(&self, limit: usize) -> usize {
        self.pieces(limit).len()
    }

    /// Where each transaction ends: as many pieces as fit in each, but at least one.
    fn pieces(&self, limit: usize) -> Vec<usize> {
        // Begin and end of a batch.
        let limit = limit.saturating_sub(64);
        let mut ends: Vec<usize> = Vec::new();
        let mut start = 0;
        let mut end = 0;
        for &cut in self.cuts.iter().chain([&self.messages.len()]) {
            if cut - start > limit && end > start {
                ends.push(end);
                start = end;
            }
            end = cut;
        }
        if end > start {
            ends.push(end);
        }
        ends
    }

    /// Sends what was written, in one transaction if it is not longer than `limit` bytes.
    pub(super) fn commit(&mut self, socket: &mut Socket, limit: usize) -> Result<(), Error> {
        let mut start = 0;
        for end in self.pieces(limit) {
            seal(&mut self.sealed, &self.messages.bytes()[start..end]);
            let sealed = self.sealed.bytes();
            socket.transact(sealed, &mut self.refusals).map_err(|error| broken(&error, sealed.len()))?;
            if let Some(refusal) = self.refusals.first() {
                return Err(Error::Refused { what: describe(sealed, refusal), source: refusal.io() });
            }
            start = end;
        }
        Ok(())
    }
}

/// Wraps messages into a batch and asks for an acknowledgement of the last.
fn seal(sealed: &mut Builder, body: &[u8]) {
    sealed.clear();
    // Far from the numbers of the messages within, so that a refusal names one message only.
    sealed.number_from(0x8000_0000);
    let nf_tables = nfgenmsg(0, NF_TABLES >> 8);
    sealed.message(BATCH_BEGIN, 0, &nf_tables, |_| {});
    let mut last = 0;
    let mut at = sealed.len();
    for message in messages(body) {
        last = at;
        at += netlink::HEADER + message.body.len().next_multiple_of(4);
    }
    sealed.raw(body);
    sealed.add_flags(last, ACK);
    sealed.message(BATCH_END, 0, &nf_tables, |_| {});
}

/// In words: what the message that was refused would have done.
fn describe(sent: &[u8], refusal: &Refusal) -> String {
    let Some(message) = messages(sent).find(|message| message.seq == refusal.seq && is_ours(message)) else {
        return "commit a transaction".to_owned();
    };
    let words = refusal.text.as_ref().map_or_else(String::new, |text| format!(" ({text})"));
    let attributes = message.attributes(4);
    let name = |kind| attributes.find(kind).and_then(|attribute| attribute.text()).unwrap_or("?");
    let table = name(1);
    let what = match message.kind {
        NEW_TABLE => format!("make table {table}"),
        DELETE_TABLE => format!("delete table {table}"),
        NEW_CHAIN => format!("make chain {} in table {table}", name(3)),
        DELETE_CHAIN => format!("delete chain {} of table {table}", name(3)),
        NEW_RULE => format!("add a rule to chain {} of table {table}", name(2)),
        DELETE_RULE => format!("flush chain {} of table {table}", name(2)),
        NEW_SET => format!("make set {} in table {table}", name(2)),
        DELETE_SET => format!("delete set {} of table {table}", name(2)),
        NEW_ELEMENT => format!("add elements to set {} of table {table}", name(2)),
        DELETE_ELEMENT => format!("delete elements of set {} of table {table}", name(2)),
        kind => format!("do request {kind:#x} in table {table}"),
    };
    what + &words
}

fn is_ours(message: &Message<'_>) -> bool {
    message.kind & 0xff00 == NF_TABLES
}

fn broken(error: &netlink::Error, length: usize) -> Error {
    let what = format!("send a transaction of {length} bytes");
    match error.errno() {
        // The whole batch was refused before anything of it was looked at.
        Some(libc::EMSGSIZE | libc::ENOBUFS) => {
            Error::Refused { what, source: io::Error::other(error.to_string()) }
        }
        _ => Error::Broken { what, source: io::Error::other(error.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(lengths: &[usize], limit: usize) -> Vec<usize> {
        let mut batch = Batch::new("t");
        for &length in lengths {
            batch.messages.raw(&vec![0; length]);
            batch.cut();
        }
        batch.pieces(limit + 64)
    }

    #[test]
    fn a_batch_is_cut_only_where_it_must_and_may() {
        assert_eq!(pieces(&[100, 100, 100], 300), [300]);
        assert_eq!(pieces(&[100, 100, 100], 299), [200, 300]);
        assert_eq!(pieces(&[100, 100, 100], 100), [100, 200, 300]);
        // What may not be cut goes as it is; the kernel will say so if it is too long.
        assert_eq!(pieces(&[100, 500, 100], 150), [100, 600, 700]);
        assert_eq!(pieces(&[], 100), [0; 0]);
        assert_eq!(pieces(&[0, 0, 40, 0], 100), [40]);
    }

    #[test]
    fn a_refusal_names_what_was_refused() {
        let mut batch = Batch::new("plimsoll");
        batch.chain("c_1");
        batch.delete("w_1_c", [Element::member(Bytes::network(7))]);
        let mut sealed = Builder::new();
        seal(&mut sealed, batch.messages.bytes());
        let all: Vec<_> = messages(sealed.bytes()).collect();
        let words = |at: usize, text: Option<&str>| {
            let refusal = Refusal { seq: all[at].seq, errno: 2, text: text.map(str::to_owned), offset: None };
            describe(sealed.bytes(), &refusal)
        };
        assert_eq!(words(0, None), "commit a transaction");
        assert_eq!(words(1, None), "make chain c_1 in table plimsoll");
        assert_eq!(words(2, Some("why")), "delete elements of set w_1_c of table plimsoll (why)");
        // Only the last message is acknowledged.
        let acknowledged: Vec<bool> = all.iter().map(|message| message.flags & ACK != 0).collect();
        assert_eq!(acknowledged, [false, false, true, false]);
    }
}
