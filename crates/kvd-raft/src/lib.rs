//! One Raft group and many: openraft behind kvd's log, machines and transport.
//!
//! # What is here
//! - [`group`]: one replica of one group: write, read, receive, change members.
//! - `propose`, `read`: what makes a group fast: many commands in one log entry, many reads in one quorum round.
//! - `sleep`, [`pulse`]: groups that have nothing to do cost nothing.
//! - `pace`: what a leader says of time in its entries.
//! - [`state`]: the applied state: machine, rows in memory and in the engine, checkpoints, faults.
//! - [`transport`]: the seam to the network; [`peer`]: the gRPC transport, one connection per peer and lane, frames that
//!   carry messages of many groups.
//! - [`clock`]: the seam to the wall clock; [`blocking`]: the seam to the threads that wait for the disk.
//! - [`observe`]: the seam through which others watch.
//! - `calls`: openraft's functions, for callers that may go away.
//! - `log_store`, `state_machine`, `network`, `codec`, `types`: openraft's traits and types on ours, and nothing more.
//!
//! # Invariants
//! - Nothing is acknowledged before the log has synced it on a majority.
//! - What openraft calls a node is a replica here: its id is minted once and never reused.
//! - A replica whose rows fail a check stops serving at once and says so through [`Group::fault`].
//!
//! # What is deliberately absent
//! Nothing here knows of the ring, of other groups, of clients or of configuration; no openraft type is public.

mod admission;
pub mod blocking;
mod calls;
pub mod clock;
mod codec;
mod confirm;
pub mod disk_reads;
pub mod failpoints;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod group;
mod log_store;
mod network;
pub mod observe;
mod pace;
pub mod peer;
mod propose;
pub mod pulse;
mod read;
mod sleep;
pub mod state;
mod state_machine;
pub mod transport;
pub mod turns;
mod types;

pub use group::{
    Group, Leadership, Members, OpenError, Parts, ReadPoint, Role, SleepOptions, Status, Timing,
};
pub use pace::HistoryOptions;
pub use state::{Fault, MemoryOptions};
pub use transport::{CallError, Lane, Transport};

#[cfg(test)]
mod tests;
