//! What came of a command: data, computed alike by every replica, remembered for retries.
//!
//! A compare that failed or a key that is missing is an outcome, not an error: the command was applied, and this is
//! what it found.

use bytes::Bytes;

use crate::{LeaseId, Record, Revision, SessionId, TxnResult, cluster::MetaOutcome, lease::LeaseOutcome};

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A put was made.
    Put {
        /// The revision of the write.
        revision: Revision,
        /// The revision at which the key came into being.
        create_revision: Revision,
        /// The key's version after the write.
        version: u64,
        /// The version that it replaced, if asked for and there was one.
        previous: Option<Record>,
    },
    /// A key was deleted.
    Deleted {
        /// The revision of the delete.
        revision: Revision,
        /// The version that it removed, if asked for.
        previous: Option<Record>,
    },
    /// A delete found no key. Nothing changed.
    NotFound,
    /// The condition of a write did not hold. Nothing changed.
    ConditionFailed {
        /// The key's current version, with its value only if the previous one was asked for; `None`: it doesn't exist.
        current: Option<Record>,
    },
    /// The first keys of a range were deleted.
    RangeDeleted {
        /// The revision of the deletes; that of the last write before, if there was none.
        revision: Revision,
        /// How many keys.
        deleted: u32,
        /// The first key that may be left in the range; `None`: none is.
        next: Option<Bytes>,
    },
    /// A transaction was done.
    Txn {
        /// Whether all compares held.
        succeeded: bool,
        /// The revision of its writes; that of the shard's last write before, if it made none.
        revision: Revision,
        /// What came of the operations of the branch that was done, in order.
        results: Vec<TxnResult>,
    },
    /// What came of a lease.
    Lease(LeaseOutcome),
    /// A session was minted.
    SessionOpened(SessionId),
    /// The session is gone, whether or not it was there.
    SessionClosed,
    /// The command did not happen, for a reason that every replica sees.
    Refused(Refusal),
    /// What came of a command of the meta group.
    Meta(MetaOutcome),
}

/// Why a command did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The session is not known: it expired or was closed. Whether an earlier try of this write was applied can't be told.
    SessionUnknown,
    /// The client has already acknowledged this number's outcome, so this is a stray retry.
    SequenceAcknowledged,
    /// The session has as many unacknowledged outcomes as are remembered.
    SessionFull,
    /// The shard has as many sessions as it remembers.
    TooManySessions,
    /// The command is for another kind of group, or for another shard.
    WrongGroup,
    /// Keys are to be attached to a lease that this shard was not told of. Nothing changed: it must be told, then the
    /// same write can be tried again.
    LeaseNotAttached(LeaseId),
    /// Keys are to be attached to a lease that has ended. Nothing changed.
    LeaseEnded(LeaseId),
    /// The shard has as many leases as it keeps.
    TooManyLeases,
    /// The transaction is none that a server would have proposed: it is too large, or writes a key twice.
    Malformed,
    /// The transaction would give back more than an answer holds.
    AnswerTooLarge,
    /// The transaction would replace or delete more than watchers can be told of together.
    ReplacesTooMuch,
}
