//! Replies, between wire and domain.

use bytes::Bytes;
use kvd_types::{
    Error, Key, LeaseId, LeaseOutcome, NodeId, Outcome, Record, Result, Revision, RingEpoch, SessionId,
    ShardId, TxnResult,
    operation::{Reply, Response, Served},
    outcome::Refusal,
};

use super::{WireResponse, lease, read};
use crate::{error, v1};

/// What a client is told of a command that its shard refused.
#[must_use]
pub fn refusal(refusal: &Refusal) -> Error {
    use std::time::Duration;

    use kvd_types::{ErrorKind, limits};
    match refusal {
        Refusal::SessionUnknown => Error::new(
            ErrorKind::SessionUnknown,
            "the session has expired or was closed; open another one (an earlier try of this write may have been applied)",
        ),
        Refusal::SequenceAcknowledged => Error::invalid(
            "the write's sequence number is below the session's oldest open one: a stray retry",
        ),
        Refusal::SessionFull => Error::overloaded(
            Duration::from_millis(50),
            format!(
                "the session has {} unacknowledged outcomes, the most that are remembered; send a higher oldest_open",
                limits::SESSION_OUTCOMES_MAX
            ),
        ),
        Refusal::TooManySessions => Error::overloaded(
            Duration::from_secs(1),
            format!(
                "the shard has {} sessions, the most that it remembers; retry later",
                limits::SESSIONS_MAX
            ),
        ),
        Refusal::WrongGroup => Error::internal("a command reached a group of the wrong kind"),
        Refusal::LeaseNotAttached(lease) => Error::unavailable(format!(
            "the home of lease {lease} could not be asked in time whether it lives; retry"
        )),
        Refusal::LeaseEnded(lease) => Error::new(
            ErrorKind::NotFound,
            format!("there is no lease {lease}, or it has ended; grant another one"),
        ),
        Refusal::TooManyLeases => Error::overloaded(
            Duration::from_secs(1),
            format!("the shard has {} leases, the most that it keeps; retry later", limits::LEASES_MAX),
        ),
        Refusal::Malformed => Error::invalid("the transaction is empty, too large, or writes a key twice"),
        Refusal::AnswerTooLarge => Error::invalid(format!(
            "the transaction would give back more than {} bytes of values; ask for fewer of them",
            limits::TXN_ANSWER_BYTES_MAX
        )),
        Refusal::ReplacesTooMuch => Error::invalid(format!(
            "the transaction would replace or delete more than {} bytes of keys and values; split it",
            limits::TXN_REPLACED_BYTES_MAX
        )),
    }
}

/// A reply as it goes over the wire. A refusal becomes an error: clients see one form of failure.
#[must_use]
pub fn reply_to_wire(reply: Result<Reply>) -> WireResponse {
    match reply.and_then(try_reply_to_wire) {
        Ok(response) => response,
        Err(error) => WireResponse::Error(error::to_wire(&error)),
    }
}

