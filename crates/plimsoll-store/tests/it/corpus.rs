//! The inputs that fuzzing starts from, and those that it once failed on.

use std::collections::BTreeSet;
use std::fs;
use std::mem::discriminant;
use std::path::Path;

use plimsoll_store::mesh::{decode, machine};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(directory).unwrap();
    files.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_corpus_of_messages_has_each_kind() {
    let good: Vec<_> = corpus("mesh_message").iter().filter_map(|bytes| decode(bytes).ok()).collect();
    let kinds: BTreeSet<String> = good.iter().map(|message| format!("{:?}", discriminant(message))).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}

#[test]
fn the_corpus_of_datagrams_is_survived() {
    let given: usize = corpus("mesh_datagrams").iter().map(|bytes| machine::check_bytes(bytes)).sum();
    assert!(given > 20, "{given} datagrams: where is the corpus?");
}
