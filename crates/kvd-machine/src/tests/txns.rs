//! Transactions, and deletions of ranges.

use bytes::Bytes;
use kvd_types::{
    Compare, LeaseId, Lifetime, Outcome, Relation, Revision, ShardId, Subject, Txn, TxnOp, TxnResult,
    WriteOp,
    limits::{TXN_OPERATIONS_MAX, TXN_REPLACED_BYTES_MAX, VALUE_BYTES_MAX},
    outcome::Refusal,
};

use super::{
    NOW_MS, Replica, SHARD, in_session, key, once,
    pages::{everything, page},
    put, revision_of,
};

fn compare(name: &str, subject: Subject, relation: Relation) -> Compare {
    Compare { key: key(name), subject, relation }
}

fn set(name: &str, value: &'static str) -> TxnOp {
    TxnOp::Put {
        key: key(name),
        value: Bytes::from_static(value.as_bytes()),
        lifetime: Lifetime::Forever,
        want_previous: true,
    }
}

fn remove(name: &str) -> TxnOp {
    TxnOp::Delete { key: key(name), want_previous: true }
}

/// The same, without asking for the previous version.
fn quiet(mut operation: TxnOp) -> TxnOp {
    if let TxnOp::Put { want_previous, .. } | TxnOp::Delete { want_previous, .. } = &mut operation {
        *want_previous = false;
    }
    operation
}

fn get(name: &str) -> TxnOp {
    TxnOp::Get(key(name))
}

fn run(replica: &mut Replica, txn: Txn) -> (bool, Revision, Vec<TxnResult>) {
    match replica.apply(once(WriteOp::Txn(txn))) {
        Outcome::Txn { succeeded, revision, results } => (succeeded, revision, results),
        other => panic!("{other:?}"),
    }
}

