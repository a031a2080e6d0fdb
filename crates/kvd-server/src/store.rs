//! The seam between a node's front and its core.
//!
//! The front (gRPC, HTTP) knows how requests arrive and how answers leave; the core knows which shard leads where. A
//! [`Store`] is all that the front sees of the core, so each can be tested without the other.
//!
//! # Invariants
//! - Whatever is asked gets an answer by its deadline: the front sets no timer of its own behind the core's.
//! - A dropped future means that nobody waits for the answer any more. A write that it stood for may still happen.
//! - The front checks lengths and forms before it asks; the core checks what only it can know.

use std::sync::Arc;

use kvd_proto::v1;
use kvd_types::{
    Key, NodeId, Result, ShardId,
    operation::{Reply, Request},
};
use tokio::{sync::watch, time::Instant};

/// A future that can be kept and sent, whatever made it.
pub type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;

/// What a node's core does for its front.
pub trait Store: Send + Sync + 'static {
    /// Serves a request here, or forwards it to where it is served. Answers by the deadline.
    ///
    /// # Errors
    /// Every kind of error that a client is told of. It says whether a write that failed may have been applied.
    fn execute(&self, request: Request, deadline: Instant) -> BoxFuture<'_, Result<Reply>>;

    /// The cluster as this node sees it, and each change of it.
    fn topology(&self) -> watch::Receiver<Arc<v1::Topology>>;

    /// What this node says of itself and its replicas.
    fn status(&self) -> BoxFuture<'_, v1::StatusResponse>;

    /// Where a key is.
    ///
    /// # Errors
    /// Unavailable, before the node knows the ring.
    fn locate(&self, key: &Key) -> Result<v1::LocateResponse>;

    /// Makes another node's replica lead a shard. Gives the node that leads it then.
    ///
    /// # Errors
    /// Not found for a shard or node that there isn't, failed precondition for a node without a voter of the shard,
    /// and whatever keeps the transfer from happening.
    fn move_leader(&self, shard: ShardId, to: NodeId) -> BoxFuture<'_, Result<NodeId>>;

    /// Whether the node lives and is ready. Called often: it must not wait.
    fn health(&self) -> Health;
}

/// Whether a node should be restarted, and whether it should be sent requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Why it shouldn't be sent requests just now; empty: it is ready.
    pub reasons: Vec<String>,
    /// False: only a restart helps.
    pub live: bool,
}

impl Health {
    /// Alive and ready.
    #[must_use]
    pub const fn ready() -> Self {
        Self { reasons: Vec::new(), live: true }
    }

    /// Alive, but not ready yet or any more, for this reason.
    #[must_use]
    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], live: true }
    }

    /// Whether the node should be sent requests.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.live && self.reasons.is_empty()
    }
}
