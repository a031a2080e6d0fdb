//! What a client asks of the cluster, and what it gets.
//!
//! A [`Request`] names keys or a shard; whoever serves it finds the shard's leader. These are the words of both ends of
//! the wire: the client library makes requests, the server answers them, and a node that forwards one does both.

use bytes::Bytes;

use crate::{
    Error, Event, Key, LeaseCommand, LeaseId, LogIndex, NodeId, Outcome, Read, Record, Revision, RingEpoch,
    SessionId, ShardId, Write,
    command::check_lease,
    limits::{BATCH_KEYS_MAX, REQUEST_BYTES_MAX, VALUE_BYTES_MAX},
};

/// One thing asked of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read a key.
    Get(Key, Read),
    /// Read many keys.
    BatchGet(Vec<Key>, Read),
    /// Change a shard's keys, or a lease.
    Write(Write, WriteOptions),
    /// Let a lease last for its time to live from now on.
    KeepLeaseAlive(LeaseId),
    /// Look at a lease.
    GetLease(LeaseId),
    /// Look at the first leases, from an id on, whose home a shard is.
    ListLeases {
        /// The shard.
        shard: ShardId,
        /// The lowest id.
        from: LeaseId,
        /// Most leases.
        limit: usize,
    },
    /// Look which keys of a shard are attached to a lease.
    LeaseKeys {
        /// The shard.
        shard: ShardId,
        /// The lease.
        lease: LeaseId,
        /// Go on after this key.
        after: Option<Key>,
        /// Most keys.
        limit: usize,
    },
    /// Read a page of a shard, in key order.
    Scan(ScanPage),
    /// Make these shards readable as of one revision that misses nothing that was finished before.
    Snapshot(Vec<ShardId>),
    /// Ask as of when a shard can be read so that nothing is missed that was finished before. Between nodes alone.
    ReadPoint(ReadPoint),
    /// Read what has changed in a shard.
    Changes(ChangesPage),
    /// Mint a session with a shard.
    OpenSession(ShardId),
    /// Forget a session of a shard.
    CloseSession(ShardId, SessionId),
    /// What the leader of one shard tells another shard of a lease. Between nodes alone.
    Tell(ShardId, LeaseId, Tell),
}

/// What the leader of one shard tells another shard of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// To the lease's home: keys of that shard are about to be attached.
    Expect(ShardId),
    /// To a shard: it has ended. The first of its keys, so many at most, go now.
    Detach(u32),
    /// To its home: none of that shard's keys is attached any more.
    Detached(ShardId),
}

impl Tell {
    /// The command for the shard's log.
    #[must_use]
    pub const fn command(self, lease: LeaseId) -> LeaseCommand {
        match self {
            Self::Expect(shard) => LeaseCommand::Expect { lease, shard },
            Self::Detach(limit) => LeaseCommand::Detach { lease, limit },
            Self::Detached(shard) => LeaseCommand::Detached { lease, shard },
        }
    }
}

/// What a write asks for beside the change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// When it is acknowledged.
    pub ack: Ack,
    /// It gets a later revision than this, which its writer has seen, on whichever shard: so that whoever reads several shards
    /// as of one revision and sees this write sees as well what its writer had seen.
    pub after: Revision,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// Once a majority of the shard's voters has it on disk.
    #[default]
    Majority,
    /// Once all of them have. Until the deadline: then it is applied all the same, and told as unknown.
    All,
}

/// A page of a shard's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// The shard.
    pub shard: ShardId,
    /// The first key that may be returned; empty: from the first one.
    pub start: Bytes,
    /// The first key that may not be returned; empty: to the last one.
    pub end: Bytes,
    /// Most rows; zero: as many as a page holds.
    pub limit: usize,
    /// From the last key to the first.
    pub descending: bool,
    /// What is returned of each key.
    pub content: Content,
    /// Which keys are returned.
    pub filter: Filter,
    /// As of when, and by whom.
    pub read: Read,
}

/// What a scan returns of each key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// The key and its version.
    #[default]
    All,
    /// The same without the value.
    KeysOnly,
    /// Nothing: only how many there are.
    CountOnly,
}

/// Which keys a scan returns: those whose version lies within all these bounds, inclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The lowest revision of the last write.
    pub revision_min: Option<Revision>,
    /// The highest.
    pub revision_max: Option<Revision>,
    /// The lowest revision at which the key came into being.
    pub create_revision_min: Option<Revision>,
    /// The highest.
    pub create_revision_max: Option<Revision>,
}

