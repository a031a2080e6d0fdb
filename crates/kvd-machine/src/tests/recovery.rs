//! Replicas that crash, catch up and are installed from others end where the others are.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bytes::Bytes;
use kvd_types::Outcome;
use proptest::prelude::*;

use super::{
    Entry, Replica, SHARD,
    entries::entries,
    model::{Leader, digest_of, steps},
};
use crate::{
    ShardStats,
    digest::row_hash,
    rows::{self, Due},
    shard::history::parse_changes,
};

/// What happens to a replica between two entries.
#[derive(Clone, Copy, Debug)]
enum Event {
    Nothing,
    /// Prepared, but the table can't freeze yet, or nobody asked it to.
    Prepare,
    /// A generation is cut off and waits.
    Freeze,
    /// The frozen generation reaches the engine.
    Drain,
    /// The engine becomes durable.
    Flush,
    /// The process dies: what the engine has is left.
    Crash,
    /// The power goes: what the engine flushed is left.
    PowerCut,
    /// The rows are replaced by those of another replica.
    Install,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::Nothing),
        1 => Just(Event::Prepare),
        3 => Just(Event::Freeze),
        3 => Just(Event::Drain),
        2 => Just(Event::Flush),
        2 => Just(Event::Crash),
        1 => Just(Event::PowerCut),
        1 => Just(Event::Install),
    ];
    proptest::collection::vec(event, 60)
}

/// Sends a replica what it has not applied; its outcomes must be those of the first time.
fn catch_up(replica: &mut Replica, log: &[(Entry, Vec<Outcome>)]) -> Result<(), TestCaseError> {
    let next = usize::try_from(replica.next_index()).unwrap();
    for (entry, outcomes) in &log[next..] {
        prop_assert_eq!(&replica.apply_entry(entry), outcomes);
        replica.machine.set_header(header_at(replica.next_index()));
    }
    Ok(())
}

fn header_at(next_index: u64) -> Bytes {
    format!("applied up to {next_index}").into()
}

fn happen(event: Event, mut replica: Replica, other: &mut Replica) -> Replica {
    match event {
        Event::Nothing => {}
        Event::Prepare => replica.machine.prepare_freeze(),
        Event::Freeze => {
            replica.machine.prepare_freeze();
            replica.table.freeze();
        }
        Event::Drain => replica.table.drain().unwrap(),
        Event::Flush => kvd_storage::engine::Engine::flush(replica.engine.as_ref()).unwrap(),
        Event::Crash => return replica.crash(),
        Event::PowerCut => return replica.power_cut(),
        Event::Install => {
            replica.table.replace(other.rows().into_iter().map(Ok)).unwrap();
            replica.machine.reload().unwrap();
        }
    }
    replica
}

/// A log, with the outcomes that each entry must have.
type Log = Vec<(Entry, Vec<Outcome>)>;

fn survives(log: &Log, events: &[Event]) -> Result<(), TestCaseError> {
    // Never stopped, and prepared only at the end.
    let mut steady = Replica::new(SHARD);
    // Only ever installed from, so that `steady` isn't disturbed.
    let mut source = Replica::new(SHARD);
    let mut shaken = Replica::new(SHARD);
    for (upto, event) in (1..=log.len()).zip(events) {
        let log = &log[..upto];
        catch_up(&mut steady, log)?;
        catch_up(&mut source, log)?;
        catch_up(&mut shaken, log)?;
        shaken = happen(*event, shaken, &mut source);
        if let Some(applied) = shaken.machine.applied() {
            prop_assert_eq!(shaken.machine.header(), Some(header_at(applied.index.get() + 1)));
        }
        prop_assert_eq!(shaken.machine.digest(), digest_of(&shaken.rows_without_prepare()));
    }
    catch_up(&mut steady, log)?;
    catch_up(&mut shaken, log)?;
    prop_assert_eq!(shaken.machine.digest(), steady.machine.digest());
    prop_assert_eq!(lasting_stats(&shaken), lasting_stats(&steady));
    prop_assert_eq!(shaken.rows(), steady.rows());
    check_rows(&mut steady);
    Ok(())
}

/// The counters, but for when to look what is due: after a restart that is known exactly, before it may be too early.
fn lasting_stats(replica: &Replica) -> ShardStats {
    ShardStats { next_due_ms: None, ..replica.shard().reader().stats() }
}

