//! What is in an enclosure ends with it, however far it has detached.

use std::fs;
use std::process::Command;

use plimsoll_lab::{available, enclosure, eventually};

use crate::SOON;

/// Whether a process was started with these words.
fn runs(words: &[&str]) -> bool {
    let words = words.join("\0") + "\0";
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut started = processes.map(|process| fs::read(process.path().join("cmdline")).unwrap_or_default());
    started.any(|with| with == words.as_bytes())
}

#[test]
fn what_has_detached_ends_with_the_first() {
    if !available(&["setpriv", "setsid"]) {
        return;
    }
    // A length that nobody else sleeps for.
    let sleeps = ["sleep", &format!("600.{}", std::process::id())];
    let script = format!("setsid {} & exec sleep 600", sleeps.join(" "));
    let mut killed = enclosure::start(Command::new("sh").args(["-c", &script])).unwrap();
    assert!(eventually(SOON, || runs(&sleeps)));
    assert!(killed.ended().unwrap().is_none());
    drop(killed);
    assert!(!runs(&sleeps));
}
