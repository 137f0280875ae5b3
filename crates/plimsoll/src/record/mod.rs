//! `plimsoll record`: the connections that this node sends, written into a file that can be simulated.

mod clock;
mod names;
mod notebook;
mod progress;
mod stop;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use plimsoll_core::time::Span;
use plimsoll_dataplane::conntrack::{Heard, Lives};
use plimsoll_sim::recording::{Head, LONGEST, Tail, Why, Writer};

use crate::output::bytes;
use crate::part::Part;
use clock::Clock;
use names::{Addresses, Services};
use notebook::Notebook;
use progress::Progress;
use stop::Stop;

/// Options of `plimsoll record`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Recorded is every connection that was sent to an endpoint by a DNAT rule of this node, be it kube-proxy's, ours or
any other: when it began and ended and how, its Service and its endpoint. Clients are not recorded. No agent is
needed; it takes root, or CAP_NET_ADMIN. Ctrl-C, or a terminal that goes away, ends it early, and the file is
complete; a second Ctrl-C leaves nothing of it.

Cost: new connections cost what they cost before, since the kernel tells of connections only when it forgets them;
while it records, net.netfilter.nf_conntrack_timestamp is on. Recording itself takes 2 to 4 us of CPU and 6 to 8 bytes
of the file for a connection. Error: two timer ticks (2 to 20 ms) for TCP that ends by FIN or RST; docs/recording.md
tells the rest, and the format.

Examples:
  plimsoll record web.plr --for 1h                                   addresses are hashed
  plimsoll record web.plr --addresses                                addresses as they are
  plimsoll record web.plr --services /etc/plimsoll/services.yaml     only its Services, by their names
  plimsoll record node-1.plr --salt-file salt                        the same salt on each node: files can be merged
  plimsoll simulate --replay web.plr                                 what would each policy have made of it?")]
pub(crate) struct Options {
    /// The file to be written; it must not exist yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How long to record: 1s to 24h
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = time)]
    length: Span,
    /// Stop when the file is this large: 64KiB to 1GiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    max_size: u64,
    /// Record only the Services of this Services file, by their names; without it, every address and port that
    /// connections are translated from is a Service
    #[arg(long, value_name = "FILE")]
    services: Option<PathBuf>,
    /// What to call this node, instead of the host's name, which is hashed as addresses are
    #[arg(long, value_name = "NAME", env = "PLIMSOLL_NODE")]
    node: Option<String>,
    /// Record addresses and the host's name; without it they are hashed with a salt that is thrown away. The
    /// port of a Service is told in any case
    #[arg(long)]
    addresses: bool,
    /// Hash with the salt in this file, so that recordings of several nodes can be merged;
    /// make it with `openssl rand -base64 32`
    #[arg(long, value_name = "FILE", conflicts_with = "addresses")]
    salt_file: Option<PathBuf>,
}

fn time(text: &str) -> Result<Span, String> {
    let longest = Duration::from_millis(LONGEST);
    let span = Span::parse(text).filter(|span| (Duration::from_secs(1)..=longest).contains(&span.0));
    span.ok_or_else(|| "write a time from 1s to 24h, as in `10m` or `1h30m`".into())
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "kB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => 0,
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    size.filter(|size| (64 << 10..=1 << 30).contains(size))
        .ok_or_else(|| "write a size from 64KiB to 1GiB, as in `500kB` or `64MiB`".into())
}

/// How often the connections that were open before are looked for; exact to this where the kernel is silent.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often it is checked that the kernel still takes note of times; others may switch that off.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Looking takes at most this part of the time.
const LOOKING: u32 = 50;
/// How long it is looked again and again at the end, for the ends of connections closed just before; and how often at
/// most.
const REFINED: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long to go on when events come as fast as they are heard.
const LONGEST_HEARING: Duration = Duration::from_secs(5);
/// How long to wait for events before other things get their turn.
const TURN: Duration = Duration::from_millis(100);
/// While connections end, they are heard of in batches: a hundredth of a second's fit the receive buffer many times.
const PAUSE: Duration = Duration::from_millis(10);
/// So many bytes are put into the file at once.
const CHUNK: u64 = 64 << 10;

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let services = match &options.services {
        Some(path) => Services::of_file(path)?,
        None => Services::ByAddress,
    };
    let addresses = match (&options.salt_file, options.addresses) {
        (Some(path), _) => Addresses::with_salt_of(path)?,
        (None, true) => Addresses::Plain,
        (None, false) => Addresses::with_random_salt()?,
    };
    let node = node(options.node.as_deref(), &addresses)?;
    let mut part = Part::begin(&options.file)?;
    let stop = Stop::on_signals()?;
    let lives = Lives::open().context(
        "cannot hear of connections: run as root, or with CAP_NET_ADMIN, in the network namespace of the node",
    )?;
    let clock = Clock::start();
    let head = Head { node: node.clone(), began: clock.nanos / 1_000_000, salt: addresses.salt() };
    let writer = Writer::new(&head).with_context(|| format!("{node:?} cannot be a node's name"))?;
    let notebook = Notebook::new(writer, services, addresses, clock.nanos, options.max_size);
    let mut recording = Recording { lives, notebook, clock, stop, losses: 0, length: None };
    let why = recording.go_on(options, &mut part)?;
    let length = recording.end()?;
    let Recording { mut notebook, losses, clock, stop, .. } = recording;
    let tail = Tail {
        length,
        connections: notebook.writer.connections(),
        losses,
        left_out: notebook.left_out,
        clock_moved: clock.step(),
        why,
    };
    let disturbed = notebook.disturbed;
    part.write(&notebook.writer.take())?;
    let names = notebook.names();
    part.write(&notebook.writer.finish(&tail))?;
    stop.check()?;
    let size = part.finish()?;
    tell(options, &tail, disturbed, names, size);
    Ok(ExitCode::SUCCESS)
}

