//! Leases: what keys can be attached to, so that they go when nobody keeps the lease alive.
//!
//! ```no_run
//! # async fn example(client: kvd_client::Client) -> kvd_client::Result<()> {
//! use std::time::Duration;
//!
//! let lease = client.grant_lease(Duration::from_secs(10)).await?;
//! client.put("workers/7", "here").lease(lease.id()).await?;
//! let kept = lease.keep_alive_forever();
//! tokio::select! {
//!     error = kept.lost() => println!("others may think that this worker is gone: {error}"),
//!     () = async { /* work */ } => {}
//! }
//! // The key goes with the lease.
//! lease.revoke().await?;
//! # Ok(()) }
//! ```
//!
//! A lease lasts for its time to live after each keep-alive, in time for which its shard is led: while there is no leader, it
//! doesn't end. When it ends its keys go; where a shard has thousands of them, a part after the other.

use std::{collections::VecDeque, future::IntoFuture, sync::Arc, time::Duration};

use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use kvd_types::{
    Error, ErrorKind, Key, LeaseId, LeaseOutcome, Outcome, Result, ShardId, WriteOp,
    limits::REQUEST_DEADLINE_MAX,
    operation::{Ack, LeaseInfo, Request, Response},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    Client,
    attempts::{Attempts, unexpected},
    core::Core,
    keeper::Kept,
    request::{millis, write},
};

/// Ids that are drawn before a grant gives up: more than one is next to impossible.
const DRAWS_MAX: usize = 8;
/// Leases, or keys of one, in one page.
const PAGE: usize = 4096;

/// A grant of a lease. Gives a [`Lease`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct GrantLease {
    client: Client,
    ttl: Duration,
    id: Option<LeaseId>,
    deadline: Option<Duration>,
}

impl GrantLease {
    pub(crate) const fn new(client: Client, ttl: Duration) -> Self {
        Self { client, ttl, id: None, deadline: None }
    }

    /// With this id, not zero; drawn by lot if not set.
    pub const fn id(mut self, id: LeaseId) -> Self {
        self.id = Some(id);
        self
    }

    /// How long it is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Grants a lease with this id; `None`: there is one already.
    async fn grant(&self, lease: LeaseId) -> Result<Option<Lease>> {
        let sent = Instant::now();
        let op = WriteOp::GrantLease { lease, ttl_ms: millis(self.ttl) };
        match write(&self.client, self.deadline, op, Ack::Majority).await? {
            Response::Lease(Outcome::Lease(LeaseOutcome::Granted { ttl_ms })) => {
                let ttl = Duration::from_millis(ttl_ms);
                let sent = Arc::new(Mutex::new(sent));
                Ok(Some(Lease { client: self.client.clone(), id: lease, ttl, sent }))
            }
            Response::Lease(Outcome::Lease(LeaseOutcome::Exists)) => Ok(None),
            other => Err(unexpected(&other)),
        }
    }
}

impl IntoFuture for GrantLease {
    type Output = Result<Lease>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let exists =
                |id| Error::new(ErrorKind::FailedPrecondition, format!("there is a lease {id} already"));
            if let Some(id) = self.id {
                return self.grant(id).await?.ok_or_else(|| exists(id));
            }
            let mut id = LeaseId(0);
            for _ in 0..DRAWS_MAX {
                id = LeaseId(rand::random_range(1..1 << 63));
                if let Some(lease) = self.grant(id).await? {
                    return Ok(lease);
                }
            }
            Err(exists(id))
        })
    }
}

/// A lease that this client was granted. Dropped, it isn't revoked: it ends when its time is over.
#[derive(Clone, Debug)]
pub struct Lease {
    client: Client,
    id: LeaseId,
    ttl: Duration,
    /// When the last keep-alive that was answered was sent, or the grant.
    sent: Arc<Mutex<Instant>>,
}

impl Lease {
    /// Its id, to attach keys to it.
    #[must_use]
    pub const fn id(&self) -> LeaseId {
        self.id
    }

