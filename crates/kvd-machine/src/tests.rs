//! Tests of whole machines on real tables: against a naive model, and through crashes.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use kvd_storage::{engine::MemoryEngine, table::Table};
use kvd_types::{
    Command, Condition, GroupId, Key, Lifetime, LogIndex, Outcome, Proposal, ReplicaId, Revision,
    SequenceNumber, SessionId, SessionPosition, ShardId, Term, Write, WriteOp,
};

use crate::{Machine, MetaMachine, Position, ShardMachine};

mod changes;
mod entries;
mod faults;
mod golden;
mod history;
mod leases;
mod model;
mod pages;
mod recovery;
mod shard;
mod txns;

/// The group of the shard in these tests.
pub(crate) const SHARD: GroupId = GroupId(7);
/// A time in 2027, in milliseconds since the Unix epoch.
pub(crate) const NOW_MS: u64 = 1_800_000_000_000;

/// A replica: an engine that outlives crashes, the table over it, and the machine on that.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) group: GroupId,
    pub(crate) table: Arc<Table>,
    pub(crate) machine: Machine,
}

/// An entry of a group's log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    /// `None`: a blank or membership entry.
    pub(crate) proposal: Option<Proposal>,
}

impl Replica {
    pub(crate) fn new(group: GroupId) -> Self {
        Self::on(Arc::new(MemoryEngine::new()), group)
    }

    fn on(engine: Arc<MemoryEngine>, group: GroupId) -> Self {
        let table = Arc::new(Table::open(Arc::<MemoryEngine>::clone(&engine), ReplicaId(1)).unwrap());
        let machine = Machine::open(group, Arc::clone(&table)).unwrap();
        Self { engine, group, table, machine }
    }

    /// Loses what was not drained and starts again.
    pub(crate) fn crash(self) -> Self {
        Self::on(self.engine, self.group)
    }

    /// Moves everything to the engine.
    pub(crate) fn save(&mut self) {
        self.table.drain().unwrap();
        self.machine.prepare_freeze();
        self.table.freeze();
        self.table.drain().unwrap();
    }

    /// The index after the last applied one.
    pub(crate) fn next_index(&self) -> u64 {
        self.machine.applied().map_or(0, |applied| applied.index.get() + 1)
    }

    /// Applies commands at a time of the leader's clock.
    pub(crate) fn apply_at(&mut self, unix_ms: u64, commands: Vec<Command>) -> Vec<Outcome> {
        let position = at(self.next_index());
        let proposal = Proposal { clock: Revision::from_unix_ms(unix_ms), commands, ..Proposal::default() };
        self.machine.apply(position, &proposal).unwrap()
    }

    /// Applies one command.
    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        self.apply_at(NOW_MS, vec![command]).remove(0)
    }

    pub(crate) fn apply_entry(&mut self, entry: &Entry) -> Vec<Outcome> {
        match &entry.proposal {
            Some(proposal) => self.machine.apply(entry.position, proposal).unwrap(),
            None => {
                self.machine.skip(entry.position).unwrap();
                Vec::new()
            }
        }
    }

    pub(crate) fn open_session(&mut self) -> SessionId {
        match self.apply(Command::OpenSession) {
            Outcome::SessionOpened(session) => session,
            other => panic!("{other:?}"),
        }
    }

    /// All rows, once what is only in memory has become rows.
    pub(crate) fn rows(&mut self) -> Vec<(Bytes, Bytes)> {
        self.machine.prepare_freeze();
        self.table.scan(Bound::Unbounded, Bound::Unbounded, usize::MAX, usize::MAX).unwrap()
    }

    pub(crate) fn shard(&self) -> &ShardMachine {
        match &self.machine {
            Machine::Shard(machine) => machine,
            Machine::Meta(_) => panic!("not a shard"),
        }
    }

    pub(crate) fn meta(&self) -> &MetaMachine {
        match &self.machine {
            Machine::Meta(machine) => machine,
            Machine::Shard(_) => panic!("not the meta group"),
        }
    }
}

pub(crate) fn at(index: u64) -> Position {
    Position { index: LogIndex(index), term: Term(1) }
}

pub(crate) fn key(text: &str) -> Key {
    Key::try_from(text).unwrap()
}

pub(crate) fn put(text: &str, value: impl Into<Bytes>) -> WriteOp {
    WriteOp::Put {
        key: key(text),
        value: value.into(),
        lifetime: Lifetime::Forever,
        condition: Condition::Always,
        want_previous: true,
    }
}

pub(crate) fn delete(text: &str) -> WriteOp {
    WriteOp::Delete { key: key(text), condition: Condition::Always, want_previous: true }
}

/// The same write under another condition.
pub(crate) fn only_if(under: Condition, mut op: WriteOp) -> WriteOp {
    if let WriteOp::Put { condition, .. } | WriteOp::Delete { condition, .. } = &mut op {
        *condition = under;
    }
    op
}

/// The same write, without asking for the previous version.
pub(crate) fn quietly(mut op: WriteOp) -> WriteOp {
    if let WriteOp::Put { want_previous, .. } | WriteOp::Delete { want_previous, .. } = &mut op {
        *want_previous = false;
    }
    op
}

/// The same put, of something that does not last.
pub(crate) fn lasting(how_long: Lifetime, mut op: WriteOp) -> WriteOp {
    if let WriteOp::Put { lifetime, .. } = &mut op {
        *lifetime = how_long;
    }
    op
}

pub(crate) const fn once(op: WriteOp) -> Command {
    Command::Write(Write { session: None, op })
}

pub(crate) const fn in_session(session: SessionId, sequence: u64, oldest_open: u64, op: WriteOp) -> Command {
    let at = SessionPosition {
        session,
        sequence: SequenceNumber(sequence),
        oldest_open: SequenceNumber(oldest_open),
    };
    Command::Write(Write { session: Some(at), op })
}

pub(crate) fn revision_of(outcome: &Outcome) -> Revision {
    match outcome {
        Outcome::Put { revision, .. } | Outcome::Deleted { revision, .. } => *revision,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_kind_of_group_refuses_the_others_commands() {
    use kvd_types::{NodeId, cluster::MetaCommand, outcome::Refusal};

    let wrong_group = Outcome::Refused(Refusal::WrongGroup);
    let mut shard = Replica::new(GroupId::from(ShardId(1)));
    let meta_command = Command::Meta(MetaCommand::SetMetaVoters { nodes: vec![NodeId(1)] });
    assert_eq!(shard.apply(meta_command), wrong_group);
    let mut meta = Replica::new(GroupId::META);
    for command in [once(put("k", "v")), Command::OpenSession, Command::CloseSession(SessionId(1))] {
        assert_eq!(meta.apply(command), wrong_group);
    }
    assert_eq!(meta.meta().state().epoch.get(), 0);
}
