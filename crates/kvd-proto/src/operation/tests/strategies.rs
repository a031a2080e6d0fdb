//! Any request, and any reply that a server makes.

use std::{num::NonZeroU64, time::Duration};

use kvd_types::{
    Compare, Condition, Consistency, Event, Key, LeaseId, LeaseOutcome, Lifetime, LogIndex, Outcome, Read,
    Record, Relation, Revision, SequenceNumber, SessionId, SessionPosition, ShardId, Subject, Txn, TxnOp,
    TxnResult, Write, WriteOp,
    operation::{
        Ack, Changes, ChangesPage, Content, Filter, LeaseInfo, Page, ReadPoint, Request, Response, ScanPage,
        Tell, WriteOptions,
    },
};
use proptest::{collection::vec, option, prelude::*};

use super::bytes;

fn key() -> impl Strategy<Value = Key> {
    vec(any::<u8>(), 1..32).prop_map(|bytes| Key::new(bytes).unwrap())
}

fn shard() -> impl Strategy<Value = ShardId> {
    any::<u32>().prop_map(ShardId)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    any::<u64>().prop_map(LeaseId)
}

fn revision() -> impl Strategy<Value = Revision> {
    any::<u64>().prop_map(Revision)
}

/// Zero stands for none on the wire.
fn later() -> impl Strategy<Value = Option<Revision>> {
    any::<Option<NonZeroU64>>().prop_map(|revision| revision.map(|revision| Revision(revision.get())))
}

/// A count as it fits the wire.
fn count() -> impl Strategy<Value = usize> {
    any::<u32>().prop_map(|count| count as usize)
}

pub(crate) fn session() -> impl Strategy<Value = Option<SessionPosition>> {
    option::of(any::<(u64, u64, u64)>().prop_map(|(session, sequence, oldest_open)| SessionPosition {
        session: SessionId(session),
        sequence: SequenceNumber(sequence),
        oldest_open: SequenceNumber(oldest_open),
    }))
}

