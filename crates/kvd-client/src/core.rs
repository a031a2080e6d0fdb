//! What all handles of one client share: the router, the nodes, the sessions.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use kvd_proto::{
    error::from_status,
    v1::{StatusRequest, cluster_client::ClusterClient},
};
use kvd_types::{Error, ErrorKind, Result, RingEpoch, ShardId, limits::NODES_MAX};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{Response, Status, transport::Channel};

use crate::{
    backoff::Backoff,
    config::{Config, ENDPOINTS_MAX},
    keeper::Keeper,
    peer::Peer,
    pipeline::describe,
    router::Router,
    seen::Seen,
    session::Session,
    throttle::Throttle,
    topology::{self, Topology},
};

/// How long one node is waited for when the topology is asked for out of turn.
const REFRESH_TRY_TIMEOUT: Duration = Duration::from_secs(1);

/// A node's cluster service.
pub(crate) type ClusterService = ClusterClient<Channel>;

/// What all handles of one client share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) router: Router,
    pub(crate) seen: Seen,
    pub(crate) keeper: Keeper,
    peers: RwLock<HashMap<Arc<str>, Arc<Peer>>>,
    sessions: Mutex<HashMap<ShardId, Arc<SessionCell>>>,
    throttles: RwLock<HashMap<ShardId, Arc<Throttle>>>,
    refreshing: tokio::sync::Mutex<()>,
    closed: AtomicBool,
    /// Counts the choices among equals, so that each is asked in turn.
    turn: AtomicUsize,
}

/// The session with one shard, if there is one.
#[derive(Debug, Default)]
pub(crate) struct SessionCell {
    current: Mutex<Option<Arc<Session>>>,
    /// Held by whoever opens a session: the others wait for the same one.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

impl SessionCell {
    pub(crate) fn current(&self) -> Option<Arc<Session>> {
        self.current.lock().clone()
    }

    pub(crate) fn set(&self, session: Arc<Session>) {
        *self.current.lock() = Some(session);
    }

    /// The shard doesn't know this session any more.
    pub(crate) fn forget(&self, session: &Arc<Session>) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *current = None;
        }
    }
}

