//! A node's disk.
//!
//! # What is here
//! - [`disk`]: the seam through which the log, the checkpoints and the identity file reach the file system, so that
//!   tests can tear writes, lose what was not synced and fail what they like.
//! - [`log`]: the Raft log of all replicas of a node: one stream of records, one `fdatasync` for everything waiting.
//! - [`engine`]: ordered bytes with atomic batches (sled, fjall, memory); [`table`]: one replica's rows, in memory first,
//!   drained to the engine in large batches.
//! - [`checkpoint`]: a replica's whole state at one log index, as one checksummed file.
//! - [`identity`]: whose disk this is. [`space`]: whether there is room on it.
//! - [`failpoints`]: where tests can stop all that.
//!
//! # The rule
//! The truth is log + checkpoint. A write is durable when it is in the log and synced; the engine is a cache of what
//! the two can rebuild, and is never believed about durability.
//!
//! # What is deliberately absent
//! No Raft, no commands, no keys' meaning: bytes in, bytes out. No async: callers bring their own threads.

pub mod checkpoint;
pub mod disk;
pub mod engine;
pub mod error;
pub mod failpoints;
mod files;
pub mod identity;
pub mod log;
pub mod space;
pub mod table;
#[cfg(test)]
mod testing;

pub use error::{Error, Result};
