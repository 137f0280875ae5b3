//! Between the edges and the owner: each adapter turns one edge's news into events and carries out commands.

pub(crate) mod discovery;
pub(crate) mod store;
pub(crate) mod dataplane;
