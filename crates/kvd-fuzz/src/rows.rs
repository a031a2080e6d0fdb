//! The rows that the state machines keep.
//!
//! An input is a table: each row's key and value after their lengths. The rows of the table pass their checksums, so a
//! machine may refuse them (they are corrupt), but what it does open on must go on to work: entries are applied, what is
//! written is read back, and opening again gives the same machine.

use std::{ops::Bound::Unbounded, sync::Arc};

use bytes::Bytes;
use kvd_machine::{AsOf, Machine, MetaMachine, Position, ShardMachine};
use kvd_storage::{engine::MemoryEngine, table::Table};
use kvd_types::{
    Command, Condition, GroupId, Key, Lifetime, LogIndex, Outcome, Proposal, ReplicaId, Revision,
    SequenceNumber, SessionId, SessionPosition, ShardId, Term, Write, WriteOp, operation::ScanPage,
};

use crate::{
    input::Input,
    wire::{meta_commands, sized},
};

const SHARD: ShardId = ShardId(7);
const NOW_MS: u64 = 1_800_000_000_000;
const AGE_MS: u64 = 70_000;
const COMPACTED: Revision = Revision::from_unix_ms(NOW_MS - 1000);
/// A row can't be longer than the longest key and some.
const ROWS_MAX: usize = 256;

fn table(bytes: &[u8]) -> Arc<Table> {
    let table = Table::open(Arc::new(MemoryEngine::new()), ReplicaId(1)).expect("an empty engine");
    let mut input = Input::new(bytes);
    let mut rows = Vec::new();
    while !input.is_empty() && rows.len() < ROWS_MAX {
        let key = Bytes::copy_from_slice(input.sized());
        rows.push((key, Some(Bytes::copy_from_slice(input.sized()))));
    }
    table.write(rows);
    Arc::new(table)
}

fn rows(table: &Table) -> Vec<(Bytes, Bytes)> {
    table.scan(Unbounded, Unbounded, usize::MAX, usize::MAX).expect("rows in memory")
}

/// Applies a few commands as the next entry; `None` if there is no next one.
fn apply(machine: &mut Machine, commands: Vec<Command>) -> Option<Result<Vec<Outcome>, kvd_machine::Error>> {
    let applied = machine.applied();
    let index = applied.map_or(Some(0), |at| at.index.get().checked_add(1))?;
    let term = applied.map_or(Term(1), |at| at.term);
    let clock = Revision::from_unix_ms(NOW_MS);
    let proposal = Proposal { clock, age_ms: AGE_MS, ceiling: clock, compacted: COMPACTED, commands };
    Some(machine.apply(Position { index: LogIndex(index), term }, &proposal))
}

/// Checks that opening the machine anew on its rows gives the same one.
fn check_reopened(group: GroupId, table: &Arc<Table>, mut machine: Machine) {
    machine.prepare_freeze();
    let written = rows(table);
    let mut again = Machine::open(group, Arc::clone(table)).expect("it has just written these rows");
    assert_eq!((again.applied(), again.digest()), (machine.applied(), machine.digest()));
    again.prepare_freeze();
    assert_eq!(rows(table), written, "a machine that was only opened changes nothing");
}

fn put(key: &Key, session: Option<SessionPosition>) -> Command {
    let value = Bytes::from_static(b"new");
    let op = WriteOp::Put {
        key: key.clone(),
        value,
        lifetime: Lifetime::Ttl(1),
        condition: Condition::Always,
        want_previous: true,
    };
    Command::Write(Write { session, op })
}

