//! The order of a key's writes against the order of events.

use std::collections::BTreeMap;

use kvd_types::{Condition, Revision};

use super::{
    Anomaly, Found, at,
    chain::{Needed, failed_rightly},
    order::{Entry, Order, State, Writer},
};
use crate::history::{Answer, Operation, fits};

/// Places in the order of a key, three per entry: its write, those who see what it left, and, where an unseen delete may have
/// followed, those who see nothing.
type Place = usize;

const PLACES_PER_ENTRY: usize = 3;
const AFTER: usize = 1;
const AFTER_UNSEEN_DELETE: usize = 2;

/// What an operation says of where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// Nowhere in particular.
    Anywhere,
    /// It made an entry.
    Write(usize),
    /// It saw what an entry left.
    Saw(usize),
    /// It saw that there is no such key.
    SawNothing,
}

/// The latest place of an operation that has completed, and that operation.
type Latest = Option<(Place, usize)>;

struct Sweep<'a, 'h> {
    order: &'a Order<'h>,
    /// For each entry: the first one from there on that leaves the key absent, or may be followed by an unseen delete.
    next_absence: Vec<Option<usize>>,
    latest: Latest,
    /// Unknown writes that are needed to explain the entries.
    needed: &'a Needed,
    /// What had completed when the first unknown delete was invoked, by the revision that it is to delete; `None`: any.
    first_unknown_deletes: BTreeMap<Option<Revision>, Latest>,
}

/// Checks that no operation stands before another that had completed when it was invoked.
pub(super) fn check(order: &Order<'_>, operations: &[usize], needed: &Needed, found: &mut Found<'_, '_>) {
    let unknown = unknown_writers(order);
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
    let stands: Vec<Stand> = operations
        .iter()
        .enumerate()
        .map(|(number, &place)| {
            let operation = at(found.history, place);
            events.push((operation.invoked.sequence, false, number));
            if operation.answer().is_some() && operation.done_by() != u64::MAX {
                events.push((operation.done_by(), true, number));
            }
            stand(order, operation, place, &unknown)
        })
        .collect();
    events.sort_unstable();

    let next_absence = next_absence(order, needed, found);
    let mut sweep =
        Sweep { order, next_absence, latest: None, needed, first_unknown_deletes: BTreeMap::new() };
    let mut floors: Vec<Latest> = vec![None; operations.len()];
    for (_, is_completion, number) in events {
        let (Some(&place), Some(&stand), Some(floor)) =
            (operations.get(number), stands.get(number), floors.get_mut(number))
        else {
            continue;
        };
        if is_completion {
            sweep.complete(place, stand, *floor, found);
        } else {
            *floor = sweep.latest;
            sweep.invoke(place, stand, found);
        }
    }
}

/// The unknown puts that made an entry, by their places; where several may have, the first to be invoked.
fn unknown_writers(order: &Order<'_>) -> Vec<(usize, usize)> {
    let mut writers: Vec<(usize, usize)> = order
        .entries
        .iter()
        .enumerate()
        .filter_map(|(number, entry)| match &entry.writer {
            Writer::Unknown(candidates) => {
                let candidates = order.unknown_puts.get(candidates.clone())?;
                candidates.iter().min().map(|&place| (place, number))
            }
            Writer::Beginning | Writer::Acknowledged(_) => None,
        })
        .collect();
    // Of several entries that one may have made it is enough to look at the latest.
    writers.sort_unstable();
    writers.reverse();
    writers.dedup_by_key(|&mut (place, _)| place);
    writers.reverse();
    writers
}