fn try_reply_to_wire(reply: Reply) -> Result<WireResponse> {
    let header = Some(served_to_wire(reply.served));
    Ok(match reply.response {
        Response::Got(found) => WireResponse::Get(v1::GetResponse { header, kv: found.map(row_to_wire) }),
        Response::GotBatch(found) => WireResponse::BatchGet(v1::BatchGetResponse {
            header,
            entries: found
                .into_iter()
                .map(|found| v1::BatchGetEntry { kv: found.map(row_to_wire) })
                .collect(),
        }),
        Response::Page(page) => read::page_to_wire(header, page),
        Response::ReadPoint { log_index, revision } => WireResponse::ReadPoint(v1::ReadPointResponse {
            header,
            log_index: log_index.get(),
            revision: revision.get(),
        }),
        Response::Snapshot(revision) => {
            WireResponse::Snapshot(v1::SnapshotResponse { header, revision: revision.get() })
        }
        Response::Changes(changes) => read::changes_reply_to_wire(header, changes),
        Response::LeaseInfo(info) => {
            WireResponse::GetLease(v1::GetLeaseResponse { header, lease: info.map(lease::info_to_wire) })
        }
        Response::Leases(leases) => WireResponse::ListLeases(v1::ListLeasesResponse {
            header,
            leases: leases.into_iter().map(lease::info_to_wire).collect(),
        }),
        Response::LeaseKeys(keys) => WireResponse::LeaseKeys(v1::LeaseKeysResponse {
            header,
            keys: keys.into_iter().map(Key::into_bytes).collect(),
        }),
        Response::Told { lives, more } => WireResponse::Tell(v1::TellResponse { header, lives, more }),
        Response::Session(outcome) => session_outcome_to_wire(header, &outcome)?,
        Response::Put(outcome) => WireResponse::Put(put_outcome_to_wire(header, outcome)?),
        Response::Deleted(outcome) => WireResponse::Delete(delete_outcome_to_wire(header, outcome)?),
        Response::RangeDeleted(outcome) => match outcome {
            Outcome::RangeDeleted { revision, deleted, next } => {
                WireResponse::DeleteRange(v1::DeleteRangeResponse {
                    header,
                    deleted,
                    revision: revision.get(),
                    more: next.is_some(),
                    next: next.unwrap_or_default(),
                })
            }
            other => return Err(no_write_outcome(other)),
        },
        Response::Txn(outcome) => match outcome {
            Outcome::Txn { succeeded, revision, results } => WireResponse::Txn(v1::TxnResponse {
                header,
                succeeded,
                revision: revision.get(),
                results: results.into_iter().map(txn_result_to_wire).collect(),
            }),
            other => return Err(no_write_outcome(other)),
        },
        Response::Lease(outcome) => lease_outcome_to_wire(header, outcome)?,
        Response::LeaseKept(outcome) => {
            let ttl_ms = match outcome {
                Outcome::Lease(LeaseOutcome::Alive { ttl_ms }) => ttl_ms,
                Outcome::Lease(LeaseOutcome::Gone) => 0,
                other => return Err(no_write_outcome(other)),
            };
            WireResponse::KeepLeaseAlive(v1::KeepLeaseAliveResponse { header, ttl_ms })
        }
    })
}

fn session_outcome_to_wire(header: Option<v1::ResponseHeader>, outcome: &Outcome) -> Result<WireResponse> {
    match outcome {
        Outcome::SessionOpened(session) => {
            Ok(WireResponse::OpenSession(v1::OpenSessionResponse { header, session: session.get() }))
        }
        Outcome::SessionClosed => Ok(WireResponse::CloseSession(v1::CloseSessionResponse { header })),
        Outcome::Refused(refused) => Err(refusal(refused)),
        other => {
            Err(Error::internal(format!("a session request came to an outcome of another kind: {other:?}")))
        }
    }
}

fn lease_outcome_to_wire(header: Option<v1::ResponseHeader>, outcome: Outcome) -> Result<WireResponse> {
    let Outcome::Lease(outcome) = outcome else { return Err(no_write_outcome(outcome)) };
    Ok(match outcome {
        LeaseOutcome::Granted { ttl_ms } => {
            WireResponse::GrantLease(v1::GrantLeaseResponse { header, granted: true, ttl_ms })
        }
        LeaseOutcome::Exists => {
            WireResponse::GrantLease(v1::GrantLeaseResponse { header, ..Default::default() })
        }
        LeaseOutcome::Revoked => WireResponse::RevokeLease(v1::RevokeLeaseResponse { header, revoked: true }),
        LeaseOutcome::Gone => WireResponse::RevokeLease(v1::RevokeLeaseResponse { header, revoked: false }),
        other => {
            return Err(Error::internal(format!("a lease came to an outcome of another kind: {other:?}")));
        }
    })
}

fn txn_result_to_wire(result: TxnResult) -> v1::TxnResult {
    use v1::txn_result::Kind;
    let kind = match result {
        TxnResult::Got(found) => Kind::Get(v1::TxnGetResult { kv: found.map(record_to_wire) }),
        TxnResult::Put { create_revision, version, previous } => Kind::Put(v1::TxnPutResult {
            create_revision: create_revision.get(),
            version,
            prev_kv: previous.map(record_to_wire),
        }),
        TxnResult::Deleted { existed, previous } => Kind::Delete(v1::TxnDeleteResult {
            deleted: u64::from(existed),
            prev_kv: previous.map(record_to_wire),
        }),
    };
    v1::TxnResult { kind: Some(kind) }
}

