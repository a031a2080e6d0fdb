//! Which shard owns a key, and which nodes should hold a shard.
//!
//! # What is here
//! - [`ring`]: the 64-bit circle of hashes, computed alike by every node and every client from one small
//!   [`RingSpec`](kvd_types::cluster::RingSpec).
//! - [`planner`]: where the replicas of new shards go, which nodes vote in the meta group, and where the successor of
//!   a lost replica goes.
//!
//! # What is deliberately absent
//! No I/O, no async, no clock, no randomness, no floating point in a decision, no iteration over hash maps: the same
//! input gives the same answer on every machine, in any order of the input. Nothing here *does* anything: whoever asks
//! proposes the answer to the meta group, and its state machine has the last word.

pub mod planner;
pub mod ring;

pub use planner::{NodeView, PlanError, initial_placement, meta_voters, replacement_node};
pub use ring::{Ring, RingError, uniform};
