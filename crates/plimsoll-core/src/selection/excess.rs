//! The excess flow: what a node sends beyond its usual rate goes to all endpoints, not only to those under its
//! aperture, which a burst would flood.

use crate::time::Timestamp;

/// It fills at this many times the node's usual rate.
const RATE: f64 = 1.25;
/// It holds this many connections, and those of this many seconds at the usual rate.
const CONNECTIONS: f64 = 4.0;
const SECONDS: f64 = 0.1;

/// A token bucket: each connection within the usual flow takes a token.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

impl Bucket {
    /// Whether the connection that comes now is within the usual flow, `rate` connections per second.
    pub fn takes(&mut self, now: Timestamp, rate: f64) -> bool {
        let most = CONNECTIONS + SECONDS * rate;
        self.tokens = (self.tokens + RATE * rate * now.seconds_since(self.filled)).min(most);
        self.filled = now;
        let usual = self.tokens >= 1.0;
        if usual {
            self.tokens -= 1.0;
        }
        usual
    }
}
