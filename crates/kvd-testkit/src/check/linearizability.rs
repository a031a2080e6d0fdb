//! The independent check: is there any order of a key's operations that explains what was seen?
//!
//! # The problem
//! The [`witness`](super::witness) believes what the store says of its order. A store and a checker that share one
//! misunderstanding would agree. So this one looks at nothing but values, and at which conditions held.
//!
//! # The approach
//! Linearizability is a property of each key alone (Herlihy and Wing, 1990, theorem 1), so keys are judged one by one.
//! `search` follows Wing and Gong, "Testing and Verifying Concurrent Objects" (1993), with the memory of configurations of
//! Lowe, "Testing for Linearizability" (2017): take any operation that nothing else must precede, see whether the model allows it,
//! go on, and step back where it leads nowhere; no configuration is looked at twice. `model` is the register.
//!
//! Two things keep it small:
//! - An operation that only observes, and observes what is there, is taken at once and never stepped back over. If it can be
//!   taken later in some order, it can also be taken now: it changes nothing, and nothing must precede it.
//! - Unknown writes that nobody can have noticed are left out; `model::Model::of` says which, and why that is sound.
//!
//! # Revisions in conditions
//! A condition on a revision is modelled as one on a *write*. Revisions are opaque tokens: a token stands for the write whose
//! acknowledgement carried it, else for the unknown puts of the value that was read with it. Tokens are compared for
//! equality and never ordered. Where one may stand for several puts of equal values, whatever any of them would
//! explain is allowed.
//!
//! # Invariants
//! - At most so many configurations per key are looked at. Where that isn't enough the key is *undecided*, never right.
//!
//! # What it deliberately does not do
//! It doesn't look at revisions, versions and creation revisions, and nothing spans keys. With more than a dozen clients at
//! once on a key it may not come to an end: workloads change their keys every few hundred operations.

mod model;
mod search;

use std::num::NonZeroUsize;

use kvd_types::Key;

use super::{Anomaly, Checker, KeyOperations, Report, Undecided, by_key};
use crate::history::History;

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. Of the attempt that explained most: the operations of which none could come next, by their places in
    /// the history, the first to complete first.
    NotLinearizable(Vec<usize>),
    /// So many configurations were looked at in vain, and there are more.
    Undecided(usize),
}

/// Judges a history by its values, looking at so many configurations per key at most.
#[must_use]
pub fn check(history: &History, states_max: NonZeroUsize) -> Report {
    let keys = by_key(history);
    let mut report = Report::new(history, keys.len());
    check_keys(history, &keys, states_max, &mut report);
    report
}

pub(super) fn check_keys(
    history: &History,
    keys: &[KeyOperations],
    states_max: NonZeroUsize,
    report: &mut Report,
) {
    for (key, operations) in keys {
        check_key(history, key, operations, states_max, report);
    }
}

fn check_key(
    history: &History,
    key: &Key,
    operations: &[usize],
    states_max: NonZeroUsize,
    report: &mut Report,
) {
    match search::search(&model::Model::of(history, operations), states_max) {
        Verdict::Linearizable => {}
        Verdict::NotLinearizable(stuck) => {
            let explanation =
                "no order of the operations explains what was seen: in the best attempt none of these can \
                               come next"
                    .to_owned();
            let kind = (Checker::Linearizability, Anomaly::NotLinearizable);
            report.add(history, kind, &stuck, explanation);
        }
        Verdict::Undecided(states) => {
            report.undecided.push(Undecided { key: key.clone(), operations: operations.len(), states });
        }
    }
}
