//! The fast check: revisions are the witness of the order in which a key's writes happened.
//!
//! # The problem
//! Whether some order explains a history is hard to find out. But this store tells an order: each answer carries the
//! revision of a write, and those of a key grow. What is told only has to be verified.
//!
//! # The approach
//! Per key:
//! 1. `order`: all that was told of each revision is brought together and must agree: one write, one value, one version. A version
//!    whose write nobody acknowledged must come from a write whose outcome is unknown.
//! 2. `chain`: from one known version to the next, creation revisions, version numbers, conditions and
//!    previous versions must fit. Gaps may be filled by unknown writes that nobody saw, as long as there are enough of
//!    them, asked for in time.
//! 3. `time`: one sweep over the events. No operation may stand in the order before another one that had completed
//!    when it was invoked. Reads that found nothing have no revision: each is given the earliest place where the
//!    key was absent that time allows, which is the best one for all that comes after.
//!
//! Then `shards`: where the shards of keys are known, revisions must grow with time from key to key.
//!
//! Everything is sorting and sweeps: a million operations take about a second.
//!
//! # What it deliberately does not do
//! Where several unknown writes could have made a version (values that aren't unique), it counts them instead of assigning
//! them. It does not use the conditions of unknown writes that nobody saw. In both cases it may be too lenient, never too strict;
//! [`super::linearizability`] does look at them.

mod chain;
mod order;
mod shards;
mod time;

use super::{Anomaly, Checker, KeyOperations, Report, by_key};
use crate::history::{History, Operation};

/// Judges a history by its revisions.
#[must_use]
pub fn check(history: &History) -> Report {
    let keys = by_key(history);
    let mut report = Report::new(history, keys.len());
    check_keys(history, &keys, &mut report);
    report
}

pub(super) fn check_keys(history: &History, keys: &[KeyOperations], report: &mut Report) {
    for (_, operations) in keys {
        let mut found = Found { history, report };
        let order = order::Order::of(history, operations, &mut found);
        let needed = chain::check(&order, &mut found);
        time::check(&order, operations, &needed, &mut found);
    }
    shards::check(history, keys, &mut Found { history, report });
}

/// Takes what is found.
struct Found<'h, 'r> {
    history: &'h History,
    report: &'r mut Report,
}

impl Found<'_, '_> {
    fn add(&mut self, anomaly: Anomaly, operations: &[usize], explanation: String) {
        self.report.add(self.history, (Checker::Witness, anomaly), operations, explanation);
    }
}

/// An operation of the history; every place that is passed around is one of it.
fn at(history: &History, place: usize) -> &Operation {
    &history.operations[place]
}