/// A recording that goes on.
struct Recording {
    lives: Lives,
    notebook: Notebook,
    clock: Clock,
    stop: Stop,
    losses: u64,
    /// How long it is, in milliseconds, once it is over.
    length: Option<u64>,
}

impl Recording {
    /// Records until it is long enough, large enough, or to be stopped.
    fn go_on(&mut self, options: &Options, part: &mut Part) -> anyhow::Result<Why> {
        let mut progress = Progress::new(options.length.0);
        let notebook = &mut self.notebook;
        self.lives.look(|life| notebook.meet(life)).context(ASKING)?;
        say(&format!(
            "recording into {} for {}; Ctrl-C ends it before\n",
            options.file.display(),
            options.length
        ));
        let mut look_at = Instant::now() + LOOK_EVERY;
        let mut check_at = Instant::now() + CHECK_EVERY;
        loop {
            self.clock.millis();
            let elapsed = self.clock.elapsed();
            let why = if self.clock.step() != 0 {
                Some(Why::Clock)
            } else if self.stop.is_asked() {
                Some(Why::Stopped)
            } else if elapsed >= options.length.0 {
                Some(Why::Time)
            } else {
                self.notebook.is_full().then_some(Why::Full)
            };
            if let Some(why) = why {
                progress.clear();
                return Ok(why);
            }
            let heard = self.hear(TURN.min(options.length.0.saturating_sub(elapsed)))?;
            // Also after what is not recorded: otherwise each of those would wake this up.
            if heard.anything && !heard.more {
                std::thread::sleep(PAUSE);
            }
            if Instant::now() >= check_at {
                let is_disturbed = self.lives.is_disturbed().context(ASKING)?;
                self.notebook.disturbed += u64::from(is_disturbed);
                check_at = Instant::now() + CHECK_EVERY;
            }
            if Instant::now() >= look_at {
                let began = Instant::now();
                if self.notebook.has_before() {
                    self.look()?;
                }
                look_at = Instant::now() + LOOK_EVERY.max(began.elapsed() * LOOKING);
            }
            let writer = &mut self.notebook.writer;
            if writer.ready() >= CHUNK {
                part.write(&writer.take())?;
            }
            progress.show(elapsed, writer.connections(), writer.size());
        }
    }

    fn hear(&mut self, timeout: Duration) -> anyhow::Result<Heard> {
        let (notebook, clock, length) = (&mut self.notebook, &mut self.clock, self.length);
        let heard = self.lives.hear(timeout, |life| {
            let life = clock.corrected(life);
            notebook.hear(length.unwrap_or_else(|| clock.millis()), &life);
        });
        let heard = heard.context("cannot hear of connections any more")?;
        self.losses += u64::from(heard.lost);
        Ok(heard)
    }

