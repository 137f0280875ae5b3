//! How loaded the endpoints are, as this node measures it: counts from the kernel and samples from signal
//! sources, filtered into one [`Load`] per endpoint.

use crate::service::EndpointId;
use crate::time::Timestamp;

/// How many age slots are told apart; what is older than all of them has no age.
pub const AGE_SLOTS: usize = 16;

/// What the dataplane counted for one endpoint since it began to count it. Totals never fall, except to start
/// again from zero when the endpoint left and came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Whose connections.
    pub endpoint: EndpointId,
    /// Connections open now.
    pub open: u32,
    /// Connections opened so far.
    pub opened: u64,
    /// Connections that the endpoint's host refused (RST to a SYN) so far.
    pub refused: u64,
    /// Connections that nobody answered so far, known when conntrack gives them up.
    pub unanswered: u64,
    /// Opened in each age slot, newest first, as in [`Counts::slots`].
    pub opened_by_age: [u32; AGE_SLOTS],
    /// Of those, still open.
    pub open_by_age: [u32; AGE_SLOTS],
}

impl Count {
    /// No connections.
    pub const fn none(endpoint: EndpointId) -> Count {
        Count {
            endpoint,
            open: 0,
            opened: 0,
            refused: 0,
            unanswered: 0,
            opened_by_age: [0; AGE_SLOTS],
            open_by_age: [0; AGE_SLOTS],
        }
    }
}

/// Everything the dataplane counted, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// How many seconds ago each age slot began, newest first, rising; infinity for slots that never were.
    pub slots: [f32; AGE_SLOTS],
    /// All connections of the endpoints this node hosts, whoever opened them. Sorted by endpoint.
    pub hosted: Vec<Count>,
    /// Connections that were sent to an endpoint from this node. Sorted by endpoint; those without any are left
    /// out.
    pub sent: Vec<Count>,
}

/// A figure of an endpoint's load from a signal source; `None` where the source does not know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Whose load.
    pub endpoint: EndpointId,
    /// When it was measured.
    pub at: Timestamp,
    /// CPU in use, in cores.
    pub cpu: Option<f64>,
    /// Share of time in which some task waited for CPU (PSI "some"), 0 to 1.
    pub pressure: Option<f64>,
}
