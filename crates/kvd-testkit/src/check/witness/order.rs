//! The versions of a key in the order of their revisions, from all that was told of them.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use kvd_types::{Condition, Revision};

use super::{Anomaly, Found, at};
use crate::history::{Action, Answer, Completion, History, Operation, Version, fits};

/// What a key is after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State<'h> {
    /// It isn't there.
    Absent,
    /// It has a value, which may not have been told.
    Present { value: Option<&'h Bytes>, create_revision: Revision, version: u64 },
}

/// Who made a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// Nobody: the key was absent at the beginning.
    Beginning,
    /// The operation at this place, which was acknowledged.
    Acknowledged(usize),
    /// One of the unknown puts in this range of [`Order::unknown_puts`]; empty if there is none, which has been reported.
    Unknown(Range<usize>),
}

/// A version, or a deletion, in the order of a key's writes.
#[derive(Clone, Debug)]
pub(super) struct Entry<'h> {
    pub(super) revision: Revision,
    pub(super) state: State<'h>,
    pub(super) writer: Writer,
    /// The first operation that told of it, if any did.
    pub(super) teller: Option<usize>,
    /// When it had certainly happened: the first completion of those that told of it.
    pub(super) done_by: u64,
    /// The last time that somebody asked and was told of it.
    pub(super) last_asked: u64,
}

/// The writes of a key.
#[derive(Debug)]
pub(super) struct Order<'h> {
    /// Strictly by revision. The first one is the beginning.
    pub(super) entries: Vec<Entry<'h>>,
    /// Puts whose outcome is unknown and that may have happened, by value and then by invocation.
    pub(super) unknown_puts: Vec<usize>,
    /// Deletes whose outcome is unknown and that may have happened, by invocation.
    pub(super) unknown_deletes: Vec<usize>,
    /// Whether something was wrong already in bringing it together.
    pub(super) is_damaged: bool,
}

/// What one operation told of one revision.
struct Told<'h> {
    revision: Revision,
    state: State<'h>,
    place: usize,
    is_writer: bool,
}

impl<'h> Order<'h> {
    /// Brings together what the operations of a key told.
    pub(super) fn of(history: &'h History, operations: &[usize], found: &mut Found<'h, '_>) -> Self {
        let reported = found.report.count();
        let mut told = Vec::new();
        let mut unknown_puts = Vec::new();
        let mut unknown_deletes = Vec::new();
        for &place in operations {
            let operation = at(history, place);
            match &operation.completion {
                Completion::Ok(answer) if fits(&operation.action, answer) => {
                    tell(answer, place, &operation.action, &mut told);
                }
                Completion::Ok(_) => found.add(
                    Anomaly::ImpossibleAnswer,
                    &[place],
                    "this answer does not belong to what was asked".to_owned(),
                ),
                Completion::Fail(_) => {}
                Completion::Unknown(_) => match operation.action {
                    Action::Get => {}
                    Action::Put { .. } => unknown_puts.push(place),
                    Action::Delete { .. } => unknown_deletes.push(place),
                },
            }
        }
        told.sort_by_key(|it: &Told<'_>| (it.revision, !it.is_writer, it.place));
        // What waits for a revision that nobody was told of waits in vain.
        let may_happen = |&place: &usize| match at(history, place).action.condition() {
            Condition::RevisionIs(revision) => told.binary_search_by_key(&revision, |it| it.revision).is_ok(),
            Condition::Always | Condition::Absent => true,
        };
        unknown_puts.retain(may_happen);
        unknown_deletes.retain(may_happen);
        unknown_puts.sort_by_key(|&place| (at(history, place).action.value(), place));
        let beginning = Entry {
            revision: Revision::ZERO,
            state: State::Absent,
            writer: Writer::Beginning,
            teller: None,
            done_by: 0,
            last_asked: 0,
        };
        let mut order = Self { entries: vec![beginning], unknown_puts, unknown_deletes, is_damaged: false };
        let mut shares = BTreeMap::new();
        for of_revision in told.chunk_by(|one, other| one.revision == other.revision) {
            order.add(history, operations, of_revision, &mut shares, found);
        }
        order.is_damaged = found.report.count() > reported;
        order
    }

    /// Adds all that was told of one revision.
    fn add(
        &mut self,
        history: &'h History,
        operations: &[usize],
        told: &[Told<'h>],
        shares: &mut BTreeMap<(usize, usize), Vec<usize>>,
        found: &mut Found<'h, '_>,
    ) {
        let Some(first) = told.iter().find(|it| it.is_writer || it.value().is_some()).or(told.first()) else {
            return;
        };
        for other in told {
            agree(first, other, found);
        }
        let writer = if first.is_writer {
            Writer::Acknowledged(first.place)
        } else {
            let candidates = self.candidates(history, first.value());
            if candidates.is_empty() {
                nobody_wrote(history, operations, first, found);
            } else {
                let share = shares.entry((candidates.start, candidates.end)).or_default();
                share.push(first.place);
                if share.len() > candidates.len() {
                    let mut involved = share.clone();
                    involved.extend(&self.unknown_puts[candidates.clone()]);
                    let explanation = format!(
                        "this value is there at {} revisions, but was put only {} times",
                        share.len(),
                        candidates.len()
                    );
                    found.add(Anomaly::DoubleApply, &involved, explanation);
                }
            }
            Writer::Unknown(candidates)
        };
        let moments = || told.iter().map(|it| at(history, it.place));
        self.entries.push(Entry {
            revision: first.revision,
            state: first.state,
            writer,
            teller: Some(first.place),
            done_by: moments().map(Operation::done_by).min().unwrap_or(u64::MAX),
            last_asked: moments().map(|it| it.invoked.sequence).max().unwrap_or_default(),
        });
    }

    /// The unknown puts that may have made a version; all of them, if its value was not told.
    fn candidates(&self, history: &History, value: Option<&Bytes>) -> Range<usize> {
        let Some(value) = value else { return 0..self.unknown_puts.len() };
        let put = |place: usize| at(history, place).action.value();
        let start = self.unknown_puts.partition_point(|&place| put(place) < Some(value));
        let end = self.unknown_puts.partition_point(|&place| put(place) <= Some(value));
        start..end
    }

    /// The place of the operation that made an entry, if there is no doubt.
    pub(super) fn writer(&self, entry: &Entry<'_>) -> Option<usize> {
        match &entry.writer {
            Writer::Acknowledged(place) => Some(*place),
            Writer::Unknown(candidates) if candidates.len() == 1 => {
                self.unknown_puts.get(candidates.start).copied()
            }
            Writer::Beginning | Writer::Unknown(_) => None,
        }
    }

    /// The entry of a revision, by its place.
    pub(super) fn find(&self, revision: Revision) -> Option<usize> {
        self.entries.binary_search_by_key(&revision, |entry| entry.revision).ok()
    }
}

impl<'h> Told<'h> {
    const fn value(&self) -> Option<&'h Bytes> {
        match self.state {
            State::Present { value, .. } => value,
            State::Absent => None,
        }
    }
}

/// What an answer tells of revisions.
fn tell<'h>(answer: &'h Answer, place: usize, action: &'h Action, told: &mut Vec<Told<'h>>) {
    let mut seen = |version: &'h Option<Version>| {
        if let Some(Version { value, revision, create_revision, version }) = version {
            let state = State::Present {
                value: value.as_ref(),
                create_revision: *create_revision,
                version: *version,
            };
            told.push(Told { revision: *revision, state, place, is_writer: false });
        }
    };
    match answer {
        Answer::Got(found) => seen(found),
        Answer::ConditionFailed { current } => seen(current),
        Answer::NotFound => {}
        Answer::Put { revision, create_revision, version, previous } => {
            seen(previous);
            let (create_revision, version) = (*create_revision, *version);
            let state = State::Present { value: action.value(), create_revision, version };
            told.push(Told { revision: *revision, state, place, is_writer: true });
        }
        Answer::Deleted { revision, previous } => {
            seen(previous);
            told.push(Told { revision: *revision, state: State::Absent, place, is_writer: true });
        }
    }
}

