//! The client library of kvd.
//!
//! ```no_run
//! # async fn example() -> kvd_client::Result<()> {
//! use futures::TryStreamExt as _;
//! use kvd_client::{Client, Conditional};
//!
//! // The addresses of one or more nodes; the others are learned from them.
//! let client = Client::connect(["127.0.0.1:7400"]).await?;
//!
//! let put = client.put("{user:7}/name", "Ada").await?;
//! let found = client.get("{user:7}/name").await?;
//! assert_eq!(found.map(|record| record.revision), Some(put.revision));
//!
//! // A compare-and-set: a condition that fails is an answer, not an error.
//! match client.put("{user:7}/name", "Ada L.").if_revision(put.revision).return_previous().await? {
//!     Conditional::Done(put) => println!("version {}", put.version),
//!     Conditional::Failed { current } => println!("somebody was faster: {current:?}"),
//! }
//!
//! let mut rows = client.scan_prefix("{user:7}/").stream();
//! while let Some((key, record)) = rows.try_next().await? {
//!     println!("{key} = {:?}", record.value);
//! }
//! client.close().await;
//! # Ok(()) }
//! ```
//!
//! # What it does by itself
//! - **Routing.** It computes the ring, knows who leads which shard, and sends each request straight there. What it
//!   doesn't know costs a detour, as every node serves every request.
//! - **Pipelining.** All requests of a process share one stream per node, and those that wait travel together. For
//!   throughput, keep many requests in flight; one client is enough.
//! - **Retries.** A request is tried, at other nodes if need be, until its deadline: five seconds unless the [`Config`] or
//!   the request says otherwise.
//! - **Exactly once.** A write is applied once however often it is tried: it carries its place in a session that this
//!   client has with the shard.
//!
//! - **Seeing what was seen.** It remembers how far each shard was in its answers, for reads with session consistency:
//!   they may be served by any replica, and never miss what this client has written or seen.
//! - **Keeping alive.** One task keeps all leases of a client alive and says when one may be lost.
//! - **Going on.** A watch that loses its node goes on at another one, each change told once.
//!
//! # What there is
//! | to do this | begin here |
//! |---|---|
//! | read and write keys | [`Client::get`], [`Client::batch_get`], [`Client::put`], [`Client::delete`] |
//! | change many keys at once | [`Client::txn`] |
//! | read or remove a range | [`Client::scan`], [`Client::delete_range`] |
//! | be told of changes | [`Client::watch`] |
//! | let keys go by themselves | [`Put::ttl`], [`Client::grant_lease`] |
//! | be the only one | [`Client::lock`], [`Client::election`] |
//! | keep to a part of the keys | [`Client::namespace`] |
//!
//! # When a request fails
//! [`Error::outcome_unknown`] tells whether a write may have been applied (or may yet be). If not, it was *not applied*.
//! A write whose future is dropped is not tried again: a try in flight may still be applied, once.
//!
//! A shard that is asked for more than it can do says so, and is asked for less at a time. What then waits for its turn
//! is bounded too: beyond that a request is refused at once, as overloaded, with the time after which to try again.
//!
//! # What is deliberately absent
//! It prints nothing, reads no environment and keeps nothing on disk: a process that starts again is a new client. It
//! knows nothing of the server's crates; what the two share is the wire.

mod attempts;
mod backoff;
mod client;
mod config;
mod core;
pub mod election;
mod follow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod keeper;
pub mod lease;
pub mod lock;
mod namespace;
mod peer;
mod pipeline;
mod queue;
mod range;
mod request;
mod router;
pub mod scan;
mod seen;
mod session;
mod throttle;
mod token;
mod topology;
pub mod txn;
pub mod watch;
mod watch_channels;

pub use client::Client;
pub use config::{CONNECT_TIMEOUT_DEFAULT, Config, ENDPOINTS_MAX, TRY_TIMEOUT_DEFAULT};
pub use election::{Election, Leader, Leaders, Leadership};
pub use kvd_types::{
    Consistency, Error, ErrorKind, Event, Key, LeaseId, NodeId, Record, Result, Revision, ShardId, TxnResult,
    operation::{Filter, Served},
};
pub use lease::{GrantLease, KeptLease, Lease, LeaseStatus, Leases};
pub use lock::{Acquire, Lock, TryAcquire};
pub use request::{
    BatchGet, Conditional, Delete, DeleteIf, DeleteRange, DeleteRangeError, DeleteResult, Deletions, Found,
    Get, GetServed, IntoBytes, Put, PutIf, PutResult,
};
pub use scan::{Rows, Scan};
pub use seen::SessionToken;
pub use token::Token;
pub use topology::{Location, Node, Replica, ReplicaStatus, Shard, Status, Topology};
pub use txn::{Compare, CompareNumber, CompareValue, Txn, TxnDelete, TxnOp, TxnOutcome, TxnPut};
pub use watch::{Watch, WatchItem, WatchStream};
