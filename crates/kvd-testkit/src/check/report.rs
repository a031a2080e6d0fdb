//! What the checkers found, told so that it can be understood.

use std::{collections::BTreeSet, fmt};

use kvd_types::Key;

use crate::history::History;

/// Violations that are told in full. More are counted only.
const VIOLATIONS_MAX: usize = 50;
/// Operations that one violation names.
const OPERATIONS_MAX: usize = 12;
/// Lines of history that are shown with a violation.
const EXCERPT_LINES_MAX: usize = 24;

macro_rules! anomalies {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What can be wrong with a history.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Anomaly {
            $($(#[$doc])* $name,)*
        }

        impl Anomaly {
            /// All kinds there are.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

anomalies! {
    /// An answer that does not belong to what was asked, whatever the store holds.
    ImpossibleAnswer,
    /// A read gave a version older than a write that had been acknowledged before.
    StaleRead,
    /// A read gave a version older than what a read had given before.
    NonMonotonicRead,
    /// A version was seen before anybody had asked for it to be written.
    FutureRead,
    /// A value was seen that came from a write that was said not to have happened.
    DirtyRead,
    /// A value was seen that nobody wrote.
    InventedValue,
    /// An acknowledged write is gone, though nothing was written after it or nobody deleted the key.
    LostWrite,
    /// Two writes on the condition of one and the same version were made.
    LostUpdate,
    /// A write was made more often than it was asked for.
    DoubleApply,
    /// What was deleted is there again.
    ResurrectedKey,
    /// One revision stands for two writes.
    RevisionReuse,
    /// A version number or creation revision that does not count the key's writes.
    WrongMetadata,
    /// A write was made though its condition did not hold.
    ConditionWronglyHeld,
    /// A condition held, but was said not to.
    ConditionWronglyFailed,
    /// A write named a version before it that wasn't the one before it.
    WrongPrevious,
    /// A write was put in order before what had been done when it was asked for.
    WriteOrder,
    /// Revisions do not grow with time from one key of a shard to another.
    ShardOrder,
    /// No order of the operations explains what was seen.
    NotLinearizable,
}

/// Who found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checker {
    /// [`witness`](super::witness).
    Witness,
    /// [`linearizability`](super::linearizability).
    Linearizability,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who found it.
    pub checker: Checker,
    /// What it is.
    pub anomaly: Anomaly,
    /// The key.
    pub key: Key,
    /// The operations that can't all be right: places in [`History::operations`].
    pub operations: Vec<usize>,
    /// In words.
    pub explanation: String,
    /// The part of the history that shows it, a line per operation, those involved marked.
    pub excerpt: String,
}

/// A key that the search gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// The key.
    pub key: Key,
    /// How many operations it has.
    pub operations: usize,
    /// How many configurations were looked at.
    pub states: usize,
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many operations there were.
    pub operations: usize,
    /// How many keys they had.
    pub keys: usize,
    /// What is wrong: the first of it.
    pub violations: Vec<Violation>,
    /// How much more is wrong than is told.
    pub more_violations: usize,
    /// What could not be decided.
    pub undecided: Vec<Undecided>,
}

impl Report {
    pub(super) fn new(history: &History, keys: usize) -> Self {
        Self { operations: history.operations.len(), keys, ..Self::default() }
    }

    /// Whether the history is as it must be: nothing is wrong, and nothing was left undecided.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_empty()
    }

    /// The kinds of what is wrong.
    #[must_use]
    pub fn anomalies(&self) -> BTreeSet<Anomaly> {
        self.violations.iter().map(|violation| violation.anomaly).collect()
    }

    /// How much is wrong.
    pub(super) fn count(&self) -> usize {
        self.violations.len() + self.more_violations
    }

    pub(super) fn add(
        &mut self,
        history: &History,
        (checker, anomaly): (Checker, Anomaly),
        operations: &[usize],
        explanation: String,
    ) {
        let involved = operations.iter().take(OPERATIONS_MAX).copied();
        let operations: Vec<usize> = involved.collect::<BTreeSet<_>>().into_iter().collect();
        let first = operations.first().and_then(|&place| history.operations.get(place));
        let Some(key) = first.map(|operation| operation.key.clone()) else { return };
        if self.violations.len() == VIOLATIONS_MAX {
            self.more_violations += 1;
            return;
        }
        let excerpt = excerpt(history, &operations);
        self.violations.push(Violation { checker, anomaly, key, operations, explanation, excerpt });
    }
}

/// The operations involved, and what happened meanwhile to their keys, as far as there is room.
fn excerpt(history: &History, involved: &[usize]) -> String {
    let operations = || involved.iter().filter_map(|&place| history.operations.get(place));
    let begin = operations().map(|operation| operation.invoked.sequence).min().unwrap_or_default();
    let end = operations()
        .map(|operation| operation.completed.map_or(operation.invoked.sequence, |at| at.sequence))
        .max()
        .unwrap_or_default();
    let keys: BTreeSet<&Key> = operations().map(|operation| &operation.key).collect();
    let mut lines: Vec<(u64, bool, String)> = Vec::new();
    for (place, operation) in history.operations.iter().enumerate() {
        let is_involved = involved.contains(&place);
        let overlaps = operation.invoked.sequence <= end
            && operation.completed.is_none_or(|completed| completed.sequence >= begin);
        if is_involved || overlaps && keys.contains(&operation.key) {
            lines.push((operation.invoked.sequence, is_involved, operation.to_string()));
        }
    }
    let notes = history.notes.iter().filter(|note| (begin..=end).contains(&note.at.sequence));
    lines.extend(notes.map(|note| (note.at.sequence, false, format!("[{}] {}", note.at, note.text))));
    lines.sort();
    let mut room = EXCERPT_LINES_MAX.saturating_sub(involved.len());
    let mut left_out = 0_usize;
    let mut text = String::new();
    for (_, is_involved, line) in &lines {
        if !is_involved && room == 0 {
            left_out += 1;
            continue;
        }
        room -= usize::from(!is_involved);
        let mark = if *is_involved { '>' } else { ' ' };
        text.push_str(&format!("  {mark} {line}\n"));
    }
    if left_out > 0 {
        text.push_str(&format!("    (and {left_out} more meanwhile)\n"));
    }
    text
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { checker, anomaly, key, explanation, excerpt, .. } = self;
        write!(f, "{anomaly:?} of key {key} ({checker:?}): {explanation}\n{excerpt}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(f, "{violation}")?;
        }
        for Undecided { key, operations, states } in &self.undecided {
            writeln!(f, "undecided: key {key} with {operations} operations, after {states} configurations")?;
        }
        write!(
            f,
            "{} operations on {} keys: {} violations, {} keys undecided",
            self.operations,
            self.keys,
            self.count(),
            self.undecided.len()
        )
    }
}
