//! The seam between groups and the network.
//!
//! A group says "this message, to that node, on this lane" and gets the answer or learns that there was none. Production
//! passes the gRPC transport of [`crate::peer`]; a simulator passes its own.

use std::time::Duration;

use futures::future::BoxFuture;
use kvd_proto::peer::v1 as p;
use kvd_storage::checkpoint::Checkpoint;
use kvd_types::NodeId;

/// Which of the connections to a peer a message takes, so that bulk never delays what keeps a leader alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Log entries.
    Log,
    /// Heartbeats, votes, leader transfers.
    Control,
    /// Clients' operations on their way to a leader.
    Forward,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 3] = [Self::Log, Self::Control, Self::Forward];
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent: the node's address is unknown, or there is no connection to it.
    #[error("node {0} can't be reached: {1}")]
    Unreachable(NodeId, String),
    /// It was sent, or may have been, and no answer came in time or the connection broke.
    #[error("no answer from node {0}: {1}")]
    NoAnswer(NodeId, String),
    /// The node refused it unserved.
    #[error("node {0} refused: {1}")]
    Refused(NodeId, String),
}

/// Carries messages between nodes.
pub trait Transport: Send + Sync + 'static {
    /// Sends a message and waits for its answer. Messages to one node on one lane are sent in the order in which this
    /// was called, not in which the futures are polled. Past the deadline the answer is dropped.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        message: p::Envelope,
        patience: Duration,
    ) -> BoxFuture<'static, Result<p::Envelope, CallError>>;

    /// Sends a checkpoint, on a connection of its own, and waits until it is installed.
    fn send_checkpoint(
        &self,
        to: NodeId,
        header: p::CheckpointHeader,
        checkpoint: Checkpoint,
    ) -> BoxFuture<'static, Result<p::SendCheckpointResponse, CallError>>;
}
