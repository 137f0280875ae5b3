//! The rules that are in the kernel, as far as they matter to us: read from netlink, without the nft program.

use plimsoll_dataplane::netlink::{Attributes, Builder, DUMP, Error, Message, Protocol, Socket, nfgenmsg};

/// `NFNL_SUBSYS_NFTABLES` and its messages (`linux/netfilter/nf_tables.h`).
const NF_TABLES: u16 = 10 << 8;
const GET_TABLE: u16 = NF_TABLES | 1;
const GET_CHAIN: u16 = NF_TABLES | 4;
const GET_RULE: u16 = NF_TABLES | 7;
/// `NFT_TABLE_F_OWNER`
const OWNER: u32 = 2;
/// `NFT_CT_STATUS`, `NFT_CT_MARK`
const CT_STATUS: u32 = 2;
const CT_MARK: u32 = 3;
/// `NF_ACCEPT`, `NF_DROP`, `NFT_JUMP`, `NFT_GOTO`
const ACCEPT: u32 = 1;
const DROP: u32 = 0;
const JUMP: u32 = -3_i32 as u32;
const GOTO: u32 = -4_i32 as u32;
/// How often a dump that was overtaken by a change is repeated.
const ATTEMPTS: usize = 10;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) family: &'static str,
    pub(super) name: String,
    /// Whether it goes with the process that made it.
    pub(super) owned: bool,
}

/// Where a chain hooks in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// `nat`, `filter` or `route`.
    pub(super) kind: String,
    pub(super) hook: Hook,
    pub(super) priority: i32,
    /// Whether what no rule decides is dropped.
    pub(super) drops: bool,
}

/// The hooks of IP that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Forward,
    Output,
    Other,
}

/// A base chain or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) base: Option<Base>,
}

/// What matters of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) chain: String,
    /// The bits of the conntrack mark that it may change.
    pub(super) mark_bits: u32,
    /// Whether it hands connections to a flowtable.
    pub(super) offloads: bool,
    /// Whether it accepts connections because they are translated.
    pub(super) accepts_translated: bool,
    /// Whether it drops or rejects whatever comes to it.
    pub(super) drops_all: bool,
    /// The chain it leads to.
    pub(super) leads_to: Option<String>,
}

/// What is in the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Ruleset {
    pub(super) tables: Vec<Table>,
    pub(super) chains: Vec<Chain>,
    pub(super) rules: Vec<Rule>,
}

impl Ruleset {
    /// Reads what the calling thread's network namespace has.
    pub(super) fn read() -> Result<Ruleset, Error> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        Ok(Ruleset {
            tables: dump(&mut socket, GET_TABLE, table)?,
            chains: dump(&mut socket, GET_CHAIN, chain)?,
            rules: dump(&mut socket, GET_RULE, rule)?,
        })
    }
}

