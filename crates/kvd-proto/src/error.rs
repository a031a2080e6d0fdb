//! The one mapping between kinds of failure, wire errors and gRPC status codes, for both ends.
//!
//! A [`v1::Error`] is whole: whatever the server knows reaches the client. In a pipeline it stands in the result; in a
//! unary call it travels in binary metadata beside the status, whose code is what other languages' retry rules read.

use std::time::Duration;

use bytes::Bytes;
use kvd_types::{Error, ErrorKind, LeaderHint, NodeId, Revision, RingEpoch, ShardId};
use prost::Message as _;
use tonic::{Code, Status, metadata::MetadataValue};

use crate::v1;

/// The metadata entry of a status that holds the [`v1::Error`].
pub const ERROR_METADATA: &str = "kvd-error-bin";

/// The gRPC status code of a kind of failure.
#[must_use]
pub const fn code(kind: &ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotLeader(_) | ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::WrongShard(_) | ErrorKind::SessionUnknown | ErrorKind::FailedPrecondition => {
            Code::FailedPrecondition
        }
        ErrorKind::Overloaded { .. } => Code::ResourceExhausted,
        ErrorKind::DeadlineExceeded | ErrorKind::OutcomeUnknown => Code::DeadlineExceeded,
        ErrorKind::Compacted { .. } => Code::OutOfRange,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Corruption => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}

/// An error as it goes over the wire.
#[must_use]
pub fn to_wire(error: &Error) -> v1::Error {
    use v1::error::Kind;
    let mut wire = v1::Error { message: error.message.clone(), ..v1::Error::default() };
    let kind = match &error.kind {
        ErrorKind::InvalidArgument => Kind::InvalidArgument,
        ErrorKind::NotLeader(hint) => {
            wire.leader = hint.as_ref().map(|hint| v1::LeaderHint {
                shard: hint.shard.get(),
                node: hint.node.get(),
                address: hint.address.clone(),
            });
            Kind::NotLeader
        }
        ErrorKind::Unavailable => Kind::Unavailable,
        ErrorKind::WrongShard(epoch) => {
            wire.ring_epoch = epoch.get();
            Kind::WrongShard
        }
        ErrorKind::Overloaded { retry_after } => {
            wire.retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            Kind::Overloaded
        }
        ErrorKind::DeadlineExceeded => Kind::DeadlineExceeded,
        ErrorKind::OutcomeUnknown => Kind::OutcomeUnknown,
        ErrorKind::SessionUnknown => Kind::SessionUnknown,
        ErrorKind::Compacted { oldest } => {
            wire.oldest_revision = oldest.get();
            Kind::Compacted
        }
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::FailedPrecondition => Kind::FailedPrecondition,
        ErrorKind::Unauthenticated => Kind::Unauthenticated,
        ErrorKind::PermissionDenied => Kind::PermissionDenied,
        ErrorKind::Corruption => Kind::Corruption,
        ErrorKind::Internal => Kind::Internal,
    };
    wire.set_kind(kind);
    wire
}

/// An error as it came over the wire. A kind that this version doesn't know is an internal one: it may have been applied.
#[must_use]
pub fn from_wire(wire: v1::Error) -> Error {
    use v1::error::Kind;
    let kind = match wire.kind() {
        Kind::InvalidArgument => ErrorKind::InvalidArgument,
        Kind::NotLeader => ErrorKind::NotLeader(wire.leader.map(|hint| LeaderHint {
            shard: ShardId(hint.shard),
            node: NodeId(hint.node),
            address: hint.address,
        })),
        Kind::Unavailable => ErrorKind::Unavailable,
        Kind::WrongShard => ErrorKind::WrongShard(RingEpoch(wire.ring_epoch)),
        Kind::Overloaded => ErrorKind::Overloaded { retry_after: Duration::from_millis(wire.retry_after_ms) },
        Kind::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Kind::OutcomeUnknown => ErrorKind::OutcomeUnknown,
        Kind::SessionUnknown => ErrorKind::SessionUnknown,
        Kind::Compacted => ErrorKind::Compacted { oldest: Revision(wire.oldest_revision) },
        Kind::NotFound => ErrorKind::NotFound,
        Kind::FailedPrecondition => ErrorKind::FailedPrecondition,
        Kind::Unauthenticated => ErrorKind::Unauthenticated,
        Kind::PermissionDenied => ErrorKind::PermissionDenied,
        Kind::Corruption => ErrorKind::Corruption,
        Kind::Unspecified | Kind::Internal => ErrorKind::Internal,
    };
    Error::new(kind, wire.message)
}

/// An error as the status of a unary call.
#[must_use]
pub fn to_status(error: &Error) -> Status {
    let mut status = Status::new(code(&error.kind), error.message.clone());
    let detail = Bytes::from(to_wire(error).encode_to_vec());
    status.metadata_mut().insert_bin(ERROR_METADATA, MetadataValue::from_bytes(&detail));
    status
}

/// The error of a unary call's status. Without kvd's detail the status comes from the transport or from something in
/// between: it is then judged by its code, and a write's outcome is unknown unless the code says otherwise.
#[must_use]
pub fn from_status(status: &Status) -> Error {
    let detail = status
        .metadata()
        .get_bin(ERROR_METADATA)
        .and_then(|value| value.to_bytes().ok())
        .and_then(|bytes| v1::Error::decode(bytes).ok());
    if let Some(wire) = detail {
        return from_wire(wire);
    }
    let kind = match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => ErrorKind::InvalidArgument,
        Code::ResourceExhausted => ErrorKind::Overloaded { retry_after: Duration::from_millis(100) },
        Code::NotFound => ErrorKind::NotFound,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::DataLoss => ErrorKind::Corruption,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => ErrorKind::OutcomeUnknown,
    };
    Error::new(kind, status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<ErrorKind> {
        let hint = LeaderHint { shard: ShardId(3), node: NodeId(2), address: "host:7400".into() };
        vec![
            ErrorKind::InvalidArgument,
            ErrorKind::NotLeader(None),
            ErrorKind::NotLeader(Some(hint)),
            ErrorKind::Unavailable,
            ErrorKind::WrongShard(RingEpoch(9)),
            ErrorKind::Overloaded { retry_after: Duration::from_millis(250) },
            ErrorKind::DeadlineExceeded,
            ErrorKind::OutcomeUnknown,
            ErrorKind::SessionUnknown,
            ErrorKind::Compacted { oldest: Revision(77) },
            ErrorKind::NotFound,
            ErrorKind::FailedPrecondition,
            ErrorKind::Unauthenticated,
            ErrorKind::PermissionDenied,
            ErrorKind::Corruption,
            ErrorKind::Internal,
        ]
    }

    #[test]
    fn every_kind_survives_the_wire_and_a_status() {
        for kind in every_kind() {
            let error = Error::new(kind, "what to do");
            assert_eq!(from_wire(to_wire(&error)), error);
            assert_eq!(from_status(&to_status(&error)), error);
        }
    }

    #[test]
    fn an_unknown_kind_may_have_been_applied() {
        let wire = v1::Error { kind: 1000, ..v1::Error::default() };
        assert!(from_wire(wire).outcome_unknown());
        assert!(from_status(&Status::unavailable("connection reset")).outcome_unknown());
    }
}
