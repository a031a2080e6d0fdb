//! Judging a reading by the facts.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use kvd_types::{Key, Record, Revision};

use super::{
    Account, End, Found, Level, Read,
    facts::{Fact, Facts},
};

pub(super) fn check(account: &Account, facts: &Facts, read: &Read, found: &mut Found) {
    let in_order = |pair: &[(Key, Record)]| match pair {
        [(a, _), (b, _)] => {
            if read.descending {
                a > b
            } else {
                a < b
            }
        }
        _ => true,
    };
    if !read.rows.windows(2).all(in_order) {
        found.add(|| format!("its keys are not in order, each once: {read}"));
    }
    if let Some((key, _)) = read.rows.iter().find(|(key, _)| !super::covers(&read.start, &read.end, key)) {
        found.add(|| format!("key {key} is not in its range: {read}"));
    }
    match read.level {
        Level::Snapshot(at) => {
            check_snapshot(account, facts, read, at, true, found);
            check_as_of(facts, read, at, found);
        }
        Level::At(at) => {
            check_snapshot(account, facts, read, at, false, found);
            check_as_of(facts, read, at, found);
        }
        Level::Current | Level::Bounded(_) | Level::Session | Level::Local => {
            check_recent(account, facts, read, found);
        }
    }
}

/// All that was finished before is at the revision or below, and all that was begun after it was known is above.
fn check_snapshot(
    account: &Account,
    facts: &Facts,
    read: &Read,
    at: Revision,
    is_chosen: bool,
    found: &mut Found,
) {
    for (place, write) in account.writes.iter().enumerate() {
        if !write.changes.iter().any(|(key, _)| super::covers(&read.start, &read.end, key)) {
            continue;
        }
        let Some(revision) = facts.revision(place) else { continue };
        let was_finished = matches!(write.end, End::Done(_))
            && write.completed.is_some_and(|completed| completed.sequence < read.invoked.sequence);
        if is_chosen && was_finished && revision > at {
            found.add(|| format!("it misses what was finished before: {read} against {write}"));
        }
        if write.invoked.sequence > read.known.sequence && revision <= at {
            found.add(|| {
                format!("a later write got revision {revision}, which had been shown: {read} against {write}")
            });
        }
    }
}

/// Each key is what the last fact up to the revision says.
fn check_as_of(facts: &Facts, read: &Read, at: Revision, found: &mut Found) {
    let rows: HashMap<&Key, &Record> = read.rows.iter().map(|(key, record)| (key, record)).collect();
    if let Some((key, record)) = rows.iter().find(|(_, record)| record.revision > at) {
        found.add(|| format!("key {key} has revision {}, above {at}: {read}", record.revision));
    }
    for (key, of_key) in facts.range(&read.start, &read.end) {
        let last = of_key.range(..=at).next_back();
        match (rows.get(key), last) {
            (Some(record), Some((revision, fact))) if *revision > record.revision => found.add(|| {
                format!(
                    "key {key} is shown as of {}, and has changed at {revision} ({fact:?}): {read}",
                    record.revision
                )
            }),
            (None, Some((revision, Fact { put: Some(value), .. })))
                if !facts.may_be_gone(key, read.completed.sequence) =>
            {
                let value = value.escape_ascii().to_string();
                found.add(|| format!("key {key} is not shown, and was put at {revision} ({value}): {read}"));
            }
            _ => {}
        }
    }
}

/// It is as recent as it claims to be.
fn check_recent(account: &Account, facts: &Facts, read: &Read, found: &mut Found) {
    let rows: HashMap<&Key, &Record> = read.rows.iter().map(|(key, record)| (key, record)).collect();
    for (key, least) in least(account, read) {
        let Some(of_key) = facts.of_key(&key) else { continue };
        let shown = rows.get(&key).map(|record| record.revision);
        let is_right = match shown {
            Some(revision) => revision >= least,
            None => {
                let gone = of_key
                    .range((Bound::Included(least), Bound::Unbounded))
                    .any(|(_, fact)| fact.put.is_none());
                gone || facts.may_be_gone(&key, read.completed.sequence)
            }
        };
        if !is_right {
            found.add(|| {
                format!("key {key} is shown as of {shown:?}, and must be as of {least} at least: {read}")
            });
        }
    }
}

/// The revision of each key that the reading must show, or a later one.
fn least(account: &Account, read: &Read) -> BTreeMap<Key, Revision> {
    let mut least: BTreeMap<Key, Revision> = BTreeMap::new();
    let mut raise = |key: &Key, revision: Revision| {
        if super::covers(&read.start, &read.end, key) {
            let known = least.entry(key.clone()).or_default();
            *known = revision.max(*known);
        }
    };
    for write in &account.writes {
        let (End::Done(revision), Some(completed)) = (write.end, write.completed) else { continue };
        let counts = completed.sequence < read.invoked.sequence
            && match read.level {
                Level::Current => true,
                Level::Session => write.client == read.client,
                Level::Bounded(bound) => {
                    let bound_ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
                    completed.time_ns.saturating_add(bound_ns) < read.invoked.time_ns
                }
                Level::Snapshot(_) | Level::At(_) | Level::Local => false,
            };
        if counts {
            write.changes.iter().for_each(|(key, _)| raise(key, revision));
        }
    }
    for before in &account.reads {
        let counts = before.completed.sequence < read.invoked.sequence
            && match read.level {
                Level::Session => before.client == read.client,
                Level::Current => matches!(before.level, Level::Current),
                _ => false,
            };
        if counts {
            before.rows.iter().for_each(|(key, record)| raise(key, record.revision));
        }
    }
    least
}
