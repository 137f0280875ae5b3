//! What can be set about the law.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::in_range;
use crate::service::Service;

/// What can be set about the policy `waterline`. The defaults are what measured best; most results hardly depend
/// on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// The time constant, in seconds, with which the rates of new connections were filtered (`tau`); 0.3 to 3.
    pub filter_seconds: f64,
    /// Where CPU is measured: the part that connection counts have in the blend (`omega`); 0 to 1. 1 means that
    /// only connections are looked at.
    pub count_part: f64,
    /// How much of the CPU in use is taken to follow new connections (`phi`), relative to what is measured; 0.5
    /// to 4.
    pub flow_factor: f64,
    /// How far, relative to the mean utilisation, small endpoints are kept cooler than large ones where CPU is
    /// measured; 0 to 0.5.
    pub skew: f64,
    /// The largest share relative to the target; 1.5 to 5. More fills new endpoints faster, and lets one
    /// endpoint with misleading signals attract more.
    pub boost: f64,
    /// The least share relative to the target; 0.005 to 0.1.
    pub floor: f64,
    /// Connections per interval that may always go to one endpoint, where only connections are counted: with few
    /// connections a bound on shares means nothing; 1 to 5.
    pub free_connections: f64,
    /// How many connections per endpoint our own past shares count for when flow is estimated from rates; 0 to
    /// 10.
    pub prior_connections: f64,
    /// The time constant, in seconds, with which capacities follow CPU pressure; 2 to 20.
    pub capacity_seconds: f64,
    /// CPU pressure below this says nothing of an endpoint's capacity; 0.01 to 0.1.
    pub pressure_floor: f64,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters {
            filter_seconds: 0.7,
            count_part: 0.2,
            flow_factor: 1.5,
            skew: 0.35,
            boost: 3.0,
            floor: 0.02,
            free_connections: 2.0,
            prior_connections: 2.0,
            capacity_seconds: 5.0,
            pressure_floor: 0.03,
        }
    }
}

impl Parameters {
    /// Says which value is out of its range, if any is.
    pub fn check(&self) -> Result<(), String> {
        in_range("filter_seconds", self.filter_seconds, 0.3, 3.0)?;
        in_range("count_part", self.count_part, 0.0, 1.0)?;
        in_range("flow_factor", self.flow_factor, 0.5, 4.0)?;
        in_range("skew", self.skew, 0.0, 0.5)?;
        in_range("boost", self.boost, 1.5, 5.0)?;
        in_range("floor", self.floor, *Service::FLOORS.start(), *Service::FLOORS.end())?;
        in_range("free_connections", self.free_connections, 1.0, 5.0)?;
        in_range("prior_connections", self.prior_connections, 0.0, 10.0)?;
        in_range("capacity_seconds", self.capacity_seconds, 2.0, 20.0)?;
        in_range("pressure_floor", self.pressure_floor, 0.01, 0.1)
    }
}
