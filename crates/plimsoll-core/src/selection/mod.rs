//! How a program that chooses per connection turns shares into choices: for dataplanes that can run one.

pub mod aperture;
pub mod edf;
pub mod excess;

#[cfg(test)]
mod tests;
