//! What the simulator is held to from outside: golden tables, and laws that every run keeps.

mod golden;
mod laws;
