//! The deterministic state machines of a shard and of the meta group.
//!
//! # The problem
//! Every replica of a group applies the same log entries, possibly years apart, in different processes, after different
//! crashes, and all of them must compute the same rows and the same answers; and a client's retry, however late, must
//! get the first answer rather than a second write.
//!
//! # The approach
//! A [`Machine`] turns a [`Proposal`] into [`Outcome`]s and changes of a replica's rows, and knows nothing but these
//! values: time comes in the entry, ids are counted, order comes from ordered collections. [`ShardMachine`] holds keys and what
//! they were, leases and sessions, [`MetaMachine`] the state of the cluster.
//!
//! Rows are written to the replica's [`Table`] with each entry. What changes with *every* entry (the applied position,
//! counters, sessions) is kept in memory and becomes rows in [`Machine::prepare_freeze`], just before the table freezes a
//! generation: so whatever generation survives a crash is the exact state at one log index, and the log replays the
//! rest. [`rows`] has the layout, byte by byte.
//!
//! A [`ShardReader`] reads a shard beside whoever applies its entries: keys and pages of them, as they are or as they were at a
//! revision; what has changed since one; leases. Nothing that it is asked for takes long, whatever the shard holds: an answer
//! is a page, and says where to go on.
//!
//! # Invariants
//! - Two machines that applied the same entries have equal outcomes, equal [`Machine::digest`]s and, once prepared,
//!   equal rows (but for the header, which is `kvd-raft`'s), wherever either of them was stopped and reopened on the way.
//! - No entry is applied twice: positions grow, or the machine stops with [`Error::OutOfOrder`]. That none is left out
//!   is for the log's reader to ensure.
//! - Revisions grow strictly within a shard, and only a write that changes something takes one. What one command writes, a
//!   transaction or a step of a range's deletion, shares one.
//! - What a reader is shown as of a revision never changes. It is refused, from then on and on every replica alike, once the
//!   entries say that it is forgotten.
//! - An [`Error`] is a fault of the disk or of the log, never an answer to a command. After one, the replica must stop:
//!   the machine in memory may have applied half an entry.
//!
//! # Changing this crate
//! What is computed here is part of the protocol between replicas of different builds: a limit, a rule or a row's
//! encoding that changes makes an old and a new build disagree about the same log. Such a change needs a switch in the
//! log itself that all replicas pass at the same index.
//!
//! # What is deliberately absent
//! No clock, no randomness, no hash maps, no async, no threads, no Raft. No watchers: they read what has changed. No word of
//! one shard to another: whoever leads tells the others of a lease's end, in entries of theirs.
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
pub use shard::{AsOf, LeaseView, ReadAhead, ShardMachine, ShardReader, ShardStats};
