//! Which write made which revision of which key, as far as anybody has been told or has seen it.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kvd_types::{Key, Record, Revision};

use super::{Account, End, Found};

/// A key's change at a revision.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    /// What it put; `None`: the key went.
    pub(super) put: Option<Bytes>,
    /// The write that made it; `None`: one of those that are unknown, or a lapse.
    pub(super) write: Option<usize>,
    /// The revision at which the key came into being, and its version, as first told.
    told: Option<(Revision, u64)>,
}

/// All that is known.
pub(super) struct Facts {
    keys: BTreeMap<Key, BTreeMap<Revision, Fact>>,
    /// The revision of each write, if it is known.
    revisions: Vec<Option<Revision>>,
    /// When unknown deletions of a key that nobody saw were begun, in order.
    unknown_deletes: BTreeMap<Key, Vec<u64>>,
}

impl Facts {
    pub(super) fn of(account: &Account, found: &mut Found) -> Self {
        let revisions = vec![None; account.writes.len()];
        let mut facts = Self { keys: BTreeMap::new(), revisions, unknown_deletes: BTreeMap::new() };
        let mut writers: HashMap<(&Key, &Bytes), usize> = HashMap::new();
        for (place, write) in account.writes.iter().enumerate() {
            for (key, value) in &write.changes {
                if let Some(value) = value {
                    writers.insert((key, value), place);
                } else if write.end == End::Unknown {
                    facts.unknown_deletes.entry(key.clone()).or_default().push(write.invoked.sequence);
                }
            }
            if let End::Done(revision) = write.end {
                facts.resolve(account, place, revision, found);
            }
        }
        for read in &account.reads {
            for (key, record) in &read.rows {
                facts.saw(account, &writers, key, record, read.completed.sequence, found);
            }
        }
        for watch in &account.watches {
            for (item, event) in
                watch.items.iter().flat_map(|item| item.events.iter().map(move |it| (item, it)))
            {
                let by = item.at.sequence;
                for record in event.record.iter().chain(&event.previous) {
                    facts.saw(account, &writers, &event.key, record, by, found);
                }
                if event.record.is_none() {
                    facts.saw_gone(&event.key, event.revision, by, found);
                }
            }
        }
        facts
    }

    /// A write has a revision, and so have all its keys.
    fn resolve(&mut self, account: &Account, place: usize, revision: Revision, found: &mut Found) {
        let (Some(write), Some(known)) = (account.writes.get(place), self.revisions.get_mut(place)) else {
            return;
        };
        match *known {
            Some(before) if before == revision => return,
            Some(before) => {
                return found.add(|| format!("it was made twice, at {before} and at {revision}: {write}"));
            }
            None => *known = Some(revision),
        }
        for (key, put) in &write.changes {
            let facts = self.keys.entry(key.clone()).or_default();
            let fact = Fact { put: put.clone(), write: Some(place), told: None };
            if let Some(other) = facts.insert(revision, fact)
                && other.write.is_some()
            {
                found.add(|| {
                    format!("revision {revision} of key {key} stands for two writes, one is {write}")
                });
            }
        }
    }

    /// A version was seen.
    fn saw(
        &mut self,
        account: &Account,
        writers: &HashMap<(&Key, &Bytes), usize>,
        key: &Key,
        record: &Record,
        by: u64,
        found: &mut Found,
    ) {
        let revision = record.revision;
        let Some((place, write)) =
            writers.get(&(key, &record.value)).and_then(|&place| Some((place, account.writes.get(place)?)))
        else {
            let value = record.value.escape_ascii().to_string();
            return found.add(|| format!("nobody has put {value} to key {key}, seen at revision {revision}"));
        };
        if write.invoked.sequence > by {
            return found.add(|| format!("it was seen by {by}, before it was asked for: {write}"));
        }
        if write.end == End::NotDone {
            return found
                .add(|| format!("it was seen at {revision}, and said not to have been made: {write}"));
        }
        self.resolve(account, place, revision, found);
        let fact = self.keys.get_mut(key).and_then(|facts| facts.get_mut(&revision));
        let told = (record.create_revision, record.version);
        let before = fact.and_then(|fact| fact.told.replace(told)).filter(|before| *before != told);
        if let Some(before) = before {
            found.add(|| format!("key {key} at {revision} is told of as {before:?} and as {told:?}"));
        }
    }

    /// It was seen that a key went.
    fn saw_gone(&mut self, key: &Key, revision: Revision, by: u64, found: &mut Found) {
        let facts = self.keys.entry(key.clone()).or_default();
        match facts.get(&revision) {
            Some(Fact { put: None, .. }) => {}
            Some(Fact { put: Some(_), .. }) => {
                found.add(|| format!("key {key} was put and deleted at {revision}"));
            }
            None => {
                let may_be = self.unknown_deletes.get(key).is_some_and(|all| all.iter().any(|&at| at < by));
                if may_be {
                    facts.insert(revision, Fact { put: None, write: None, told: None });
                } else {
                    found.add(|| format!("nobody has deleted key {key}, and it went at {revision}"));
                }
            }
        }
    }

    /// Versions count, and writes have revisions in the order of time.
    pub(super) fn check_order(&self, account: &Account, found: &mut Found) {
        for (key, facts) in &self.keys {
            let mut begun = 0;
            let mut last: Option<(Revision, u64)> = None;
            for (revision, fact) in facts {
                let write = fact.write.and_then(|place| account.writes.get(place));
                if let Some(write) = write {
                    let done_by = write.completed.map_or(u64::MAX, |at| at.sequence);
                    if matches!(write.end, End::Done(_)) && done_by < begun {
                        found.add(|| {
                            format!("a write of key {key} begun after it has a lower revision: {write}")
                        });
                    }
                    begun = begun.max(write.invoked.sequence);
                }
                let Some((created, version)) = fact.told else { continue };
                let is_right = match last {
                    Some((before, count)) if before == created => version > count,
                    Some((before, _)) => created > before,
                    None => true,
                } && created <= *revision;
                if !is_right {
                    found.add(|| {
                        format!("key {key} at {revision} counts {version} since {created}, after {last:?}")
                    });
                }
                last = Some((created, version));
            }
        }
    }

    /// What is known of each key in a range.
    pub(super) fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = (&'a Key, &'a BTreeMap<Revision, Fact>)> {
        self.keys.iter().filter(move |(key, _)| super::covers(start, end, key))
    }

    pub(super) fn of_key(&self, key: &Key) -> Option<&BTreeMap<Revision, Fact>> {
        self.keys.get(key)
    }

    /// The revision of a write, if it was made for all that is known.
    pub(super) fn revision(&self, place: usize) -> Option<Revision> {
        self.revisions.get(place).copied().flatten()
    }

    /// Whether a deletion of unknown outcome that was begun before may have made a key go.
    pub(super) fn may_be_gone(&self, key: &Key, by: u64) -> bool {
        self.unknown_deletes.get(key).is_some_and(|all| all.iter().any(|&at| at < by))
    }
}
