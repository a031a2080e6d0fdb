//! Replicas that crash, catch up and are installed from others end where the others are.

use std::ops::Bound;

use bytes::Bytes;
use kvd_types::Outcome;
use proptest::prelude::*;

use super::{
    Entry, Replica, SHARD,
    model::{Leader, Step, digest_of, steps},
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

fn survives(steps: &[Step], events: &[Event]) -> Result<(), TestCaseError> {
    let mut leader = Leader::default();
    let mut log = Vec::new();
    // Never stopped, and prepared only at the end.
    let mut steady = Replica::new(SHARD);
    // Only ever installed from, so that `steady` isn't disturbed.
    let mut source = Replica::new(SHARD);
    let mut shaken = Replica::new(SHARD);
    for (step, event) in steps.iter().zip(events) {
        log.push(leader.propose(step));
        catch_up(&mut steady, &log)?;
        catch_up(&mut source, &log)?;
        catch_up(&mut shaken, &log)?;
        shaken = happen(*event, shaken, &mut source);
        if let Some(applied) = shaken.machine.applied() {
            prop_assert_eq!(shaken.machine.header(), Some(header_at(applied.index.get() + 1)));
        }
        prop_assert_eq!(shaken.machine.digest(), digest_of(&shaken.rows_without_prepare()));
    }
    catch_up(&mut shaken, &log)?;
    prop_assert_eq!(shaken.machine.digest(), steady.machine.digest());
    prop_assert_eq!(shaken.shard().reader().stats(), steady.shard().reader().stats());
    prop_assert_eq!(shaken.rows(), steady.rows());
    Ok(())
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
        survives(&steps, &events)?;
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
