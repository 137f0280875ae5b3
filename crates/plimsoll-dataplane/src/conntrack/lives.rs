//! When connections began and ended, told by the kernel when it lets go of them.
//!
//! Only the DESTROY group is joined: its events are made outside the packet path, and cost new connections nothing,
//! where NEW and UPDATE events are made within it. With `nf_conntrack_timestamp` on, such an event says when the
//! connection began and when its entry's time was over, to the nanosecond and to the timer tick. A closed connection's
//! entry stays for the timeout of its last state, which the event tells too: so many seconds before the end of the
//! entry its last packet passed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plimsoll_core::service::Protocol;

use super::entry::{ASSURED, PROTOINFO_TCP, PROTOINFO_TCP_STATE, kind};
use super::events::{DESTROY_GROUP, RECEIVE_BUFFER, check_switch};
use super::{DELETE, Entry, Filter};
use crate::netlink::{self, Builder, Error, Message, Socket, messages};

/// Of the network namespace of the thread that opens them.
const DIRECTORY: &str = "/proc/sys/net/netfilter";
const TIMESTAMP: &str = "/proc/sys/net/netfilter/nf_conntrack_timestamp";
/// So many datagrams are read at once at most.
const AT_ONCE: usize = 4096;
/// So often a dump is repeated that was overtaken by a change.
const ATTEMPTS: usize = 5;
const NANOS: u64 = 1_000_000_000;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// With a FIN from each side, or one that was never answered.
    Finished,
    /// With an RST.
    Reset,
    /// No packet came any more.
    Silent,
    /// Somebody deleted its entry.
    Deleted,
    /// It never was one: refused, or not answered.
    Unanswered,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When its last packet passed, in nanoseconds since 1970 by this machine's clock.
    pub at: u64,
    /// How it ended.
    pub how: How,
}

/// What the kernel tells of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The connection.
    pub entry: Entry,
    /// When its first packet passed, in nanoseconds since 1970 by this machine's clock; `None` for connections older
    /// than the kernel's taking note of it.
    pub began: Option<u64>,
    /// Its end; `None` while it is open, or has been closed by one side alone. Nobody closes UDP: what a look tells of
    /// an answered one is its last packet so far.
    pub end: Option<End>,
}

/// What [`Lives::hear`] heard, beside the lives themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Something was heard, be it of connections that are not shown.
    pub anything: bool,
    /// More may be waiting to be heard.
    pub more: bool,
    /// The kernel had more to tell than could be kept for this listener: some lives are missing.
    pub lost: bool,
}

/// Hears of connections' lives, in the network namespace of the thread that opened it.
///
/// Switches `net.netfilter.nf_conntrack_timestamp` on, and back to what it was when dropped. Of connections that
/// were open before, and of which nobody heard events then, the kernel will not tell the end: look for them.
#[derive(Debug)]
pub struct Lives {
    events: Socket,
    questions: Socket,
    request: Builder,
    timeouts: Timeouts,
    switch: Switch,
}

impl Lives {
    /// Begins to hear of them.
    pub fn open() -> Result<Lives, Error> {
        check_switch()?;
        let events = Socket::open(netlink::Protocol::Netfilter)?;
        events.set_buffers(RECEIVE_BUFFER, 4096)?;
        events.join(DESTROY_GROUP)?;
        let mut questions = Socket::open(netlink::Protocol::Netfilter)?;
        let mut request = Builder::new();
        // The kernel loads conntrack for the first question about it, and its switches are there only then.
        let nothing =
            Filter { mark: Some((1, u32::MAX)), translated: true, unanswered: true, ..Filter::default() };
        dump(&mut questions, &mut request, &nothing, |_| {})?;
        let mut switch = Switch::open()?;
        switch.turn_on()?;
        Ok(Lives { events, questions, request, timeouts: Timeouts::read(), switch })
    }

    /// Whether somebody switched off what was switched on; it is on again. Connections that began meanwhile will
    /// have no beginning.
    pub fn is_disturbed(&mut self) -> Result<bool, Error> {
        self.switch.turn_on()
    }