/// Checks that the rows of a shard belong together: what is found by lease, by age or in the history is what there is.
fn check_rows(replica: &mut Replica) {
    let rows = replica.rows();
    assert_eq!(replica.machine.digest(), digest_of(&rows));
    let family = |family: u8| rows.iter().filter(move |(row, _)| row.first() == Some(&family));
    let reader = replica.shard().reader();
    let page = super::pages::page(&reader, &super::pages::everything());
    let mut by_lease = BTreeSet::new();
    let mut by_age = BTreeSet::new();
    for (key, record) in &page.rows {
        by_lease.extend(record.lease.map(|lease| rows::lease_key(lease, key.as_bytes())));
        by_age.extend(record.expires_at_age_ms.map(|at_ms| rows::due(at_ms, &Due::Key(key.clone()))));
    }
    assert_eq!(family(rows::LEASE_KEYS).map(|(row, _)| row.clone()).collect::<BTreeSet<_>>(), by_lease);
    let is_of_key = |row: &Bytes| matches!(rows::parse_due(row).unwrap().1, Due::Key(_));
    let due: BTreeSet<_> = family(rows::DUE).map(|(row, _)| row.clone()).filter(is_of_key).collect();
    assert_eq!(due, by_age);
    let stats = reader.stats();
    assert_eq!(stats.keys, page.count);
    assert_eq!(stats.leases, family(rows::LEASES).count() as u64);
    assert_eq!(stats.leases_ending, family(rows::ENDING).count() as u64);

    // Each version that was replaced is there as long as the change that replaced it, and no longer.
    let mut replaced = BTreeMap::new();
    for (row, value) in family(rows::CHANGES) {
        for change in parse_changes(row, value).unwrap() {
            let previous = change.previous.map(|at| rows::history(change.key.as_bytes(), at));
            replaced.extend(previous.map(|row| (row, change.previous_hash)));
        }
    }
    let history: BTreeMap<_, _> =
        family(rows::HISTORY).map(|(row, value)| (row.clone(), row_hash(row, value))).collect();
    assert_eq!(history, replaced);
    let bytes: usize =
        family(rows::HISTORY).chain(family(rows::CHANGES)).map(|(row, value)| row.len() + value.len()).sum();
    assert_eq!(stats.history_bytes, bytes as u64);
}

impl Replica {
    /// Loses what the engine had not flushed, and starts again.
    fn power_cut(self) -> Self {
        Self::on(std::sync::Arc::new(self.engine.after_crash()), self.group)
    }

    fn rows_without_prepare(&self) -> Vec<(Bytes, Bytes)> {
        self.table.scan(Bound::Unbounded, Bound::Unbounded, usize::MAX, usize::MAX).unwrap()
    }
}

proptest! {
    #[test]
    fn a_shaken_replica_ends_where_a_steady_one_does(steps in steps(), events in events()) {
        let mut leader = Leader::default();
        survives(&steps.iter().map(|step| leader.propose(step)).collect(), &events)?;
    }

    /// The same for everything that there is, of which there is no model: the steady one says what comes of it.
    #[test]
    fn a_shaken_replica_does_what_a_steady_one_does(entries in entries(), events in events()) {
        let mut first = Replica::new(SHARD);
        let outcomes = entries.into_iter().map(|entry| {
            let outcomes = first.apply_entry(&entry);
            (entry, outcomes)
        });
        let log: Log = outcomes.collect();
        survives(&log, &events)?;
    }
}

#[test]
fn a_generation_holds_exactly_one_index() {
    use super::{once, put};

    let mut replica = Replica::new(SHARD);
    replica.apply(once(put("a", "1")));
    replica.machine.set_header(Bytes::from_static(b"first"));
    replica.machine.prepare_freeze();
    replica.table.freeze();
    replica.apply(once(put("b", "2")));
    replica.machine.set_header(Bytes::from_static(b"second"));
    replica.machine.prepare_freeze();
    replica.table.drain().unwrap();
    let replica = replica.crash();
    assert_eq!(replica.next_index(), 1);
    assert_eq!(replica.machine.header(), Some(Bytes::from_static(b"first")));
    assert_eq!(replica.shard().reader().stats().keys, 1);
}
