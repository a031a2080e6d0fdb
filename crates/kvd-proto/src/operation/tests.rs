//! Every request and reply survives the wire; what makes no sense is refused.

use std::time::Duration;

use bytes::Bytes;
use kvd_types::{
    NodeId, Outcome, Record, RingEpoch,
    operation::{Reply, Response, Served},
    outcome::Refusal,
};
use proptest::prelude::*;

use super::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..32).prop_map(Bytes::from)
}

fn key() -> impl Strategy<Value = Key> {
    proptest::collection::vec(any::<u8>(), 1..32).prop_map(|bytes| Key::new(bytes).unwrap())
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::Always),
        Just(Condition::Absent),
        any::<u64>().prop_map(|revision| Condition::RevisionIs(Revision(revision))),
    ]
}

fn session() -> impl Strategy<Value = Option<SessionPosition>> {
    proptest::option::of(any::<(u64, u64, u64)>().prop_map(|(session, sequence, oldest_open)| {
        SessionPosition {
            session: SessionId(session),
            sequence: SequenceNumber(sequence),
            oldest_open: SequenceNumber(oldest_open),
        }
    }))
}

fn write() -> impl Strategy<Value = Write> {
    let put =
        (key(), bytes(), condition(), any::<bool>()).prop_map(|(key, value, condition, want_previous)| {
            WriteOp::Put { key, value, condition, want_previous }
        });
    let delete = (key(), condition(), any::<bool>())
        .prop_map(|(key, condition, want_previous)| WriteOp::Delete { key, condition, want_previous });
    (session(), prop_oneof![put, delete]).prop_map(|(session, op)| Write { session, op })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        key().prop_map(Request::Get),
        proptest::collection::vec(key(), 0..4).prop_map(Request::BatchGet),
        write().prop_map(Request::Write),
        (any::<u32>(), bytes(), bytes(), any::<u32>()).prop_map(|(shard, start, end, limit)| Request::Scan(
            ScanPage { shard: ShardId(shard), start, end, limit: limit as usize }
        )),
        any::<u32>().prop_map(|shard| Request::OpenSession(ShardId(shard))),
        any::<(u32, u64)>()
            .prop_map(|(shard, session)| Request::CloseSession(ShardId(shard), SessionId(session))),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    (
        bytes(),
        any::<(u64, u64, u64)>(),
        any::<Option<std::num::NonZeroU64>>(),
        any::<Option<std::num::NonZeroU64>>(),
    )
        .prop_map(|(value, (create, revision, version), lease, expiry)| Record {
            value,
            create_revision: Revision(create),
            revision: Revision(revision),
            version,
            lease: lease.map(|lease| kvd_types::LeaseId(lease.get())),
            expires_at_unix_ms: expiry.map(std::num::NonZeroU64::get),
        })
}

fn response() -> impl Strategy<Value = Response> {
    let row = || proptest::option::of((key(), record()));
    let current = || proptest::option::of(record());
    let failed = || current().prop_map(|current| Outcome::ConditionFailed { current });
    let put = (any::<(u64, u64, u64)>(), current()).prop_map(|((revision, create, version), previous)| {
        Outcome::Put { revision: Revision(revision), create_revision: Revision(create), version, previous }
    });
    let deleted = (any::<u64>(), current())
        .prop_map(|(revision, previous)| Outcome::Deleted { revision: Revision(revision), previous });
    prop_oneof![
        row().prop_map(Response::Got),
        proptest::collection::vec(row(), 0..4).prop_map(Response::GotBatch),
        prop_oneof![put, failed()].prop_map(Response::Put),
        prop_oneof![deleted, failed(), Just(Outcome::NotFound)].prop_map(Response::Deleted),
        any::<u64>().prop_map(|session| Response::Session(Outcome::SessionOpened(SessionId(session)))),
        Just(Response::Session(Outcome::SessionClosed)),
        (proptest::collection::vec((key(), record()), 0..4), any::<bool>())
            .prop_map(|(rows, more)| Response::Page { rows, more }),
    ]
}

fn served() -> impl Strategy<Value = Served> {
    any::<(u32, u64, u64)>().prop_map(|(shard, leader, epoch)| Served {
        shard: ShardId(shard),
        leader: NodeId(leader),
        leader_address: format!("node-{leader}:7400"),
        ring_epoch: RingEpoch(epoch),
    })
}

proptest! {
    #[test]
    fn requests_survive_the_wire(request in request()) {
        prop_assert_eq!(request_from_wire(request_to_wire(request.clone())).unwrap(), request);
    }

    #[test]
    fn replies_survive_the_wire(response in response(), served in served()) {
        let reply = Reply { response, served };
        prop_assert_eq!(reply_from_wire(reply_to_wire(Ok(reply.clone()))).unwrap(), reply);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let empty_key = WireRequest::Get(v1::GetRequest { key: Bytes::new() });
    assert!(request_from_wire(empty_key).unwrap_err().message.contains("empty"));

    let long_key = WireRequest::Delete(v1::DeleteRequest { key: vec![1; 4097].into(), ..Default::default() });
    assert!(request_from_wire(long_key).unwrap_err().message.contains("4097"));

    for kind in [None, Some(v1::condition::Kind::Absent(false))] {
        let condition = Some(v1::Condition { kind });
        let put = WireRequest::Put(v1::PutRequest { key: "k".into(), condition, ..Default::default() });
        assert!(request_from_wire(put).unwrap_err().message.contains("condition"));
    }
}

#[test]
fn a_refusal_reaches_the_client_as_an_error() {
    let refused = |refusal| {
        let reply = Reply { response: Response::Put(Outcome::Refused(refusal)), served: Served::default() };
        reply_from_wire(reply_to_wire(Ok(reply))).unwrap_err().kind
    };
    assert_eq!(refused(Refusal::SessionUnknown), kvd_types::ErrorKind::SessionUnknown);
    assert_eq!(
        refused(Refusal::SessionFull),
        kvd_types::ErrorKind::Overloaded { retry_after: Duration::from_millis(50) }
    );
}
