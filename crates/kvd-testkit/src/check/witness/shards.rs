//! Across the keys of one shard: one leader orders all its writes, so revisions grow with time from key to key.

use std::collections::BTreeMap;

use kvd_types::{Revision, ShardId};

use super::{Anomaly, Found, KeyOperations, at};
use crate::history::{Answer, History, Operation, fits};

/// Checks shards as far as they are known.
pub(super) fn check(history: &History, keys: &[KeyOperations], found: &mut Found<'_, '_>) {
    let mut shards: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
    for (key, operations) in keys {
        if let Some(shard) = history.shards.get(key) {
            shards.entry(*shard).or_default().extend(operations);
        }
    }
    for (shard, operations) in shards {
        unique(history, shard, &operations, found);
        grows(history, shard, &operations, found);
    }
}

/// The revision of the write that an operation made.
fn made(operation: &Operation) -> Option<Revision> {
    match operation.answer().filter(|answer| fits(&operation.action, answer))? {
        Answer::Put { revision, .. } | Answer::Deleted { revision, .. } => Some(*revision),
        Answer::Got(_) | Answer::NotFound | Answer::ConditionFailed { .. } => None,
    }
}

/// The revision that an operation brought to light.
fn told(operation: &Operation) -> Option<Revision> {
    match operation.answer()? {
        Answer::Got(version) | Answer::ConditionFailed { current: version } => {
            version.as_ref().map(|version| version.revision)
        }
        Answer::NotFound => None,
        Answer::Put { .. } | Answer::Deleted { .. } => made(operation),
    }
}

/// No two writes of different keys have one revision. (Those of one key have been looked at.)
fn unique(history: &History, shard: ShardId, operations: &[usize], found: &mut Found<'_, '_>) {
    let mut writes: Vec<(Revision, usize)> = operations
        .iter()
        .filter_map(|&place| made(at(history, place)).map(|revision| (revision, place)))
        .collect();
    writes.sort_unstable();
    for pair in writes.windows(2) {
        let &[(revision, one), (also, other)] = pair else { continue };
        if revision == also && at(history, one).key != at(history, other).key {
            let explanation = format!("two keys of shard {shard} were written at revision {revision}");
            found.add(Anomaly::RevisionReuse, &[one, other], explanation);
        }
    }
}

/// A write gets a higher revision than all that had come to light when it was asked for.
fn grows(history: &History, shard: ShardId, operations: &[usize], found: &mut Found<'_, '_>) {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
    for &place in operations {
        let operation = at(history, place);
        events.push((operation.invoked.sequence, false, place));
        if operation.answer().is_some() {
            events.push((operation.done_by(), true, place));
        }
    }
    events.sort_unstable();
    let mut latest: Option<(Revision, usize)> = None;
    for (_, is_completion, place) in events {
        let operation = at(history, place);
        if is_completion {
            latest = latest.max(told(operation).map(|revision| (revision, place)));
        } else if let (Some((seen, rival)), Some(revision)) = (latest, made(operation))
            && revision <= seen
            && at(history, rival).key != operation.key
        {
            let explanation = format!(
                "a write of shard {shard} got revision {revision}, after revision {seen} of the same shard had come to light"
            );
            found.add(Anomaly::ShardOrder, &[rival, place], explanation);
        }
    }
}
