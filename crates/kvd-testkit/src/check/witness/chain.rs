//! From each known version of a key to the next: numbers, conditions, and who could have filled the gap.

use kvd_types::{Condition, Revision};

use super::{
    Anomaly, Found, at,
    order::{Entry, Order, State, Writer, holds},
};
use crate::history::{Action, Answer, History};

/// Writes that must have happened between two known versions, and that nobody saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hidden {
    puts: u64,
    deletes: u64,
}

/// Unknown writes that must have happened.
#[derive(Debug)]
pub(super) struct Needed {
    /// Puts, in all.
    pub(super) puts: u64,
    /// For each entry but the last: deletes up to the one after it.
    pub(super) deletes: Vec<u64>,
}

/// Checks the order of a key's writes in itself. Gives what unknown writes must have happened.
pub(super) fn check(order: &Order<'_>, found: &mut Found<'_, '_>) -> Needed {
    let reported = found.report.count();
    let mut gaps = Vec::with_capacity(order.entries.len());
    for pair in order.entries.windows(2) {
        let [before, entry] = pair else { continue };
        let hidden = step(before, entry, found);
        conditions(order, (before, entry), hidden, found);
        gaps.push(hidden);
    }
    // Numbers that are wrong would be explained away, or be reported twice.
    if !order.is_damaged && found.report.count() == reported {
        supply(order, &gaps, found);
    }
    let seen = order.entries.iter().filter(|entry| matches!(entry.writer, Writer::Unknown(_))).count() as u64;
    let deletes = gaps.iter().scan(0_u64, |sum, gap| {
        *sum = sum.saturating_add(gap.deletes);
        Some(*sum)
    });
    Needed {
        puts: gaps.iter().fold(seen, |sum, gap| sum.saturating_add(gap.puts)),
        deletes: deletes.collect(),
    }
}

/// The numbers of a version must follow from those of the one before it.
fn step(before: &Entry<'_>, entry: &Entry<'_>, found: &mut Found<'_, '_>) -> Hidden {
    let involved: Vec<usize> = [before.teller, entry.teller].into_iter().flatten().collect();
    let revision = entry.revision;
    let was_present = before.state != State::Absent;
    let State::Present { create_revision, version, .. } = entry.state else {
        // A delete that was made has found something.
        return Hidden { puts: u64::from(!was_present), deletes: 0 };
    };
    let anew = create_revision == revision;
    if create_revision > revision || anew != (version == 1) || version == 0 {
        let explanation = format!(
            "revision {revision} can't be version {version} of a key that is there since {create_revision}"
        );
        found.add(Anomaly::WrongMetadata, &involved, explanation);
        return Hidden::default();
    }
    if anew || create_revision > before.revision {
        return Hidden { puts: version - 1, deletes: u64::from(was_present) };
    }
    match before.state {
        State::Present { create_revision: since, version: version_before, .. }
            if since == create_revision =>
        {
            if version <= version_before {
                let explanation = format!(
                    "version {version} at revision {revision} comes after version {version_before} at revision {}: a write \
                     in between does not count",
                    before.revision
                );
                found.add(Anomaly::LostWrite, &involved, explanation);
            }
            Hidden { puts: version.saturating_sub(version_before + 1), deletes: 0 }
        }
        State::Present { create_revision: since, .. } => {
            let explanation = format!(
                "the key is there since {create_revision} at revision {revision}, and was since {since} before it, at {}",
                before.revision
            );
            found.add(Anomaly::WrongMetadata, &involved, explanation);
            Hidden::default()
        }
        State::Absent if before.revision == Revision::ZERO => Hidden::default(),
        State::Absent => {
            let explanation = format!(
                "revision {revision} goes on from {create_revision}, though the key was deleted at {}",
                before.revision
            );
            found.add(Anomaly::ResurrectedKey, &involved, explanation);
            Hidden::default()
        }
    }
}

