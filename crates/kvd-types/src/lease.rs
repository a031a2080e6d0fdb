//! What shards tell each other of leases.
//!
//! A lease has one *home*: the shard that its id hashes to. It knows until when the lease lasts, and which other shards may
//! have keys attached to it. A shard lets keys be attached only to a lease that it has been told is alive; when a lease ends,
//! its home tells all those shards, until each has removed its keys.
//!
//! All of this is told in commands that do the same however often they are applied, so none of them needs a session.

use crate::{LeaseId, ShardId};

/// A command that is about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseCommand {
    /// To its home: it lasts for its time to live from now on.
    KeepAlive(LeaseId),
    /// To its home: keys of that shard are about to be attached.
    Expect {
        /// The lease.
        lease: LeaseId,
        /// The shard.
        shard: ShardId,
    },
    /// To a shard: its home expects keys there, so they may be attached.
    Attach {
        /// The lease.
        lease: LeaseId,
        /// How old the shard may be for this to count, in milliseconds: what is told so late that the lease may have been
        /// detached and forgotten meanwhile doesn't.
        not_after_ms: u64,
    },
    /// To a shard: the lease has ended. The first of its keys are removed.
    Detach {
        /// The lease.
        lease: LeaseId,
        /// Most keys.
        limit: u32,
    },
    /// To its home: none of that shard's keys is attached any more.
    Detached {
        /// The lease.
        lease: LeaseId,
        /// The shard.
        shard: ShardId,
    },
}

/// What came of a command about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// It was granted.
    Granted {
        /// Its time to live, in milliseconds.
        ttl_ms: u64,
    },
    /// There is a lease with that id already.
    Exists,
    /// It lasts for its time to live from now on.
    Alive {
        /// Its time to live, in milliseconds.
        ttl_ms: u64,
    },
    /// There is no such lease, or it has ended.
    Gone,
    /// It ends: keys are being removed.
    Revoked,
    /// Keys of the shard may be attached.
    Expected,
    /// Keys may be attached.
    Attached,
    /// Some of the shard's keys were removed.
    Detached {
        /// How many.
        keys: u32,
        /// There are more.
        more: bool,
    },
    /// The home has taken note.
    Noted,
}
