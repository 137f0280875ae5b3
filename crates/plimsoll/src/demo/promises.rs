//! What the demo promises: every limit in one place.

/// In phase `balanced`, max/mean - 1 is at most this part of what it was under the proxy alone.
pub(super) const BALANCED_PART_OF_BEFORE: f64 = 1.0 / 3.0;
/// No connection fails, in no phase.
pub(super) const FAILED_CONNECTIONS: usize = 0;
/// The lease in the demo.
pub(super) const LEASE_SECONDS: u64 = 3;
/// After SIGKILL the kernel has removed the table within this time; the look itself takes a part of it.
pub(super) const KILLED_FALL_BACK_SECONDS: f64 = 0.5;
/// After SIGSTOP the proxy below serves within a lease; connections come only so often.
pub(super) const FROZEN_FALL_BACK_SECONDS: f64 = LEASE_SECONDS as f64 + 0.5;
/// After SIGCONT, and after a restart, the agent serves again within this time.
pub(super) const TAKE_OVER_SECONDS: f64 = 4.0;
/// An endpoint is at its fair share from this part of it to the inverse.
pub(super) const FAIR: f64 = 0.8;
