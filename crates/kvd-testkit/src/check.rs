//! Judging histories.
//!
//! # The problem
//! A store that says "done" and forgets, answers from the past or does a thing twice does so rarely, under faults, and
//! with a straight face. The verdict on what clients saw must not rest on anything that the store says of itself, and a
//! checker that overlooks things is worse than none, since it is believed.
//!
//! # The approach
//! Two checkers that share no idea:
//! - [`witness`] takes the store at its word: revisions order the writes of a key, versions count them. Whatever was seen
//!   must then fit this one order. Fast, and strict, for it also catches revisions and versions that lie.
//! - [`linearizability`] ignores revisions and versions, and searches for any order of the operations that explains what
//!   was seen. Slow in bad cases, so it is bounded, and says so where it gave up.
//!
//! What a history of single keys can't tell has inputs and judges of its own: [`transactions`] for what spans keys, [`versions`]
//! for what was seen of many keys at many revisions (scans, reads as of the past, stale reads, watches), [`locks`].
//!
//! # Invariants
//! - No false alarm: every history of a store that keeps its promises is accepted, whatever was unknown to its clients.
//! - An undecided key is never reported as right: [`Report::is_ok`] is false then.
//! - Each kind of [`Anomaly`] is planted by a test.
//!
//! # What it deliberately does not do
//! It doesn't judge availability: a history of nothing but failures is in order.

pub mod linearizability;
pub mod locks;
mod report;
#[cfg(test)]
mod tests;
pub mod transactions;
pub mod versions;
pub mod witness;

use std::{
    collections::{HashMap, hash_map::Entry},
    num::NonZeroUsize,
};

use kvd_types::Key;

use crate::history::History;

pub use report::{Anomaly, Checker, Report, Undecided, Violation};

/// Configurations that the search looks at per key, unless told otherwise.
pub const STATES_MAX_DEFAULT: NonZeroUsize = NonZeroUsize::new(500_000).unwrap();

/// Judges a history by all checkers of single keys.
#[must_use]
pub fn check(history: &History) -> Report {
    check_with(history, Some(STATES_MAX_DEFAULT))
}

/// Judges a history, with a search that looks at so many configurations per key; without the search if `None`.
#[must_use]
pub fn check_with(history: &History, states_max: Option<NonZeroUsize>) -> Report {
    let keys = by_key(history);
    let mut report = Report::new(history, keys.len());
    witness::check_keys(history, &keys, &mut report);
    if let Some(states_max) = states_max {
        linearizability::check_keys(history, &keys, states_max, &mut report);
    }
    report
}

/// The places of a key's operations in the history, in the order in which they were invoked.
type KeyOperations = (Key, Vec<usize>);

/// The operations of each key, in the order in which keys first appear.
fn by_key(history: &History) -> Vec<KeyOperations> {
    let mut places: HashMap<&Key, usize> = HashMap::new();
    let mut keys: Vec<KeyOperations> = Vec::new();
    for (place, operation) in history.operations.iter().enumerate() {
        match places.entry(&operation.key) {
            Entry::Occupied(entry) => {
                if let Some((_, operations)) = keys.get_mut(*entry.get()) {
                    operations.push(place);
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(keys.len());
                keys.push((operation.key.clone(), vec![place]));
            }
        }
    }
    keys
}