    /// Hears all that waits, which more may join meanwhile; whether that was all.
    fn hear_all(&mut self) -> anyhow::Result<bool> {
        let began = Instant::now();
        while self.hear(Duration::ZERO)?.more {
            self.stop.check()?;
            if began.elapsed() >= LONGEST_HEARING {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks for the connections that were open before.
    fn look(&mut self) -> anyhow::Result<()> {
        let since = self.clock.millis();
        let (notebook, clock) = (&mut self.notebook, &mut self.clock);
        self.lives.look(|life| notebook.see(clock.millis(), &clock.corrected(life))).context(ASKING)?;
        // Those that ended meanwhile; what still waits must not be taken for gone without a word.
        if self.hear_all()? {
            self.notebook.forget(self.clock.millis(), since);
        }
        Ok(())
    }

    /// Notes what is there at the end; how long the recording is, in milliseconds.
    fn end(&mut self) -> anyhow::Result<u64> {
        self.stop.check()?;
        self.hear_all()?;
        let length = *self.length.insert(self.clock.millis());
        self.notebook.is_over = true;
        let (notebook, clock) = (&mut self.notebook, &mut self.clock);
        let began = Instant::now();
        self.lives.look(|life| notebook.take_leave(length, &clock.corrected(life))).context(ASKING)?;
        // Looking makes the kernel let go of entries whose time is over: their events are there now.
        let pause = began.elapsed().max(LOOK_AGAIN);
        let pauses = REFINED.as_nanos() / pause.as_nanos() / 2;
        for _ in 0..pauses {
            self.hear_all()?;
            std::thread::sleep(pause);
            self.stop.check()?;
            let (notebook, clock) = (&mut self.notebook, &mut self.clock);
            self.lives.look(|life| notebook.refine(&clock.corrected(life))).context(ASKING)?;
        }
        let is_all = self.hear_all()?;
        self.losses += u64::from(!is_all);
        self.notebook.finish(length);
        Ok(length)
    }
}

const ASKING: &str = "cannot ask the kernel for its connections";

fn node(wanted: Option<&str>, addresses: &Addresses) -> anyhow::Result<String> {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let told = |name: String| Some(name.trim().to_owned()).filter(|name| !name.is_empty());
    let node = match wanted {
        Some(wanted) => told(wanted.to_owned()),
        None => host().and_then(told).map(|host| addresses.node(&host)),
    };
    node.context("this host has no name to be known by; give --node")
}

/// Writes to the standard error. Who records over a connection that broke still gets the file.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Says what was recorded, and what was not.
fn tell(options: &Options, tail: &Tail, disturbed: u64, (services, endpoints): (usize, usize), size: u64) {
    let seconds = tail.length as f64 / 1e3;
    let why = match tail.why {
        Why::Time => "",
        Why::Full => ", stopped because it is as large as --max-size lets it be",
        Why::Stopped => ", stopped early",
        Why::Clock => ", ended early because the clock was set",
    };
    let mut text = format!(
        "{}: {} connections of {services} Services with {endpoints} endpoints in {seconds:.0} s, {}{why}\n",
        options.file.display(),
        tail.connections,
        bytes(size)
    );
    for note in notes(tail, disturbed) {
        text.extend(["plimsoll: ", &note, "\n"]);
    }
    say(&text);
}

/// What to keep in mind about a recording.
fn notes(tail: &Tail, disturbed: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if tail.connections == 0 {
        notes.push(
            "no connection was sent to an endpoint by a DNAT rule here; is this the node that clients connect \
             through, and does --services name the right ones?"
                .to_owned(),
        );
    }
    if tail.losses > 0 {
        notes.push(format!(
            "the kernel had more to tell than could be heard, {} times; some connections are missing",
            tail.losses
        ));
    }
    if tail.left_out > 0 {
        let beginning = if disturbed > 0 { " or of a beginning" } else { "" };
        notes.push(format!("{} connections were left out for want of room{beginning}", tail.left_out));
    }
    if disturbed > 0 {
        notes.push(format!(
            "somebody switched net.netfilter.nf_conntrack_timestamp off, {disturbed} times, each for up to 10 s; it was \
             switched on again, but what began meanwhile has no known beginning and is left out. Was another recorder \
             running?"
        ));
    }
    if tail.clock_moved != 0 {
        notes.push(format!(
            "the clock was set by {} s (or the machine slept): times before and after cannot be compared, so the \
             recording ends there; what was recorded until then is kept. Record again for more",
            tail.clock_moved / 1000
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_by_its_cause() {
        let tail =
            Tail { length: 1000, connections: 1, losses: 0, left_out: 0, clock_moved: 0, why: Why::Time };
        let told = |tail, disturbed| notes(&tail, disturbed).join("|");
        assert_eq!(told(tail, 0), "");
        let switched = told(Tail { left_out: 7, ..tail }, 2);
        assert!(
            switched.contains("timestamp off, 2 times") && !switched.contains("more to tell"),
            "{switched}"
        );
        assert!(switched.contains("7 connections were left out for want of room or of a beginning"));
        assert!(told(Tail { losses: 3, ..tail }, 0).contains("more to tell than could be heard, 3 times"));
        assert!(told(Tail { clock_moved: -60_000, ..tail }, 0).contains("set by -60 s"));
        assert!(told(Tail { connections: 0, ..tail }, 0).contains("--services"));
    }

    #[test]
    fn sizes_and_times_are_read_within_bounds() {
        assert_eq!((size("64KiB"), size("1GiB"), size("500kB")), (Ok(65_536), Ok(1 << 30), Ok(500_000)));
        for wrong in ["", "64", "63KiB", "2GiB", "MiB", "-1MiB", "99999999999999999999GB", "1 MB"] {
            assert!(size(wrong).unwrap_err().contains("64KiB to 1GiB"), "{wrong}");
        }
        assert_eq!(time("24h"), Ok(Span::from_secs(86_400)));
        for wrong in ["0s", "25h", "10", ""] {
            assert!(time(wrong).unwrap_err().contains("1s to 24h"), "{wrong}");
        }
    }
}
