//! Random entries with every kind of command, a time that passes, terms that change and history that is forgotten.

use bytes::Bytes;
use kvd_types::{
    Command, Compare, Condition, Key, LeaseCommand, LeaseId, Lifetime, LogIndex, Outcome, Proposal, Relation,
    Revision, ShardId, Subject, Term, Txn, TxnOp, WriteOp,
};
use proptest::prelude::*;

use super::{Entry, NOW_MS, Replica, SHARD, key, lasting, once, only_if, put};
use crate::{Position, rows};

/// Names that are prefixes of each other.
const NAMES: [&str; 6] = ["a", "a\0", "ab", "b", "b\u{ff}", "c"];

fn name() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&NAMES[..])
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (1..4_u64).prop_map(LeaseId)
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    prop_oneof![
        3 => Just(Lifetime::Forever),
        2 => (1..60_u64).prop_map(Lifetime::Ttl),
        3 => lease().prop_map(Lifetime::Lease),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from)
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![4 => Just(Condition::Always), 1 => Just(Condition::Absent)]
}

fn operation() -> impl Strategy<Value = TxnOp> {
    let name = || name().prop_map(key);
    prop_oneof![
        name().prop_map(TxnOp::Get),
        (name(), value(), lifetime(), any::<bool>()).prop_map(|(key, value, lifetime, want_previous)| {
            TxnOp::Put { key, value, lifetime, want_previous }
        }),
        (name(), any::<bool>()).prop_map(|(key, want_previous)| TxnOp::Delete { key, want_previous }),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let branch = || proptest::collection::vec(operation(), 0..4);
    let relation = proptest::sample::select(vec![Relation::Equal, Relation::Less, Relation::Greater]);
    let compare = (name(), 0..3_u64, relation).prop_map(|(name, version, relation)| Compare {
        key: key(name),
        subject: Subject::Version(version),
        relation,
    });
    (proptest::collection::vec(compare, 0..2), branch(), branch())
        .prop_map(|(compares, then, otherwise)| Txn { compares, then, otherwise })
}

fn write() -> impl Strategy<Value = WriteOp> {
    let shard = SHARD.shard().unwrap();
    let bound = || prop_oneof![Just(Bytes::new()), name().prop_map(|name| Key::into_bytes(key(name)))];
    prop_oneof![
        6 => (name(), value(), lifetime(), condition())
            .prop_map(|(name, value, how_long, under)| lasting(how_long, only_if(under, put(name, value)))),
        3 => name().prop_map(super::delete),
        1 => (bound(), bound(), 0..4_u32)
            .prop_map(move |(start, end, limit)| WriteOp::DeleteRange { shard, start, end, limit }),
        3 => txn().prop_map(WriteOp::Txn),
        2 => (lease(), 1..80_u64).prop_map(|(lease, ttl_ms)| WriteOp::GrantLease { lease, ttl_ms }),
        1 => lease().prop_map(WriteOp::RevokeLease),
    ]
}

fn lease_command() -> impl Strategy<Value = LeaseCommand> {
    let shard = || proptest::sample::select(vec![ShardId(3), ShardId(7)]);
    prop_oneof![
        2 => lease().prop_map(LeaseCommand::KeepAlive),
        2 => (lease(), shard()).prop_map(|(lease, shard)| LeaseCommand::Expect { lease, shard }),
        4 => (lease(), 0..2000_u64)
            .prop_map(|(lease, not_after_ms)| LeaseCommand::Attach { lease, not_after_ms }),
        1 => (lease(), 0..3_u32).prop_map(|(lease, limit)| LeaseCommand::Detach { lease, limit }),
        2 => (lease(), shard()).prop_map(|(lease, shard)| LeaseCommand::Detached { lease, shard }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => write().prop_map(once),
        3 => lease_command().prop_map(Command::Lease),
        1 => Just(Command::OpenSession),
    ]
}

/// What an entry says beside its commands, relative to the one before.
#[derive(Clone, Debug)]
struct Passing {
    clock_ms: u64,
    age_ms: u64,
    /// So long before the clock.
    compacted_ms: Option<u64>,
    /// So long after it.
    ceiling_ms: Option<u64>,
    is_next_term: bool,
    is_blank: bool,
}

fn passing() -> impl Strategy<Value = Passing> {
    // An age that jumps makes ended leases be forgotten.
    let age_ms = prop_oneof![8 => 0..30_u64, 1 => Just(4_000_000_u64)];
    let compacted_ms = proptest::option::weighted(0.3, 0..20_u64);
    let ceiling_ms = proptest::option::weighted(0.2, 0..20_u64);
    (0..4_u64, age_ms, compacted_ms, ceiling_ms, proptest::bool::weighted(0.1), proptest::bool::weighted(0.1))
        .prop_map(|(clock_ms, age_ms, compacted_ms, ceiling_ms, is_next_term, is_blank)| Passing {
            clock_ms,
            age_ms,
            compacted_ms,
            ceiling_ms,
            is_next_term,
            is_blank,
        })
}

/// A log of up to 60 entries.
pub(super) fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = (passing(), proptest::collection::vec(command(), 0..6));
    proptest::collection::vec(entry, 1..60).prop_map(|script| {
        let (mut clock_ms, mut age_ms, mut term) = (NOW_MS, 0, 1);
        let entries = script.into_iter().enumerate().map(|(index, (passing, commands))| {
            clock_ms += passing.clock_ms;
            age_ms += passing.age_ms;
            term += u64::from(passing.is_next_term);
            let proposal = Proposal {
                clock: Revision::from_unix_ms(clock_ms),
                age_ms,
                ceiling: passing
                    .ceiling_ms
                    .map_or(Revision::ZERO, |ms| Revision::from_unix_ms(clock_ms + ms)),
                compacted: passing
                    .compacted_ms
                    .map_or(Revision::ZERO, |ms| Revision::from_unix_ms(clock_ms - ms)),
                commands,
            };
            let position = Position { index: LogIndex(index as u64), term: Term(term) };
            Entry { position, proposal: Some(proposal).filter(|_| !passing.is_blank) }
        });
        entries.collect()
    })
}

proptest! {
    /// What is read ahead counts only if it still holds: here it is of some entries, and at times comes too late.
    #[test]
    fn what_is_read_ahead_changes_nothing(
        log in entries(),
        reads in proptest::collection::vec((any::<bool>(), any::<bool>()), 60),
    ) {
        let [mut one, mut other] = [Replica::new(SHARD), Replica::new(SHARD)];
        // Nothing is at hand, so that all is asked for.
        [&mut one, &mut other].into_iter().for_each(|replica| replica.machine.keep_at_hand(0));
        let mut kept = None;
        for (entry, (reads, comes_late)) in log.iter().zip(reads) {
            if let (true, Some(proposal)) = (reads, &entry.proposal) {
                let mut ahead = one.machine.wanted(proposal);
                for row in ahead.take_wanted() {
                    let value = one.table.get(&row).unwrap();
                    ahead.found(row, value);
                }
                if comes_late { kept = Some(ahead) } else { one.machine.read_ahead(ahead) }
            } else if let Some(late) = kept.take() {
                one.machine.read_ahead(late);
            }
            prop_assert_eq!(one.apply_entry(entry), other.apply_entry(entry));
            prop_assert_eq!(one.machine.digest(), other.machine.digest());
        }
        prop_assert_eq!(one.rows(), other.rows());
    }
}

#[test]
fn what_is_wanted_is_what_is_asked_for() {
    let mut replica = Replica::new(SHARD);
    replica.machine.keep_at_hand(0);
    let proposal = Proposal {
        commands: ["a", "b", "a"].map(|name| once(put(name, "value"))).to_vec(),
        ..Proposal::default()
    };
    assert_eq!(replica.machine.wanted(&proposal).take_wanted(), [rows::latest(b"a"), rows::latest(b"b")]);
}

#[test]
fn what_was_read_for_an_entry_counts_for_no_later_one() {
    let mut replica = Replica::new(SHARD);
    replica.machine.keep_at_hand(0);
    let put_once = || once(put("a", "value"));
    let proposal = Proposal { commands: vec![put_once()], ..Proposal::default() };
    let mut ahead = replica.machine.wanted(&proposal);
    ahead.found(rows::latest(b"a"), None);
    replica.apply(put_once());
    replica.machine.read_ahead(ahead);
    let Outcome::Put { version, .. } = replica.apply(put_once()) else { panic!("not put") };
    assert_eq!(version, 2);
}
