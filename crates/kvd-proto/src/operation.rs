//! What a client asks and gets, between wire and domain.
//!
//! Each direction of each conversion is used by one end or the other, and by a node that forwards: request to wire
//! (client, forwarder), request from wire (server), reply to wire (server), reply from wire (client, forwarder).

use kvd_types::{
    Condition, Error, Key, LeaseId, Result, Revision, SequenceNumber, SessionId, SessionPosition, ShardId,
    Write, WriteOp,
    operation::{Ack, Request, WriteOptions},
};

use crate::v1::{self, operation::Request as WireRequest, operation_result::Response as WireResponse};

mod data;
mod lease;
mod read;
mod reply;

pub(crate) use data::{lifetime_from_wire, lifetime_to_wire, txn_from_wire, txn_to_wire};
pub use read::{
    event_from_wire, event_to_wire, read_from_wire, read_to_wire, scan_options_from_wire,
    scan_options_to_wire,
};
pub use reply::{refusal, reply_from_wire, reply_to_wire, row_from_wire, row_to_wire};

/// A request as it goes over the wire.
#[must_use]
pub fn request_to_wire(request: Request) -> WireRequest {
    match request {
        Request::Get(key, read) => {
            WireRequest::Get(v1::GetRequest { key: key.into_bytes(), read: read_to_wire(read) })
        }
        Request::BatchGet(keys, read) => WireRequest::BatchGet(v1::BatchGetRequest {
            keys: keys.into_iter().map(Key::into_bytes).collect(),
            read: read_to_wire(read),
        }),
        Request::Write(write, options) => write_to_wire(write, options),
        Request::Scan(page) => WireRequest::Scan(read::scan_to_wire(page)),
        Request::Snapshot(shards) => WireRequest::Snapshot(v1::SnapshotRequest {
            shards: shards.into_iter().map(ShardId::get).collect(),
        }),
        Request::ReadPoint(point) => WireRequest::ReadPoint(read::read_point_to_wire(point)),
        Request::Changes(page) => WireRequest::Changes(read::changes_to_wire(page)),
        Request::GetLease(lease) => WireRequest::GetLease(v1::GetLeaseRequest { lease: lease.get() }),
        Request::ListLeases { shard, from, limit } => {
            WireRequest::ListLeases(lease::list_to_wire(shard, from, limit))
        }
        Request::LeaseKeys { shard, lease, after, limit } => {
            WireRequest::LeaseKeys(lease::keys_to_wire(shard, lease, after, limit))
        }
        Request::Tell(shard, lease, what) => WireRequest::Tell(lease::tell_to_wire(shard, lease, what)),
        Request::KeepLeaseAlive(lease) => {
            WireRequest::KeepLeaseAlive(v1::KeepLeaseAliveRequest { lease: lease.get() })
        }
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
        WireRequest::Get(get) => Request::Get(Key::new(get.key)?, read_from_wire(get.read)),
        WireRequest::BatchGet(batch) => Request::BatchGet(
            batch.keys.into_iter().map(Key::new).collect::<Result<_>>()?,
            read_from_wire(batch.read),
        ),
        WireRequest::Put(put) => {
            let options = options_from_wire(put.ack(), put.after_revision);
            let op = WriteOp::Put {
                key: Key::new(put.key)?,
                value: put.value,
                lifetime: lifetime_from_wire(put.lifetime)?,
                condition: condition_from_wire(put.condition)?,
                want_previous: put.prev_kv,
            };
            write(op, put.session, options)
        }
        WireRequest::Delete(delete) => {
            let options = options_from_wire(delete.ack(), delete.after_revision);
            let op = WriteOp::Delete {
                key: Key::new(delete.key)?,
                condition: condition_from_wire(delete.condition)?,
                want_previous: delete.prev_kv,
            };
            write(op, delete.session, options)
        }
        WireRequest::DeleteRange(delete) => {
            let (shard, start, end) = (ShardId(delete.shard), delete.start, delete.end);
            let op = WriteOp::DeleteRange { shard, start, end, limit: delete.limit };
            write(op, delete.session, options_from_wire(v1::Ack::Majority, delete.after_revision))
        }
        WireRequest::GrantLease(grant) => {
            let op = WriteOp::GrantLease { lease: LeaseId(grant.lease), ttl_ms: grant.ttl_ms };
            write(op, grant.session, WriteOptions::default())
        }
        WireRequest::RevokeLease(revoke) => {
            write(WriteOp::RevokeLease(LeaseId(revoke.lease)), revoke.session, WriteOptions::default())
        }
        WireRequest::Txn(mut txn) => {
            let session = txn.session.take();
            let options = options_from_wire(txn.ack(), txn.after_revision);
            write(WriteOp::Txn(txn_from_wire(txn)?), session, options)
        }
        WireRequest::KeepLeaseAlive(keep) => Request::KeepLeaseAlive(LeaseId(keep.lease)),
        WireRequest::GetLease(get) => Request::GetLease(LeaseId(get.lease)),
        WireRequest::ListLeases(list) => lease::list_from_wire(&list),
        WireRequest::LeaseKeys(keys) => lease::keys_from_wire(keys)?,
        WireRequest::Tell(tell) => lease::tell_from_wire(&tell)?,
        WireRequest::Scan(scan) => Request::Scan(read::scan_from_wire(scan)),
        WireRequest::Snapshot(snapshot) => {
            Request::Snapshot(snapshot.shards.into_iter().map(ShardId).collect())
        }
        WireRequest::ReadPoint(point) => Request::ReadPoint(read::read_point_from_wire(point)),
        WireRequest::Changes(changes) => Request::Changes(read::changes_from_wire(changes)),
        WireRequest::OpenSession(open) => Request::OpenSession(ShardId(open.shard)),
        WireRequest::CloseSession(close) => {
            Request::CloseSession(ShardId(close.shard), SessionId(close.session))
        }
    })
}