fn txn_result_from_wire(wire: v1::TxnResult) -> Result<TxnResult> {
    use v1::txn_result::Kind;
    let kind = wire.kind.ok_or_else(|| Error::internal("the server sent a result of an unknown kind"))?;
    Ok(match kind {
        Kind::Get(got) => TxnResult::Got(got.kv.map(record_from_wire)),
        Kind::Put(put) => TxnResult::Put {
            create_revision: Revision(put.create_revision),
            version: put.version,
            previous: put.prev_kv.map(record_from_wire),
        },
        Kind::Delete(delete) => {
            TxnResult::Deleted { existed: delete.deleted > 0, previous: delete.prev_kv.map(record_from_wire) }
        }
    })
}

fn put_outcome_to_wire(header: Option<v1::ResponseHeader>, outcome: Outcome) -> Result<v1::PutResponse> {
    match outcome {
        Outcome::Put { revision, create_revision, version, previous } => Ok(v1::PutResponse {
            header,
            succeeded: true,
            revision: revision.get(),
            create_revision: create_revision.get(),
            version,
            prev_kv: previous.map(record_to_wire),
        }),
        Outcome::ConditionFailed { current } => {
            Ok(v1::PutResponse { header, prev_kv: current.map(record_to_wire), ..Default::default() })
        }
        other => Err(no_write_outcome(other)),
    }
}

fn delete_outcome_to_wire(
    header: Option<v1::ResponseHeader>,
    outcome: Outcome,
) -> Result<v1::DeleteResponse> {
    match outcome {
        Outcome::Deleted { revision, previous } => Ok(v1::DeleteResponse {
            header,
            succeeded: true,
            deleted: 1,
            revision: revision.get(),
            prev_kv: previous.map(record_to_wire),
        }),
        Outcome::NotFound => Ok(v1::DeleteResponse { header, succeeded: true, ..Default::default() }),
        Outcome::ConditionFailed { current } => {
            Ok(v1::DeleteResponse { header, prev_kv: current.map(record_to_wire), ..Default::default() })
        }
        other => Err(no_write_outcome(other)),
    }
}

fn no_write_outcome(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Refused(refused) => refusal(&refused),
        other => Error::internal(format!("a write came to an outcome of another kind: {other:?}")),
    }
}

/// A reply as it came over the wire.
///
/// # Errors
/// The error that it is, or an internal one if it makes no sense.
pub fn reply_from_wire(wire: WireResponse) -> Result<Reply> {
    let (header, response) = match wire {
        WireResponse::Error(failure) => return Err(error::from_wire(failure)),
        WireResponse::Get(got) => (got.header, Response::Got(got.kv.map(row_from_wire).transpose()?)),
        WireResponse::BatchGet(batch) => {
            let found = batch.entries.into_iter().map(|entry| entry.kv.map(row_from_wire).transpose());
            (batch.header, Response::GotBatch(found.collect::<Result<_>>()?))
        }
        WireResponse::Scan(mut page) => (page.header.take(), read::page_from_wire(page)?),
        WireResponse::ReadPoint(mut point) => (point.header.take(), read::read_point_reply(&point)),
        WireResponse::Snapshot(taken) => (taken.header, Response::Snapshot(Revision(taken.revision))),
        WireResponse::Changes(mut changes) => {
            (changes.header.take(), read::changes_reply_from_wire(changes)?)
        }
        WireResponse::GetLease(got) => {
            (got.header, Response::LeaseInfo(got.lease.map(lease::info_from_wire)))
        }
        WireResponse::ListLeases(list) => {
            (list.header, Response::Leases(list.leases.into_iter().map(lease::info_from_wire).collect()))
        }
        WireResponse::LeaseKeys(keys) => {
            (keys.header, Response::LeaseKeys(read::keys_from_server(keys.keys)?))
        }
        WireResponse::Tell(told) => (told.header, Response::Told { lives: told.lives, more: told.more }),
        WireResponse::OpenSession(opened) => {
            (opened.header, Response::Session(Outcome::SessionOpened(SessionId(opened.session))))
        }
        WireResponse::CloseSession(closed) => (closed.header, Response::Session(Outcome::SessionClosed)),
        WireResponse::Put(mut put) => (put.header.take(), Response::Put(put_outcome_from_wire(put))),
        WireResponse::DeleteRange(done) => {
            let next = done.more.then_some(done.next);
            let (revision, deleted) = (Revision(done.revision), done.deleted);
            (done.header, Response::RangeDeleted(Outcome::RangeDeleted { revision, deleted, next }))
        }
        WireResponse::Txn(done) => {
            let results = done.results.into_iter().map(txn_result_from_wire).collect::<Result<_>>()?;
            let revision = Revision(done.revision);
            (done.header, Response::Txn(Outcome::Txn { succeeded: done.succeeded, revision, results }))
        }
        WireResponse::GrantLease(done) => {
            let granted = LeaseOutcome::Granted { ttl_ms: done.ttl_ms };
            let outcome = if done.granted { granted } else { LeaseOutcome::Exists };
            (done.header, Response::Lease(Outcome::Lease(outcome)))
        }
        WireResponse::RevokeLease(done) => {
            let outcome = if done.revoked { LeaseOutcome::Revoked } else { LeaseOutcome::Gone };
            (done.header, Response::Lease(Outcome::Lease(outcome)))
        }
        WireResponse::KeepLeaseAlive(done) => {
            let alive = LeaseOutcome::Alive { ttl_ms: done.ttl_ms };
            let outcome = if done.ttl_ms > 0 { alive } else { LeaseOutcome::Gone };
            (done.header, Response::LeaseKept(Outcome::Lease(outcome)))
        }
        WireResponse::Delete(mut delete) => {
            (delete.header.take(), Response::Deleted(delete_outcome_from_wire(delete)))
        }
    };
    Ok(Reply { response, served: header.map(served_from_wire).unwrap_or_default() })
}

