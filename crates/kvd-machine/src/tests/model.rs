//! A shard as simple as can be, and the property that the machine is no different.
//!
//! The model keeps everything, scans everything and stores nothing. It knows no bounds of memory: the scripts stay
//! below them, and tests of their own go beyond.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvd_types::{
    Command, Condition, Key, Outcome, Proposal, Record, Revision, SequenceNumber, SessionId, Write, WriteOp,
    limits::{SESSION_CLOCK_STEP_MAX, SESSION_IDLE_MAX, SESSIONS_EXPIRED_PER_ENTRY_MAX},
    outcome::Refusal,
};
use proptest::{prelude::*, sample::Index};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Entry, NOW_MS, Replica, SHARD, at, in_session, key, once, only_if, quietly};
use crate::shard::CLOCK_MAX;

/// A naive shard.
#[derive(Debug, Default)]
struct Model {
    keys: BTreeMap<Key, Record>,
    last_revision: u64,
    last_session: u64,
    sessions: Vec<ModelSession>,
    time_ms: u64,
    clock_ms: u64,
}

#[derive(Debug)]
struct ModelSession {
    id: SessionId,
    used_s: u64,
    floor: SequenceNumber,
    outcomes: Vec<(SequenceNumber, Outcome)>,
}

impl Model {
    fn apply(&mut self, proposal: &Proposal) -> Vec<Outcome> {
        let clock = proposal.clock.get().min(CLOCK_MAX.get());
        let step_max_ms = u64::try_from(SESSION_CLOCK_STEP_MAX.as_millis()).unwrap();
        let clock_ms = Revision(clock).unix_ms();
        self.time_ms += clock_ms.saturating_sub(self.clock_ms).min(step_max_ms);
        self.clock_ms = clock_ms;
        self.sessions.sort_by_key(|session| (session.used_s, session.id));
        let now_s = self.time_ms / 1000;
        let idle =
            self.sessions.iter().take_while(|session| session.used_s + SESSION_IDLE_MAX.as_secs() <= now_s);
        let expired = idle.count().min(SESSIONS_EXPIRED_PER_ENTRY_MAX);
        self.sessions.drain(..expired);
        proposal.commands.iter().map(|command| self.run(clock, command)).collect()
    }

    fn run(&mut self, clock: u64, command: &Command) -> Outcome {
        match command {
            Command::OpenSession => {
                self.last_session = clock.max(self.last_session + 1);
                let id = SessionId(self.last_session);
                let used_s = self.time_ms / 1000;
                self.sessions.push(ModelSession {
                    id,
                    used_s,
                    floor: SequenceNumber(0),
                    outcomes: Vec::new(),
                });
                Outcome::SessionOpened(id)
            }
            Command::CloseSession(id) => {
                self.sessions.retain(|session| session.id != *id);
                Outcome::SessionClosed
            }
            Command::Write(Write { session: None, op }) => self.write(clock, op),
            Command::Write(Write { session: Some(at), op }) => {
                let Some(index) = self.sessions.iter().position(|session| session.id == at.session) else {
                    return Outcome::Refused(Refusal::SessionUnknown);
                };
                let session = &mut self.sessions[index];
                session.used_s = self.time_ms / 1000;
                session.floor = session.floor.max(at.oldest_open);
                let floor = session.floor;
                session.outcomes.retain(|(sequence, _)| *sequence >= floor);
                if at.sequence < floor {
                    return Outcome::Refused(Refusal::SequenceAcknowledged);
                }
                if let Some((_, outcome)) =
                    session.outcomes.iter().find(|(sequence, _)| *sequence == at.sequence)
                {
                    return outcome.clone();
                }
                let outcome = self.write(clock, op);
                self.sessions[index].outcomes.push((at.sequence, outcome.clone()));
                outcome
            }
            Command::Lease(_) | Command::Meta(_) => Outcome::Refused(Refusal::WrongGroup),
        }
    }

    fn write(&mut self, clock: u64, op: &WriteOp) -> Outcome {
        let (WriteOp::Put { key, condition, want_previous, .. }
        | WriteOp::Delete { key, condition, want_previous }) = op
        else {
            unreachable!("the scripts have none of the others")
        };
        let old = self.keys.get(key).cloned();
        let fits = match condition {
            Condition::Always => true,
            Condition::Absent => old.is_none(),
            Condition::RevisionIs(revision) => old.as_ref().map(|old| old.revision) == Some(*revision),
        };
        if !fits {
            let current = old.map(|mut old| {
                if !want_previous {
                    old.value.clear();
                }
                old
            });
            return Outcome::ConditionFailed { current };
        }
        let revision = Revision(clock.max(self.last_revision + 1));
        let previous = if *want_previous { old.clone() } else { None };
        match op {
            WriteOp::Put { key, value, .. } => {
                let mut new = Record { value: value.clone(), revision, ..Record::default() };
                (new.create_revision, new.version) =
                    old.map_or((revision, 1), |old| (old.create_revision, old.version + 1));
                let (create_revision, version) = (new.create_revision, new.version);
                self.keys.insert(key.clone(), new);
                self.last_revision = revision.get();
                Outcome::Put { revision, create_revision, version, previous }
            }
            WriteOp::Delete { key, .. } => {
                if self.keys.remove(key).is_none() {
                    return Outcome::NotFound;
                }
                self.last_revision = revision.get();
                Outcome::Deleted { revision, previous }
            }
            _ => unreachable!("the scripts have none of the others"),
        }
    }
}

