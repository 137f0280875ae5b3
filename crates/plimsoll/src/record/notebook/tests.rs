//! Each connection is noted once, whoever tells of it, and none that was over before.

use plimsoll_dataplane::conntrack::End;
use plimsoll_dataplane::netlink::{Builder, messages};
use plimsoll_sim::recording::{self, Contents, Head, LONGEST, Tail, Why};

use super::*;

/// The beginning of all recordings here, in nanoseconds since 1970.
const BEGAN: u64 = 1_700_000_000_000_000_000;

fn at(millis: i64) -> u64 {
    (BEGAN as i64 + millis * NANOS_PER_MILLI) as u64
}

/// A connection from this port of a client to an endpoint, as ctnetlink tells it.
pub(crate) fn entry(port: u16, endpoint: u8) -> Entry {
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
    builder.message(0x100, 0, &[2, 0, 0, 0], |m| {
        direction(m, 1, [10, 1, 0, 9], [10, 96, 0, 1], (port, 80));
        direction(m, 2, [10, 1, 1, endpoint], [10, 1, 0, 9], (8080, port));
        m.be32(3, 0x2e);
        m.be32(12, u32::from(port));
    });
    let message = messages(builder.bytes()).next().unwrap();
    Entry::parse(&message).unwrap()
}

fn life(port: u16, began: Option<i64>, end: Option<(i64, Ended)>) -> Life {
    let end = end.map(|(millis, how)| End { at: at(millis), how });
    Life { entry: entry(port, 11 + (port % 2) as u8), began: began.map(at), end }
}

fn notebook(most_bytes: u64) -> Notebook {
    let head = Head { node: "n".into(), began: BEGAN / 1_000_000, salt: None };
    Notebook::new(Writer::new(&head).unwrap(), Services::ByAddress, Addresses::Plain, BEGAN, most_bytes)
}

/// What was noted, with the rest of the recording.
fn read(mut notebook: Notebook) -> (Contents, Vec<(Option<i64>, i64, How)>) {
    let mut bytes = notebook.writer.take();
    let left_out = notebook.left_out;
    let tail = Tail { length: LONGEST, connections: 0, losses: 0, left_out, clock_moved: 0, why: Why::Time };
    bytes.extend(notebook.writer.finish(&tail));
    let mut noted = Vec::new();
    let contents = recording::read(&bytes, |connection| {
        noted.push((connection.began, connection.until, connection.how));
    });
    noted.sort_unstable();
    (contents.unwrap(), noted)
}

#[test]
fn what_begins_and_ends_meanwhile_is_noted_at_its_end() {
    let mut notebook = notebook(1 << 20);
    notebook.hear(5_000, &life(1, Some(1_000), Some((3_000, Ended::Finished))));
    notebook.hear(5_000, &life(2, Some(2_000), Some((2_000, Ended::Unanswered))));
    // The clock was set back a little, which is not told from one that is slow.
    notebook.hear(5_000, &life(5, Some(5_400), Some((5_100, Ended::Finished))));
    // Over before the recording began, with and without a known beginning.
    notebook.hear(5_000, &life(3, Some(-9_000), Some((-1, Ended::Finished))));
    notebook.hear(5_000, &life(4, None, Some((4_000, Ended::Finished))));
    let (contents, noted) = read(notebook);
    let expected = [
        (Some(1_000), 3_000, How::Finished),
        (Some(2_000), 2_000, How::Unanswered),
        (Some(5_000), 5_000, How::Finished),
    ];
    assert_eq!(noted, expected);
    assert_eq!(contents.services, ["tcp/10.96.0.1:80"]);
    assert_eq!(contents.endpoints, ["tcp/10.1.1.12:8080", "tcp/10.1.1.11:8080"]);
}

#[test]
fn what_began_while_the_kernel_took_no_note_is_counted() {
    let mut notebook = notebook(1 << 20);
    let nameless = |port, millis| life(port, None, Some((millis, Ended::Finished)));
    notebook.hear(5_000, &nameless(1, 4_000));
    assert_eq!(notebook.left_out, 0, "an end told a little late");
    notebook.disturbed = 1;
    notebook.hear(9_000, &nameless(2, 8_000));
    notebook.hear(9_000, &nameless(3, -8_000));
    notebook.take_leave(9_000, &life(4, None, None));
    assert_eq!((notebook.left_out, read(notebook).1), (2, Vec::new()));
}

#[test]
fn what_was_open_before_is_noted_however_it_ends() {
    let mut notebook = notebook(1 << 20);
    for port in 1..=5 {
        notebook.meet(&life(port, None, None));
    }
    notebook.meet(&life(6, None, Some((-5_000, Ended::Finished))));
    // The first ends with an event; the second is seen when it is over; the third is gone without a word.
    notebook.hear(2_000, &life(1, None, Some((1_500, Ended::Reset))));
    notebook.see(10_000, &life(2, None, Some((7_000, Ended::Finished))));
    for port in 4..=5 {
        notebook.see(10_000, &life(port, None, None));
    }
    notebook.forget(10_000, 9_990);
    // The fourth stays to the end; the fifth goes after the last look.
    notebook.take_leave(20_000, &life(4, None, None));
    notebook.finish(20_000);
    let expected = [
        (None, 1_500, How::Reset),
        (None, 5_000, How::Gone),
        (None, 7_000, How::Finished),
        (None, 15_000, How::Gone),
        (None, 20_000, How::Open),
    ];
    assert_eq!(read(notebook).1, expected);
}

