//! Everything that can happen to a node's disk, by chance and from a seed.
//!
//! # The problem
//! A store that forgets what it has acknowledged does so in moments that no ordinary test meets: between a rename and
//! the sync of its directory, in the second crash during the recovery from the first, in the one sector that a disk
//! has put elsewhere.
//!
//! # The approach
//! The real storage code (log, checkpoints, identity, the tables in front of an engine) does a node's work on
//! [`kvd_storage::disk::SimDisk`], next to a model of what must be there. Then, at every operation of the disk:
//!
//! | module | what |
//! |---|---|
//! | `crashes` | the power goes out before it, or in the middle of it |
//! | `failures` | it fails, with an I/O error or a full disk; or the disk lies about it |
//! | `rot` | not at an operation: bits and sectors of a stopped store change |
//!
//! and the real recovery opens what is left. `workload` is what the node does, `model` what must be there, `check` the
//! comparison, `node` the storage code put together as a node does.
//!
//! # What must hold
//! Nothing acknowledged is lost and nothing invented; a vote never goes back; what is purged is covered by a
//! checkpoint; identity and checkpoint are whole, the old one or the new one; a failure is reported, and a store that
//! can't know what is durable stops. After rot and lies, what is lost is reported, and of whom.
//!
//! # What is deliberately absent
//! Threads and time: the log's writer runs inline. The files of the engine on disk: the engine in memory takes its
//! place, with what it promises about crashes. Consensus and commands: an entry is one changed row.

mod check;
mod crashes;
mod explore;
mod failures;
mod judge;
mod model;
mod node;
mod rot;
mod summary;
mod workload;

#[cfg(feature = "failpoints")]
#[cfg(test)]
mod failpoints;
#[cfg(test)]
mod tests;

pub use explore::{Case, Failed, Progress, Wanted, replay, run};
pub use summary::Summary;