/// What the write of a version was conditioned on, and told of what it replaced, must be what was before it.
fn conditions(
    order: &Order<'_>,
    (before, entry): (&Entry<'_>, &Entry<'_>),
    hidden: Hidden,
    found: &mut Found<'_, '_>,
) {
    let Some(place) = order.writer(entry) else { return };
    let operation = at(found.history, place);
    let mut involved = vec![place];
    involved.extend(before.teller);
    let follows = |revision: Revision| {
        before.revision == revision && before.state != State::Absent && hidden == Hidden::default()
    };
    let begins = match entry.state {
        State::Present { create_revision, .. } => create_revision == entry.revision,
        State::Absent => false,
    };
    let held = match operation.action.condition() {
        Condition::Always => true,
        Condition::Absent => begins,
        Condition::RevisionIs(revision) => follows(revision),
    };
    if !held {
        let condition = operation.action.condition();
        let rival = rival(order, found.history, place, condition);
        let anomaly = if rival.is_some() { Anomaly::LostUpdate } else { Anomaly::ConditionWronglyHeld };
        involved.extend(rival);
        let explanation = format!(
            "the write at revision {} was made on the condition {condition:?}, but what was there is of revision {}",
            entry.revision, before.revision
        );
        return found.add(anomaly, &involved, explanation);
    }
    let previous = match operation.answer() {
        Some(Answer::Put { previous, .. } | Answer::Deleted { previous, .. }) => previous.as_ref(),
        _ => return,
    };
    let is_right = match previous {
        Some(previous) => follows(previous.revision),
        None => !operation.action.wants_previous() || begins,
    };
    if !is_right {
        let explanation = format!(
            "the write at revision {} says that it replaced {}, but what was there is of revision {}",
            entry.revision,
            previous.map_or_else(|| "nothing".to_owned(), ToString::to_string),
            before.revision
        );
        found.add(Anomaly::WrongPrevious, &involved, explanation);
    }
}

/// Another write that was made on the same version.
fn rival(order: &Order<'_>, history: &History, place: usize, condition: Condition) -> Option<usize> {
    let Condition::RevisionIs(_) = condition else { return None };
    let writers = order.entries.iter().filter_map(|entry| order.writer(entry));
    writers.into_iter().find(|&other| other != place && at(history, other).action.condition() == condition)
}

/// Whatever was written without an acknowledgement must come from unknown writes: enough of them, asked for in time.
///
/// Unknown writes may happen at any time after they were asked for. So if up to each version, which had happened at some
/// moment, no more were needed than had been asked for before that moment, then they can be assigned (Hall's theorem for
/// intervals that end nowhere).
fn supply(order: &Order<'_>, gaps: &[Hidden], found: &mut Found<'_, '_>) {
    let asked = |places: &[usize]| {
        let mut asked: Vec<u64> =
            places.iter().map(|&place| at(found.history, place).invoked.sequence).collect();
        asked.sort_unstable();
        asked
    };
    let (puts, deletes) = (asked(&order.unknown_puts), asked(&order.unknown_deletes));
    let by = |asked: &[u64], moment: u64| asked.partition_point(|&at| at < moment) as u64;

    // When each version, or a later one, was there at the latest.
    let mut done_by = u64::MAX;
    let mut moments: Vec<u64> = order
        .entries
        .iter()
        .rev()
        .map(|entry| {
            done_by = done_by.min(entry.done_by);
            done_by
        })
        .collect();
    moments.reverse();

    let mut needed = Hidden::default();
    let entries = order.entries.iter().zip(order.entries.iter().skip(1)).zip(moments.iter().skip(1));
    for (((before, entry), &moment), gap) in entries.zip(gaps) {
        let unacknowledged = u64::from(matches!(entry.writer, Writer::Unknown(_)));
        needed.puts = needed.puts.saturating_add(gap.puts).saturating_add(unacknowledged);
        needed.deletes += gap.deletes;
        let involved: Vec<usize> = [before.teller, entry.teller].into_iter().flatten().collect();
        let (from, to) = (before.revision, entry.revision);
        if needed.puts > puts.len() as u64 {
            let explanation = format!(
                "between revisions {from} and {to} something was written that nobody asked for: {} writes that nobody \
                 acknowledged must have been made by then, and there are {} unknown ones",
                needed.puts,
                puts.len()
            );
            return found.add(Anomaly::DoubleApply, &involved, explanation);
        }
        if needed.deletes > deletes.len() as u64 {
            let absent = order
                .writer(entry)
                .is_some_and(|place| at(found.history, place).action.condition() == Condition::Absent);
            let anomaly = if absent { Anomaly::ConditionWronglyHeld } else { Anomaly::LostWrite };
            let explanation = format!(
                "the key begins anew at revision {to}, after revision {from}, and nobody deleted it in between"
            );
            return found.add(anomaly, &involved, explanation);
        }
        if needed.puts > by(&puts, moment) || needed.deletes > by(&deletes, moment) {
            let explanation = format!(
                "up to revision {to} unknown writes must have been made that had not been asked for when it was seen"
            );
            return found.add(Anomaly::FutureRead, &involved, explanation);
        }
    }
}

/// Whether a condition that failed can have failed, by its own answer.
pub(super) fn failed_rightly(action: &Action, answer: &Answer) -> bool {
    match answer {
        Answer::ConditionFailed { current } => !holds(action.condition(), current.as_ref()),
        _ => true,
    }
}