    /// Waits for events, at most this long, and shows the lives of translated connections that ended; not more than
    /// some thousand at once, so that the caller comes to other things.
    pub fn hear(&mut self, timeout: Duration, mut each: impl FnMut(&Life)) -> Result<Heard, Error> {
        let mut heard = Heard::default();
        if !self.events.wait(timeout)? {
            return Ok(heard);
        }
        for _ in 0..AT_ONCE {
            match self.events.receive() {
                Ok(None) => return Ok(heard),
                Ok(Some(bytes)) => {
                    heard.anything = true;
                    let now = now();
                    let noted = messages(bytes).filter_map(|message| Noted::parse(&message));
                    for noted in noted.filter(|noted| noted.entry.is_translated()) {
                        each(&noted.ended(&self.timeouts, now));
                    }
                }
                Err(Error::Overrun) => heard.lost = true,
                Err(error) => return Err(error),
            }
        }
        heard.more = true;
        Ok(heard)
    }

    /// Shows every translated connection that the kernel still knows, some of them twice if it has to look twice.
    /// Closed ones whose entry stays for a while have an end, and so has UDP: its last packet so far. What is left of a
    /// timeout is told in whole seconds, rounded down, so such an end may be a second too early. About 2 us for each,
    /// and 0.3 us for each other entry.
    pub fn look(&mut self, mut each: impl FnMut(&Life)) -> Result<(), Error> {
        let filter = Filter { translated: true, ..Filter::default() };
        let timeouts = self.timeouts;
        dump(&mut self.questions, &mut self.request, &filter, |noted| each(&noted.present(&timeouts, now())))
    }
}

/// Shows what matches, all of it again where the dump was overtaken by a change.
fn dump(
    socket: &mut Socket,
    request: &mut Builder,
    filter: &Filter,
    mut each: impl FnMut(&Noted),
) -> Result<(), Error> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match super::dump(socket, request, filter, |entry, message| each(&Noted::of(*entry, message))) {
            Err(Error::Interrupted) if attempts < ATTEMPTS => {}
            outcome => return outcome,
        }
    }
}

fn now() -> u64 {
    // Before 1970 no kernel was running.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The kernel's taking note of when connections begin and end.
#[derive(Debug)]
struct Switch {
    /// Of the network namespace in which it was opened, whoever uses it.
    file: File,
    restore: bool,
}

impl Switch {
    fn open() -> Result<Switch, Error> {
        let file = File::options().read(true).write(true).open(TIMESTAMP);
        Ok(Switch { file: file.map_err(|error| Switch::failed(&error))?, restore: false })
    }

    /// Switches it on; whether it was off.
    fn turn_on(&mut self) -> Result<bool, Error> {
        let mut value = [0];
        self.file.read_at(&mut value, 0).map_err(|error| Switch::failed(&error))?;
        let was_off = value == *b"0";
        if was_off {
            self.file.write_at(b"1", 0).map_err(|error| Switch::failed(&error))?;
            self.restore = true;
        }
        Ok(was_off)
    }

    fn failed(source: &std::io::Error) -> Error {
        let text = format!(
            "net.netfilter.nf_conntrack_timestamp: {source} (it takes a kernel with CONFIG_NF_CONNTRACK_TIMESTAMP, and \
             CAP_NET_ADMIN)"
        );
        Error::Io { what: "switch on", source: std::io::Error::new(source.kind(), text) }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if self.restore {
            // Left on it costs next to nothing.
            let _ = self.file.write_at(b"0", 0);
        }
    }
}

/// How long the kernel keeps entries after their last packet, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Timeouts {
    /// By `enum tcp_conntrack`.
    tcp: [u64; 10],
    /// While something sent is not acknowledged.
    unacknowledged: u64,
    udp: u64,
    udp_stream: u64,
}

impl Timeouts {
    /// As they are set; where a file is missing, as the kernel has them by itself.
    fn read() -> Timeouts {
        let seconds = |name: &str, usual: u64| {
            let text = std::fs::read_to_string(format!("{DIRECTORY}/nf_conntrack_{name}"));
            text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(usual) * NANOS
        };
        let tcp = [
            ("syn_sent", 120),
            ("syn_sent", 120),
            ("syn_recv", 60),
            ("established", 432_000),
            ("fin_wait", 120),
            ("close_wait", 60),
            ("last_ack", 30),
            ("time_wait", 120),
            ("close", 10),
            ("syn_sent", 120),
        ];
        Timeouts {
            tcp: tcp.map(|(name, usual)| seconds(&format!("tcp_timeout_{name}"), usual)),
            unacknowledged: seconds("tcp_timeout_max_retrans", 300),
            udp: seconds("udp_timeout", 30),
            udp_stream: seconds("udp_timeout_stream", 120),
        }
    }
}

/// `enum tcp_conntrack`.
const ESTABLISHED: u8 = 3;
const TIME_WAIT: u8 = 7;
const CLOSE: u8 = 8;

