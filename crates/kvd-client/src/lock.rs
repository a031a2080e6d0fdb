//! Locks: one holder at a time, in the order in which they asked.
//!
//! ```no_run
//! # async fn example(client: kvd_client::Client) -> kvd_client::Result<()> {
//! use std::time::Duration;
//! use kvd_client::TxnOp;
//!
//! let lock = client.lock("nightly-report", Duration::from_secs(10)).await?;
//! // Happens only if the lock is still held, whatever this process believes: the key is in the lock's shard.
//! let done = client
//!     .txn()
//!     .when(lock.fence())
//!     .then(TxnOp::put("{kvd-lock:nightly-report}done", "today"))
//!     .await?;
//! assert!(done.succeeded || !lock.is_held());
//! lock.unlock().await?;
//! # Ok(()) }
//! ```
//!
//! # What a lock promises
//! At any moment at most one waiter is first in the queue: the cluster knows one holder. The holder keeps its lease alive; when
//! it fails to, because it has died, is cut off or was paused for long, the lease ends and the next one holds the lock.
//!
//! # What it doesn't
//! A holder that was paused doesn't know that it has lost the lock until it looks. [`Lock::is_held`] and [`Lock::lost`] go by
//! this process's clock and are right while it runs; between looking and doing it can still be paused. What must not be
//! done twice is therefore *fenced*: in kvd, by a transaction with [`Lock::fence`] on keys of the lock's shard, those with the hash
//! tag `{kvd-lock:NAME}`; in another store, by sending it [`Lock::token`], which is higher for each later holder, and having it
//! refuse lower ones than it has seen.

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvd_types::{Error, Result, Revision};
use tokio::time::Instant;

use crate::{
    Client, Compare, IntoBytes, KeptLease, Lease,
    queue::{Place, Waiting, end, prefix},
};

/// An attempt to get a lock: made by [`Client::lock`]. Gives the [`Lock`] once it is held. Dropped while it waits, its place in
/// the queue goes after its time to live.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Acquire {
    client: Client,
    name: String,
    ttl: Duration,
    lease: Option<KeptLease>,
    value: Bytes,
}

/// An attempt to get a lock that ends after a time. Gives the [`Lock`], or `None` if it wasn't to be had in that time.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct TryAcquire {
    acquire: Acquire,
    patience: Duration,
}

impl Acquire {
    /// With a lease that is kept alive already, instead of one of its own. One lease has one place in a queue: attempts with
    /// the same lease share it, also one that failed with an unknown outcome. Without a further attempt, the place goes
    /// with the lease.
    pub fn lease(mut self, lease: &KeptLease) -> Self {
        self.lease = Some(lease.clone());
        self
    }

    /// With a value in its key that says for people who holds it.
    pub fn value(mut self, value: impl IntoBytes) -> Self {
        self.value = value.into_bytes();
        self
    }

    /// Gives up after this long, and leaves the queue.
    pub const fn within(self, patience: Duration) -> TryAcquire {
        TryAcquire { acquire: self, patience }
    }

    async fn acquire(self, deadline: Option<Instant>) -> Result<Option<Lock>> {
        let prefix = prefix("lock", &self.name)?;
        let (own, kept) = match self.lease {
            Some(kept) => (None, kept),
            None => {
                let own = self.client.grant_lease(self.ttl).await?;
                let kept = own.keep_alive_forever();
                (Some(own), kept)
            }
        };
        let waiting = Waiting::new(own);
        let place = match Place::take(&self.client, prefix, kept, self.value).await {
            Ok(place) => place,
            Err(error) => {
                end(waiting.done()).await;
                return Err(error);
            }
        };
        let first = place.await_first(deadline).await;
        let lock = Lock { place, own: waiting.done() };
        match first {
            Ok(true) => Ok(Some(lock)),
            Ok(false) => {
                lock.unlock().await?;
                Ok(None)
            }
            Err(error) => {
                if let Err(error) = lock.unlock().await {
                    tracing::debug!(%error, "a place in a lock's queue was not left, and goes with its lease");
                }
                Err(error)
            }
        }
    }
}

impl IntoFuture for Acquire {
    type Output = Result<Lock>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let lock = self.acquire(None).await?;
            lock.ok_or_else(|| Error::internal("a lock was given up without a deadline"))
        })
    }
}

impl IntoFuture for TryAcquire {
    type Output = Result<Option<Lock>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.acquire.acquire(Some(Instant::now() + self.patience)).await })
    }
}

/// A lock that is held, as far as the cluster knows, until its lease ends. Dropped without [`Lock::unlock`], it is free again
/// after its time to live.
#[derive(Debug)]
pub struct Lock {
    place: Place,
    /// The lease, if it is the lock's own.
    own: Option<Lease>,
}

impl Lock {
    /// The holder's key.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        self.place.key()
    }

    /// The fencing token: higher for each later holder of this lock.
    #[must_use]
    pub const fn token(&self) -> Revision {
        self.place.number()
    }

    /// Holds, in a transaction on keys of the lock's shard, only while the lock is held. In the namespace that it was taken in.
    #[must_use]
    pub fn fence(&self) -> Compare {
        self.place.fence()
    }

    /// Whether it is held for sure, by this process's clock. Somebody who deletes the lock's key by hand isn't noticed.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.place.lease().is_held()
    }

    /// Waits until it may be lost, and says why.
    pub async fn lost(&self) -> Error {
        self.place.lease().lost().await
    }

    /// Gives it back; whether it was still held.
    ///
    /// # Errors
    /// As any request: it is then free again after its time to live.
    pub async fn unlock(self) -> Result<bool> {
        let left = self.place.leave().await;
        end(self.own).await;
        left
    }
}

impl Client {
    /// Gets a lock, whose holder is replaced if it can't be kept alive for `ttl`. See [`lock`](crate::lock).
    pub fn lock(&self, name: impl Into<String>, ttl: Duration) -> Acquire {
        Acquire { client: self.clone(), name: name.into(), ttl, lease: None, value: Bytes::new() }
    }
}