/// What a read point is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadPoint {
    /// The shard.
    pub shard: ShardId,
    /// Make sure that no later write gets a revision up to this, so that the shard can be read as of it.
    pub at: Option<Revision>,
    /// A shard has had that revision: it may be as far in the future as it likes.
    pub is_vouched_for: bool,
    /// Somebody still needs what has changed after this: keep it for a while, if it is still there.
    pub needs_after: Option<Revision>,
}

/// Some of what has changed in a shard, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesPage {
    /// The shard.
    pub shard: ShardId,
    /// The changes after this revision.
    pub after: Revision,
    /// The first key that is of interest; empty: from the first one.
    pub start: Bytes,
    /// The first key that is not; empty: to the last one.
    pub end: Bytes,
    /// About how many at most; zero: as many as a page holds.
    pub limit: usize,
    /// Give the versions that were replaced or deleted.
    pub want_previous: bool,
    /// If there are none yet, wait for some for so long.
    pub wait_ms: u64,
}

/// A lease, as its home knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub id: LeaseId,
    /// How long it lasts after a keep-alive, in milliseconds.
    pub ttl_ms: u64,
    /// How long it lasts still, in milliseconds; zero: it ends.
    pub remaining_ms: u64,
    /// The shards that may have keys of it.
    pub shards: Vec<ShardId>,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To a get: the key and its version, if it exists.
    Got(Option<(Key, Record)>),
    /// To a batch-get: the same for each key, in the order asked for.
    GotBatch(Vec<Option<(Key, Record)>>),
    /// To a put: what came of it.
    Put(Outcome),
    /// To a delete: what came of it.
    Deleted(Outcome),
    /// To a deletion of a range: what came of it.
    RangeDeleted(Outcome),
    /// To a transaction: what came of it.
    Txn(Outcome),
    /// To a grant or the end of a lease: what came of it.
    Lease(Outcome),
    /// To a keep-alive: what came of it.
    LeaseKept(Outcome),
    /// To a session request.
    Session(Outcome),
    /// To what was told of a lease.
    Told {
        /// The lease lives.
        lives: bool,
        /// Keys are attached still.
        more: bool,
    },
    /// To a look at a lease.
    LeaseInfo(Option<LeaseInfo>),
    /// To a look at leases.
    Leases(Vec<LeaseInfo>),
    /// To a look at a lease's keys.
    LeaseKeys(Vec<Key>),
    /// To a scan.
    Page(Page),
    /// To a read point.
    ReadPoint {
        /// Whoever has applied this entry of the shard's log misses nothing.
        log_index: LogIndex,
        /// The revision of the last write that can be missed: to read the shard as of this revision, or of a later one that
        /// it was asked for, misses nothing.
        revision: Revision,
    },
    /// To a snapshot: all writes that were finished before are at this revision or below, and later ones are above.
    Snapshot(Revision),
    /// To a look at what has changed.
    Changes(Changes),
}

/// Rows of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The rows, in the order asked for.
    pub rows: Vec<(Key, Record)>,
    /// How many keys there are in what was looked at, whether or not they are in `rows`.
    pub count: u64,
    /// There may be more: the next page starts here or, descending, ends here.
    pub next: Option<Bytes>,
}

/// What has changed in a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The changes of the keys of interest, in order. Those at one revision are all here, or none is.
    pub events: Vec<Event>,
    /// They are all there were up to this revision.
    pub upto: Revision,
    /// There may be more already.
    pub more: bool,
}

/// An answer, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The answer.
    pub response: Response,
    /// Who gave it.
    pub served: Served,
}

/// Who answered a request, for clients that route by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The shard; of a batch that spans several, the first one.
    pub shard: ShardId,
    /// The node that leads it.
    pub leader: NodeId,
    /// That node's client address; empty if it answered itself.
    pub leader_address: String,
    /// The ring that the request was routed by.
    pub ring_epoch: RingEpoch,
    /// How long the shard has been led, in milliseconds.
    pub shard_age_ms: u64,
    /// The revision of the shard's last write that the answer takes into account.
    pub revision: Revision,
}

impl Request {
    /// A linearizable read of a key.
    #[must_use]
    pub const fn get(key: Key) -> Self {
        Self::Get(key, Read::LINEARIZABLE)
    }