fn stand(order: &Order<'_>, operation: &Operation, place: usize, unknown: &[(usize, usize)]) -> Stand {
    let Some(answer) = operation.answer() else {
        let found = unknown.binary_search_by_key(&place, |&(place, _)| place);
        let entry = found.ok().and_then(|found| unknown.get(found));
        return entry.map_or(Stand::Anywhere, |&(_, entry)| Stand::Write(entry));
    };
    if !fits(&operation.action, answer) {
        return Stand::Anywhere;
    }
    let (revision, stand): (_, fn(usize) -> Stand) = match answer {
        Answer::Got(None) | Answer::NotFound | Answer::ConditionFailed { current: None } => {
            return Stand::SawNothing;
        }
        Answer::Got(Some(version)) | Answer::ConditionFailed { current: Some(version) } => {
            (version.revision, Stand::Saw)
        }
        Answer::Put { revision, .. } | Answer::Deleted { revision, .. } => (*revision, Stand::Write),
    };
    order.find(revision).map_or(Stand::Anywhere, stand)
}

/// Whether an unseen delete may have come between an entry and the next one.
fn may_be_deleted(
    order: &Order<'_>,
    entry: &Entry<'_>,
    next: Option<&Entry<'_>>,
    are_left: bool,
    found: &Found<'_, '_>,
) -> bool {
    let Some(next) = next else { return true };
    match next.state {
        State::Present { create_revision, .. } => create_revision > entry.revision,
        // Then an unseen put must have made what the next one deleted.
        State::Absent => {
            are_left && order.writer(next).is_none_or(|place| !follows(at(found.history, place), entry))
        }
    }
}

/// Whether a delete says itself that it came right after an entry.
fn follows(delete: &Operation, entry: &Entry<'_>) -> bool {
    let by_answer = match delete.answer() {
        Some(Answer::Deleted { previous: Some(previous), .. }) => previous.revision == entry.revision,
        _ => false,
    };
    by_answer || delete.action.condition() == Condition::RevisionIs(entry.revision)
}

fn next_absence(order: &Order<'_>, needed: &Needed, found: &Found<'_, '_>) -> Vec<Option<usize>> {
    let are_left = order.unknown_puts.len() as u64 > needed.puts
        && order.unknown_deletes.len() as u64 > needed.deletes.last().copied().unwrap_or_default();
    let mut next = None;
    let mut absences = Vec::with_capacity(order.entries.len());
    for (number, entry) in order.entries.iter().enumerate().rev() {
        if entry.state == State::Absent
            || may_be_deleted(order, entry, order.entries.get(number + 1), are_left, found)
        {
            next = Some(number);
        }
        absences.push(next);
    }
    absences.reverse();
    absences
}

