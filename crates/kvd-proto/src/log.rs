//! What stands in a group's log, between wire and domain. Persisted: keep stable.
//!
//! A log entry's payload is one tag byte and a body: a blank entry has none, an ordinary one an encoded
//! [`p::Proposal`], a membership entry an encoded [`p::Membership`]. It is encoded once, by the leader, and goes to
//! the log and to every follower as those bytes.

use bytes::{BufMut as _, Bytes, BytesMut};
use kvd_types::{
    ClusterId, Command, Condition, Error, GroupId, Incarnation, Key, LeaseId, NodeId, Proposal, ReplicaId,
    Result, Revision, SequenceNumber, SessionId, SessionPosition, ShardId, Write, WriteOp,
    cluster::{Addresses, MetaCommand, MetaOutcome, Node, NodeProfile, NodeState, Settings},
};
use prost::Message as _;

use crate::{
    operation::{
        lifetime_from_wire, lifetime_to_wire, session_from_wire, session_to_wire, txn_from_wire, txn_to_wire,
    },
    peer::v1 as p,
    v1,
};

mod lease;
mod meta;

pub use meta::{
    meta_command_from_wire, meta_command_to_wire, meta_outcome_from_wire, meta_outcome_to_wire,
    node_from_wire, node_to_wire,
};

/// The tag byte of a blank entry.
pub const TAG_BLANK: u8 = 0;
/// The tag byte of an ordinary entry.
pub const TAG_PROPOSAL: u8 = 1;
/// The tag byte of a membership entry.
pub const TAG_MEMBERSHIP: u8 = 2;

/// A proposal as the payload of a log entry, tag byte first.
#[must_use]
pub fn encode_proposal(proposal: Proposal) -> Bytes {
    let wire = p::Proposal {
        clock: proposal.clock.get(),
        age_ms: proposal.age_ms,
        ceiling: proposal.ceiling.get(),
        compacted: proposal.compacted.get(),
        commands: proposal.commands.into_iter().map(command_to_wire).collect(),
    };
    let mut payload = BytesMut::with_capacity(1 + wire.encoded_len());
    payload.put_u8(TAG_PROPOSAL);
    // What `encode` does but for its look at the room, which a buffer that grows has.
    wire.encode_raw(&mut payload);
    payload.freeze()
}

/// The proposal in a log entry's payload.
///
/// # Errors
/// Corruption, if it isn't one: the log's checksums hold, so it was written so.
pub fn decode_proposal(payload: &Bytes) -> Result<Proposal> {
    let corrupt = |what: &str| Error::corruption(format!("a log entry's proposal {what}"));
    if payload.first() != Some(&TAG_PROPOSAL) {
        return Err(corrupt("has another entry's tag"));
    }
    let wire = p::Proposal::decode(payload.slice(1..))
        .map_err(|error| corrupt(&format!("does not decode: {error}")))?;
    let commands = wire.commands.into_iter().map(command_from_wire).collect::<Result<_>>();
    Ok(Proposal {
        clock: Revision(wire.clock),
        age_ms: wire.age_ms,
        ceiling: Revision(wire.ceiling),
        compacted: Revision(wire.compacted),
        commands: commands.map_err(|error| corrupt(&format!("holds a bad command: {error}")))?,
    })
}

fn command_to_wire(command: Command) -> p::Command {
    use p::command::Kind;
    let kind = match command {
        Command::Write(write) => write_to_wire(write),
        Command::OpenSession => Kind::OpenSession(p::OpenSession {}),
        Command::CloseSession(session) => Kind::CloseSession(p::CloseSession { session: session.get() }),
        Command::Lease(command) => Kind::Lease(lease::lease_to_wire(&command)),
        Command::Meta(meta) => Kind::Meta(meta_command_to_wire(meta)),
    };
    p::Command { kind: Some(kind) }
}

