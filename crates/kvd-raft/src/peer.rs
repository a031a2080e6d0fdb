//! The gRPC transport between nodes.
//!
//! One connection per peer and lane carries frames, each with whatever messages were waiting, of many groups; answers
//! come back out of order, paired by call id. A checkpoint has a connection of its own. Of the connections that a caller has
//! opened for a lane only the latest is served: what an earlier one still brings must not overtake it ([`fence`]).
//!
//! Every call carries a [`Handshake`] in its metadata: which cluster it belongs to, who calls, which start of that node,
//! and for whom it is meant. The receiver's [`PeerHandler`] refuses what is not for it, so that a cloned disk, an old copy
//! put back or another cluster's node is turned away before any of its messages reaches a group. A lane's answer carries
//! the same of the node that answers, and the caller checks it likewise: an old copy's votes and acknowledgements must not
//! count either.
//!
//! Bounds: [`QUEUE_MAX`] calls wait per peer and lane, further ones fail as unreachable; [`CALLS_PER_LANE_MAX`] calls are
//! served at once per lane, further frames wait in the connection's window.

mod client;
mod fence;
mod handshake;
mod server;

pub use client::{AddressBook, PeerNetwork, Verify, connect};
pub use handshake::Handshake;
pub use server::{PeerHandler, PeerService};

/// Calls that may wait for one peer on one lane.
pub const QUEUE_MAX: usize = 16 * 1024;
/// Calls of one lane that are served at once.
pub const CALLS_PER_LANE_MAX: usize = 16 * 1024;
/// Most messages in one frame.
const FRAME_MESSAGES_MAX: usize = 256;
/// Bytes of messages after which a frame is sent.
const FRAME_BYTES_TARGET: usize = 1 << 20;
/// Largest frame that is decoded: one message of the largest size more than the target.
const FRAME_BYTES_MAX: usize = FRAME_BYTES_TARGET + kvd_types::limits::ENTRY_BYTES_MAX + (1 << 20);
