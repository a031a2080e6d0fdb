//! What is asked of a shard, as a value in its log.
//!
//! A [`Proposal`] is the payload of one log entry: the leader's clock reading and many commands, applied in order. The
//! state machine sees nothing but these values, so every replica computes the same [`crate::Outcome`]s.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    Error, Key, LeaseId, Revision, SequenceNumber, SessionId, ShardId, Txn, TxnOp,
    cluster::MetaCommand,
    lease::LeaseCommand,
    limits::{DELETE_STEP_KEYS_MAX, LEASE_TTL_MIN, TTL_MAX},
};

/// The payload of one log entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// The leader's clock reading when it proposed the entry: the lowest revision that its commands may get, and "now"
    /// for idle sessions.
    pub clock: Revision,
    /// How long the shard has been led by then, in milliseconds: "now" for what has a lifetime. Stands still while nobody
    /// leads.
    pub age_ms: u64,
    /// Readers may have been shown any revision up to this: a later leader gives none of them to a write.
    pub ceiling: Revision,
    /// From this entry on reads below this revision are refused, and what only they could see is forgotten.
    pub compacted: Revision,
    /// Applied in order, each with an outcome of its own.
    pub commands: Vec<Command>,
}

/// One thing asked of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Change a shard's keys.
    Write(Write),
    /// Mint a session of a shard.
    OpenSession,
    /// Forget a session and its outcomes.
    CloseSession(SessionId),
    /// What the shards tell each other of leases, and what may be said twice.
    Lease(LeaseCommand),
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

/// A change of a shard's keys, or of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// Set the value.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// Until when it is there; what it was before counts no more.
        lifetime: Lifetime,
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
    /// Remove the first keys of a range, all at one revision.
    DeleteRange {
        /// The shard whose keys are meant.
        shard: ShardId,
        /// The first key that may go; empty: from the first one.
        start: Bytes,
        /// The first key that may not; empty: to the last one.
        end: Bytes,
        /// Most keys.
        limit: u32,
    },
    /// Compare, then change many keys at one revision.
    Txn(Txn),
    /// Grant a lease, at the shard that is its home.
    GrantLease {
        /// Its id, chosen by whoever asks.
        lease: LeaseId,
        /// How long it lasts after each keep-alive, in milliseconds.
        ttl_ms: u64,
    },
    /// End a lease, and so all keys that are attached to it, at the shard that is its home.
    RevokeLease(LeaseId),
}

/// Until when a version of a key is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is replaced or deleted.
    #[default]
    Forever,
    /// For so many milliseconds at most.
    Ttl(u64),
    /// As long as a lease at most.
    Lease(LeaseId),
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

/// What a write is routed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// The shard of a key.
    Key(&'a Key),
    /// The shard that is a lease's home.
    Lease(LeaseId),
    /// This shard.
    Shard(ShardId),
}

