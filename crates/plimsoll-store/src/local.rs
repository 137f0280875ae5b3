//! A store for one node: reports go nowhere, nothing is heard.

use std::sync::Arc;

use async_trait::async_trait;
use plimsoll_core::report::Report;

use crate::{Error, Health, Heard, Store};

/// See the module's description.
#[derive(Debug)]
pub struct Local;

#[async_trait]
impl Store for Local {
    async fn publish(&mut self, _report: Arc<Report>) -> Result<(), Error> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Heard, Error> {
        std::future::pending().await
    }

    async fn leave(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn health(&self) -> Health {
        Health::default()
    }
}
