//! What is asked of a shard, as a value in its log.
//!
//! A [`Proposal`] is the payload of one log entry: the leader's clock reading and many commands, applied in order. The
//! state machine sees nothing but these values, so every replica computes the same [`crate::Outcome`]s.

use bytes::Bytes;

use crate::{Key, Revision, SequenceNumber, SessionId, cluster::MetaCommand};

/// The payload of one log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The leader's clock reading when it proposed the entry: the lowest revision that its commands may get, and "now"
    /// for whatever expires.
    pub clock: Revision,
    /// Applied in order, each with an outcome of its own.
    pub commands: Vec<Command>,
}

/// One thing asked of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Change a key of a shard.
    Write(Write),
    /// Mint a session of a shard.
    OpenSession,
    /// Forget a session and its outcomes.
    CloseSession(SessionId),
    /// Change the cluster itself; for the meta group alone.
    Meta(MetaCommand),
}

/// A write, with what makes its retries harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where the write stands in its client's session. `None`: a retry is a second write.
    pub session: Option<SessionPosition>,
    /// The change.
    pub op: WriteOp,
}

/// Where a write stands in its client's session with the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPosition {
    /// The session, opened before at this shard.
    pub session: SessionId,
    /// The write's number; the same in every retry.
    pub sequence: SequenceNumber,
    /// The lowest number whose outcome the client still waits for: the shard forgets the outcomes below it.
    pub oldest_open: SequenceNumber,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// Set the value.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// Must hold, or nothing changes.
        condition: Condition,
        /// Give the version that this write replaced.
        want_previous: bool,
    },
    /// Remove the key.
    Delete {
        /// The key.
        key: Key,
        /// Must hold, or nothing changes.
        condition: Condition,
        /// Give the version that this write removed.
        want_previous: bool,
    },
}

/// What must hold of the key for a write to happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// The key does not exist.
    Absent,
    /// The key exists and its current version was written at this revision.
    RevisionIs(Revision),
}

impl WriteOp {
    /// The key that is changed.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// About how many bytes the change takes in the log.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const FRAMING_BYTES: usize = 48;
        match self {
            Self::Put { key, value, .. } => key.as_bytes().len() + value.len() + FRAMING_BYTES,
            Self::Delete { key, .. } => key.as_bytes().len() + FRAMING_BYTES,
        }
    }
}

impl Command {
    /// About how many bytes the command takes in the log.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const META_COMMAND_BYTES: usize = 1024;
        match self {
            Self::Write(write) => write.op.size_bytes(),
            Self::OpenSession | Self::CloseSession(_) => 16,
            Self::Meta(_) => META_COMMAND_BYTES,
        }
    }
}