impl WriteOp {
    /// What it is routed by; `None`: a transaction that names no key.
    #[must_use]
    pub fn target(&self) -> Option<Target<'_>> {
        Some(match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Target::Key(key),
            Self::DeleteRange { shard, .. } => Target::Shard(*shard),
            Self::Txn(txn) => Target::Key(txn.keys().next()?),
            Self::GrantLease { lease, .. } | Self::RevokeLease(lease) => Target::Lease(*lease),
        })
    }

    /// The keys that it names.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        let own = match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            Self::DeleteRange { .. } | Self::Txn(_) | Self::GrantLease { .. } | Self::RevokeLease(_) => None,
        };
        let of_txn = if let Self::Txn(txn) = self { Some(txn.keys()) } else { None };
        own.into_iter().chain(of_txn.into_iter().flatten())
    }

    /// Checks what the types don't.
    ///
    /// # Errors
    /// Invalid argument, naming the limit.
    pub fn check(&self, value_bytes_max: usize) -> Result<(), Error> {
        match self {
            Self::Put { key, value, lifetime, .. } => {
                check_value(key, value, value_bytes_max)?;
                lifetime.check()
            }
            Self::Delete { .. } => Ok(()),
            Self::DeleteRange { start, end, limit, .. } => {
                if !end.is_empty() && end <= start {
                    return Err(Error::invalid("the range ends where it starts, or before"));
                }
                if !(1..=DELETE_STEP_KEYS_MAX).contains(limit) {
                    return Err(Error::invalid(format!(
                        "one step deletes 1 to {DELETE_STEP_KEYS_MAX} keys, not {limit}"
                    )));
                }
                Ok(())
            }
            Self::Txn(txn) => txn.check(value_bytes_max),
            Self::GrantLease { lease, ttl_ms } => {
                check_lease(*lease)?;
                if *ttl_ms < millis(LEASE_TTL_MIN) {
                    return Err(Error::invalid(format!(
                        "a lease of {ttl_ms} ms would not outlive a change of leader; the shortest is {} ms",
                        millis(LEASE_TTL_MIN)
                    )));
                }
                check_ttl(*ttl_ms)
            }
            Self::RevokeLease(lease) => check_lease(*lease),
        }
    }

    /// Whether it may leave more than it finds.
    #[must_use]
    pub fn grows(&self) -> bool {
        match self {
            Self::Put { .. } | Self::GrantLease { .. } => true,
            Self::Txn(txn) => txn.puts(),
            Self::Delete { .. } | Self::DeleteRange { .. } | Self::RevokeLease(_) => false,
        }
    }

    /// The leases that it attaches keys to, some perhaps more than once.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> {
        let own = if let Self::Put { lifetime, .. } = self { lifetime.lease() } else { None };
        let branches = if let Self::Txn(txn) = self { Some([&txn.then, &txn.otherwise]) } else { None };
        let of_operations = branches.into_iter().flatten().flatten().filter_map(TxnOp::lease);
        own.into_iter().chain(of_operations)
    }

    /// About how many bytes the change takes in the log.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const FRAMING_BYTES: usize = 48;
        let bytes = match self {
            Self::Put { key, value, .. } => key.as_bytes().len() + value.len(),
            Self::Delete { key, .. } => key.as_bytes().len(),
            Self::DeleteRange { start, end, .. } => start.len() + end.len(),
            Self::Txn(txn) => txn.size_bytes(),
            Self::GrantLease { .. } | Self::RevokeLease(_) => 0,
        };
        bytes + FRAMING_BYTES
    }
}

impl Lifetime {
    /// The lease that it depends on.
    #[must_use]
    pub const fn lease(self) -> Option<LeaseId> {
        match self {
            Self::Lease(lease) => Some(lease),
            Self::Forever | Self::Ttl(_) => None,
        }
    }
}

impl Lifetime {
    /// Checks what the type doesn't.
    ///
    /// # Errors
    /// Invalid argument, naming the limit.
    pub fn check(self) -> Result<(), Error> {
        match self {
            Self::Forever => Ok(()),
            Self::Ttl(ttl_ms) => check_ttl(ttl_ms),
            Self::Lease(lease) => check_lease(lease),
        }
    }
}

fn check_ttl(ttl_ms: u64) -> Result<(), Error> {
    if !(1..=millis(TTL_MAX)).contains(&ttl_ms) {
        return Err(Error::invalid(format!(
            "a time to live is from 1 ms to {} s, not {ttl_ms} ms",
            TTL_MAX.as_secs()
        )));
    }
    Ok(())
}

pub(crate) fn check_lease(lease: LeaseId) -> Result<(), Error> {
    if lease.get() == 0 { Err(Error::invalid("0 is no lease")) } else { Ok(()) }
}

pub(crate) fn check_value(key: &Key, value: &Bytes, value_bytes_max: usize) -> Result<(), Error> {
    if value.len() <= value_bytes_max {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the value of key {key} has {} bytes; a value has at most {value_bytes_max} bytes",
        value.len()
    )))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Command {
    /// About how many bytes the command takes in the log.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const META_COMMAND_BYTES: usize = 1024;
        match self {
            Self::Write(write) => write.op.size_bytes(),
            Self::OpenSession | Self::CloseSession(_) => 16,
            Self::Lease(_) => 40,
            Self::Meta(_) => META_COMMAND_BYTES,
        }
    }
}