/// The rows of a shard.
pub fn shard(bytes: &[u8]) {
    let group = GroupId::from(SHARD);
    let table = table(bytes);
    let sessions: Vec<SessionId> = rows(&table)
        .iter()
        .filter_map(|(key, _)| key.strip_prefix(b"\x30")?.first_chunk().map(|id| u64::from_be_bytes(*id)))
        .map(SessionId)
        .collect();
    let Ok(opened) = ShardMachine::open(SHARD, Arc::clone(&table)) else { return };
    let reader = opened.reader();
    let all = |start: Bytes| reader.page(&ScanPage { start, ..ScanPage::default() });
    let Ok(AsOf::Known(page)) = all(Bytes::new()) else { return };
    for (key, record) in &page.rows {
        assert_eq!(reader.get(key).expect("a scan has read it").as_ref(), Some(record));
        let Ok(AsOf::Known(from)) = all(key.bytes().clone()) else { panic!("a scan has read it") };
        assert_eq!(from.rows.first(), Some(&(key.clone(), record.clone())));
    }
    let mut machine = Machine::Shard(opened);
    let key = page.rows.first().map_or_else(|| Key::try_from("key").expect("a key"), |(key, _)| key.clone());
    let mut commands = vec![put(&key, None), Command::OpenSession];
    for &session in &sessions {
        let sequence = SequenceNumber(u64::MAX);
        let position = SessionPosition { session, sequence, oldest_open: SequenceNumber(70) };
        // Twice: the second one is answered from what is remembered.
        commands.extend([put(&key, Some(position)), put(&key, Some(position))]);
    }
    let expected = commands.len();
    let Some(applied) = apply(&mut machine, commands) else { return };
    // Rows of what is due, of history and of leases are read only now.
    let Ok(outcomes) = applied else { return };
    assert_eq!(outcomes.len(), expected);
    for pair in outcomes.get(2..).unwrap_or_default().chunks(2) {
        assert_eq!(pair[0], pair[1], "a retry's outcome is the first one's");
    }
    let found = reader.get(&key).expect("a row that was just written").expect("a key that was just put");
    assert_eq!(found.value, "new");
    check_reopened(group, &table, machine);
}

/// Valid ones.
#[must_use]
pub fn shard_seeds() -> Vec<Vec<u8>> {
    let table = table(&[]);
    let mut machine = Machine::open(GroupId::from(SHARD), Arc::clone(&table)).expect("an empty table");
    let mut seeds = Vec::new();
    let mut seed = |machine: &mut Machine| {
        machine.prepare_freeze();
        let rows = rows(&table);
        seeds.push(sized(rows.iter().flat_map(|(key, value)| [&**key, &**value])));
    };
    seed(&mut machine);
    let key = |number: u64| Key::new(format!("key {number}").into_bytes()).expect("a key");
    let opened = apply(&mut machine, vec![put(&key(0), None), Command::OpenSession]).expect("an index");
    let Some(Outcome::SessionOpened(session)) = opened.expect("an empty table").pop() else {
        panic!("no session")
    };
    machine.set_header(Bytes::from_static(b"header"));
    seed(&mut machine);
    for number in [1, 2, 64, 130] {
        let sequence = SequenceNumber(number);
        let position = SessionPosition { session, sequence, oldest_open: SequenceNumber(1) };
        let op = WriteOp::Delete { key: key(9), condition: Condition::Always, want_previous: true };
        let delete = Write {
            session: Some(SessionPosition { sequence: SequenceNumber(number + 1000), ..position }),
            op,
        };
        let commands = vec![put(&key(number % 3), Some(position)), Command::Write(delete)];
        apply(&mut machine, commands).expect("an index").expect("good rows");
        seed(&mut machine);
    }
    seeds
}

/// The state of the meta group, in its rows.
pub fn meta(bytes: &[u8]) {
    let table = table(bytes);
    let Ok(opened) = MetaMachine::open(Arc::clone(&table)) else { return };
    let mut machine = Machine::Meta(opened);
    let commands: Vec<Command> = meta_commands().into_iter().map(Command::Meta).collect();
    let expected = commands.len();
    let Some(applied) = apply(&mut machine, commands) else { return };
    let outcomes = applied.expect("a meta group's entry");
    assert_eq!(outcomes.len(), expected);
    check_reopened(GroupId::META, &table, machine);
}

/// Valid ones.
#[must_use]
pub fn meta_seeds() -> Vec<Vec<u8>> {
    let table = table(&[]);
    let mut machine = Machine::open(GroupId::META, Arc::clone(&table)).expect("an empty table");
    let mut seeds = Vec::new();
    for command in meta_commands() {
        apply(&mut machine, vec![Command::Meta(command)]).expect("an index").expect("an empty table");
        machine.prepare_freeze();
        let rows = rows(&table);
        seeds.push(sized(rows.iter().flat_map(|(key, value)| [&**key, &**value])));
    }
    seeds
}
