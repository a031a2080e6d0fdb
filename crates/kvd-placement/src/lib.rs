//! Which shard owns a key, and which nodes should hold a shard.
//!
//! # What is here
//! - [`ring`]: the 64-bit circle of hashes, computed alike by every node and every client from one small
//!   [`RingSpec`](kvd_types::cluster::RingSpec).
//! - [`route`]: from a key, a range of keys, a lease or a transaction to its shards.
//! - [`merge`]: the rows of many shards in one order.
//! - [`planner`]: where the replicas of new shards go, which nodes vote in the meta group, and where the successor of
//!   a lost replica goes.
//!
//! # What is deliberately absent
//! No I/O, no async, no clock, no randomness, no floating point in a decision, no iteration over hash maps: the same
//! input gives the same answer on every machine, in any order of the input. Nothing here *does* anything: whoever asks
//! proposes the answer to the meta group, and its state machine has the last word.

pub mod merge;
pub mod planner;
pub mod ring;
pub mod route;

pub use merge::Merge;
pub use planner::{NodeView, PlanError, initial_placement, meta_voters, replacement_node};
pub use ring::{Ring, RingError, uniform};
pub use route::{after_key, prefix_end};