fn write_to_wire(write: Write) -> p::command::Kind {
    use p::command::Kind;
    let position = write.session.map(session_to_wire);
    let session = write.session.map(|position| p::SessionPosition {
        session: position.session.get(),
        sequence: position.sequence.get(),
        oldest_open: position.oldest_open.get(),
    });
    match write.op {
        WriteOp::Put { key, value, lifetime, condition, want_previous } => Kind::Put(p::Put {
            key: key.into_bytes(),
            value,
            lifetime: lifetime_to_wire(lifetime),
            condition: condition_to_wire(condition),
            want_previous,
            session,
        }),
        WriteOp::Delete { key, condition, want_previous } => Kind::Delete(p::Delete {
            key: key.into_bytes(),
            condition: condition_to_wire(condition),
            want_previous,
            session,
        }),
        WriteOp::DeleteRange { shard, start, end, limit } => Kind::DeleteRange(v1::DeleteRangeRequest {
            shard: shard.get(),
            start,
            end,
            limit,
            session: position,
            ..v1::DeleteRangeRequest::default()
        }),
        WriteOp::Txn(txn) => Kind::Txn(v1::TxnRequest { session: position, ..txn_to_wire(txn) }),
        WriteOp::GrantLease { lease, ttl_ms } => {
            Kind::GrantLease(v1::GrantLeaseRequest { lease: lease.get(), ttl_ms, session: position })
        }
        WriteOp::RevokeLease(lease) => {
            Kind::RevokeLease(v1::RevokeLeaseRequest { lease: lease.get(), session: position })
        }
    }
}

fn command_from_wire(wire: p::Command) -> Result<Command> {
    use p::command::Kind;
    let session = |position: Option<p::SessionPosition>| {
        position.map(|position| SessionPosition {
            session: SessionId(position.session),
            sequence: SequenceNumber(position.sequence),
            oldest_open: SequenceNumber(position.oldest_open),
        })
    };
    let write = |position: Option<v1::SessionPosition>, op| {
        Command::Write(Write { session: position.map(session_from_wire), op })
    };
    Ok(match wire.kind.ok_or_else(|| Error::invalid("a command of an unknown kind"))? {
        Kind::Put(put) => Command::Write(Write {
            session: session(put.session),
            op: WriteOp::Put {
                key: Key::new(put.key)?,
                value: put.value,
                lifetime: lifetime_from_wire(put.lifetime)?,
                condition: condition_from_wire(put.condition)?,
                want_previous: put.want_previous,
            },
        }),
        Kind::Delete(delete) => Command::Write(Write {
            session: session(delete.session),
            op: WriteOp::Delete {
                key: Key::new(delete.key)?,
                condition: condition_from_wire(delete.condition)?,
                want_previous: delete.want_previous,
            },
        }),
        Kind::DeleteRange(v1::DeleteRangeRequest { shard, start, end, limit, session, .. }) => {
            write(session, WriteOp::DeleteRange { shard: ShardId(shard), start, end, limit })
        }
        Kind::Txn(mut txn) => write(txn.session.take(), WriteOp::Txn(txn_from_wire(txn)?)),
        Kind::GrantLease(v1::GrantLeaseRequest { lease, ttl_ms, session }) => {
            write(session, WriteOp::GrantLease { lease: LeaseId(lease), ttl_ms })
        }
        Kind::RevokeLease(v1::RevokeLeaseRequest { lease, session }) => {
            write(session, WriteOp::RevokeLease(LeaseId(lease)))
        }
        Kind::OpenSession(p::OpenSession {}) => Command::OpenSession,
        Kind::CloseSession(close) => Command::CloseSession(SessionId(close.session)),
        Kind::Lease(command) => Command::Lease(lease::lease_from_wire(command)?),
        Kind::Meta(meta) => Command::Meta(meta_command_from_wire(meta)?),
    })
}

fn condition_to_wire(condition: Condition) -> Option<p::Condition> {
    use p::condition::Kind;
    let kind = match condition {
        Condition::Always => return None,
        Condition::Absent => Kind::Absent(true),
        Condition::RevisionIs(revision) => Kind::RevisionIs(revision.get()),
    };
    Some(p::Condition { kind: Some(kind) })
}

fn condition_from_wire(wire: Option<p::Condition>) -> Result<Condition> {
    use p::condition::Kind;
    match wire.map(|condition| condition.kind) {
        None => Ok(Condition::Always),
        Some(Some(Kind::Absent(_))) => Ok(Condition::Absent),
        Some(Some(Kind::RevisionIs(revision))) => Ok(Condition::RevisionIs(Revision(revision))),
        Some(None) => Err(Error::invalid("a condition of an unknown kind")),
    }
}

/// 128 bits as they go over the wire.
#[must_use]
pub const fn nonce_to_wire(nonce: u128) -> p::Nonce {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    let low = nonce as u64;
    let high = (nonce >> 64) as u64;
    p::Nonce { high, low }
}

/// 128 bits as they came over the wire; absent ones are zero.
#[must_use]
pub fn nonce_from_wire(wire: Option<p::Nonce>) -> u128 {
    wire.map_or(0, |nonce| u128::from(nonce.high) << 64 | u128::from(nonce.low))
}

#[cfg(test)]
mod tests;
