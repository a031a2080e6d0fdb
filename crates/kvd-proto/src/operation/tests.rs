//! Every request and reply survives the wire; what makes no sense is refused.

use std::time::Duration;

use bytes::Bytes;
use kvd_types::{
    NodeId, Outcome, RingEpoch,
    operation::{Reply, Response, Served},
    outcome::Refusal,
};
use proptest::prelude::*;

use super::*;

pub(crate) mod strategies;

use strategies::{request, response};

fn served() -> impl Strategy<Value = Served> {
    any::<(u32, u64, u64, u64, u64)>().prop_map(|(shard, leader, epoch, age_ms, revision)| Served {
        shard: ShardId(shard),
        leader: NodeId(leader),
        leader_address: format!("node-{leader}:7400"),
        ring_epoch: RingEpoch(epoch),
        shard_age_ms: age_ms,
        revision: Revision(revision),
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
    let message = |wire| request_from_wire(wire).unwrap_err().message;
    assert!(message(WireRequest::Get(v1::GetRequest::default())).contains("empty"));

    let long_key = v1::DeleteRequest { key: vec![1; 4097].into(), ..Default::default() };
    assert!(message(WireRequest::Delete(long_key)).contains("4097"));

    let put = || v1::PutRequest { key: "k".into(), ..Default::default() };
    for kind in [None, Some(v1::condition::Kind::Absent(false))] {
        let condition = Some(v1::Condition { kind });
        assert!(message(WireRequest::Put(v1::PutRequest { condition, ..put() })).contains("condition"));
    }
    let lifetime = Some(v1::Lifetime { kind: None });
    assert!(message(WireRequest::Put(v1::PutRequest { lifetime, ..put() })).contains("lifetime"));

    let nothing = v1::TxnOperation { kind: None };
    let txn = v1::TxnRequest { then: vec![nothing], ..Default::default() };
    assert!(message(WireRequest::Txn(txn)).contains("unknown kind"));
    let compare = v1::Compare { key: "k".into(), relation: 1, subject: None };
    let txn = v1::TxnRequest { compares: vec![compare], ..Default::default() };
    assert!(message(WireRequest::Txn(txn)).contains("with nothing"));
    let subject = Some(v1::compare::Subject::Version(1));
    let txn = v1::TxnRequest {
        compares: vec![v1::Compare { key: "k".into(), relation: 0, subject }],
        ..Default::default()
    };
    assert!(message(WireRequest::Txn(txn)).contains("unknown kind"));
    assert!(message(WireRequest::Tell(v1::TellRequest::default())).contains("nothing is told"));
}

#[test]
fn a_wrong_reply_is_the_servers_fault() {
    let row = v1::KeyValue::default();
    let page = WireResponse::Scan(v1::ScanResponse { kvs: vec![row], ..Default::default() });
    let result = v1::TxnResult { kind: None };
    let txn = WireResponse::Txn(v1::TxnResponse { results: vec![result], ..Default::default() });
    for wrong in [page, txn] {
        assert_eq!(reply_from_wire(wrong).unwrap_err().kind, kvd_types::ErrorKind::Internal);
    }
    let mixed = Reply { response: Response::Txn(Outcome::NotFound), served: Served::default() };
    let answer = reply_from_wire(reply_to_wire(Ok(mixed)));
    assert_eq!(answer.unwrap_err().kind, kvd_types::ErrorKind::Internal);
}

#[test]
fn a_refusal_reaches_the_client_as_an_error() {
    use kvd_types::ErrorKind;
    let refused = |refusal| {
        let reply = Reply { response: Response::Put(Outcome::Refused(refusal)), served: Served::default() };
        reply_from_wire(reply_to_wire(Ok(reply))).unwrap_err().kind
    };
    assert_eq!(refused(Refusal::SessionUnknown), ErrorKind::SessionUnknown);
    assert_eq!(
        refused(Refusal::SessionFull),
        ErrorKind::Overloaded { retry_after: Duration::from_millis(50) }
    );
    assert_eq!(refused(Refusal::LeaseNotAttached(LeaseId(7))), ErrorKind::Unavailable);
    assert_eq!(refused(Refusal::LeaseEnded(LeaseId(7))), ErrorKind::NotFound);
    assert_eq!(refused(Refusal::Malformed), ErrorKind::InvalidArgument);
    assert_eq!(refused(Refusal::AnswerTooLarge), ErrorKind::InvalidArgument);
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..32).prop_map(Bytes::from)
}
