//! What the tests of kvd share: histories of what clients did and saw, the checkers that judge them, simulated clusters
//! with everything that can go wrong in them, and crash points of the storage.
//!
//! A dev-dependency only: nothing that ships uses it.

pub mod check;
pub mod history;
#[cfg(feature = "simulation")]
pub mod sim;
pub mod storage;