/// A connection with all that the kernel says of its times.
#[derive(Clone, Copy, Debug)]
struct Noted {
    entry: Entry,
    /// `enum tcp_conntrack`.
    tcp: Option<u8>,
    /// What is left of its timeout; none if that is over.
    left: Option<u64>,
    began: Option<u64>,
    /// When the timeout was over, or the entry deleted.
    stopped: Option<u64>,
}

impl Noted {
    fn parse(message: &Message<'_>) -> Option<Noted> {
        Some(Noted::of(Entry::parse(message)?, message))
    }

    /// What a message says beside its entry.
    fn of(entry: Entry, message: &Message<'_>) -> Noted {
        const START: u16 = 1;
        const STOP: u16 = 2;
        let (mut tcp, mut left, mut began, mut stopped) = (None, None, None, None);
        for attribute in message.attributes(4) {
            let nested = attribute.attributes();
            match attribute.kind {
                kind::PROTOINFO => {
                    let info = nested.find(PROTOINFO_TCP);
                    let state = info.and_then(|info| info.attributes().find(PROTOINFO_TCP_STATE));
                    tcp = state.and_then(|state| state.u8());
                }
                kind::TIMEOUT => left = attribute.be32().map(|seconds| u64::from(seconds) * NANOS),
                kind::TIMESTAMP => {
                    let time = |kind| nested.find(kind).and_then(|time| time.be64()).filter(|time| *time > 0);
                    (began, stopped) = (time(START), time(STOP));
                }
                _ => {}
            }
        }
        Noted { entry, tcp, left, began, stopped }
    }

    /// The life of a connection whose entry the kernel let go.
    fn ended(&self, timeouts: &Timeouts, now: u64) -> Life {
        let stopped = self.stopped.unwrap_or(now);
        let silent =
            stopped.saturating_sub(self.timeout(timeouts, stopped).saturating_sub(self.left.unwrap_or(0)));
        let at = silent.max(self.began.unwrap_or(0));
        Life { entry: self.entry, began: self.began, end: Some(End { at, how: self.how() }) }
    }

    /// The life of a connection whose entry is there.
    fn present(&self, timeouts: &Timeouts, now: u64) -> Life {
        let how = match self.how() {
            How::Unanswered => Some(How::Unanswered),
            _ if self.entry.protocol == Protocol::Udp.number() => Some(How::Silent),
            how => matches!(self.tcp, Some(TIME_WAIT | CLOSE)).then_some(how),
        };
        let end = how.zip(self.ended(timeouts, now).end).map(|(how, end)| End { how, ..end });
        Life { entry: self.entry, began: self.began, end }
    }

    /// How long the kernel keeps the entry after a packet. `stopped` is when that time was over.
    fn timeout(&self, timeouts: &Timeouts, stopped: u64) -> u64 {
        match Protocol::from_number(self.entry.protocol) {
            Some(Protocol::Tcp) => match self.tcp {
                // It was not silent for that long, so something was not acknowledged.
                Some(ESTABLISHED)
                    if self.began.is_none_or(|began| stopped - began.min(stopped) < timeouts.tcp[3]) =>
                {
                    timeouts.unacknowledged
                }
                Some(state) => timeouts.tcp.get(usize::from(state)).copied().unwrap_or(0),
                // Older kernels do not tell; most end like this.
                None => timeouts.tcp[usize::from(TIME_WAIT)],
            },
            Some(Protocol::Udp) if self.entry.status & ASSURED != 0 => timeouts.udp_stream,
            Some(Protocol::Udp) => timeouts.udp,
            // Its states have timeouts of their own; most entries end three seconds after the last packet.
            _ => 0,
        }
    }

    fn how(&self) -> How {
        let is_tcp = self.entry.protocol == Protocol::Tcp.number();
        // A TCP connection is assured when the client has acknowledged the answer.
        if !self.entry.is_answered() || is_tcp && self.entry.status & ASSURED == 0 {
            return How::Unanswered;
        }
        match (is_tcp, self.tcp) {
            (true, Some(CLOSE)) => How::Reset,
            (true, Some(0..=ESTABLISHED)) | (false, _) if self.left.is_some() => How::Deleted,
            (true, Some(0..=ESTABLISHED)) | (false, _) => How::Silent,
            (true, _) => How::Finished,
        }
    }
}