    /// How long it lasts after each keep-alive.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Lets it last for its time to live from now on.
    ///
    /// # Errors
    /// Not found: it has ended. Else as any request.
    pub async fn keep_alive(&self) -> Result<()> {
        let sent = Instant::now();
        self.client.keep_lease_alive(self.id).await?;
        let mut last = self.sent.lock();
        *last = sent.max(*last);
        Ok(())
    }

    /// Keeps it alive in the background as long as what this gives, or a clone of it, is there.
    #[must_use = "dropped, it isn't kept alive any more"]
    pub fn keep_alive_forever(&self) -> KeptLease {
        let sent = *self.sent.lock();
        let kept = self.client.core().keeper.keep(self.id, self.ttl, sent);
        KeptLease { kept, _client: self.client.clone() }
    }

    /// Ends it, and deletes the keys that are attached to it; whether there was one.
    ///
    /// # Errors
    /// As any request.
    pub async fn revoke(&self) -> Result<bool> {
        self.client.revoke_lease(self.id).await
    }
}

/// A lease that is kept alive in the background, until the last clone of this is dropped.
#[derive(Clone, Debug)]
pub struct KeptLease {
    kept: Arc<Kept>,
    /// Whose task keeps it alive.
    _client: Client,
}

impl KeptLease {
    /// The lease's id.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.kept.id()
    }

    /// Whether it is held for sure: since the last keep-alive that was answered was sent, less than its time to live has
    /// passed by this process's clock.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.kept.is_held()
    }

    /// Until when it is held for sure, if nothing else is heard.
    #[must_use]
    pub fn held_until(&self) -> Instant {
        self.kept.hold().until
    }

    /// Waits until it may have ended, and says why. Once lost, it stays lost.
    pub async fn lost(&self) -> Error {
        self.kept.lost().await
    }
}

/// What the cluster says of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Its id.
    pub id: LeaseId,
    /// How long it lasts after each keep-alive.
    pub ttl: Duration,
    /// How long it lasts still; zero: it ends.
    pub remaining: Duration,
    /// The shards that may have keys of it.
    pub shards: Vec<ShardId>,
}

impl LeaseStatus {
    fn from_info(info: LeaseInfo) -> Self {
        Self {
            id: info.id,
            ttl: Duration::from_millis(info.ttl_ms),
            remaining: Duration::from_millis(info.remaining_ms),
            shards: info.shards,
        }
    }
}

/// Leases, by shard and id.
pub type Leases = BoxStream<'static, Result<LeaseStatus>>;

impl Client {
    /// Grants a lease that lasts for this long after each keep-alive. See [`lease`](crate::lease).
    pub fn grant_lease(&self, ttl: Duration) -> GrantLease {
        GrantLease::new(self.clone(), ttl)
    }

    /// Lets a lease last for its time to live from now on; gives that.
    ///
    /// # Errors
    /// Not found: there is no such lease, or it has ended. Else as any request.
    pub async fn keep_lease_alive(&self, lease: LeaseId) -> Result<Duration> {
        keep_alive_once(self.core(), lease, self.patience(None)?).await
    }

