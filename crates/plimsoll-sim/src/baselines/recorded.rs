//! What really happened: every connection goes where it went.

use std::sync::Arc;

use plimsoll_core::time::Timestamp;

use crate::cluster::Cluster;
use crate::steering::Steering;
use crate::traffic::Traffic;

/// Sends each connection where it went.
pub struct AsRecorded {
    traffic: Arc<Traffic>,
    /// How many have come.
    come: usize,
}

impl AsRecorded {
    /// With the traffic that is replayed, whose arrivals come in their order.
    pub fn new(traffic: Arc<Traffic>) -> AsRecorded {
        AsRecorded { traffic, come: 0 }
    }
}

impl Steering for AsRecorded {
    fn choose(&mut self, _now: Timestamp, node: usize, _cluster: &Cluster) -> Option<usize> {
        let recorded = self.traffic.arrivals.get(self.come)?;
        debug_assert_eq!(usize::from(recorded.node), node);
        self.come += 1;
        Some(recorded.endpoint as usize)
    }
}
