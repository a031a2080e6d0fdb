//! The handle that programs hold.

use std::{ops::RangeBounds, sync::Arc, time::Duration};

use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use kvd_proto::v1::{LocateRequest, MoveLeaderRequest, StatusRequest};
use kvd_types::{Error, NodeId, Result, ShardId, operation::Request};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    attempts::Attempts,
    config::{Config, check_deadline},
    core::Core,
    follow::follow_topology,
    keeper::keep_leases_alive,
    namespace::Namespace,
    range::KeyRange,
    request::{BatchGet, Delete, DeleteRange, Get, IntoBytes, Put},
    scan::Scan,
    seen::SessionToken,
    topology::{Location, Status, Topology, shard_from_wire},
    txn::Txn,
};

/// How long the sessions may take to close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// A client of one cluster. Cheap to clone; all clones share connections and sessions. Its tasks end with the last one.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    namespace: Namespace,
}

#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    follower: AbortOnDropHandle<()>,
    keeper: AbortOnDropHandle<()>,
}

impl Client {
    /// Finds the cluster: asks all endpoints at once and goes on with the first one that answers.
    ///
    /// ```no_run
    /// # async fn example() -> kvd_client::Result<()> {
    /// let client = kvd_client::Client::connect("127.0.0.1:7400,127.0.0.1:7410").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Invalid argument, for a bad configuration; unavailable, if no endpoint answers.
    pub async fn connect(config: impl Into<Config>) -> Result<Self> {
        let config = config.into().checked()?;
        let until = Instant::now() + config.connect_timeout + config.try_timeout;
        let core = Arc::new(Core::new(config));
        let addresses: Vec<Arc<str>> =
            core.config.endpoints.iter().map(|it| Arc::from(it.as_str())).collect();
        for address in &addresses {
            core.peer(address)?;
        }
        let mut answers: FuturesUnordered<_> =
            addresses.iter().map(|address| core.status_of(address, until)).collect();
        let mut errors = Vec::new();
        loop {
            match answers.next().await {
                Some(Ok(_)) => break,
                Some(Err(error)) => errors.push(error.message),
                None => {
                    return Err(Error::unavailable(format!("no endpoint answers: {}", errors.join("; "))));
                }
            }
        }
        drop(answers);
        let follower = AbortOnDropHandle::new(tokio::spawn(follow_topology(Arc::clone(&core))));
        let keeper = AbortOnDropHandle::new(tokio::spawn(keep_leases_alive(Arc::clone(&core))));
        let shared = Arc::new(Shared { core, follower, keeper });
        Ok(Self { shared, namespace: Namespace::default() })
    }

    /// Reads a key, linearizably.
    pub fn get(&self, key: impl IntoBytes) -> Get {
        Get::new(self.clone(), self.namespace.key(&key.into_bytes()))
    }

    /// Reads many keys. Each is read linearizably; those of one shard at one moment (512 of them at a time, fewer if they are
    /// large), those of different shards not, unless as of a revision.
    pub fn batch_get<K: IntoBytes>(&self, keys: impl IntoIterator<Item = K>) -> BatchGet {
        BatchGet::new(
            self.clone(),
            keys.into_iter().map(|key| self.namespace.key(&key.into_bytes())).collect(),
        )
    }

    /// Sets a key, once, however often it must be tried.
    pub fn put(&self, key: impl IntoBytes, value: impl IntoBytes) -> Put {
        Put::new(self.clone(), self.namespace.key(&key.into_bytes()), value.into_bytes())
    }

    /// Removes a key, once, however often it must be tried.
    pub fn delete(&self, key: impl IntoBytes) -> Delete {
        Delete::new(self.clone(), self.namespace.key(&key.into_bytes()))
    }

    /// Removes the keys of a range, shard by shard and step by step. See [`DeleteRange`].
    pub fn delete_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> DeleteRange {
        DeleteRange::new(self.clone(), self.namespace.range(&KeyRange::of(&range)))
    }

    /// Removes the keys that begin so. See [`Client::delete_range`].
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> DeleteRange {
        DeleteRange::new(self.clone(), self.namespace.range(&KeyRange::prefix(prefix.as_ref())))
    }

    /// Compares, then reads and changes many keys of one shard, all at once. See [`txn`](crate::txn).
    pub fn txn(&self) -> Txn {
        Txn::new(self.clone())
    }

    /// Reads the keys of a range, in order, as of one moment. See [`scan`](crate::scan).
    pub fn scan<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Scan {
        Scan::new(self.clone(), self.namespace.range(&KeyRange::of(&range)))
    }

