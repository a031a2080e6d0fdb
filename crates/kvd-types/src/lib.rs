//! kvd's vocabulary: the ids, keys, commands, outcomes, limits and error kinds that every other crate speaks in.
//!
//! # What is here
//! - [`id`]: a newtype for every id, index, term, revision and epoch, so that none can be passed for another.
//! - [`key`]: a key and its partition key (the part that decides which shard owns it).
//! - [`record`]: a stored version of a key.
//! - [`command`] and [`outcome`]: what a client asks of a shard as a value in its log, and what came of it.
//! - [`cluster`]: nodes, placements and the ring's specification, with the commands of the meta group.
//! - [`operation`]: what a client asks of the cluster.
//! - [`error`]: the kinds of failure, each with what the caller should do.
//! - [`limits`]: every bound, in one place, checked against each other at compile time.
//!
//! # What is deliberately absent
//! No I/O, no async, no clock, no randomness, no wire or disk encoding: this crate says what things mean, others say
//! how they travel and where they rest.

pub mod cluster;
pub mod command;
pub mod error;
pub mod id;
pub mod key;
pub mod limits;
pub mod operation;
pub mod outcome;
pub mod record;

pub use command::{Command, Condition, Proposal, SessionPosition, Write, WriteOp};
pub use error::{Error, ErrorKind, LeaderHint, Result};
pub use id::{
    ClusterId, GroupId, Incarnation, LeaseId, LogIndex, MetaEpoch, NodeId, ReplicaId, Revision, RingEpoch,
    SequenceNumber, SessionId, ShardId, Term,
};
pub use key::Key;
pub use outcome::Outcome;
pub use record::Record;