impl Core {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            router: Router::new(),
            seen: Seen::default(),
            keeper: Keeper::default(),
            peers: RwLock::default(),
            sessions: Mutex::default(),
            throttles: RwLock::default(),
            refreshing: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        }
    }

    /// The node at an address.
    ///
    /// # Errors
    /// Invalid argument, if it isn't an address.
    pub(crate) fn peer(&self, address: &Arc<str>) -> Result<Arc<Peer>> {
        if let Some(peer) = self.peers.read().get(address) {
            return Ok(Arc::clone(peer));
        }
        let mut peers = self.peers.write();
        if let Some(peer) = peers.get(address) {
            return Ok(Arc::clone(peer));
        }
        // Redirects may name any address; the next topology forgets those that are no nodes.
        if peers.len() >= NODES_MAX + ENDPOINTS_MAX {
            return Err(Error::unavailable(format!(
                "{address}: more addresses are known than a cluster has nodes"
            )));
        }
        let peer = Arc::new(Peer::new(Arc::clone(address), &self.config)?);
        peers.insert(Arc::clone(address), Arc::clone(&peer));
        Ok(peer)
    }

    /// The address to ask for a shard, or for anything: the leader first, then who holds the shard, then any node, those
    /// in good health first. `None` if all are among those to avoid.
    pub(crate) fn choose(&self, shard: Option<ShardId>, avoid: &[Arc<str>]) -> Option<Arc<str>> {
        let allowed = |address: &Arc<str>| !avoid.contains(address);
        let healthy = |address: &Arc<str>| {
            allowed(address) && !self.peers.read().get(address).is_some_and(|peer| peer.is_shunned())
        };
        if let Some(leader) = shard.and_then(|shard| self.router.leader(shard)).filter(healthy) {
            return Some(leader);
        }
        if let Some(shard) = shard
            && let Some(holder) = any_of(&self.router.holders(shard), healthy)
        {
            return Some(holder);
        }
        let nodes = self.router.nodes();
        let endpoints: Vec<Arc<str>> =
            self.config.endpoints.iter().map(|it| Arc::from(it.as_str())).collect();
        any_of(&nodes, healthy)
            .or_else(|| any_of(&endpoints, healthy))
            .or_else(|| any_of(&nodes, allowed))
            .or_else(|| any_of(&endpoints, allowed))
    }

    /// The address to ask for what any replica of a shard may answer: a holder in this client's zone, else any one, each in
    /// turn, those in good health first. Without one, as [`Core::choose`].
    pub(crate) fn choose_holder(&self, shard: ShardId, avoid: &[Arc<str>]) -> Option<Arc<str>> {
        let holders = self.router.holders(shard);
        self.choose_near(&holders, avoid).or_else(|| self.choose(Some(shard), avoid))
    }

    /// The address to ask for what any node may answer, near ones first. `None` if all are among those to avoid.
    pub(crate) fn choose_any(&self, avoid: &[Arc<str>]) -> Option<Arc<str>> {
        self.choose_near(&self.router.nodes(), avoid).or_else(|| self.choose(None, avoid))
    }

    fn choose_near(&self, addresses: &[Arc<str>], avoid: &[Arc<str>]) -> Option<Arc<str>> {
        let healthy = |address: &Arc<str>| {
            !avoid.contains(address) && !self.peers.read().get(address).is_some_and(|peer| peer.is_shunned())
        };
        let usable: Vec<_> = addresses.iter().filter(|address| healthy(address)).collect();
        let near: Vec<_> = match &self.config.zone {
            Some(zone) => {
                usable.iter().copied().filter(|address| self.router.is_in_zone(address, zone)).collect()
            }
            None => Vec::new(),
        };
        let among = if near.is_empty() { usable } else { near };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        among.get(turn.checked_rem(among.len())?).map(|address| Arc::clone(address))
    }

    /// The cluster's id; empty before it is known.
    pub(crate) fn cluster_id(&self) -> String {
        self.router.topology().map(|topology| topology.cluster_id.clone()).unwrap_or_default()
    }

    /// Takes a topology that a node has told, and forgets nodes that are gone.
    pub(crate) fn take(&self, topology: Topology) -> Result<()> {
        self.router.take(topology)?;
        let nodes = self.router.nodes();
        let is_endpoint = |address: &str| self.config.endpoints.iter().any(|endpoint| endpoint == address);
        self.peers.write().retain(|address, _| nodes.contains(address) || is_endpoint(address));
        Ok(())
    }

    /// Asks one node for its status, and takes the topology in it.
    pub(crate) async fn status_of(&self, address: &Arc<str>, until: Instant) -> Result<topology::Status> {
        let peer = self.peer(address)?;
        let mut cluster = peer.cluster();
        let response = timeout_at(until, cluster.status(StatusRequest {}))
            .await
            .map_err(|_elapsed| Error::unavailable(format!("node {address}: no answer in time")))?
            .map_err(|status| unary_error(&peer, &status))?;
        let status = topology::Status::from_wire(response.into_inner())?;
        self.take(status.topology.clone())?;
        Ok(status)
    }

    /// Fetches a topology whose ring has at least this epoch, from one node after the other, once around. Those who ask
    /// at the same time share one round.
    pub(crate) async fn refresh(&self, epoch: RingEpoch, deadline: Instant) {
        let Ok(_refreshing) = timeout_at(deadline, self.refreshing.lock()).await else { return };
        let mut asked = Vec::new();
        while self.router.ring().is_none_or(|ring| ring.epoch() < epoch) {
            let Some(address) = self.choose(None, &asked) else { return };
            let until = deadline.min(Instant::now() + REFRESH_TRY_TIMEOUT);
            if let Err(error) = self.status_of(&address, until).await {
                tracing::debug!(%address, %error, "no topology");
            }
            if Instant::now() >= deadline {
                return;
            }
            asked.push(address);
        }
    }

    /// Makes a call of the cluster service, at one node after the other until the deadline.
    pub(crate) async fn cluster_call<R>(
        &self,
        deadline: Instant,
        mut call: impl AsyncFnMut(ClusterService) -> Result<Response<R>, Status>,
    ) -> Result<R> {
        let (mut avoid, mut backoff) = (Vec::new(), Backoff::default());
        loop {
            self.check_open()?;
            let Some(address) = self.choose(None, &avoid) else {
                avoid.clear();
                tokio::time::sleep_until(deadline.min(Instant::now() + backoff.pause())).await;
                continue;
            };
            let peer = self.peer(&address)?;
            let until = try_until(&self.config, deadline);
            let error = match timeout_at(until, call(peer.cluster())).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => unary_error(&peer, &status),
                Err(_elapsed) => Error::unavailable(format!("node {address}: no answer in time")),
            };
            if !error.is_retryable() || Instant::now() >= deadline {
                return Err(error);
            }
            avoid.push(address);
        }
    }

    /// The cell of the session with a shard.
    pub(crate) fn session_cell(&self, shard: ShardId) -> Arc<SessionCell> {
        Arc::clone(self.sessions.lock().entry(shard).or_default())
    }

    /// What holds back the requests to a shard that has too much to do.
    pub(crate) fn throttle(&self, shard: ShardId) -> Arc<Throttle> {
        if let Some(throttle) = self.throttles.read().get(&shard) {
            return Arc::clone(throttle);
        }
        let mut throttles = self.throttles.write();
        Arc::clone(throttles.entry(shard).or_insert_with(|| Arc::new(Throttle::new(shard))))
    }

    /// The open sessions.
    pub(crate) fn sessions(&self) -> Vec<(ShardId, Arc<Session>)> {
        let cells = self.sessions.lock();
        cells.iter().filter_map(|(&shard, cell)| Some((shard, cell.current()?))).collect()
    }

    /// Ends the use of the client, and lets go of its sessions and connections.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.sessions.lock().clear();
        self.peers.write().clear();
    }

    /// Whether the client may still be used.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "the client has been closed: make a new one",
            ));
        }
        Ok(())
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.router.changes()
    }
}

/// When the next try should be given up: early enough that another node can still be asked.
pub(crate) fn try_until(config: &Config, deadline: Instant) -> Instant {
    const LAST_TRY: Duration = Duration::from_millis(200);
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let pause = if left <= LAST_TRY { left } else { config.try_timeout.min(left / 2) };
    now + pause
}

/// One of the addresses that will do, drawn by lot so that load and failures spread.
fn any_of(addresses: &[Arc<str>], will_do: impl Fn(&Arc<str>) -> bool) -> Option<Arc<str>> {
    let first = if addresses.len() > 1 { rand::random_range(0..addresses.len()) } else { 0 };
    let (before, after) = addresses.split_at_checked(first)?;
    after.iter().chain(before).find(|address| will_do(address)).cloned()
}

/// The error of a unary call. A node that can't be reached is unavailable, and shunned.
fn unary_error(peer: &Peer, status: &Status) -> Error {
    let error = from_status(status);
    if !matches!(error.kind, ErrorKind::OutcomeUnknown) {
        return error;
    }
    let error = Error::unavailable(format!("node {}: {}", peer.address(), describe(status)));
    peer.shun(&error);
    error
}