fn value(result: &TxnResult) -> Option<&[u8]> {
    match result {
        TxnResult::Got(record) => record.as_ref().map(|record| record.value.as_ref()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_of_a_branch_happens_at_one_revision_and_sees_itself() {
    let mut replica = Replica::new(SHARD);
    replica.apply(once(put("a", "old")));
    let exists = compare("a", Subject::Version(0), Relation::Greater);
    let then = vec![get("a"), set("a", "new"), get("a"), set("b", "b"), remove("c"), get("b")];
    let (succeeded, revision, results) =
        run(&mut replica, Txn { compares: vec![exists.clone()], then, otherwise: vec![set("no", "no")] });
    assert!(succeeded);
    assert_eq!((value(&results[0]), value(&results[2])), (Some(&b"old"[..]), Some(&b"new"[..])));
    let TxnResult::Put { version: 2, previous: Some(previous), .. } = &results[1] else {
        panic!("{:?}", results[1])
    };
    assert_eq!(previous.value, "old");
    assert_eq!(results[4], TxnResult::Deleted { existed: false, previous: None });
    assert_eq!(value(&results[5]), Some(&b"b"[..]));
    let reader = replica.shard().reader();
    let at = |name| reader.get(&key(name)).unwrap().map(|record| record.revision);
    assert_eq!((at("a"), at("b"), at("no")), (Some(revision), Some(revision), None));

    let missing = compare("none", Subject::Version(1), Relation::Equal);
    let (succeeded, revision, results) = run(
        &mut replica,
        Txn {
            compares: vec![exists, missing],
            then: vec![set("no", "no")],
            otherwise: vec![get("b"), remove("b")],
        },
    );
    assert!(!succeeded);
    assert_eq!(value(&results[0]), Some(&b"b"[..]));
    assert!(matches!(&results[1], TxnResult::Deleted { existed: true, previous: Some(_) }));
    assert_eq!(replica.shard().reader().stats().last_revision, revision);
    assert_eq!(replica.shard().reader().get(&key("no")).unwrap(), None);
}

#[test]
fn compares_are_what_they_say() {
    let mut replica = Replica::new(SHARD);
    let created = revision_of(&replica.apply(once(put("k", "b"))));
    let written = revision_of(&replica.apply(once(put("k", "b"))));
    let holds = |replica: &mut Replica, name: &str, subject: Subject, relation| {
        run(
            replica,
            Txn { compares: vec![compare(name, subject, relation)], then: vec![get("k")], ..Txn::default() },
        )
        .0
    };
    // Equal, not equal, less, greater: of the key's against these.
    let relations = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
    let text = |text: &'static str| Subject::Value(Bytes::from_static(text.as_bytes()));
    for (name, subject, expected) in [
        ("k", Subject::Revision(written), [true, false, false, false]),
        ("k", Subject::Revision(created), [false, true, false, true]),
        ("k", Subject::CreateRevision(created), [true, false, false, false]),
        ("k", Subject::CreateRevision(written), [false, true, true, false]),
        ("k", Subject::Version(2), [true, false, false, false]),
        ("k", Subject::Lease(LeaseId(0)), [true, false, false, false]),
        ("k", text("b"), [true, false, false, false]),
        ("k", text("a"), [false, true, false, true]),
        ("k", text("ba"), [false, true, true, false]),
        // A key that is not there has zeros, and no value that anything could be said of.
        ("none", Subject::Version(0), [true, false, false, false]),
        ("none", Subject::Revision(created), [false, true, true, false]),
        ("none", text(""), [false; 4]),
    ] {
        let found = relations.map(|relation| holds(&mut replica, name, subject.clone(), relation));
        assert_eq!(found, expected, "{name} {subject:?}");
    }
    assert_eq!(replica.shard().reader().stats().last_revision, written, "nothing was written");
}

#[test]
fn a_transaction_happens_once_however_often_it_is_tried() {
    let mut replica = Replica::new(SHARD);
    let session = replica.open_session();
    let absent = compare("k", Subject::Version(0), Relation::Equal);
    let txn =
        Txn { compares: vec![absent], then: vec![set("k", "mine"), get("k")], otherwise: vec![get("k")] };
    let first = replica.apply(in_session(session, 1, 1, WriteOp::Txn(txn.clone())));
    assert!(matches!(first, Outcome::Txn { succeeded: true, .. }));
    replica.save();
    let mut replica = replica.crash();
    assert_eq!(replica.apply(in_session(session, 1, 1, WriteOp::Txn(txn.clone()))), first);
    let other = replica.apply(in_session(session, 2, 1, WriteOp::Txn(txn)));
    assert!(matches!(other, Outcome::Txn { succeeded: false, .. }));
}

#[test]
fn what_no_server_would_propose_changes_nothing() {
    let mut replica = Replica::new(SHARD);
    replica.apply(once(put("k", "v")));
    let before = replica.machine.digest();
    let refused = |replica: &mut Replica, then: Vec<TxnOp>| {
        replica.apply(once(WriteOp::Txn(Txn { then, ..Txn::default() })))
    };
    let malformed = Outcome::Refused(Refusal::Malformed);
    assert_eq!(refused(&mut replica, vec![]), malformed);
    assert_eq!(refused(&mut replica, vec![set("a", "1"), set("b", "2"), remove("a")]), malformed);
    assert_eq!(refused(&mut replica, vec![get("a"); TXN_OPERATIONS_MAX + 1]), malformed);

    let unknown = TxnOp::Put {
        key: key("l"),
        value: Bytes::new(),
        lifetime: Lifetime::Lease(LeaseId(9)),
        want_previous: false,
    };
    let not_attached = Outcome::Refused(Refusal::LeaseNotAttached(LeaseId(9)));
    assert_eq!(refused(&mut replica, vec![set("a", "1"), unknown]), not_attached);

    assert_eq!(replica.machine.digest(), before);
    replica.apply(once(put("large", vec![0; VALUE_BYTES_MAX])));
    let before = replica.machine.digest();
    let too_large = Outcome::Refused(Refusal::AnswerTooLarge);
    let all = [vec![set("a", "1")], vec![get("large"); 5]].concat();
    assert_eq!(refused(&mut replica, all), too_large);
    assert_eq!(replica.machine.digest(), before);
}

#[test]
fn a_transaction_replaces_and_deletes_only_so_much() {
    let mut replica = Replica::new(SHARD);
    // Four of these, with their keys, are exactly what is allowed.
    let names = ["a", "b", "c", "d"];
    for name in names {
        replica.apply(once(put(name, vec![0; TXN_REPLACED_BYTES_MAX / 4 - 1])));
    }
    replica.apply(once(put("e", "")));
    let before = replica.machine.digest();
    let mixed = |with: Vec<TxnOp>| {
        let all = [vec![set("a", ""), set("b", ""), remove("c"), remove("d")], with].concat();
        WriteOp::Txn(Txn { then: all.into_iter().map(quiet).collect(), ..Txn::default() })
    };
    let too_much = Outcome::Refused(Refusal::ReplacesTooMuch);
    assert_eq!(replica.apply(once(mixed(vec![remove("e")]))), too_much);
    assert_eq!(replica.apply(once(mixed(vec![set("e", "new")]))), too_much);
    assert_eq!(replica.machine.digest(), before);
    // What is read, put anew or missing is not replaced.
    let rest = vec![get("e"), set("new", "new"), remove("none")];
    assert!(matches!(replica.apply(once(mixed(rest))), Outcome::Txn { succeeded: true, .. }));
}

fn delete_range(shard: ShardId, start: &'static str, end: &'static str, limit: u32) -> WriteOp {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    WriteOp::DeleteRange { shard, start: bytes(start), end: bytes(end), limit }
}

#[test]
fn a_range_goes_in_steps_that_can_be_gone_on_with() {
    let mut replica = Replica::new(SHARD);
    let shard = SHARD.shard().unwrap();
    let names = ["a", "b", "b\0", "c", "d"];
    replica.apply_at(NOW_MS, names.iter().map(|name| once(put(name, "v"))).collect());
    replica.save();
    // What the same entry has just written or deleted counts.
    let outcomes = replica.apply_at(
        NOW_MS,
        vec![once(super::delete("b\0")), once(put("bb", "v")), once(delete_range(shard, "b", "d", 2))],
    );
    let Outcome::RangeDeleted { revision, deleted: 2, next: Some(next) } = &outcomes[2] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(next.as_ref(), b"bb\0");
    let rest = replica.apply(once(WriteOp::DeleteRange {
        shard,
        start: next.clone(),
        end: Bytes::from_static(b"d"),
        limit: 2,
    }));
    let Outcome::RangeDeleted { revision: later, deleted: 1, next: None } = rest else { panic!("{rest:?}") };
    assert!(later > *revision);
    let again = replica.apply(once(delete_range(shard, "b", "d", 2)));
    assert_eq!(again, Outcome::RangeDeleted { revision: later, deleted: 0, next: None });
    let left = page(&replica.shard().reader(), &everything());
    let left: Vec<_> = left.rows.into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [key("a"), key("d")]);

    let foreign = replica.apply(once(delete_range(ShardId(99), "", "", 9)));
    assert_eq!(foreign, Outcome::Refused(Refusal::WrongGroup));
    let all = replica.apply(once(delete_range(shard, "", "", 9)));
    assert!(matches!(all, Outcome::RangeDeleted { deleted: 2, next: None, .. }), "{all:?}");
    assert_eq!(replica.shard().reader().stats().keys, 0);
}

#[test]
fn a_step_is_bounded_in_bytes() {
    let mut replica = Replica::new(SHARD);
    for i in 0..9 {
        replica.apply(once(put(&format!("k{i}"), vec![0; VALUE_BYTES_MAX])));
    }
    let step = replica.apply(once(delete_range(SHARD.shard().unwrap(), "", "", 100)));
    let Outcome::RangeDeleted { deleted: 4, next: Some(next), .. } = step else { panic!("{step:?}") };
    assert_eq!(next.as_ref(), b"k4");
}
