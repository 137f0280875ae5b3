//! How shares become choices with the help of what a node knows of its own connections: for dataplanes that can run a
//! program per connection, and for those that count by themselves.

pub mod aperture;
pub mod edf;
pub mod excess;
pub mod lives;
pub mod stock;

#[cfg(test)]
mod tests;
