//! What is written is read; what is cut, damaged, out of order or senseless is told with its place.

use proptest::prelude::*;

use super::block::{self, Kind};
use super::*;

fn head() -> Head {
    Head { node: "n1".into(), began: 1_700_000_000_000, salt: Some(7) }
}

fn tail() -> Tail {
    Tail { length: 60_000, connections: 0, losses: 2, left_out: 1, clock_moved: -3, why: Why::Time }
}

fn sample() -> (Vec<u8>, Vec<Connection>) {
    let mut writer = Writer::new(&head()).unwrap();
    let service = writer.add_service("shop/web:http/ipv4").unwrap();
    let endpoints = [writer.add_endpoint("tcp/10.1.0.11:8080"), writer.add_endpoint("tcp/10.1.0.12:8080")];
    let mut connections = Vec::new();
    for (number, how) in How::ALL.into_iter().enumerate() {
        let began = [Some(-90_000), Some(5), None, Some(100), Some(0), Some(2_000)][number];
        let until = [60_000, 7, 30, 100, 59_000, 2_000][number];
        let endpoint = endpoints[number % 2].unwrap();
        connections.push(Connection { service, endpoint, began, until, how });
    }
    for (number, connection) in connections.iter().enumerate() {
        writer.add(60_000, connection);
        if number == 3 {
            writer.flush(60_000);
        }
    }
    let mut bytes = writer.take();
    bytes.extend(writer.finish(&tail()));
    (bytes, connections)
}

fn read_all(bytes: &[u8]) -> Result<(Contents, Vec<Connection>), Error> {
    let mut connections = Vec::new();
    read(bytes, |connection| connections.push(*connection)).map(|contents| (contents, connections))
}

fn refused(bytes: &[u8]) -> Error {
    read_all(bytes).expect_err("it is not whole")
}

#[test]
fn what_is_written_is_read() {
    let (bytes, connections) = sample();
    let (contents, read) = read_all(&bytes).unwrap();
    assert_eq!(read, connections);
    assert_eq!(contents.head, head());
    assert_eq!(contents.tail, Tail { connections: 6, ..tail() });
    assert_eq!(contents.services, ["shop/web:http/ipv4"]);
    assert_eq!(contents.endpoints.len(), 2);
}

#[test]
fn a_recording_that_is_cut_anywhere_is_told() {
    let (bytes, _) = sample();
    for end in 0..bytes.len() {
        let error = refused(&bytes[..end]);
        assert!(error.at <= end && error.what.contains("cut short"), "cut at {end}: {error}");
        assert!(error.what.contains("copy it again"), "{error}");
    }
    let error = refused(&[&bytes[..], b"x"].concat());
    assert!(error.at == bytes.len() && error.what.contains("follows its end"), "{error}");
}

#[test]
fn a_byte_that_is_changed_anywhere_is_told() {
    let (bytes, _) = sample();
    for at in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            let error = refused(&damaged);
            assert!(error.at <= at, "changed at {at}: {error}");
        }
    }
    assert!(refused(b"PK\x03\x04").what.contains("`plimsoll record`"));
    for version in ["2", "10", "1.1"] {
        let other = String::from_utf8_lossy(MAGIC).replace('1', version);
        assert!(refused(other.as_bytes()).what.contains("another version"), "{version}");
    }
}

/// A recording of these blocks, undamaged.
fn sealed(blocks: &[(Kind, &[u8])]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let whole = sample().0;
    let length = u32::from_le_bytes(whole[MAGIC.len()..MAGIC.len() + 4].try_into().unwrap()) as usize;
    bytes.extend_from_slice(&whole[MAGIC.len()..MAGIC.len() + block::FRONT + length + block::BACK]);
    for ((kind, payload), number) in blocks.iter().zip(1..) {
        block::seal(&mut bytes, *kind, number, payload);
    }
    bytes
}

