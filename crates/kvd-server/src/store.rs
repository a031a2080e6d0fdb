//! The seam between a node's front and its core.
//!
//! The front (gRPC, HTTP) knows how requests arrive and how answers leave; the core knows which shard leads where. A
//! [`Store`] is all that the front sees of the core, so each can be tested without the other.
//!
//! # Invariants
//! - Whatever is asked gets an answer by its deadline: the front sets no timer of its own behind the core's.
//! - A dropped future means that nobody waits for the answer any more. A write that it stood for may still happen.
//! - The front checks lengths and forms before it asks; the core checks what only it can know.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kvd_proto::v1;
use kvd_types::{
    Event, Key, NodeId, Record, Result, Revision, ShardId,
    operation::{Content, Filter, Reply, Request},
};
use tokio::{sync::watch, time::Instant};

/// A future that can be kept and sent, whatever made it.
pub type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;

/// Parts of an answer, as they come about. Ends after the first error.
pub type Parts<T> = futures::stream::BoxStream<'static, Result<T>>;

/// A scan over all shards.
#[derive(Clone, Debug, Default)]
pub struct ScanSpec {
    /// The first key that may be returned; empty: from the first one.
    pub start: Bytes,
    /// The first key that may not be returned; empty: to the last one.
    pub end: Bytes,
    /// Most rows; none: all.
    pub limit: Option<u64>,
    /// From the last key to the first.
    pub descending: bool,
    /// What is returned of each key.
    pub content: Content,
    /// Which keys are returned.
    pub filter: Filter,
    /// As of this revision; none: as of now.
    pub at: Option<Revision>,
    /// Go on where a scan of the same kind has stopped; empty: from the beginning.
    pub resume: Bytes,
}

/// Some rows of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPart {
    /// The rows, in order.
    pub rows: Vec<(Key, Record)>,
    /// The revision as of which all shards are read.
    pub revision: Revision,
    /// Where to go on after these rows; empty: there are no more. The last part of a scan that its limit has stopped has one.
    pub resume: Bytes,
    /// How many keys there were so far.
    pub count: u64,
}

/// How far the deletion of a range has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeletePart {
    /// How many keys have been removed so far.
    pub deleted: u64,
    /// All are gone that were there when it began.
    pub is_done: bool,
}

/// A watch over all shards.
#[derive(Clone, Debug, Default)]
pub struct WatchSpec {
    /// The first key that is of interest; empty: from the first one.
    pub start: Bytes,
    /// The first key that is not; empty: to the last one.
    pub end: Bytes,
    /// From when on.
    pub from: WatchFrom,
    /// Leave out puts.
    pub no_puts: bool,
    /// Leave out deletes.
    pub no_deletes: bool,
    /// Give the versions that were replaced or deleted.
    pub want_previous: bool,
    /// How often to say that everything was told; none: the default.
    pub progress_interval: Option<Duration>,
}

/// From when on a watch tells what changes.
#[derive(Clone, Debug, Default)]
pub enum WatchFrom {
    /// From now on.
    #[default]
    Now,
    /// After this revision, on every shard.
    After(Revision),
    /// After what an earlier watch has told.
    Resume(Bytes),
}

/// Some of what a watch tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchPart {
    /// What has changed, in order for each shard.
    pub events: Vec<Event>,
    /// Where to go on after these; empty: a part that follows has it.
    pub resume: Bytes,
    /// Everything was told that had been finished a progress interval, or 2.5 s if that is longer, before.
    pub is_progress: bool,
}

/// What a node's core does for its front.
pub trait Store: Send + Sync + 'static {
    /// Serves a request here, or forwards it to where it is served. Answers by the deadline.
    ///
    /// # Errors
    /// Every kind of error that a client is told of. It says whether a write that failed may have been applied.
    fn execute(&self, request: Request, deadline: Instant) -> BoxFuture<'_, Result<Reply>>;

    /// Reads a range over all shards, in order, as of one revision. Each part is made within the time that a request has.
    fn scan(self: Arc<Self>, spec: ScanSpec) -> Parts<ScanPart>;

    /// Removes a range over all shards, step by step.
    fn delete_range(self: Arc<Self>, start: Bytes, end: Bytes) -> Parts<DeletePart>;

    /// Tells what changes in a range over all shards, until it is dropped. The first part comes once it has begun.
    fn watch(self: Arc<Self>, spec: WatchSpec) -> Parts<WatchPart>;

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
