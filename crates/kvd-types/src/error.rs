//! The kinds of failure, each with what the caller should do about it.
//!
//! An [`Error`] says that an operation failed while the node is fine. What a replica computed from its log, such as a
//! failed compare, is an [`crate::Outcome`]; a broken disk or invariant stops the group or the node and is neither.
//! [`Error::outcome_unknown`] tells the two cases apart that matter to whoever retries a write.

use std::{fmt, time::Duration};

use crate::{NodeId, Revision, RingEpoch, ShardId};

/// A result whose failure is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation's failure: what kind it is, and what to tell a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What the caller should do.
    pub kind: ErrorKind,
    /// Which limit, node or key; what to do.
    pub message: String,
}

/// Where a shard's leader is believed to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The shard.
    pub shard: ShardId,
    /// The node of its leader.
    pub node: NodeId,
    /// That node's client address, `host:port`.
    pub address: String,
}

/// The kinds of failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The call is wrong as it stands: mend it. Nothing was applied.
    InvalidArgument,
    /// This node does not lead the shard. Nothing was applied: retry at the leader, or elsewhere without a hint.
    NotLeader(Option<LeaderHint>),
    /// No quorum, no leader yet, starting or draining. Nothing was applied: back off and retry.
    Unavailable,
    /// The ring has changed: fetch the one of this epoch or later, then retry. Nothing was applied.
    WrongShard(RingEpoch),
    /// A queue, window or quota is full. Nothing was applied: retry after the pause.
    Overloaded {
        /// How long to wait at least.
        retry_after: Duration,
    },
    /// The deadline passed before the operation was started. Nothing was applied.
    DeadlineExceeded,
    /// Whether the write was or will be applied can't be told: retry with the same session and sequence number.
    OutcomeUnknown,
    /// The session has expired. Nothing was applied now; an earlier try may have been.
    SessionUnknown,
    /// What was at that revision has been forgotten: read at a later one.
    Compacted {
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// The thing asked for does not exist (a shard or node by id; a missing key is an answer, not an error).
    NotFound,
    /// The state of the cluster does not allow it: two nodes under one id, the wrong cluster, a node not yet caught up.
    FailedPrecondition,
    /// Who is asking is not known.
    Unauthenticated,
    /// Who is asking may not.
    PermissionDenied,
    /// Stored data failed its checks on this node; an operator should look.
    Corruption,
    /// A bug, or a fault that should have been impossible: report it.
    Internal,
}

impl Error {
    /// An error of a kind with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A wrong call.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// A group or node that can't serve just now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// A write whose outcome can't be told.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::OutcomeUnknown, message)
    }

    /// A bug, or a fault that should have been impossible.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Stored data that failed its checks.
    pub fn corruption(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corruption, message)
    }

    /// A full queue, window or quota.
    pub fn overloaded(retry_after: Duration, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Overloaded { retry_after }, message)
    }

    /// A read as of a revision that has been forgotten.
    #[must_use]
    pub fn compacted(at: Revision, oldest: Revision) -> Self {
        Self::new(
            ErrorKind::Compacted { oldest },
            format!("what was at revision {at} has been compacted; the oldest that can be read is {oldest}"),
        )
    }

    /// Whether a write that failed so may still have been applied, or be applied later.
    #[must_use]
    pub const fn outcome_unknown(&self) -> bool {
        matches!(self.kind, ErrorKind::OutcomeUnknown | ErrorKind::Internal)
    }

    /// Whether the same request may succeed later, here or elsewhere.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self.kind {
            ErrorKind::NotLeader(_)
            | ErrorKind::Unavailable
            | ErrorKind::WrongShard(_)
            | ErrorKind::Overloaded { .. }
            | ErrorKind::OutcomeUnknown => true,
            ErrorKind::InvalidArgument
            | ErrorKind::DeadlineExceeded
            | ErrorKind::SessionUnknown
            | ErrorKind::Compacted { .. }
            | ErrorKind::NotFound
            | ErrorKind::FailedPrecondition
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::Corruption
            | ErrorKind::Internal => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