impl<'h> Sweep<'_, 'h> {
    fn entry(&self, place: Place) -> &Entry<'h> {
        &self.order.entries[place / PLACES_PER_ENTRY]
    }

    fn invoke(&mut self, place: usize, stand: Stand, found: &mut Found<'_, '_>) {
        if self.order.unknown_deletes.binary_search(&place).is_ok() {
            let of = match at(found.history, place).action.condition() {
                Condition::RevisionIs(revision) => Some(revision),
                Condition::Always | Condition::Absent => None,
            };
            self.first_unknown_deletes.entry(of).or_insert(self.latest);
        }
        let Some((latest, rival)) = self.latest else { return };
        match stand {
            Stand::Saw(entry) if latest > entry * PLACES_PER_ENTRY + AFTER => {
                let revision = self.order.entries[entry].revision;
                let newer = self.entry(latest);
                let was_absent =
                    newer.state == State::Absent || latest % PLACES_PER_ENTRY == AFTER_UNSEEN_DELETE;
                let by_read = latest % PLACES_PER_ENTRY != 0;
                let anomaly = match (was_absent, by_read) {
                    (true, _) => Anomaly::ResurrectedKey,
                    (false, true) => Anomaly::NonMonotonicRead,
                    (false, false) => Anomaly::StaleRead,
                };
                let explanation = format!(
                    "revision {revision} was read after {} had come to light",
                    if was_absent {
                        "the key's absence".to_owned()
                    } else {
                        format!("revision {}", newer.revision)
                    }
                );
                found.add(anomaly, &[rival, place], explanation);
            }
            Stand::Write(entry) if latest > entry * PLACES_PER_ENTRY => {
                let revision = self.order.entries[entry].revision;
                let (anomaly, explanation) = if latest == entry * PLACES_PER_ENTRY + AFTER {
                    (
                        Anomaly::FutureRead,
                        format!("revision {revision} was seen before its write was asked for"),
                    )
                } else {
                    let later = self.entry(latest).revision;
                    (
                        Anomaly::WriteOrder,
                        format!(
                            "the write at revision {revision} was asked for after revision {later} had come to light"
                        ),
                    )
                };
                found.add(anomaly, &[rival, place], explanation);
            }
            _ => {}
        }
    }

    fn complete(&mut self, place: usize, stand: Stand, floor: Latest, found: &mut Found<'_, '_>) {
        let operation = at(found.history, place);
        if operation.answer().is_some_and(|answer| !failed_rightly(&operation.action, answer)) {
            let explanation = "its condition did hold of what it says is there".to_owned();
            found.add(Anomaly::ConditionWronglyFailed, &[place], explanation);
        }
        let stands_at = match stand {
            Stand::Anywhere => return,
            Stand::Write(entry) => entry * PLACES_PER_ENTRY,
            Stand::Saw(entry) => entry * PLACES_PER_ENTRY + AFTER,
            Stand::SawNothing => match self.absence(floor, operation, found) {
                Some(stands_at) => stands_at,
                None => return self.nothing_there(place, floor, found),
            },
        };
        if self.latest.is_none_or(|(latest, _)| latest < stands_at) {
            self.latest = Some((stands_at, place));
        }
    }

    /// The first place from the floor on where the key may have been absent before the operation completed.
    fn absence(&self, floor: Latest, operation: &Operation, found: &Found<'_, '_>) -> Option<Place> {
        let floor = floor.map_or(0, |(place, _)| place);
        let mut number = floor / PLACES_PER_ENTRY;
        loop {
            number = self.next_absence.get(number).copied().flatten()?;
            let entry = &self.order.entries[number];
            if let Writer::Acknowledged(writer) = entry.writer
                && at(found.history, writer).invoked.sequence > operation.done_by()
            {
                // Not yet asked for, nor is anything after it.
                return None;
            }
            let first = number * PLACES_PER_ENTRY;
            if entry.state == State::Absent {
                return Some(first + AFTER);
            }
            let place = first + AFTER_UNSEEN_DELETE;
            // As many unknown deletes must have been asked for as are needed up to here: one for this gap, whether or not
            // the numbers tell of it.
            let before = number.checked_sub(1).and_then(|before| self.needed.deletes.get(before)).copied();
            let before = usize::try_from(before.unwrap_or_default()).unwrap_or(usize::MAX);
            let are_left = self
                .order
                .unknown_deletes
                .get(before)
                .is_some_and(|&delete| at(found.history, delete).invoked.sequence < operation.done_by());
            // The first one is the most useful: those after it were asked for when more had happened.
            let in_time = are_left
                && [None, Some(entry.revision)].iter().any(|of| {
                    let latest = self.first_unknown_deletes.get(of);
                    latest.is_some_and(|latest| latest.is_none_or(|(latest, _)| latest <= place))
                });
            if in_time {
                return Some(place);
            }
            number += 1;
        }
    }

    /// The key was not found where it must have been.
    fn nothing_there(&self, place: usize, floor: Latest, found: &mut Found<'_, '_>) {
        let Some((latest, rival)) = floor else {
            let explanation = "the key was absent before it was ever deleted".to_owned();
            return found.add(Anomaly::LostWrite, &[place], explanation);
        };
        let entry = self.entry(latest);
        let comes_back = entry.last_asked > at(found.history, place).done_by();
        let anomaly = if comes_back { Anomaly::StaleRead } else { Anomaly::LostWrite };
        let explanation = format!(
            "there was no key after revision {} had come to light, and nobody deleted it",
            entry.revision
        );
        found.add(anomaly, &[rival, place], explanation);
    }
}