fn read() -> impl Strategy<Value = Read> {
    let consistency = prop_oneof![
        Just(Consistency::Linearizable),
        Just(Consistency::Lease),
        revision().prop_map(Consistency::Session),
        any::<u64>().prop_map(|bound_ms| Consistency::Bounded(Duration::from_millis(bound_ms))),
        Just(Consistency::Local),
    ];
    (consistency, any::<bool>(), later()).prop_map(|(consistency, any_replica, at)| Read {
        consistency,
        any_replica,
        at,
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![Just(Condition::Always), Just(Condition::Absent), revision().prop_map(Condition::RevisionIs),]
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    prop_oneof![
        Just(Lifetime::Forever),
        any::<u64>().prop_map(Lifetime::Ttl),
        lease().prop_map(Lifetime::Lease),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let subject = prop_oneof![
        revision().prop_map(Subject::Revision),
        revision().prop_map(Subject::CreateRevision),
        any::<u64>().prop_map(Subject::Version),
        lease().prop_map(Subject::Lease),
        bytes().prop_map(Subject::Value),
    ];
    let relations = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
    (key(), subject, proptest::sample::select(relations.to_vec()))
        .prop_map(|(key, subject, relation)| Compare { key, subject, relation })
}

fn operation() -> impl Strategy<Value = TxnOp> {
    prop_oneof![
        key().prop_map(TxnOp::Get),
        (key(), bytes(), lifetime(), any::<bool>()).prop_map(|(key, value, lifetime, want_previous)| {
            TxnOp::Put { key, value, lifetime, want_previous }
        }),
        (key(), any::<bool>()).prop_map(|(key, want_previous)| TxnOp::Delete { key, want_previous }),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    (vec(compare(), 0..4), vec(operation(), 0..4), vec(operation(), 0..4))
        .prop_map(|(compares, then, otherwise)| Txn { compares, then, otherwise })
}

/// A write, and whether its acknowledgement can be chosen.
pub(crate) fn write_op() -> impl Strategy<Value = (WriteOp, bool)> {
    let put = (key(), bytes(), lifetime(), condition(), any::<bool>()).prop_map(
        |(key, value, lifetime, condition, want_previous)| {
            (WriteOp::Put { key, value, lifetime, condition, want_previous }, true)
        },
    );
    let delete = (key(), condition(), any::<bool>()).prop_map(|(key, condition, want_previous)| {
        (WriteOp::Delete { key, condition, want_previous }, true)
    });
    let delete_range = (shard(), bytes(), bytes(), any::<u32>())
        .prop_map(|(shard, start, end, limit)| (WriteOp::DeleteRange { shard, start, end, limit }, false));
    prop_oneof![
        put,
        delete,
        delete_range,
        txn().prop_map(|txn| (WriteOp::Txn(txn), true)),
        (lease(), any::<u64>()).prop_map(|(lease, ttl_ms)| (WriteOp::GrantLease { lease, ttl_ms }, false)),
        lease().prop_map(|lease| (WriteOp::RevokeLease(lease), false)),
    ]
}

fn write() -> impl Strategy<Value = Request> {
    (session(), write_op(), any::<bool>(), later()).prop_map(|(session, (op, has_ack), all, after)| {
        let ack = if all && has_ack { Ack::All } else { Ack::Majority };
        let is_of_keys = !matches!(op, WriteOp::GrantLease { .. } | WriteOp::RevokeLease(_));
        let after = after.filter(|_| is_of_keys).unwrap_or_default();
        Request::Write(Write { session, op }, WriteOptions { ack, after })
    })
}

fn scan() -> impl Strategy<Value = Request> {
    let content = [Content::All, Content::KeysOnly, Content::CountOnly];
    let filter = (later(), later(), later(), later()).prop_map(|(a, b, c, d)| Filter {
        revision_min: a,
        revision_max: b,
        create_revision_min: c,
        create_revision_max: d,
    });
    let range = (shard(), bytes(), bytes(), count());
    (range, any::<bool>(), proptest::sample::select(content.to_vec()), filter, read()).prop_map(
        |((shard, start, end, limit), descending, content, filter, read)| {
            Request::Scan(ScanPage { shard, start, end, limit, descending, content, filter, read })
        },
    )
}

fn changes() -> impl Strategy<Value = Request> {
    (shard(), revision(), bytes(), bytes(), count(), any::<(bool, u64)>()).prop_map(
        |(shard, after, start, end, limit, (want_previous, wait_ms))| {
            Request::Changes(ChangesPage { shard, after, start, end, limit, want_previous, wait_ms })
        },
    )
}

fn about_leases() -> impl Strategy<Value = Request> {
    let tell = prop_oneof![
        shard().prop_map(Tell::Expect),
        any::<u32>().prop_map(Tell::Detach),
        shard().prop_map(Tell::Detached),
    ];
    prop_oneof![
        lease().prop_map(Request::KeepLeaseAlive),
        lease().prop_map(Request::GetLease),
        (shard(), lease(), count()).prop_map(|(shard, from, limit)| Request::ListLeases {
            shard,
            from,
            limit
        }),
        (shard(), lease(), option::of(key()), count())
            .prop_map(|(shard, lease, after, limit)| { Request::LeaseKeys { shard, lease, after, limit } }),
        (shard(), lease(), tell).prop_map(|(shard, lease, tell)| Request::Tell(shard, lease, tell)),
    ]
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (key(), read()).prop_map(|(key, read)| Request::Get(key, read)),
        (vec(key(), 0..4), read()).prop_map(|(keys, read)| Request::BatchGet(keys, read)),
        write(),
        about_leases(),
        scan(),
        (shard(), later(), option::of(revision()), any::<bool>()).prop_map(
            |(shard, at, needs_after, is_vouched_for)| {
                Request::ReadPoint(ReadPoint { shard, at, needs_after, is_vouched_for })
            }
        ),
        vec(shard(), 0..4).prop_map(Request::Snapshot),
        changes(),
        shard().prop_map(Request::OpenSession),
        (shard(), any::<u64>()).prop_map(|(shard, id)| Request::CloseSession(shard, SessionId(id))),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let numbers = any::<(u64, u64, u64, Option<NonZeroU64>, Option<NonZeroU64>)>();
    (bytes(), numbers).prop_map(|(value, (create, revision, version, lease, expiry))| Record {
        value,
        create_revision: Revision(create),
        revision: Revision(revision),
        version,
        lease: lease.map(|lease| LeaseId(lease.get())),
        expires_at_age_ms: expiry.map(NonZeroU64::get),
    })
}

fn event() -> impl Strategy<Value = Event> {
    (key(), revision(), option::of(record()), option::of(record()))
        .prop_map(|(key, revision, record, previous)| Event { key, revision, record, previous })
}

fn txn_outcome() -> impl Strategy<Value = Outcome> {
    let result = prop_oneof![
        option::of(record()).prop_map(TxnResult::Got),
        (revision(), any::<u64>(), option::of(record())).prop_map(|(create_revision, version, previous)| {
            TxnResult::Put { create_revision, version, previous }
        }),
        (any::<bool>(), option::of(record()))
            .prop_map(|(existed, previous)| TxnResult::Deleted { existed, previous }),
    ];
    (any::<bool>(), revision(), vec(result, 0..4)).prop_map(|(succeeded, revision, results)| Outcome::Txn {
        succeeded,
        revision,
        results,
    })
}

fn write_response() -> impl Strategy<Value = Response> {
    let failed = || option::of(record()).prop_map(|current| Outcome::ConditionFailed { current });
    let put = (revision(), revision(), any::<u64>(), option::of(record())).prop_map(
        |(revision, create_revision, version, previous)| Outcome::Put {
            revision,
            create_revision,
            version,
            previous,
        },
    );
    let deleted = (revision(), option::of(record()))
        .prop_map(|(revision, previous)| Outcome::Deleted { revision, previous });
    let range_deleted = (revision(), any::<u32>(), option::of(bytes()))
        .prop_map(|(revision, deleted, next)| Outcome::RangeDeleted { revision, deleted, next });
    let lease = prop_oneof![
        any::<u64>().prop_map(|ttl_ms| LeaseOutcome::Granted { ttl_ms }),
        Just(LeaseOutcome::Exists),
        Just(LeaseOutcome::Revoked),
        Just(LeaseOutcome::Gone),
    ];
    let kept = prop_oneof![
        (1..u64::MAX).prop_map(|ttl_ms| LeaseOutcome::Alive { ttl_ms }),
        Just(LeaseOutcome::Gone),
    ];
    prop_oneof![
        prop_oneof![put, failed()].prop_map(Response::Put),
        prop_oneof![deleted, failed(), Just(Outcome::NotFound)].prop_map(Response::Deleted),
        range_deleted.prop_map(Response::RangeDeleted),
        txn_outcome().prop_map(Response::Txn),
        lease.prop_map(|lease| Response::Lease(Outcome::Lease(lease))),
        kept.prop_map(|lease| Response::LeaseKept(Outcome::Lease(lease))),
        any::<u64>().prop_map(|session| Response::Session(Outcome::SessionOpened(SessionId(session)))),
        Just(Response::Session(Outcome::SessionClosed)),
    ]
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    let row = || option::of((key(), record()));
    let info = || {
        (lease(), any::<(u64, u64)>(), vec(shard(), 0..4))
            .prop_map(|(id, (ttl_ms, remaining_ms), shards)| LeaseInfo { id, ttl_ms, remaining_ms, shards })
    };
    let page = (vec((key(), record()), 0..4), any::<u64>(), option::of(bytes()))
        .prop_map(|(rows, count, next)| Response::Page(Page { rows, count, next }));
    let changes = (vec(event(), 0..4), revision(), any::<bool>())
        .prop_map(|(events, upto, more)| Response::Changes(Changes { events, upto, more }));
    prop_oneof![
        row().prop_map(Response::Got),
        vec(row(), 0..4).prop_map(Response::GotBatch),
        write_response(),
        any::<(bool, bool)>().prop_map(|(lives, more)| Response::Told { lives, more }),
        option::of(info()).prop_map(Response::LeaseInfo),
        vec(info(), 0..4).prop_map(Response::Leases),
        vec(key(), 0..4).prop_map(Response::LeaseKeys),
        page,
        (any::<u64>(), revision())
            .prop_map(|(index, revision)| Response::ReadPoint { log_index: LogIndex(index), revision }),
        revision().prop_map(Response::Snapshot),
        changes,
    ]
}