#[test]
fn what_nobody_answered_before_is_a_connection_only_if_somebody_does() {
    let mut notebook = notebook(1 << 20);
    for port in 1..=3 {
        notebook.meet(&life(port, None, Some((0, Ended::Unanswered))));
    }
    notebook.see(10_000, &life(1, None, Some((0, Ended::Unanswered))));
    notebook.see(10_000, &life(2, None, None));
    // Gone without a word: the third before the first look, the others after it.
    notebook.forget(12_000, 10_000);
    notebook.forget(20_000, 20_000);
    let expected =
        [(None, 6_000, How::Unanswered), (None, 15_000, How::Gone), (None, 15_000, How::Unanswered)];
    assert_eq!(read(notebook).1, expected);
}

#[test]
fn udp_ends_with_its_last_packet_also_where_its_entry_stays() {
    let mut notebook = notebook(1 << 20);
    let silent = |port, began, millis| life(port, began, Some((millis, Ended::Silent)));
    // Open before: one speaks now and then and is gone without a word, one never spoke again, one is told by an event,
    // and one is silent to the end.
    for port in 1..=4 {
        notebook.meet(&silent(port, None, -3_000));
    }
    notebook.see(10_000, &silent(1, None, 8_000));
    notebook.see(20_000, &silent(1, None, 7_900));
    for port in 2..=4 {
        notebook.see(20_000, &silent(port, None, -2_500));
    }
    notebook.forget(40_000, 15_000);
    notebook.hear(45_000, &silent(3, None, -2_400));
    notebook.forget(50_000, 45_000);
    notebook.take_leave(60_000, &silent(4, None, -2_600));
    // At the end: silent for long, for a moment, and one that speaks while it is looked at again.
    notebook.take_leave(60_000, &silent(5, Some(30_000), 40_000));
    notebook.take_leave(60_000, &silent(6, Some(30_000), 59_000));
    notebook.take_leave(60_000, &silent(7, Some(30_000), 50_000));
    notebook.refine(&silent(5, Some(30_000), 40_700));
    notebook.refine(&silent(7, Some(30_000), 60_400));
    notebook.finish(60_000);
    let expected = [
        (None, 8_000, How::Silent),
        (Some(30_000), 40_700, How::Silent),
        (Some(30_000), 60_000, How::Open),
        (Some(30_000), 60_000, How::Open),
    ];
    assert_eq!(read(notebook).1, expected);
}

#[test]
fn the_end_is_told_once_and_as_well_as_it_can_be() {
    let mut notebook = notebook(1 << 20);
    let closed = |millis| life(1, Some(1_000), Some((millis, Ended::Finished)));
    notebook.is_over = true;
    // A look may show an entry twice.
    for _ in 0..2 {
        notebook.take_leave(20_000, &closed(18_000));
        notebook.take_leave(20_000, &life(2, Some(2_000), None));
    }
    notebook.take_leave(20_000, &life(3, Some(3_000), Some((17_000, Ended::Reset))));
    notebook.take_leave(20_000, &life(4, None, Some((17_000, Ended::Reset))));
    notebook.refine(&closed(18_700));
    notebook.refine(&closed(18_400));
    // What the event tells is better than what looks tell; what is new since is not in the recording.
    notebook.hear(20_000, &life(3, Some(3_000), Some((17_800, Ended::Reset))));
    notebook.hear(20_000, &life(2, Some(2_000), Some((20_500, Ended::Reset))));
    notebook.hear(20_000, &life(5, Some(20_100), Some((20_200, Ended::Reset))));
    notebook.hear(20_000, &life(6, Some(19_000), Some((19_100, Ended::Reset))));
    notebook.finish(20_000);
    let expected = [
        (Some(1_000), 18_700, How::Finished),
        (Some(2_000), 20_000, How::Open),
        (Some(3_000), 17_800, How::Reset),
        (Some(19_000), 19_100, How::Reset),
    ];
    assert_eq!(read(notebook).1, expected);
}

#[test]
fn a_full_notebook_counts_what_it_leaves_out() {
    let mut notebook = notebook(64 << 10);
    let mut noted = 0_u64;
    while !notebook.is_full() {
        noted += 1;
        notebook.hear(
            90_000,
            &life((noted % 60_000) as u16, Some(noted as i64), Some((80_000, Ended::Finished))),
        );
    }
    for port in 0..60_000 {
        notebook.take_leave(90_000, &life(port, Some(1_000), None));
    }
    let left_out = notebook.left_out;
    let (contents, connections) = read(notebook);
    let open = connections.iter().filter(|(.., how)| *how == How::Open).count() as u64;
    assert!(open > 500 && open + left_out == 60_000, "{open} open, {left_out} left out");
    assert_eq!(contents.tail.left_out, left_out);
    assert_eq!(contents.tail.connections, noted + open);
}
