//! Replies, between wire and domain.

use bytes::Bytes;
use kvd_types::{
    Error, Key, LeaseId, NodeId, Outcome, Record, Result, Revision, RingEpoch, SessionId, ShardId,
    operation::{Reply, Response, Served},
    outcome::Refusal,
};

use super::WireResponse;
use crate::error;
use crate::v1;

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
        Response::Page { rows, more } => WireResponse::Scan(v1::ScanResponse {
            header,
            kvs: rows.into_iter().map(row_to_wire).collect(),
            more,
        }),
        Response::Session(outcome) => session_outcome_to_wire(header, &outcome)?,
        Response::Put(outcome) => WireResponse::Put(put_outcome_to_wire(header, outcome)?),
        Response::Deleted(outcome) => WireResponse::Delete(delete_outcome_to_wire(header, outcome)?),
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
        WireResponse::Scan(page) => {
            let rows = page.kvs.into_iter().map(row_from_wire).collect::<Result<_>>()?;
            (page.header, Response::Page { rows, more: page.more })
        }
        WireResponse::OpenSession(opened) => {
            (opened.header, Response::Session(Outcome::SessionOpened(SessionId(opened.session))))
        }
        WireResponse::CloseSession(closed) => (closed.header, Response::Session(Outcome::SessionClosed)),
        WireResponse::Put(mut put) => (put.header.take(), Response::Put(put_outcome_from_wire(put))),
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

fn row_to_wire((key, record): (Key, Record)) -> v1::KeyValue {
    v1::KeyValue { key: key.into_bytes(), ..record_to_wire(record) }
}

fn row_from_wire(mut wire: v1::KeyValue) -> Result<(Key, Record)> {
    let key = Key::new(std::mem::take(&mut wire.key))
        .map_err(|error| Error::internal(format!("the server sent a row with a bad key: {error}")))?;
    Ok((key, record_from_wire(wire)))
}

fn record_to_wire(record: Record) -> v1::KeyValue {
    v1::KeyValue {
        key: Bytes::new(),
        value: record.value,
        create_revision: record.create_revision.get(),
        revision: record.revision.get(),
        version: record.version,
        lease: record.lease.map_or(0, LeaseId::get),
        expires_at_unix_ms: record.expires_at_unix_ms.unwrap_or(0),
    }
}

fn record_from_wire(wire: v1::KeyValue) -> Record {
    Record {
        value: wire.value,
        create_revision: Revision(wire.create_revision),
        revision: Revision(wire.revision),
        version: wire.version,
        lease: (wire.lease != 0).then_some(LeaseId(wire.lease)),
        expires_at_unix_ms: (wire.expires_at_unix_ms != 0).then_some(wire.expires_at_unix_ms),
    }
}

fn served_to_wire(served: Served) -> v1::ResponseHeader {
    v1::ResponseHeader {
        shard: served.shard.get(),
        leader_node: served.leader.get(),
        leader_address: served.leader_address,
        ring_epoch: served.ring_epoch.get(),
    }
}

fn served_from_wire(wire: v1::ResponseHeader) -> Served {
    Served {
        shard: ShardId(wire.shard),
        leader: NodeId(wire.leader_node),
        leader_address: wire.leader_address,
        ring_epoch: RingEpoch(wire.ring_epoch),
    }
}
