//! The inputs that fuzzing starts from, and those that it once failed on.

use std::fs;
use std::path::Path;

use plimsoll_discovery::file::{Reader, parse};

#[test]
fn the_corpus_of_services_files_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/services_file");
    let mut reader = Reader::default();
    let (mut good, mut bad) = (0, 0);
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let whole = parse(&text);
        assert_eq!(reader.read(&text), whole, "{}", path.display());
        match whole {
            Ok(_) => good += 1,
            Err(problems) => {
                assert!(!problems.to_string().is_empty());
                bad += 1;
            }
        }
    }
    assert!(good >= 2 && bad >= 2, "{good} good and {bad} bad: where is the corpus?");
}