#[test]
fn time_that_runs_backwards_is_told_with_its_block() {
    let names = [(Kind::Services, &b"\x01s"[..]), (Kind::Endpoints, b"\x01e")];
    let with = |more: &[(Kind, &'static [u8])]| refused(&sealed(&[&names[..], more].concat()));
    // Heard up to 9 ms, then up to 8 ms.
    let error = with(&[(Kind::Connections, b"\x09"), (Kind::Connections, b"\x08")]);
    assert!(error.what.contains("time runs backwards in block 4, from 9 ms to 8 ms"), "{error}");
    // Heard up to 9 ms, and one ended at 10 ms; one before the beginning.
    for until in [b"\x09\x00\x00\x01\x14\x00", b"\x09\x00\x00\x01\x01\x00"] {
        let error = with(&[(Kind::Connections, until)]);
        assert!(error.what.contains("block 3: time runs backwards"), "{error}");
    }
    // The end before what was heard.
    let error = with(&[(Kind::Connections, b"\x09"), (Kind::Tail, &[8, 0, 0, 0, 0, 0])]);
    assert!(error.what.contains("time runs backwards in block 4"), "{error}");
}

#[test]
fn what_no_plimsoll_wrote_is_refused() {
    type Blocks<'a> = &'a [(Kind, &'a [u8])];
    let cases: [(Blocks<'_>, &str); 8] = [
        (&[(Kind::Head, b"")], "makes no sense"),
        (&[(Kind::Services, b"\x02s\n")], "makes no sense"),
        (&[(Kind::Services, b"\x05s")], "makes no sense"),
        (&[(Kind::Services, b"\x01sx")], "makes no sense"),
        (&[(Kind::Connections, b"\x09\x00\x00\x00\x00\x00")], "no name"),
        (&[(Kind::Tail, &[8, 1, 0, 0, 0, 0])], "should hold 1 connections and holds 0"),
        (&[(Kind::Tail, &[8, 0, 0, 0, 0, 9])], "makes no sense"),
        (&[(Kind::Tail, &[0xff; 11])], "makes no sense"),
    ];
    for (blocks, words) in cases {
        let error = refused(&sealed(blocks));
        assert!(error.what.contains(words), "{blocks:?}: {error}");
    }
    let (bytes, _) = sample();
    // Without its second block.
    let second = MAGIC.len() + 4 + 1 + 4 + 20 + 4;
    let third = second + block::FRONT + 1 + "shop/web:http/ipv4".len() + block::BACK;
    let error = refused(&[&bytes[..second], &bytes[third..]].concat());
    assert!(error.what.contains("block 2 stands where block 1 should be"), "{error}");
}

#[test]
fn names_that_would_play_tricks_are_not_written() {
    let mut writer = Writer::new(&head()).unwrap();
    for name in ["", "\x1b[2J", "a\nb", &"x".repeat(LONGEST_NAME + 1)] {
        assert_eq!((writer.add_service(name), writer.add_endpoint(name)), (None, None), "{name:?}");
        assert!(Writer::new(&Head { node: name.into(), ..head() }).is_none());
    }
}

#[test]
fn a_connection_takes_few_bytes() {
    let mut writer = Writer::new(&head()).unwrap();
    let (service, endpoint) = (writer.add_service("web").unwrap(), writer.add_endpoint("e").unwrap());
    let before = writer.size();
    for number in 0..10_000 {
        let until = number * 3 + number % 7 * 1_000;
        let connection = Connection { service, endpoint, began: Some(until - 90), until, how: How::Finished };
        writer.add(60_000, &connection);
    }
    let each = (writer.size() - before) as f64 / 10_000.0;
    assert!(each < 7.1, "{each} bytes");
    let size = writer.size();
    let taken = writer.take();
    assert_eq!(writer.size(), size);
    let bytes = [taken, writer.finish(&tail())].concat();
    assert_eq!(read_all(&bytes).unwrap().1.len(), 10_000);
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(block::checksum(b"123456789"), 0xcbf4_3926);
}

/// What a fuzzer found or should begin with, and what a real node recorded.
#[test]
fn the_corpus_of_recordings_is_understood_and_survives_damage() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/recording");
    let mut understood = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        understood += check_bytes(&bytes, |_, _| {});
        for end in 0..bytes.len() {
            check_bytes(&bytes[..end], |_, _| {});
            let mut damaged = bytes.clone();
            damaged[end] = !damaged[end];
            check_bytes(&damaged, |_, _| {});
        }
    }
    assert!(understood >= 6, "{understood} connections: where is the corpus?");
}

fn connection() -> impl Strategy<Value = Connection> {
    let began = proptest::option::of(-1_000_000_i64..86_000_000);
    (0_u32..3, 0_u32..5, began, 0_i64..400_000, 0..How::ALL.len()).prop_map(
        |(service, endpoint, began, life, how)| {
            let until = began.map_or(life, |began| (began + life).max(0));
            Connection { service, endpoint, began, until, how: How::ALL[how] }
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(
        connections in proptest::collection::vec(connection(), 0..200),
        flushes in proptest::collection::vec(0_usize..200, 0..5),
    ) {
        let mut writer = Writer::new(&Head { salt: None, ..head() }).unwrap();
        for number in 0..3 {
            writer.add_service(&format!("s{number}")).unwrap();
        }
        for number in 0..5 {
            writer.add_endpoint(&format!("e{number}")).unwrap();
        }
        for (number, connection) in connections.iter().enumerate() {
            writer.add(86_400_000, connection);
            if flushes.contains(&number) {
                writer.flush(86_400_000);
            }
        }
        let bytes = writer.finish(&Tail { length: 86_400_000, ..tail() });
        let (contents, read) = read_all(&bytes).unwrap();
        prop_assert_eq!(read, connections);
        prop_assert_eq!(contents.head.salt, None);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        check_bytes(&bytes, |_, _| {});
    }
}
