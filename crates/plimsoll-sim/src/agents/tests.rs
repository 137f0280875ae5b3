//! Agents in a cluster.
