//! The deterministic state machines of a shard and of the meta group.
//!
//! # The problem
//! Every replica of a group applies the same log entries, possibly years apart, in different processes, after different
//! crashes, and all of them must compute the same rows and the same answers; and a client's retry, however late, must
//! get the first answer rather than a second write.
//!
//! # The approach
//! A [`Machine`] turns a [`Proposal`] into [`Outcome`]s and changes of a replica's rows, and knows nothing but these
//! values: time comes in the entry, ids are counted, order comes from ordered collections. [`ShardMachine`] holds keys and
//! sessions, [`MetaMachine`] the state of the cluster.
//!
//! Rows are written to the replica's [`Table`] with each entry. What changes with *every* entry (the applied position,
//! counters, sessions) is kept in memory and becomes rows in [`Machine::prepare_freeze`], just before the table freezes a
//! generation: so whatever generation survives a crash is the exact state at one log index, and the log replays the
//! rest. [`rows`] has the layout, byte by byte.
//!
//! # Invariants
//! - Two machines that applied the same entries have equal outcomes, equal [`Machine::digest`]s and, once prepared,
//!   equal rows (but for the header, which is `kvd-raft`'s), wherever either of them was stopped and reopened on the way.
//! - No entry is applied twice: positions grow, or the machine stops with [`Error::OutOfOrder`]. That none is left out
//!   is for the log's reader to ensure.
//! - Revisions grow strictly within a shard, and only a write that changes something takes one.
//! - An [`Error`] is a fault of the disk or of the log, never an answer to a command. After one, the replica must stop:
//!   the machine in memory may have applied half an entry.
//!
//! # Changing this crate
//! What is computed here is part of the protocol between replicas of different builds: a limit, a rule or a row's
//! encoding that changes makes an old and a new build disagree about the same log. Such a change needs a switch in the
//! log itself that all replicas pass at the same index.
//!
//! # What is deliberately absent
//! No clock, no randomness, no hash maps, no async, no threads, no Raft. No watches and no history yet: [`rows`]
//! reserves their place.
//!
//! [`Table`]: kvd_storage::table::Table
//! [`Proposal`]: kvd_types::Proposal
//! [`Outcome`]: kvd_types::Outcome

mod books;
mod digest;
mod error;
mod machine;
pub mod meta;
pub mod rows;
pub mod shard;

#[cfg(test)]
mod tests;

pub use books::Position;
pub use error::Error;
pub use machine::Machine;
pub use meta::{MetaMachine, MetaState};
pub use shard::{Page, ShardMachine, ShardReader, ShardStats};
