//! kvd's vocabulary: the ids, keys, commands, outcomes, limits and error kinds that every other crate speaks in.
//!
//! # What is here
//! - [`id`]: a newtype for every id, index, term, revision and epoch, so that none can be passed for another.
//! - [`key`]: a key and its partition key (the part that decides which shard owns it).
//! - [`record`]: a stored version of a key.
//! - [`command`] and [`outcome`]: what a client asks of a shard as a value in its log, and what came of it.
//! - [`txn`], [`lease`]: transactions, and what shards tell each other of leases.
//! - [`read`] and [`event`]: how a read is served, and what a watcher is told.
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
pub mod event;
pub mod id;
pub mod key;
pub mod lease;
pub mod limits;
pub mod operation;
pub mod outcome;
pub mod read;
pub mod record;
pub mod txn;

pub use command::{Command, Condition, Lifetime, Proposal, SessionPosition, Target, Write, WriteOp};
pub use error::{Error, ErrorKind, LeaderHint, Result};
pub use event::Event;
pub use id::{
    ClusterId, GroupId, Incarnation, LeaseId, LogIndex, MetaEpoch, NodeId, ReplicaId, Revision, RingEpoch,
    SequenceNumber, SessionId, ShardId, Term,
};
pub use key::Key;
pub use lease::{LeaseCommand, LeaseOutcome};
pub use outcome::Outcome;
pub use read::{Consistency, Read};
pub use record::Record;
pub use txn::{Compare, Relation, Subject, Txn, TxnOp, TxnResult};