fn put_outcome_from_wire(put: v1::PutResponse) -> Outcome {
    let previous = put.prev_kv.map(record_from_wire);
    if !put.succeeded {
        return Outcome::ConditionFailed { current: previous };
    }
    Outcome::Put {
        revision: Revision(put.revision),
        create_revision: Revision(put.create_revision),
        version: put.version,
        previous,
    }
}

fn delete_outcome_from_wire(delete: v1::DeleteResponse) -> Outcome {
    let previous = delete.prev_kv.map(record_from_wire);
    match (delete.succeeded, delete.deleted) {
        (false, _) => Outcome::ConditionFailed { current: previous },
        (true, 0) => Outcome::NotFound,
        (true, _) => Outcome::Deleted { revision: Revision(delete.revision), previous },
    }
}

/// A row as it goes over the wire.
#[must_use]
pub fn row_to_wire((key, record): (Key, Record)) -> v1::KeyValue {
    v1::KeyValue { key: key.into_bytes(), ..record_to_wire(record) }
}

/// A row as a server has sent it.
///
/// # Errors
/// Internal: it makes no sense.
pub fn row_from_wire(mut wire: v1::KeyValue) -> Result<(Key, Record)> {
    let key = key_from_server(std::mem::take(&mut wire.key))?;
    Ok((key, record_from_wire(wire)))
}

pub(super) fn key_from_server(wire: Bytes) -> Result<Key> {
    Key::new(wire).map_err(|error| Error::internal(format!("the server sent a bad key: {error}")))
}

pub(super) fn record_to_wire(record: Record) -> v1::KeyValue {
    v1::KeyValue {
        key: Bytes::new(),
        value: record.value,
        create_revision: record.create_revision.get(),
        revision: record.revision.get(),
        version: record.version,
        lease: record.lease.map_or(0, LeaseId::get),
        expires_at_age_ms: record.expires_at_age_ms.unwrap_or(0),
    }
}

pub(super) fn record_from_wire(wire: v1::KeyValue) -> Record {
    Record {
        value: wire.value,
        create_revision: Revision(wire.create_revision),
        revision: Revision(wire.revision),
        version: wire.version,
        lease: (wire.lease != 0).then_some(LeaseId(wire.lease)),
        expires_at_age_ms: (wire.expires_at_age_ms != 0).then_some(wire.expires_at_age_ms),
    }
}

fn served_to_wire(served: Served) -> v1::ResponseHeader {
    v1::ResponseHeader {
        shard: served.shard.get(),
        leader_node: served.leader.get(),
        leader_address: served.leader_address,
        ring_epoch: served.ring_epoch.get(),
        shard_age_ms: served.shard_age_ms,
        revision: served.revision.get(),
    }
}

fn served_from_wire(wire: v1::ResponseHeader) -> Served {
    Served {
        shard: ShardId(wire.shard),
        leader: NodeId(wire.leader_node),
        leader_address: wire.leader_address,
        ring_epoch: RingEpoch(wire.ring_epoch),
        shard_age_ms: wire.shard_age_ms,
        revision: Revision(wire.revision),
    }
}