fn write(op: WriteOp, session: Option<v1::SessionPosition>, options: WriteOptions) -> Request {
    Request::Write(Write { session: session.map(session_from_wire), op }, options)
}

fn write_to_wire(write: Write, options: WriteOptions) -> WireRequest {
    let session = write.session.map(session_to_wire);
    let (ack, after_revision) = (ack_to_wire(options.ack), options.after.get());
    match write.op {
        WriteOp::Put { key, value, lifetime, condition, want_previous } => WireRequest::Put(v1::PutRequest {
            key: key.into_bytes(),
            value,
            lifetime: lifetime_to_wire(lifetime),
            condition: condition_to_wire(condition),
            prev_kv: want_previous,
            session,
            ack,
            after_revision,
        }),
        WriteOp::Delete { key, condition, want_previous } => WireRequest::Delete(v1::DeleteRequest {
            key: key.into_bytes(),
            condition: condition_to_wire(condition),
            prev_kv: want_previous,
            session,
            ack,
            after_revision,
        }),
        WriteOp::DeleteRange { shard, start, end, limit } => {
            let shard = shard.get();
            WireRequest::DeleteRange(v1::DeleteRangeRequest {
                shard,
                start,
                end,
                limit,
                session,
                after_revision,
            })
        }
        WriteOp::Txn(txn) => {
            WireRequest::Txn(v1::TxnRequest { session, ack, after_revision, ..txn_to_wire(txn) })
        }
        WriteOp::GrantLease { lease, ttl_ms } => {
            WireRequest::GrantLease(v1::GrantLeaseRequest { lease: lease.get(), ttl_ms, session })
        }
        WriteOp::RevokeLease(lease) => {
            WireRequest::RevokeLease(v1::RevokeLeaseRequest { lease: lease.get(), session })
        }
    }
}

const fn ack_to_wire(ack: Ack) -> i32 {
    match ack {
        Ack::Majority => v1::Ack::Majority as i32,
        Ack::All => v1::Ack::All as i32,
    }
}

const fn options_from_wire(ack: v1::Ack, after_revision: u64) -> WriteOptions {
    let ack = match ack {
        v1::Ack::Majority => Ack::Majority,
        v1::Ack::All => Ack::All,
    };
    WriteOptions { ack, after: Revision(after_revision) }
}

pub(crate) const fn session_to_wire(position: SessionPosition) -> v1::SessionPosition {
    v1::SessionPosition {
        session: position.session.get(),
        sequence: position.sequence.get(),
        oldest_open: position.oldest_open.get(),
    }
}

pub(crate) const fn session_from_wire(wire: v1::SessionPosition) -> SessionPosition {
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
pub(crate) mod tests;