/// Reads a message in every way there is, for the fuzzer.
pub(super) fn check_message(message: &Message<'_>) -> Option<Life> {
    let noted = Noted::parse(message)?;
    let timeouts = Timeouts { tcp: [NANOS; 10], unacknowledged: NANOS, udp: NANOS, udp_stream: NANOS };
    let _ = noted.present(&timeouts, 0);
    let life = noted.ended(&timeouts, u64::MAX);
    (message.kind == DELETE).then_some(life)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        tcp: [
            120 * NANOS,
            120 * NANOS,
            60 * NANOS,
            432_000 * NANOS,
            120 * NANOS,
            60 * NANOS,
            30 * NANOS,
            120 * NANOS,
            10 * NANOS,
            120 * NANOS,
        ],
        unacknowledged: 300 * NANOS,
        udp: 30 * NANOS,
        udp_stream: 120 * NANOS,
    };

    fn noted(tcp: Option<u8>, left: Option<u64>, seconds: (u64, u64)) -> Noted {
        let endpoint = plimsoll_core::service::EndpointId {
            address: [10, 1, 0, 11].into(),
            port: 8080,
            protocol: Protocol::Tcp,
        };
        let mut entry = Entry::sample("10.1.0.9:40000".parse().unwrap(), endpoint, true);
        entry.status |= ASSURED;
        Noted { entry, tcp, left, began: Some(seconds.0 * NANOS), stopped: Some(seconds.1 * NANOS) }
    }

    fn ended(noted: Noted) -> (u64, How) {
        let end = noted.ended(&TIMEOUTS, u64::MAX).end.unwrap();
        (end.at / NANOS, end.how)
    }

    #[test]
    fn a_connection_ends_with_its_last_packet_not_with_its_entry() {
        assert_eq!(ended(noted(Some(7), None, (1000, 1150))), (1030, How::Finished));
        assert_eq!(ended(noted(Some(8), None, (1000, 1150))), (1140, How::Reset));
        assert_eq!(ended(noted(None, None, (1000, 1150))), (1030, How::Finished), "an older kernel");
        // A port that is used again ends the entry before its time.
        assert_eq!(ended(noted(Some(7), Some(100 * NANOS), (1000, 1150))), (1130, How::Finished));
        assert_eq!(
            ended(noted(Some(7), None, (1000, 1050))),
            (1000, How::Finished),
            "never before its beginning"
        );
    }

    #[test]
    fn an_established_connection_ends_by_silence_or_by_a_hand() {
        assert_eq!(ended(noted(Some(3), None, (1000, 2000))), (1700, How::Silent));
        assert_eq!(ended(noted(Some(3), None, (1000, 434_000))), (2000, How::Silent));
        let deleted = noted(Some(3), Some(432_000 * NANOS), (1000, 2000));
        assert_eq!(ended(deleted), (2000, How::Deleted));
        let mut udp = noted(None, None, (1000, 1150));
        udp.entry.protocol = Protocol::Udp.number();
        assert_eq!(ended(udp), (1030, How::Silent));
        udp.entry.status &= !ASSURED;
        assert_eq!(ended(udp), (1120, How::Silent));
    }

    #[test]
    fn what_was_never_acknowledged_is_no_connection() {
        let mut refused = noted(Some(8), Some(120 * NANOS), (1000, 1000));
        refused.entry.status = 0;
        assert_eq!(ended(refused), (1000, How::Unanswered));
        let mut half = noted(Some(2), None, (1000, 1060));
        half.entry.status &= !ASSURED;
        assert_eq!(ended(half), (1000, How::Unanswered));
    }

    #[test]
    fn an_entry_that_is_there_is_open_until_both_sides_closed() {
        let end =
            |tcp, left| noted(Some(tcp), Some(left * NANOS), (1000, 0)).present(&TIMEOUTS, 2000 * NANOS).end;
        let mut time_wait = noted(Some(7), Some(100 * NANOS), (1000, 0));
        time_wait.stopped = None;
        let end_at = time_wait.present(&TIMEOUTS, 2000 * NANOS).end.unwrap();
        assert_eq!((end_at.at / NANOS, end_at.how), (1980, How::Finished));
        assert_eq!((end(3, 432_000), end(5, 60)), (None, None));
        let mut udp = noted(None, Some(70 * NANOS), (1000, 0));
        (udp.stopped, udp.entry.protocol) = (None, Protocol::Udp.number());
        let end_at = udp.present(&TIMEOUTS, 2000 * NANOS).end.unwrap();
        assert_eq!((end_at.at / NANOS, end_at.how), (1950, How::Silent), "nobody closes UDP");
        udp.entry.status = 0;
        assert_eq!(udp.present(&TIMEOUTS, 2000 * NANOS).end.unwrap().how, How::Unanswered);
    }
}
