//! The inputs that fuzzing starts from, and those that it once failed on.

use std::fs;
use std::path::Path;

use plimsoll_dataplane::{conntrack, netlink};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(directory).unwrap();
    files.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_corpus_of_netlink_messages_is_survived() {
    let (mut all, mut attributes) = (0, 0);
    for bytes in corpus("netlink") {
        let (messages, seen) = netlink::check_bytes(&bytes);
        all += messages;
        attributes += seen;
    }
    assert!(all >= 5 && attributes >= 20, "{all} messages, {attributes} attributes: where is the corpus?");
}

#[test]
fn the_corpus_of_connections_is_survived() {
    let understood: usize = corpus("conntrack").iter().map(|bytes| conntrack::check_bytes(bytes)).sum();
    assert!(understood >= 4, "{understood} connections: where is the corpus?");
}
