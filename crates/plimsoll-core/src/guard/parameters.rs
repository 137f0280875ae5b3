//! What can be set about the guard.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::in_range;
use crate::service::Service;

/// What can be set about the guard. It bounds the shares of every policy alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// The least share relative to the target, also that of an endpoint whose connections fail; 0.005 to 0.1.
    pub floor: f64,
    /// Shares freeze when the CPU pressure of every endpoint is above this; 0.5 to 1.
    pub overload: f64,
    /// Failed connections, in a row or among as many that succeed, before an endpoint counts as failing; 2 to
    /// 100.
    pub failures: f64,
    /// Connections that should have lasted and did not before an endpoint counts as failing; 5 to 50.
    pub missing_connections: f64,
    /// Seconds that a failing endpoint stays at its floor, doubled at each relapse up to eight times that; 5 to
    /// 300.
    pub failing_seconds: f64,
    /// Seconds in which an endpoint that failed is eased in again; 1 to 120.
    pub recovery_seconds: f64,
    /// Dead band: a weight stays in the dataplane unless it would change by more than this part of itself; 0 to
    /// 0.2.
    pub dead_band: f64,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters {
            floor: 0.02,
            overload: 0.9,
            failures: 4.0,
            missing_connections: 10.0,
            failing_seconds: 15.0,
            recovery_seconds: 10.0,
            dead_band: 0.1,
        }
    }
}

impl Parameters {
    /// Says which value is out of its range, if any is.
    pub fn check(&self) -> Result<(), String> {
        in_range("floor", self.floor, *Service::FLOORS.start(), *Service::FLOORS.end())?;
        in_range("overload", self.overload, 0.5, 1.0)?;
        in_range("failures", self.failures, 2.0, 100.0)?;
        in_range("missing_connections", self.missing_connections, 5.0, 50.0)?;
        in_range("failing_seconds", self.failing_seconds, 5.0, 300.0)?;
        in_range("recovery_seconds", self.recovery_seconds, 1.0, 120.0)?;
        in_range("dead_band", self.dead_band, 0.0, 0.2)
    }
}
