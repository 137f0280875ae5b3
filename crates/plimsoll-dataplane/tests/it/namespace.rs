//! A fresh network namespace for one test, and the nft program in it.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs `test` on a thread with a network namespace of its own. Where that is not allowed (it takes root, or
/// `unshare -Urnm`) or there is no nft, says so, and fails if all tests are required.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let missing = std::thread::spawn(|| {
        if let Err(error) = unshare() {
            return Some(format!("no network namespace ({error}); run as root or under `unshare -Urnm`"));
        }
        if let Err(error) = Command::new("nft").arg("--version").output() {
            return Some(format!("no nft program ({error}); install nftables"));
        }
        test();
        None
    })
    .join();
    match missing {
        Ok(None) => {}
        Ok(Some(why)) => {
            assert!(std::env::var_os("PLIMSOLL_REQUIRE_ALL_TESTS").is_none(), "cannot run: {why}");
            eprintln!("skipped: {why}");
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Moves the calling thread into a new network namespace.
#[allow(unsafe_code)]
fn unshare() -> std::io::Result<()> {
    // SAFETY: takes no pointers; only this thread, which the test owns, changes its namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Runs a program in the thread's namespace and returns what it printed, or its complaint.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Loads a ruleset as text.
pub(crate) fn load(ruleset: &str) -> Result<(), String> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    child.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The table as nft lists it, without what differs from run to run: the time that leases have left, the order of
/// elements, the owner's name.
pub(crate) fn list() -> String {
    let text = run("nft", &["list", "table", "inet", "plimsoll"]).unwrap();
    let mut kept = String::new();
    let mut elements: Option<String> = None;
    for line in text.lines() {
        let line = line.split(" # progname").next().unwrap();
        if let Some(list) = line.trim().strip_prefix("elements = {") {
            elements = Some(list.to_owned());
        } else if let Some(list) = &mut elements {
            list.push_str(line);
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
        if let Some(list) = elements.take_if(|list| list.ends_with('}')) {
            let mut list: Vec<String> = list.trim_end_matches('}').split(',').map(without_expiry).collect();
            list.sort_by_key(|element| (element.len(), element.clone()));
            kept.push_str(&format!("\t\telements = {{ {} }}\n", list.join(",\n\t\t\t     ")));
        }
    }
    kept
}

fn without_expiry(element: &str) -> String {
    let mut words = element.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "expires" {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}