fn dump<T>(
    socket: &mut Socket,
    kind: u16,
    read: fn(&'static str, &Attributes<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut request = Builder::new();
    request.message(kind, DUMP, &nfgenmsg(0, 0), |_| {});
    let mut last = Error::Interrupted;
    for _ in 0..ATTEMPTS {
        let mut found = Vec::new();
        let each = |message: Message<'_>| {
            let family = message.body.first().map_or("?", |number| family(*number));
            found.extend(read(family, &message.attributes(4)));
        };
        match socket.dump(request.bytes(), each) {
            Ok(()) => return Ok(found),
            Err(error @ (Error::Interrupted | Error::Overrun)) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

const fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "?",
    }
}

fn text(attributes: &Attributes<'_>, kind: u16) -> Option<String> {
    attributes.find(kind)?.text().map(str::to_owned)
}

fn number(attributes: &Attributes<'_>, kind: u16) -> Option<u32> {
    attributes.find(kind)?.be32()
}

fn table(family: &'static str, attributes: &Attributes<'_>) -> Option<Table> {
    let owned = number(attributes, 2).is_some_and(|flags| flags & OWNER != 0);
    Some(Table { family, name: text(attributes, 1)?, owned })
}

fn chain(family: &'static str, attributes: &Attributes<'_>) -> Option<Chain> {
    let base = attributes.find(4).and_then(|hook| {
        let hook = hook.attributes();
        Some(Base {
            kind: text(attributes, 7)?,
            hook: match (family, number(&hook, 1)?) {
                ("inet" | "ip" | "ip6", 0) => Hook::Prerouting,
                ("inet" | "ip" | "ip6", 2) => Hook::Forward,
                ("inet" | "ip" | "ip6", 3) => Hook::Output,
                _ => Hook::Other,
            },
            priority: number(&hook, 2)? as i32,
            drops: number(attributes, 5) == Some(DROP),
        })
    });
    Some(Chain { family, table: text(attributes, 1)?, name: text(attributes, 3)?, base })
}

fn rule(family: &'static str, attributes: &Attributes<'_>) -> Option<Rule> {
    let mut reader = Reader::default();
    if let Some(list) = attributes.find(4) {
        for expression in list.attributes() {
            let expression = expression.attributes();
            let name = expression.find(1).and_then(|name| name.text().map(str::to_owned));
            let data = expression.find(2).map_or(Attributes::new(&[]), |data| data.attributes());
            reader.take(name.as_deref().unwrap_or_default(), &data);
        }
    }
    Some(Rule {
        family,
        table: text(attributes, 1)?,
        chain: text(attributes, 2)?,
        mark_bits: reader.mark_bits,
        offloads: reader.offloads,
        accepts_translated: reader.translated && reader.verdict == Some(ACCEPT),
        drops_all: !reader.conditional && (reader.verdict == Some(DROP) || reader.rejects),
        leads_to: reader.leads_to,
    })
}

/// What has been understood of a rule's expressions so far.
#[derive(Default)]
struct Reader {
    mark_bits: u32,
    offloads: bool,
    translated: bool,
    rejects: bool,
    conditional: bool,
    verdict: Option<u32>,
    leads_to: Option<String>,
    /// While a value that came from the mark is in hand: which of its bits differ from the mark's by now.
    changed: Option<u32>,
}

impl Reader {
    fn take(&mut self, name: &str, data: &Attributes<'_>) {
        let changed = self.changed.take();
        match name {
            "ct" => self.conntrack(data, changed),
            // A value is kept through a mask and an exclusive or, and only through those (`NFT_BITWISE_MASK_XOR`).
            "bitwise" if number(data, 6).unwrap_or(0) == 0 => {
                let word = |kind| data.find(kind)?.attributes().find(1)?.u32();
                self.changed = match (changed, word(4), word(5)) {
                    (Some(changed), Some(mask), Some(xor)) => Some(changed | !mask | xor),
                    _ => None,
                };
            }
            "immediate" => {
                if let Some(verdict) = data
                    .find(2)
                    .and_then(|data| data.attributes().find(2))
                    .map(|verdict| verdict.attributes())
                {
                    let code = number(&verdict, 1);
                    self.verdict = code;
                    if matches!(code, Some(JUMP | GOTO)) {
                        self.leads_to = text(&verdict, 2);
                    }
                }
            }
            "flow_offload" => self.offloads = true,
            "reject" => self.rejects = true,
            "counter" | "log" => {}
            "target" => self.target(data),
            "match" => {
                self.conditional = true;
                self.translated |= is_translated_match(data);
            }
            _ => self.conditional = true,
        }
    }

    fn conntrack(&mut self, data: &Attributes<'_>, changed: Option<u32>) {
        let key = number(data, 2);
        let (reads, writes) = (data.find(1).is_some(), data.find(4).is_some());
        if writes && key == Some(CT_MARK) {
            self.mark_bits |= changed.unwrap_or(u32::MAX);
        }
        if reads {
            self.conditional = true;
            self.translated |= key == Some(CT_STATUS);
            self.changed = (key == Some(CT_MARK)).then_some(0);
        }
    }

    /// Targets of iptables: CONNMARK (`struct xt_connmark_tginfo1`: mark, mask, packet's mask, mode; since revision 2
    /// a shift of two bytes before the mode) and REJECT.
    fn target(&mut self, data: &Attributes<'_>) {
        match (text(data, 1).as_deref(), data.find(3)) {
            (Some("CONNMARK"), Some(info)) => {
                let word = |at: usize| info.payload.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
                let mode = if number(data, 2).unwrap_or(0) < 2 { 12 } else { 14 };
                self.mark_bits |= match (word(0), word(4), word(8), info.payload.get(mode)) {
                    (Some(mark), Some(mask), _, Some(0)) => mark | mask,
                    (_, Some(mask), Some(packet), Some(1)) => mask | packet,
                    // Restores the packet's mark from the connection's.
                    (.., Some(2)) => 0,
                    _ => u32::MAX,
                };
            }
            (Some("REJECT"), _) => self.rejects = true,
            _ => self.conditional = true,
        }
    }
}

/// Whether it is `-m conntrack --ctstate DNAT` or `--ctstatus` (`struct xt_conntrack_mtinfo3`: four addresses with
/// masks, two times, five ports, then flags, inverted flags, states). `--ctstatus` has no word for translated ones.
fn is_translated_match(data: &Attributes<'_>) -> bool {
    const STATE: u16 = 1;
    const DNAT: u16 = 1 << 7;
    let Some(info) = data.find(3) else { return false };
    let half = |at: usize| info.payload.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes);
    text(data, 1).as_deref() == Some("conntrack")
        && matches!((half(146), half(148), half(150)), (Some(flags), Some(inverted), Some(states))
            if flags & STATE != 0 && inverted & STATE == 0 && states & DNAT != 0)
}
