//! When to end before the time is over: in order at the first signal, at once at the second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// Signals that ask to end.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicU32>);

impl Stop {
    /// Listens to SIGINT, SIGTERM, SIGQUIT, and SIGHUP, which comes when a terminal or an ssh connection goes; under
    /// `nohup` not to that one.
    pub(super) fn on_signals() -> anyhow::Result<Stop> {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit()];
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if !is_hangup_ignored(&status) {
            kinds.push(SignalKind::hangup());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let signals = kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>()?;
        drop(inside);
        let stop = Stop::default();
        let asked = stop.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                for mut signal in signals {
                    let asked = asked.clone();
                    drop(tokio::spawn(async move {
                        while signal.recv().await.is_some() {
                            asked.ask();
                        }
                    }));
                }
                std::future::pending::<()>().await;
            });
        })?;
        Ok(stop)
    }

    fn ask(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether to end.
    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// An error if it was asked for a second time: nothing is to be waited for any more.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) > 1 {
            bail!("ended at once by a second signal; nothing is left of the recording");
        }
        Ok(())
    }
}

/// By the mask in `/proc/self/status`.
fn is_hangup_ignored(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_ends_in_order_and_the_second_at_once() {
        let stop = Stop::default();
        assert!(!stop.is_asked() && stop.check().is_ok());
        stop.ask();
        assert!(stop.is_asked() && stop.check().is_ok());
        stop.ask();
        assert!(stop.is_asked() && stop.check().unwrap_err().to_string().contains("second signal"));
    }

    #[test]
    fn nohup_is_heeded() {
        let status = |mask: &str| format!("Name:\tplimsoll\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        assert!(is_hangup_ignored(&status("0000000000001001")));
        assert!(!is_hangup_ignored(&status("0000000000001000")) && !is_hangup_ignored(""));
    }
}
