//! What a shard was: reads of the past, changes in their order, and forgetting.

use std::collections::BTreeMap;

use kvd_types::{
    Command, Key, Lifetime, Outcome, Proposal, Record, Revision, Txn, TxnOp, WriteOp,
    limits::TXN_OPERATIONS_MAX,
    operation::{Changes, ChangesPage},
};
use proptest::prelude::*;

use super::{
    NOW_MS, Replica, SHARD, at, delete, key, once,
    pages::{Ask, asks},
    put, revision_of,
};
use crate::{AsOf, Position};

pub(super) fn known<T>(found: AsOf<T>) -> T {
    match found {
        AsOf::Known(found) => found,
        AsOf::Compacted { oldest } => panic!("compacted: the oldest is {oldest}"),
    }
}

fn value_at(replica: &Replica, name: &str, at: Revision) -> Option<String> {
    let found = replica.shard().reader().get_as_of(&key(name), at).unwrap();
    known(found).map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

/// Lets everything below a revision be forgotten, in an entry that does nothing else.
pub(super) fn compact(replica: &mut Replica, compacted: Revision) {
    let position = at(replica.next_index());
    let proposal = Proposal { compacted, ..Proposal::default() };
    replica.machine.apply(position, &proposal).unwrap();
}

#[test]
fn the_past_is_as_it_was() {
    let mut replica = Replica::new(SHARD);
    let steps = [put("k", "a"), put("k", "b"), delete("k"), put("k", "c"), put("l", "d")];
    let revisions: Vec<Revision> =
        steps.into_iter().map(|op| revision_of(&replica.apply(once(op)))).collect();
    let seen = |name| revisions.iter().map(|at| value_at(&replica, name, *at)).collect::<Vec<_>>();
    let texts = |texts: [Option<&str>; 5]| texts.map(|text| text.map(ToOwned::to_owned)).to_vec();
    assert_eq!(seen("k"), texts([Some("a"), Some("b"), None, Some("c"), Some("c")]));
    assert_eq!(seen("l"), texts([None, None, None, None, Some("d")]));
    assert_eq!(value_at(&replica, "k", Revision(revisions[0].get() - 1)), None);

    replica.save();
    let replica = replica.crash();
    assert_eq!(value_at(&replica, "k", revisions[1]).as_deref(), Some("b"), "it is there after a restart");
}

#[test]
fn what_may_be_forgotten_is_refused_at_once_and_removed_bit_by_bit() {
    let mut replica = Replica::new(SHARD);
    let writes = 4000;
    for i in 0..writes {
        replica.apply(once(put(&format!("k{}", i % 7), format!("{i}"))));
    }
    let before = replica.shard().reader().stats();
    let middle = Revision(before.last_revision.get() - 100);
    compact(&mut replica, middle);
    let reader = replica.shard().reader();
    let oldest = AsOf::Compacted { oldest: middle };
    assert_eq!(reader.get_as_of(&key("k0"), Revision(middle.get() - 1)).unwrap(), oldest);
    let all = ChangesPage { limit: 1, ..ChangesPage::default() };
    assert_eq!(reader.events(&all).unwrap(), AsOf::Compacted { oldest: middle });
    let just_before = ChangesPage { after: Revision(middle.get() - 1), ..all };
    assert_eq!(reader.events(&just_before).unwrap(), AsOf::Compacted { oldest: middle });
    assert!(value_at(&replica, "k0", middle).is_some());
    assert!(reader.stats().is_forgetting, "one entry does not forget that much");

    let mut entries = 0;
    while replica.shard().reader().stats().is_forgetting {
        compact(&mut replica, Revision::ZERO);
        entries += 1;
        assert!(entries < 20, "it goes on for ever");
    }
    assert!(entries > 2);
    let after = replica.shard().reader().stats();
    assert!(after.history_bytes < before.history_bytes / 2, "{after:?}");
    let after_middle = ChangesPage { after: middle, want_previous: true, ..ChangesPage::default() };
    let left = known(replica.shard().reader().events(&after_middle).unwrap());
    assert_eq!(left.events.len(), 100);
    assert!(left.events.iter().all(|event| event.previous.is_some()));

    // All of it, and not what is to come.
    compact(&mut replica, Revision(u64::MAX));
    while replica.shard().reader().stats().is_forgetting {
        compact(&mut replica, Revision::ZERO);
    }
    let stats = replica.shard().reader().stats();
    assert_eq!((stats.compacted, stats.history_bytes), (before.last_revision, 0));
    replica.apply(once(put("k0", "new")));
    assert!(value_at(&replica, "k0", before.last_revision).is_some());
}

#[test]
fn what_is_written_meanwhile_sets_the_pace_of_forgetting() {
    let mut replica = Replica::new(SHARD);
    for i in 0..4000 {
        replica.apply(once(put(&format!("k{}", i % 7), format!("{i}"))));
    }
    let compacted = replica.shard().reader().stats().last_revision;
    let commands: Vec<Command> = (0..100).map(|i| once(put(&format!("l{i}"), "v"))).collect();
    let mut entries = 0;
    let mut is_forgetting = true;
    while is_forgetting {
        let proposal = Proposal { compacted, commands: commands.clone(), ..Proposal::default() };
        replica.machine.apply(at(replica.next_index()), &proposal).unwrap();
        is_forgetting = replica.shard().reader().stats().is_forgetting;
        entries += 1;
    }
    // Two for each that is made: neither a burst, which all writes would wait for, nor so few that history grows.
    assert_eq!(entries, 4000 / 200);
}

#[test]
fn history_does_not_grow_however_much_an_entry_changes() {
    let mut replica = Replica::new(SHARD);
    let set = |i: usize| TxnOp::Put {
        key: key(&format!("k{i}")),
        value: "v".into(),
        lifetime: Lifetime::Forever,
        want_previous: false,
    };
    let txn = Txn { then: (0..TXN_OPERATIONS_MAX).map(set).collect(), ..Txn::default() };
    let commands: Vec<Command> = vec![once(WriteOp::Txn(txn)); 10];
    for _ in 0..20 {
        let compacted = replica.shard().reader().stats().last_revision;
        let proposal = Proposal { compacted, commands: commands.clone(), ..Proposal::default() };
        replica.machine.apply(at(replica.next_index()), &proposal).unwrap();
        assert!(!replica.shard().reader().stats().is_forgetting, "it falls behind");
    }
}

#[test]
fn nothing_gets_a_revision_that_an_earlier_leader_may_have_shown() {
    let mut replica = Replica::new(SHARD);
    let ceiling = Revision::from_unix_ms(NOW_MS + 3000);
    let proposal = Proposal {
        clock: Revision::from_unix_ms(NOW_MS),
        ceiling,
        commands: vec![once(put("k", "a"))],
        ..Proposal::default()
    };
    let outcomes = replica.machine.apply(at(0), &proposal).unwrap();
    assert!(revision_of(&outcomes[0]) < ceiling, "the leader that shows it knows what it has shown");
    assert!(revision_of(&replica.apply(once(put("k", "b")))) < ceiling);
    let next_term = Position { term: kvd_types::Term(2), ..at(replica.next_index()) };
    replica.machine.skip(next_term).unwrap();
    assert_eq!(replica.shard().reader().stats().last_revision, ceiling, "and whoever reads is told");
    replica.save();
    let mut replica = replica.crash();
    let position = Position { index: kvd_types::LogIndex(replica.next_index()), ..next_term };
    let proposal = Proposal {
        clock: Revision::from_unix_ms(NOW_MS),
        commands: vec![once(put("k", "c"))],
        ..Proposal::default()
    };
    let outcomes = replica.machine.apply(position, &proposal).unwrap();
    assert!(revision_of(&outcomes[0]) > ceiling);
}

/// A script's entries: writes of a few keys.
fn scripts() -> impl Strategy<Value = Vec<Vec<(u8, Option<u8>)>>> {
    let write = (0..6_u8, proptest::option::weighted(0.7, any::<u8>()));
    proptest::collection::vec(proptest::collection::vec(write, 0..6), 1..40)
}

/// Keys that are prefixes of each other, and hold what rows are made of.
const NAMES: [&str; 6] = ["a", "a\0", "a\0\u{1}", "ab", "b", "\u{1}"];

proptest! {
    /// Against a model that keeps everything: each moment that is not forgotten reads as it was, key by key and in pages of
    /// any size, through restarts; and the changes between any two moments lead from one to the other.
    #[test]
    fn every_moment_reads_as_it_was(
        script in scripts(),
        forget in 0..60_usize,
        asks in [asks(), asks()],
        limit in 0..5_usize,
        bounds in [0..NAMES.len(), 0..NAMES.len()],
        restart in 0..40_usize,
    ) {
        let mut replica = Replica::new(SHARD);
        let mut now: BTreeMap<Key, Record> = BTreeMap::new();
        let mut moments = vec![(Revision::ZERO, now.clone())];
        for (index, entry) in script.iter().enumerate() {
            let commands: Vec<Command> = entry
                .iter()
                .map(|(name, value)| {
                    let name = NAMES[usize::from(*name)];
                    once(value.map_or_else(|| delete(name), |value| put(name, vec![value])))
                })
                .collect();
            let outcomes = replica.apply_at(NOW_MS, commands);
            for ((name, value), outcome) in entry.iter().zip(&outcomes) {
                let name = key(NAMES[usize::from(*name)]);
                match (outcome, value) {
                    (Outcome::Put { revision, create_revision, version, .. }, Some(value)) => {
                        let record = Record {
                            value: vec![*value].into(),
                            create_revision: *create_revision,
                            revision: *revision,
                            version: *version,
                            ..Record::default()
                        };
                        now.insert(name, record);
                        moments.push((*revision, now.clone()));
                    }
                    (Outcome::Deleted { revision, .. }, None) => {
                        now.remove(&name);
                        moments.push((*revision, now.clone()));
                    }
                    (Outcome::NotFound, None) => {}
                    other => panic!("{other:?}"),
                }
            }
            if index == restart {
                replica.save();
                replica = replica.crash();
            }
        }
        let compacted = moments.get(forget).map_or(Revision::ZERO, |(revision, _)| *revision);
        compact(&mut replica, compacted);
        let reader = replica.shard().reader();
        let revisions: Vec<Revision> = moments.iter().map(|(revision, _)| *revision).collect();
        for ask in &asks {
            check_pages(ask, &replica, &revisions, None, &now);
        }
        for (revision, keys) in &moments {
            let is_known = *revision >= compacted;
            for name in NAMES.map(key) {
                match reader.get_as_of(&name, *revision).unwrap() {
                    AsOf::Known(found) => {
                        prop_assert!(is_known);
                        prop_assert_eq!(found.as_ref(), keys.get(&name));
                    }
                    AsOf::Compacted { oldest } => prop_assert!(!is_known && oldest == compacted),
                }
            }
            if is_known {
                for ask in &asks {
                    check_pages(ask, &replica, &revisions, Some(*revision), keys);
                }
                let watched = Watched { start: NAMES[bounds[0]], end: NAMES[bounds[1]], limit };
                prop_assert_eq!(watched.replayed(&replica, keys, *revision), watched.of(&now));
            } else {
                let asked = ChangesPage { after: *revision, ..ChangesPage::default() };
                prop_assert_eq!(reader.events(&asked).unwrap(), AsOf::Compacted { oldest: compacted });
                let asked = asks[0].first_page(&NAMES, &revisions, Some(*revision));
                prop_assert_eq!(reader.page(&asked).unwrap(), AsOf::Compacted { oldest: compacted });
            }
        }
    }
}

/// Reads a moment in pages, or the keys as they are.
fn check_pages(
    ask: &Ask,
    replica: &Replica,
    revisions: &[Revision],
    at: Option<Revision>,
    keys: &BTreeMap<Key, Record>,
) {
    let asked = ask.first_page(&NAMES, revisions, at);
    let (rows, count) = ask.read_all(&replica.shard().reader(), &asked);
    let expected = ask.expected(&asked, keys.iter());
    assert_eq!(count, expected.len() as u64, "{asked:?}");
    if asked.content != kvd_types::operation::Content::CountOnly {
        assert_eq!(rows, expected, "{asked:?}");
    }
}

/// A range that is watched, in answers of about so many events. Ending where it starts, or before, it is all keys.
struct Watched {
    start: &'static str,
    end: &'static str,
    limit: usize,
}

impl Watched {
    fn asked(&self, after: Revision) -> ChangesPage {
        let (start, end) = if self.start < self.end { (self.start, self.end) } else { ("", "") };
        let bytes = |text: &'static str| bytes::Bytes::from_static(text.as_bytes());
        ChangesPage {
            after,
            start: bytes(start),
            end: bytes(end),
            limit: self.limit,
            want_previous: true,
            ..ChangesPage::default()
        }
    }

    /// Those keys that are watched.
    fn of(&self, keys: &BTreeMap<Key, Record>) -> BTreeMap<Key, Record> {
        let asked = self.asked(Revision::ZERO);
        let within = |key: &Key| {
            key.as_bytes() >= asked.start.as_ref()
                && (asked.end.is_empty() || key.as_bytes() < asked.end.as_ref())
        };
        let found = keys.iter().filter(|(key, _)| within(key));
        found.map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    /// What comes of a moment when all changes after it are made.
    fn replayed(
        &self,
        replica: &Replica,
        then: &BTreeMap<Key, Record>,
        after: Revision,
    ) -> BTreeMap<Key, Record> {
        let reader = replica.shard().reader();
        let mut keys = self.of(then);
        let mut upto = after;
        loop {
            let Changes { events, upto: complete, more } = known(reader.events(&self.asked(upto)).unwrap());
            for event in events {
                assert!(event.revision > upto && event.revision <= complete, "{event:?}");
                assert_eq!(keys.get(&event.key), event.previous.as_ref());
                match event.record {
                    Some(record) => drop(keys.insert(event.key, record)),
                    None => drop(keys.remove(&event.key)),
                }
            }
            assert!(complete > upto || !more, "no progress");
            upto = complete;
            if !more {
                assert_eq!(upto, after.max(reader.stats().last_revision));
                return keys;
            }
        }
    }
}
