//! A key as a register: what each operation needs to find, and what it leaves.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvd_types::{Condition, Revision};

use crate::history::{Action, Answer, Completion, History, Operation, Version, fits};

/// A write, by the number of its step; no write: the key is absent.
pub(super) type State = Option<usize>;

/// What an operation saw of what was there before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saw<'h> {
    /// Nothing was told.
    Anything,
    /// There was no key.
    Absent,
    /// There was one, but its value was not told.
    Present,
    /// There was this value.
    Value(&'h Bytes),
}

/// What must be so of the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It must hold.
    Holds,
    /// It must not.
    Fails,
}

/// What is left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect<'h> {
    None,
    Put(&'h Bytes),
    Delete,
}

/// An operation, in terms of the register.
#[derive(Clone, Debug)]
pub(super) struct Step<'h> {
    /// Its place in the history.
    pub(super) place: usize,
    pub(super) invoked: u64,
    /// `u64::MAX`, if it may happen at any time, or never.
    pub(super) returned: u64,
    saw: Saw<'h>,
    condition: Condition,
    need: Need,
    effect: Effect<'h>,
}

/// All steps of a key.
#[derive(Debug)]
pub(super) struct Model<'h> {
    /// Those that must happen, by invocation, and then those that may, likewise.
    pub(super) steps: Vec<Step<'h>>,
    /// How many must happen.
    pub(super) completed: usize,
    /// Of each step that may happen: the one before that does just the same, which may as well happen first.
    pub(super) twins: Vec<Option<usize>>,
    /// The writes that a revision may stand for.
    tokens: BTreeMap<Revision, Vec<usize>>,
}

impl<'h> Model<'h> {
    /// The steps of a key's operations.
    ///
    /// Left out are reads and writes that did not happen, and these unknown writes:
    ///
    /// - **Puts of a value that nobody saw**, unless some operation saw that there was a key without its value. Take an
    ///   order with such a put, and take it out. Between it and the next write that had an effect, no operation saw
    ///   anything: neither the value, nor the bare existence, nor, as there was a key, an absence. The next write had no condition,
    ///   as no condition holds of the put: the key was not absent, and its revision was never told. It still has its effect,
    ///   save for an unknown delete, which may then be left out as well. From there on all is as it was.
    /// - **Deletes, if nobody saw an absence** and no other unknown put needs one. Take it out likewise: until
    ///   the next put there is a key where there was none, which nobody saw, and on whose absence no put depended.
    pub(super) fn of(history: &'h History, operations: &[usize]) -> Self {
        let mut completed = Vec::new();
        let mut unknown = Vec::new();
        for &place in operations {
            let operation = &history.operations[place];
            match &operation.completion {
                Completion::Ok(answer) if fits(&operation.action, answer) => {
                    completed.push(Step::completed(place, operation, answer));
                }
                // What makes no sense is reported by the witness.
                Completion::Ok(_) | Completion::Unknown(_) if operation.action.is_write() => {
                    unknown.push(Step::unknown(place, operation));
                }
                Completion::Ok(_) | Completion::Unknown(_) | Completion::Fail(_) => {}
            }
        }
        drop_unnoticed(&completed, &mut unknown);
        let twins = twins(completed.len(), &unknown);
        let count = completed.len();
        completed.append(&mut unknown);
        let mut model = Self { steps: completed, completed: count, twins, tokens: BTreeMap::new() };
        model.learn(history);
        model
    }

    /// Learns which writes the revisions stand for that conditions name.
    fn learn(&mut self, history: &'h History) {
        let mut tokens: BTreeMap<Revision, Vec<usize>> = BTreeMap::new();
        for step in &self.steps {
            if let Condition::RevisionIs(revision) = step.condition {
                tokens.entry(revision).or_default();
            }
        }
        let mut read_with: BTreeMap<Revision, Option<&Bytes>> = BTreeMap::new();
        for (number, step) in self.steps.iter().enumerate() {
            let Some(answer) = history.operations[step.place].answer() else { continue };
            if let Answer::Put { revision, .. } = answer
                && let Some(writers) = tokens.get_mut(revision)
            {
                writers.push(number);
            }
            if let Some(version) =
                version_told(answer).filter(|version| tokens.contains_key(&version.revision))
            {
                let value = read_with.entry(version.revision).or_default();
                *value = value.or(version.value.as_ref());
            }
        }
        for (revision, value) in read_with {
            let Some(writers) = tokens.get_mut(&revision).filter(|writers| writers.is_empty()) else {
                continue;
            };
            let unknown = self.steps.iter().enumerate().skip(self.completed);
            writers.extend(unknown.filter_map(|(number, step)| match step.effect {
                Effect::Put(put) => value.is_none_or(|value| value == put).then_some(number),
                Effect::None | Effect::Delete => None,
            }));
        }
        self.tokens = tokens;
    }