    /// A write that is acknowledged by a majority.
    #[must_use]
    pub const fn write(write: Write) -> Self {
        Self::Write(write, WriteOptions { ack: Ack::Majority, after: Revision::ZERO })
    }

    /// Whether it changes anything: a failure may then leave its outcome unknown.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        match self {
            Self::Write(..)
            | Self::KeepLeaseAlive(_)
            | Self::OpenSession(_)
            | Self::CloseSession(..)
            | Self::Tell(..) => true,
            Self::Get(..)
            | Self::BatchGet(..)
            | Self::GetLease(_)
            | Self::ListLeases { .. }
            | Self::LeaseKeys { .. }
            | Self::Scan(_)
            | Self::Snapshot(_)
            | Self::ReadPoint(_)
            | Self::Changes(_) => false,
        }
    }

    /// Whether only nodes may ask this of each other: it relies on what clients can't know.
    #[must_use]
    pub const fn is_between_nodes(&self) -> bool {
        matches!(self, Self::ReadPoint(_) | Self::Tell(..))
    }

    /// Whether it may be tried again although an earlier try may have been served.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        match self {
            Self::Write(write, _) => write.session.is_some(),
            Self::OpenSession(_) => false,
            _ => true,
        }
    }

    /// How it is to be read, if it is a read of keys.
    #[must_use]
    pub const fn read(&self) -> Option<&Read> {
        match self {
            Self::Get(_, read) | Self::BatchGet(_, read) | Self::Scan(ScanPage { read, .. }) => Some(read),
            _ => None,
        }
    }

    /// Whether any replica may serve it, not only the one that leads.
    #[must_use]
    pub fn is_for_any_replica(&self) -> bool {
        matches!(self, Self::Changes(_)) || self.read().is_some_and(Read::is_for_any_replica)
    }

    /// Checks what the types don't.
    ///
    /// # Errors
    /// Invalid argument, naming the limit.
    pub fn check(&self, value_bytes_max: usize) -> Result<(), Error> {
        if let Some(read) = self.read() {
            read.check()?;
        }
        match self {
            Self::Write(write, _) => write.op.check(value_bytes_max.min(VALUE_BYTES_MAX)),
            Self::BatchGet(keys, _) => check_batch(keys),
            Self::KeepLeaseAlive(lease) | Self::GetLease(lease) | Self::LeaseKeys { lease, .. } => {
                check_lease(*lease)
            }
            Self::Scan(ScanPage { start, end, .. }) | Self::Changes(ChangesPage { start, end, .. }) => {
                check_range(start, end)
            }
            Self::Get(..)
            | Self::ListLeases { .. }
            | Self::Snapshot(_)
            | Self::ReadPoint(_)
            | Self::OpenSession(_)
            | Self::CloseSession(..)
            | Self::Tell(..) => Ok(()),
        }
    }
}

impl Filter {
    /// Whether it lets a version through.
    #[must_use]
    pub fn admits(&self, record: &Record) -> bool {
        let within = |at: Revision, min: Option<Revision>, max: Option<Revision>| {
            min.is_none_or(|min| at >= min) && max.is_none_or(|max| at <= max)
        };
        within(record.revision, self.revision_min, self.revision_max)
            && within(record.create_revision, self.create_revision_min, self.create_revision_max)
    }
}

/// Checks the bounds of a range of keys; an empty end is none.
///
/// # Errors
/// Invalid argument: it ends before it starts. Ending where it starts is allowed: it is empty.
pub fn check_range(start: &[u8], end: &[u8]) -> Result<(), Error> {
    if !end.is_empty() && end < start {
        return Err(Error::invalid(format!(
            "the range ends before it starts: from {} to {}",
            start.escape_ascii(),
            end.escape_ascii()
        )));
    }
    Ok(())
}

fn check_batch(keys: &[Key]) -> Result<(), Error> {
    let bytes: usize = keys.iter().map(|key| key.as_bytes().len()).sum();
    if keys.len() > BATCH_KEYS_MAX {
        return Err(Error::invalid(format!(
            "the batch has {} keys; a batch has at most {BATCH_KEYS_MAX}",
            keys.len()
        )));
    }
    if bytes > REQUEST_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the batch has {bytes} bytes; a request has at most {REQUEST_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}
