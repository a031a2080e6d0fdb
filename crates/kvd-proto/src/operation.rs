//! What a client asks and gets, between wire and domain.
//!
//! Each direction of each conversion is used by one end or the other, and by a node that forwards: request to wire
//! (client, forwarder), request from wire (server), reply to wire (server), reply from wire (client, forwarder).

use kvd_types::{
    Condition, Error, Key, Result, Revision, SequenceNumber, SessionId, SessionPosition, ShardId, Write,
    WriteOp,
    operation::{Request, ScanPage},
};

use crate::v1::{self, operation::Request as WireRequest, operation_result::Response as WireResponse};

mod reply;

pub use reply::{refusal, reply_from_wire, reply_to_wire};

/// A request as it goes over the wire.
#[must_use]
pub fn request_to_wire(request: Request) -> WireRequest {
    match request {
        Request::Get(key) => WireRequest::Get(v1::GetRequest { key: key.into_bytes() }),
        Request::BatchGet(keys) => WireRequest::BatchGet(v1::BatchGetRequest {
            keys: keys.into_iter().map(Key::into_bytes).collect(),
        }),
        Request::Write(write) => write_to_wire(write),
        Request::Scan(page) => WireRequest::Scan(v1::ScanRequest {
            shard: page.shard.get(),
            start: page.start,
            end: page.end,
            limit: u32::try_from(page.limit).unwrap_or(u32::MAX),
        }),
        Request::OpenSession(shard) => {
            WireRequest::OpenSession(v1::OpenSessionRequest { shard: shard.get() })
        }
        Request::CloseSession(shard, session) => {
            WireRequest::CloseSession(v1::CloseSessionRequest { shard: shard.get(), session: session.get() })
        }
    }
}

/// A request as it came over the wire.
///
/// # Errors
/// Invalid argument: a key or batch of the wrong size, or a condition without meaning.
pub fn request_from_wire(wire: WireRequest) -> Result<Request> {
    Ok(match wire {
        WireRequest::Get(get) => Request::Get(Key::new(get.key)?),
        WireRequest::BatchGet(batch) => {
            Request::BatchGet(batch.keys.into_iter().map(Key::new).collect::<Result<_>>()?)
        }
        WireRequest::Put(put) => Request::Write(Write {
            session: put.session.map(session_from_wire),
            op: WriteOp::Put {
                key: Key::new(put.key)?,
                value: put.value,
                condition: condition_from_wire(put.condition)?,
                want_previous: put.prev_kv,
            },
        }),
        WireRequest::Delete(delete) => Request::Write(Write {
            session: delete.session.map(session_from_wire),
            op: WriteOp::Delete {
                key: Key::new(delete.key)?,
                condition: condition_from_wire(delete.condition)?,
                want_previous: delete.prev_kv,
            },
        }),
        WireRequest::Scan(scan) => Request::Scan(ScanPage {
            shard: ShardId(scan.shard),
            start: scan.start,
            end: scan.end,
            limit: scan.limit as usize,
        }),
        WireRequest::OpenSession(open) => Request::OpenSession(ShardId(open.shard)),
        WireRequest::CloseSession(close) => {
            Request::CloseSession(ShardId(close.shard), SessionId(close.session))
        }
    })
}

fn write_to_wire(write: Write) -> WireRequest {
    let session = write.session.map(session_to_wire);
    match write.op {
        WriteOp::Put { key, value, condition, want_previous } => WireRequest::Put(v1::PutRequest {
            key: key.into_bytes(),
            value,
            condition: condition_to_wire(condition),
            prev_kv: want_previous,
            session,
        }),
        WriteOp::Delete { key, condition, want_previous } => WireRequest::Delete(v1::DeleteRequest {
            key: key.into_bytes(),
            condition: condition_to_wire(condition),
            prev_kv: want_previous,
            session,
        }),
    }
}

const fn session_to_wire(position: SessionPosition) -> v1::SessionPosition {
    v1::SessionPosition {
        session: position.session.get(),
        sequence: position.sequence.get(),
        oldest_open: position.oldest_open.get(),
    }
}

const fn session_from_wire(wire: v1::SessionPosition) -> SessionPosition {
    SessionPosition {
        session: SessionId(wire.session),
        sequence: SequenceNumber(wire.sequence),
        oldest_open: SequenceNumber(wire.oldest_open),
    }
}

fn condition_to_wire(condition: Condition) -> Option<v1::Condition> {
    use v1::condition::Kind;
    let kind = match condition {
        Condition::Always => return None,
        Condition::Absent => Kind::Absent(true),
        Condition::RevisionIs(revision) => Kind::Revision(revision.get()),
    };
    Some(v1::Condition { kind: Some(kind) })
}

fn condition_from_wire(wire: Option<v1::Condition>) -> Result<Condition> {
    use v1::condition::Kind;
    match wire.map(|condition| condition.kind) {
        None => Ok(Condition::Always),
        Some(Some(Kind::Absent(true))) => Ok(Condition::Absent),
        Some(Some(Kind::Revision(revision))) => Ok(Condition::RevisionIs(Revision(revision))),
        Some(Some(Kind::Absent(false)) | None) => Err(Error::invalid(
            "the condition says nothing: set absent = true or a revision, or leave it out",
        )),
    }
}

#[cfg(test)]
mod tests;