/// One command of a script, before it is known which sessions there will be.
#[derive(Clone, Debug)]
enum Action {
    /// A write, perhaps in one of the sessions opened so far.
    Write {
        session: Option<Index>,
        sequence: u64,
        open: u64,
        op: Op,
    },
    /// A command of before, again, perhaps acknowledging more.
    Again {
        which: Index,
        acknowledge: u64,
    },
    Open,
    Close(Index),
}

#[derive(Clone, Debug)]
struct Op {
    key: u8,
    /// `None`: a delete.
    value: Option<Vec<u8>>,
    condition: ConditionChoice,
    want_previous: bool,
}

#[derive(Clone, Copy, Debug)]
enum ConditionChoice {
    Always,
    Absent,
    /// The key's revision as it is.
    Current,
    Wrong,
}

/// One entry of a script: the leader's clock, relative to the usual time, and the commands (none: a blank entry).
#[derive(Clone, Debug)]
pub(super) struct Step {
    clock: Clock,
    actions: Vec<Action>,
}

#[derive(Clone, Copy, Debug)]
enum Clock {
    /// So much later than the entry before.
    Later(u64),
    /// So much earlier than the entry before.
    Earlier(u64),
    Zero,
    Max,
    /// At the usual time.
    Usual,
}

fn op() -> impl Strategy<Value = Op> {
    let condition = prop_oneof![
        4 => Just(ConditionChoice::Always),
        1 => Just(ConditionChoice::Absent),
        2 => Just(ConditionChoice::Current),
        1 => Just(ConditionChoice::Wrong),
    ];
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..40));
    (0..12_u8, value, condition, any::<bool>()).prop_map(|(key, value, condition, want_previous)| Op {
        key,
        value,
        condition,
        want_previous,
    })
}

fn action() -> impl Strategy<Value = Action> {
    let session = proptest::option::weighted(0.8, any::<Index>());
    prop_oneof![
        8 => (session, 1..150_u64, 0..100_u64, op())
            .prop_map(|(session, sequence, open, op)| Action::Write { session, sequence, open, op }),
        4 => (any::<Index>(), prop_oneof![2 => Just(0), 1 => 0..150_u64])
            .prop_map(|(which, acknowledge)| Action::Again { which, acknowledge }),
        2 => Just(Action::Open),
        1 => any::<Index>().prop_map(Action::Close),
    ]
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let clock = prop_oneof![
        8 => (0..2000_u64).prop_map(Clock::Later),
        4 => (0..1_000_000_u64).prop_map(Clock::Later),
        2 => (0..1_000_000_u64).prop_map(Clock::Earlier),
        1 => Just(Clock::Zero),
        1 => Just(Clock::Max),
        2 => Just(Clock::Usual),
    ];
    let step = (clock, proptest::collection::vec(action(), 0..8))
        .prop_map(|(clock, actions)| Step { clock, actions });
    proptest::collection::vec(step, 1..60)
}

/// Turns scripts into entries, as a cluster would: with the sessions that were really opened.
#[derive(Debug, Default)]
pub(super) struct Leader {
    model: Model,
    clock_ms: u64,
    sessions: Vec<SessionId>,
    sent: Vec<Command>,
    next_index: u64,
}

impl Leader {
    /// The next entry, and the outcomes that it should have.
    pub(super) fn propose(&mut self, step: &Step) -> (Entry, Vec<Outcome>) {
        self.clock_ms = match step.clock {
            Clock::Later(ms) => self.clock_ms.saturating_add(ms),
            Clock::Earlier(ms) => self.clock_ms.saturating_sub(ms),
            Clock::Zero => 0,
            Clock::Max => u64::MAX,
            Clock::Usual => NOW_MS,
        };
        let position = at(self.next_index);
        self.next_index += 1;
        let commands: Vec<Command> = step.actions.iter().filter_map(|action| self.command(action)).collect();
        if commands.is_empty() && self.clock_ms.is_multiple_of(2) {
            return (Entry { position, proposal: None }, Vec::new());
        }
        let proposal =
            Proposal { clock: Revision::from_unix_ms(self.clock_ms), commands, ..Proposal::default() };
        let outcomes = self.model.apply(&proposal);
        for outcome in &outcomes {
            if let Outcome::SessionOpened(session) = outcome {
                self.sessions.push(*session);
            }
        }
        (Entry { position, proposal: Some(proposal) }, outcomes)
    }