    /// Ends a lease, and deletes the keys that are attached to it; whether there was one.
    ///
    /// # Errors
    /// As any request.
    pub async fn revoke_lease(&self, lease: LeaseId) -> Result<bool> {
        let revoked = write(self, None, WriteOp::RevokeLease(lease), Ack::Majority).await;
        match revoked {
            Ok(Response::Lease(Outcome::Lease(LeaseOutcome::Revoked))) => Ok(true),
            Ok(Response::Lease(Outcome::Lease(LeaseOutcome::Gone))) => Ok(false),
            Ok(other) => Err(unexpected(&other)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the cluster says of a lease; `None`: there is no such one.
    ///
    /// # Errors
    /// As any request.
    pub async fn time_to_live(&self, lease: LeaseId) -> Result<Option<LeaseStatus>> {
        let mut attempts = Attempts::new(self.core(), self.patience(None)?);
        let reply = attempts.routed(|ring| ring.shard_of_lease(lease), |_| Request::GetLease(lease)).await?;
        match reply.response {
            Response::LeaseInfo(info) => Ok(info.map(LeaseStatus::from_info)),
            other => Err(unexpected(&other)),
        }
    }

    /// The keys that are attached to a lease, those in this client's namespace, by shard and key. Not of one moment.
    ///
    /// # Errors
    /// Not found: there is no such lease. Else as any request.
    pub async fn lease_keys(&self, lease: LeaseId) -> Result<Vec<Key>> {
        let status = self.time_to_live(lease).await?.ok_or_else(|| no_lease(lease))?;
        let mut all = Vec::new();
        for shard in status.shards {
            let mut after = None;
            loop {
                let request = Request::LeaseKeys { shard, lease, after, limit: PAGE };
                let mut attempts = Attempts::new(self.core(), self.patience(None)?);
                let keys = match attempts.ask(shard, &request).await?.response {
                    Response::LeaseKeys(keys) => keys,
                    other => return Err(unexpected(&other)),
                };
                all.extend(keys.iter().filter_map(|key| self.namespace_of_keys().inside(key)));
                after = keys.last().cloned();
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(all)
    }

    /// All leases of the cluster, by shard and id. Not of one moment.
    #[must_use]
    pub fn list_leases(&self) -> Leases {
        let client = self.clone();
        let begin = async move {
            let ring = Attempts::new(client.core(), client.patience(None)?).ring().await?;
            let shards = ring.shards().iter().copied().collect();
            let walk = LeaseWalk { client, shards, from: LeaseId(0), page: VecDeque::new() };
            Ok(stream::try_unfold(walk, |walk| walk.next().boxed()))
        };
        stream::once(begin).try_flatten().boxed()
    }
}

/// A walk over the leases of all shards.
struct LeaseWalk {
    client: Client,
    /// Those that aren't done.
    shards: VecDeque<ShardId>,
    from: LeaseId,
    page: VecDeque<LeaseInfo>,
}

impl LeaseWalk {
    async fn next(mut self) -> Result<Option<(LeaseStatus, Self)>> {
        loop {
            if let Some(info) = self.page.pop_front() {
                return Ok(Some((LeaseStatus::from_info(info), self)));
            }
            let Some(&shard) = self.shards.front() else { return Ok(None) };
            let request = Request::ListLeases { shard, from: self.from, limit: PAGE };
            let mut attempts = Attempts::new(self.client.core(), self.client.patience(None)?);
            let leases = match attempts.ask(shard, &request).await?.response {
                Response::Leases(leases) => leases,
                other => return Err(unexpected(&other)),
            };
            match leases.last().and_then(|last| last.id.get().checked_add(1)) {
                Some(next) => self.from = LeaseId(next),
                None => {
                    self.shards.pop_front();
                    self.from = LeaseId(0);
                }
            }
            self.page = leases.into();
        }
    }
}

fn no_lease(lease: LeaseId) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no lease {lease}, or it has ended"))
}

/// Lets a lease last for its time to live from now on; gives that.
pub(crate) async fn keep_alive_once(core: &Core, lease: LeaseId, patience: Duration) -> Result<Duration> {
    // However much else there is to do: a lease that ends for want of a turn takes its keys along.
    let mut attempts = Attempts::new(core, patience.min(REQUEST_DEADLINE_MAX)).vital();
    let request = |_| Request::KeepLeaseAlive(lease);
    let reply = attempts.routed(|ring| ring.shard_of_lease(lease), request).await?;
    match reply.response {
        Response::LeaseKept(Outcome::Lease(LeaseOutcome::Alive { ttl_ms })) => {
            Ok(Duration::from_millis(ttl_ms))
        }
        Response::LeaseKept(Outcome::Lease(LeaseOutcome::Gone)) => Err(no_lease(lease)),
        other => Err(unexpected(&other)),
    }
}