    /// What a step leaves if it comes now; `None`: it can't, or for an unknown one, it would have no effect.
    pub(super) fn step(&self, number: usize, state: State) -> Option<State> {
        let step = self.steps.get(number)?;
        let saw_right = match step.saw {
            Saw::Anything => true,
            Saw::Absent => state.is_none(),
            Saw::Present => state.is_some(),
            Saw::Value(value) => self.value(state) == Some(value),
        };
        let (may_hold, may_fail) = self.condition(step.condition, state);
        let condition_right = match step.need {
            Need::Holds => may_hold,
            Need::Fails => may_fail,
        };
        if !saw_right || !condition_right {
            return None;
        }
        match step.effect {
            Effect::None => Some(state),
            Effect::Put(_) => Some(Some(number)),
            Effect::Delete => Some(None),
        }
    }

    /// Whether a step only observes.
    pub(super) fn only_observes(&self, number: usize) -> bool {
        self.steps.get(number).is_some_and(|step| step.effect == Effect::None)
    }

    fn value(&self, state: State) -> Option<&'h Bytes> {
        match self.steps.get(state?)?.effect {
            Effect::Put(value) => Some(value),
            Effect::None | Effect::Delete => None,
        }
    }

    /// Whether a condition may hold, and whether it may fail.
    fn condition(&self, condition: Condition, state: State) -> (bool, bool) {
        match condition {
            Condition::Always => (true, false),
            Condition::Absent => (state.is_none(), state.is_some()),
            Condition::RevisionIs(revision) => {
                let writers = self.tokens.get(&revision).map_or(&[][..], Vec::as_slice);
                let may_hold = state.is_some_and(|state| writers.contains(&state));
                (may_hold, !may_hold || writers.len() > 1)
            }
        }
    }
}

impl<'h> Step<'h> {
    fn completed(place: usize, operation: &'h Operation, answer: &'h Answer) -> Self {
        let found = |version: &'h Option<Version>| match version {
            None => Saw::Absent,
            Some(Version { value: Some(value), .. }) => Saw::Value(value),
            Some(Version { value: None, .. }) => Saw::Present,
        };
        let (saw, need, effect) = match answer {
            Answer::Got(version) => (found(version), Need::Holds, Effect::None),
            Answer::NotFound => (Saw::Absent, Need::Holds, Effect::None),
            Answer::ConditionFailed { current } => (found(current), Need::Fails, Effect::None),
            Answer::Put { previous, .. } => {
                let saw = if operation.action.wants_previous() { found(previous) } else { Saw::Anything };
                (saw, Need::Holds, operation.action.value().map_or(Effect::None, Effect::Put))
            }
            Answer::Deleted { previous, .. } => {
                let saw = if previous.is_some() { found(previous) } else { Saw::Present };
                (saw, Need::Holds, Effect::Delete)
            }
        };
        let (invoked, returned) = (operation.invoked.sequence, operation.done_by());
        Self { place, invoked, returned, saw, condition: operation.action.condition(), need, effect }
    }

    fn unknown(place: usize, operation: &'h Operation) -> Self {
        let (saw, effect) = match &operation.action {
            Action::Get => (Saw::Anything, Effect::None),
            Action::Put { value, .. } => (Saw::Anything, Effect::Put(value)),
            Action::Delete { .. } => (Saw::Present, Effect::Delete),
        };
        let condition = operation.action.condition();
        let invoked = operation.invoked.sequence;
        Self { place, invoked, returned: u64::MAX, saw, condition, need: Need::Holds, effect }
    }

    /// Whether it can only have happened where there was no key.
    fn needs_absence(&self) -> bool {
        self.saw == Saw::Absent || self.condition == Condition::Absent && self.need == Need::Holds
    }
}

/// The version that an answer tells of, other than that of its own write.
const fn version_told(answer: &Answer) -> Option<&Version> {
    match answer {
        Answer::Got(version)
        | Answer::ConditionFailed { current: version }
        | Answer::Put { previous: version, .. }
        | Answer::Deleted { previous: version, .. } => version.as_ref(),
        Answer::NotFound => None,
    }
}

/// Leaves out unknown writes that nobody can have noticed: see [`Model::of`].
fn drop_unnoticed<'h>(completed: &[Step<'h>], unknown: &mut Vec<Step<'h>>) {
    if !completed.iter().any(|step| step.saw == Saw::Present) {
        let seen: BTreeSet<&Bytes> = completed
            .iter()
            .filter_map(|step| match step.saw {
                Saw::Value(value) => Some(value),
                Saw::Anything | Saw::Absent | Saw::Present => None,
            })
            .collect();
        unknown.retain(|step| match step.effect {
            Effect::Put(value) => seen.contains(value),
            Effect::None | Effect::Delete => true,
        });
    }
    if !completed.iter().chain(unknown.iter()).any(Step::needs_absence) {
        unknown.retain(|step| step.effect != Effect::Delete);
    }
}

/// For each step, the one before that does just the same.
fn twins(completed: usize, unknown: &[Step<'_>]) -> Vec<Option<usize>> {
    let of_unknown = unknown.iter().enumerate().map(|(number, step)| {
        let is_twin = |other: &Step<'_>| (other.condition, other.effect) == (step.condition, step.effect);
        unknown.iter().take(number).rposition(is_twin).map(|twin| completed + twin)
    });
    std::iter::repeat_n(None, completed).chain(of_unknown).collect()
}
