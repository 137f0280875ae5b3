//! What a process uses of the machine.

use std::fs;
use std::io;
use std::time::Duration;

/// Time on the CPU of all threads of a process so far.
pub fn cpu(process: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // One that has ended meanwhile is passed over.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanos += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default();
    }
    if nanos == 0 {
        return Err(io::Error::other("the kernel does not tell the time of threads (CONFIG_SCHED_INFO)"));
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory, megabytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resident {
    /// Now.
    pub now: f64,
    /// At most so far.
    pub most: f64,
}

/// The resident memory of a process.
pub fn resident(process: u32) -> io::Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
        let megabytes = kilobytes.map(|kilobytes| kilobytes * 1024.0 / 1e6);
        megabytes.ok_or_else(|| io::Error::other(format!("no {name} in the status of process {process}")))
    };
    Ok(Resident { now: field("VmRSS:")?, most: field("VmHWM:")? })
}