/// Two that told of one revision must have told the same.
fn agree(first: &Told<'_>, other: &Told<'_>, found: &mut Found<'_, '_>) {
    let revision = first.revision;
    let both = [first.place, other.place];
    if other.is_writer && other.place != first.place {
        let explanation = format!("two writes were made at revision {revision}");
        return found.add(Anomaly::RevisionReuse, &both, explanation);
    }
    match (first.state, other.state) {
        (State::Absent, State::Absent) => {}
        (
            State::Present { value, create_revision, version },
            State::Present {
                value: value_there,
                create_revision: create_revision_there,
                version: version_there,
            },
        ) => {
            if value.is_some() && value_there.is_some() && value != value_there {
                let explanation = format!("revision {revision} has two values");
                found.add(Anomaly::RevisionReuse, &both, explanation);
            } else if (create_revision, version) != (create_revision_there, version_there) {
                let explanation = format!(
                    "revision {revision} is version {version} since {create_revision} here, and version {version_there} \
                     since {create_revision_there} there"
                );
                found.add(Anomaly::WrongMetadata, &both, explanation);
            }
        }
        _ => {
            let explanation = format!("revision {revision} is a delete, and has a value");
            found.add(Anomaly::RevisionReuse, &both, explanation);
        }
    }
}

/// A version was seen that no acknowledged and no unknown write made. Says what it may be.
fn nobody_wrote(history: &History, operations: &[usize], told: &Told<'_>, found: &mut Found<'_, '_>) {
    let revision = told.revision;
    let puts = || {
        operations
            .iter()
            .copied()
            .filter(|&place| told.value().is_some() && at(history, place).action.value() == told.value())
    };
    let failed = |place: usize| match &at(history, place).completion {
        Completion::Fail(_) | Completion::Ok(Answer::ConditionFailed { .. }) => true,
        Completion::Ok(_) | Completion::Unknown(_) => false,
    };
    if let Some(made) = puts().find(|&place| matches!(at(history, place).answer(), Some(Answer::Put { .. })))
    {
        let explanation = format!("this value is also there at revision {revision}, where nobody put it");
        found.add(Anomaly::DoubleApply, &[made, told.place], explanation);
    } else if let Some(failed) = puts().find(|&place| failed(place)) {
        let explanation =
            format!("the value at revision {revision} is of a put that was said not to have been made");
        found.add(Anomaly::DirtyRead, &[failed, told.place], explanation);
    } else {
        let explanation = format!("nobody wrote what is there at revision {revision}");
        found.add(Anomaly::InventedValue, &[told.place], explanation);
    }
}

/// Whether a condition holds of what is there.
pub(super) const fn holds(condition: Condition, current: Option<&Version>) -> bool {
    match (condition, current) {
        (Condition::Always, _) | (Condition::Absent, None) => true,
        (Condition::RevisionIs(revision), Some(version)) => revision.get() == version.revision.get(),
        (Condition::Absent, Some(_)) | (Condition::RevisionIs(_), None) => false,
    }
}