    fn command(&mut self, action: &Action) -> Option<Command> {
        let command = match action {
            Action::Open => Command::OpenSession,
            Action::Close(which) if self.sessions.is_empty() => {
                Command::CloseSession(SessionId(which.index(9) as u64))
            }
            Action::Close(which) => Command::CloseSession(*which.get(&self.sessions)),
            Action::Again { .. } if self.sent.is_empty() => return None,
            Action::Again { which, acknowledge } => {
                let mut again = which.get(&self.sent).clone();
                if let Command::Write(Write { session: Some(at), .. }) = &mut again {
                    at.oldest_open = at.oldest_open.max(SequenceNumber(*acknowledge));
                }
                again
            }
            Action::Write { session: Some(which), sequence, open, op } if !self.sessions.is_empty() => {
                let session = *which.get(&self.sessions);
                in_session(session, *sequence, sequence.saturating_sub(*open), self.write(op))
            }
            Action::Write { op, .. } => once(self.write(op)),
        };
        self.sent.push(command.clone());
        Some(command)
    }

    fn write(&self, op: &Op) -> WriteOp {
        let name = format!("key {}", op.key);
        let current = self.model.keys.get(&key(&name)).map_or(Revision::ZERO, |record| record.revision);
        let condition = match op.condition {
            ConditionChoice::Always => Condition::Always,
            ConditionChoice::Absent => Condition::Absent,
            ConditionChoice::Current => Condition::RevisionIs(current),
            ConditionChoice::Wrong => Condition::RevisionIs(current.next()),
        };
        let write = match &op.value {
            Some(value) => super::put(&name, value.clone()),
            None => super::delete(&name),
        };
        let write = only_if(condition, write);
        if op.want_previous { write } else { quietly(write) }
    }
}

/// The digest that the definition gives, from the rows that are there.
pub(super) fn digest_of(rows: &[(Bytes, Bytes)]) -> u64 {
    rows.iter()
        .filter(|(row, _)| matches!(row.first(), Some(0x10 | 0x20 | 0x28 | 0x50..=0x52)))
        .fold(0, |sum, (row, value)| sum.wrapping_add(xxh3_64_with_seed(value, xxh3_64(row))))
}

proptest! {
    #[test]
    fn the_machine_is_the_model(steps in steps()) {
        let mut leader = Leader::default();
        let mut replica = Replica::new(SHARD);
        for step in &steps {
            let (entry, expected) = leader.propose(step);
            prop_assert_eq!(replica.apply_entry(&entry), expected);
        }
        let reader = replica.shard().reader();
        let page = super::pages::page(&reader, &super::pages::everything());
        prop_assert_eq!(page.next, None);
        let keys: Vec<_> = leader.model.keys.clone().into_iter().collect();
        prop_assert_eq!(page.rows, keys);

        let stats = reader.stats();
        prop_assert_eq!(stats.keys, leader.model.keys.len() as u64);
        let bytes = leader.model.keys.iter().map(|(key, record)| key.as_bytes().len() + record.value.len());
        prop_assert_eq!(stats.bytes, bytes.sum::<usize>() as u64);
        prop_assert_eq!(stats.last_revision.get(), leader.model.last_revision);
        prop_assert_eq!(stats.sessions, leader.model.sessions.len());
        prop_assert_eq!(replica.machine.digest(), digest_of(&replica.rows()));
    }

    /// Said once more without the model: whatever is retried whenever, a number of a session is applied once at most.
    #[test]
    fn no_write_of_a_session_is_applied_twice(steps in steps()) {
        let mut leader = Leader::default();
        let mut replica = Replica::new(SHARD);
        let mut first = BTreeMap::new();
        let mut revisions = BTreeSet::new();
        for step in &steps {
            let (entry, _) = leader.propose(step);
            let commands = entry.proposal.iter().flat_map(|proposal| &proposal.commands);
            for (command, outcome) in commands.zip(replica.apply_entry(&entry)) {
                let Command::Write(Write { session, .. }) = command else { continue };
                if matches!(outcome, Outcome::Refused(_)) {
                    continue;
                }
                if let Some(at) = session
                    && let Some(known) = first.insert((at.session, at.sequence), outcome.clone())
                {
                    prop_assert_eq!(outcome, known);
                } else if let Outcome::Put { revision, .. } | Outcome::Deleted { revision, .. } = outcome {
                    prop_assert!(revisions.insert(revision), "revision {} was given twice", revision);
                }
            }
        }
    }
}