    /// Reads the keys that begin so, in order. See [`Client::scan`].
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::new(self.clone(), self.namespace.range(&KeyRange::prefix(prefix.as_ref())))
    }

    /// Reads all keys, in order. See [`Client::scan`].
    pub fn scan_all(&self) -> Scan {
        self.scan_prefix(b"")
    }

    /// A client that puts a prefix before all keys that it names, and sees only keys with that prefix, without it; all else it
    /// shares with this one. A namespace in a namespace has both prefixes.
    ///
    /// A prefix with a whole hash tag, as `{tag}`, puts all its keys into one shard; with half of one, `{tag`, keys share
    /// tags in ways that are hard to foresee. Messages of errors name keys in full. Leases have no namespace.
    #[must_use]
    pub fn namespace(&self, prefix: impl IntoBytes) -> Self {
        let namespace = self.namespace.nested(&prefix.into_bytes());
        Self { shared: Arc::clone(&self.shared), namespace }
    }

    /// What this client has seen, for another one that is to see no less: see [`Client::see`].
    #[must_use]
    pub fn session_token(&self) -> SessionToken {
        self.core().seen.token(self.core().cluster_id())
    }

    /// Sees to it that reads with session consistency see what another client has seen.
    ///
    /// ```no_run
    /// # async fn example(one: kvd_client::Client, other: kvd_client::Client) -> kvd_client::Result<()> {
    /// one.put("greeting", "hello").await?;
    /// let token = one.session_token().to_string();
    /// // In another process:
    /// other.see(&token.parse()?)?;
    /// assert!(other.get("greeting").session().await?.is_some());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Invalid argument: the token is of another cluster.
    pub fn see(&self, token: &SessionToken) -> Result<()> {
        self.core().seen.take(token, &self.core().cluster_id())
    }

    /// What any one node says of the cluster and of itself.
    ///
    /// # Errors
    /// As any request.
    pub async fn status(&self) -> Result<Status> {
        let core = self.core();
        let call = async |mut cluster: crate::core::ClusterService| cluster.status(StatusRequest {}).await;
        let status = Status::from_wire(core.cluster_call(self.deadline(None)?, call).await?)?;
        core.take(status.topology.clone())?;
        Ok(status)
    }

    /// What this node says of the cluster and of itself.
    ///
    /// # Errors
    /// Not found, for a node that isn't in the topology; unavailable, if it doesn't answer.
    pub async fn status_of(&self, node: NodeId) -> Result<Status> {
        let core = self.core();
        core.check_open()?;
        let address = core.router.address_of(node).ok_or_else(|| {
            Error::new(
                kvd_types::ErrorKind::NotFound,
                format!("the cluster has no node {node} with a client address"),
            )
        })?;
        core.status_of(&address, Instant::now() + core.config.try_timeout).await
    }

    /// The last topology that was heard of; kept fresh in the background.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        let empty = || {
            Arc::new(Topology {
                cluster_id: String::new(),
                epoch: kvd_types::MetaEpoch(0),
                replication_factor: 0,
                ring: None,
                nodes: Vec::new(),
                shards: Vec::new(),
            })
        };
        self.core().router.topology().unwrap_or_else(empty)
    }

    /// Where a key lives.
    ///
    /// # Errors
    /// As any request.
    pub async fn locate(&self, key: impl IntoBytes) -> Result<Location> {
        let key = self.namespace.key(&key.into_bytes())?;
        let call = async |mut cluster: crate::core::ClusterService| {
            cluster.locate(LocateRequest { key: key.bytes().clone() }).await
        };
        let response = self.core().cluster_call(self.deadline(None)?, call).await?;
        let shard = response.shard.ok_or_else(|| Error::internal("the server located a key in no shard"))?;
        Ok(Location { shard: shard_from_wire(shard), hash: response.hash })
    }

    /// Makes a shard be led from a node, which must hold a replica of it; gives the node that leads it now.
    ///
    /// # Errors
    /// Not found or failed precondition, if that can't be; else as any request.
    pub async fn move_leader(&self, shard: ShardId, node: NodeId) -> Result<NodeId> {
        let call = async |mut cluster: crate::core::ClusterService| {
            cluster.move_leader(MoveLeaderRequest { shard: shard.get(), node: node.get() }).await
        };
        let core = self.core();
        let leader = NodeId(core.cluster_call(self.deadline(None)?, call).await?.leader_node);
        if let Some(address) = core.router.address_of(leader) {
            core.router.learn_leader(shard, &address);
        }
        Ok(leader)
    }

    /// Closes the sessions, as far as that is possible within a second, and all connections. All clones are closed: wait
    /// for the requests in flight first. A client that is just dropped leaves its sessions to expire.
    pub async fn close(self) {
        let core = self.core();
        let sessions = core.sessions();
        let closing = sessions.iter().map(|(shard, session)| async move {
            let request = Request::CloseSession(*shard, session.id());
            if let Err(error) = Attempts::new(core, CLOSE_DEADLINE).ask(*shard, &request).await {
                tracing::debug!(%shard, %error, "the session was not closed and will expire");
            }
        });
        join_all(closing).await;
        self.shared.follower.abort();
        self.shared.keeper.abort();
        core.close();
    }

    pub(crate) fn core(&self) -> &Core {
        &self.shared.core
    }

    /// What the keys that callers name go through, and those that they are given.
    pub(crate) const fn namespace_of_keys(&self) -> &Namespace {
        &self.namespace
    }

    /// When a request that begins now must be done.
    fn deadline(&self, asked: Option<Duration>) -> Result<Instant> {
        Ok(Instant::now() + self.patience(asked)?)
    }

    /// How long a request is tried.
    pub(crate) fn patience(&self, asked: Option<Duration>) -> Result<Duration> {
        let deadline = asked.unwrap_or(self.core().config.deadline);
        check_deadline(deadline)?;
        Ok(deadline)
    }
}
