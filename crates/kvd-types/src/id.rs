//! A newtype for every id, index, term, revision and epoch.
//!
//! They are all integers, and mixing two of them up is the kind of bug that survives review. Each type prints as the
//! bare number; none converts into another except where the design says that one *is* the other (a shard's id is its
//! Raft group's id).

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

id! {
    /// One `kvd` process with one data directory. Minted by the meta group at the first join; zero is no node.
    NodeId(u64)
}
id! {
    /// One member of one group on one node. Minted by the meta group, cluster-wide unique and never reused: it is the
    /// Raft node id, so a replica that lost its disk can never come back under a vote it has forgotten.
    ReplicaId(u64)
}
id! {
    /// A Raft group: [`GroupId::META`] or a shard's.
    GroupId(u32)
}
id! {
    /// A shard of the keyspace. Its Raft group has the same number; zero is never a shard.
    ShardId(u32)
}
id! {
    /// A Raft term.
    Term(u64)
}
id! {
    /// The index of an entry in a Raft log. The first entry has index 0.
    LogIndex(u64)
}
id! {
    /// Grows by one with each change of the ring (which shards there are, and their weights).
    RingEpoch(u64)
}
id! {
    /// Grows by one with each change of the meta group's state (nodes, placements, ring).
    MetaEpoch(u64)
}
id! {
    /// Grows by one with each start of a node on its data directory; an older one is a copy put back.
    Incarnation(u64)
}
id! {
    /// A client process's session with one shard. Minted by the shard when it is opened, so that it can't be revived.
    SessionId(u64)
}
id! {
    /// Numbers the writes of a session from 1, in the order in which the client made them.
    SequenceNumber(u64)
}
id! {
    /// A lease. Zero is no lease.
    LeaseId(u64)
}

/// The cluster's identity: 128 random bits, minted once when the cluster forms.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl GroupId {
    /// The meta group: node registry, ring, placement, id allocation.
    pub const META: Self = Self(0);

    /// The shard that this group replicates; `None` for the meta group.
    #[must_use]
    pub const fn shard(self) -> Option<ShardId> {
        if self.0 == Self::META.0 { None } else { Some(ShardId(self.0)) }
    }
}

impl From<ShardId> for GroupId {
    fn from(shard: ShardId) -> Self {
        Self(shard.0)
    }
}

/// A 64-bit hybrid logical time: milliseconds since the Unix epoch in the upper 44 bits, a counter in the lower 20.
///
/// A shard's leader offers its clock's reading with each log entry; the state machine raises it above every revision
/// that it has given before, so revisions grow strictly within a shard whatever the clocks do. After "Logical Physical
/// Clocks" (Kulkarni et al., 2014). Zero is before every write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// Bits of the counter below the milliseconds.
    pub const COUNTER_BITS: u32 = 20;
    /// Before every write.
    pub const ZERO: Self = Self(0);

    /// The first revision of a millisecond of the Unix clock. Times beyond the year 2527 saturate.
    #[must_use]
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        let max_ms = u64::MAX >> Self::COUNTER_BITS;
        let ms = if unix_ms > max_ms { max_ms } else { unix_ms };
        Self(ms << Self::COUNTER_BITS)
    }

    /// The milliseconds since the Unix epoch that this revision carries.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The next revision. Saturates at the end of the range.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<u64> for Revision {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_keeps_the_clock_in_its_upper_bits() {
        let revision = Revision::from_unix_ms(1_800_000_000_123);
        assert_eq!(revision.unix_ms(), 1_800_000_000_123);
        assert_eq!(revision.next().unix_ms(), 1_800_000_000_123);
        assert!(Revision::from_unix_ms(1_800_000_000_124) > revision.next());
        assert_eq!(Revision::from_unix_ms(u64::MAX).unix_ms(), u64::MAX >> Revision::COUNTER_BITS);
    }

    #[test]
    fn group_zero_is_no_shard() {
        assert_eq!(GroupId::META.shard(), None);
        assert_eq!(GroupId::from(ShardId(7)).shard(), Some(ShardId(7)));
    }
}
