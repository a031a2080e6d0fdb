//! The core of a node: what makes processes a cluster.
//!
//! # How it starts
//! Ports first, so that nodes can find each other; then the disk; then, if the node belongs to no cluster yet, `bootstrap`;
//! then its replicas, beginning with the meta group's, without which it knows nothing. Replicas start before the node has
//! announced itself: when a whole cluster starts they have to make the quorum that the announcement needs.
//!
//! # What runs
//! - `reconcile`: makes replicas, members and leaders as the meta group's state says;
//! - `peers`: other nodes' calls; `route` and `serve`: requests; `view`: what clients and people are shown;
//! - the announcement, until the meta group has taken it or refused it: a refused node stops.
//!
//! Clients are served on threads of their own. What they ask for fills any number of threads, and heartbeats that wait for
//! their turn behind it are late: where there is too much to do, leaders would be replaced for nothing.
//!
//! # How it stops
//! Told to, it hands its leaders over, lets requests end, drains and closes its replicas, flushes, and notes that nothing
//! was lost. When nothing is known of what is durable it stops at once, loudly, and notes nothing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::FutureExt as _;
use kvd_machine::MetaState;
use kvd_proto::v1;
use kvd_raft::{
    Group, Role,
    peer::{AddressBook, Handshake, PeerNetwork, PeerService, Verify},
};
use kvd_storage::identity::Joined;
use kvd_types::{
    ClusterId, Error, ErrorKind, GroupId, Key, NodeId, ReplicaId, Result, ShardId,
    cluster::{MetaCommand, MetaOutcome, Replica},
    limits::WATCHERS_MAX,
    operation::{Reply, Request},
};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    connections::ServiceLimits,
    grpc, http,
    metrics::SharedMetrics,
    platform::{Platform, System},
    store::{BoxFuture, DeletePart, Health, Parts, ScanPart, ScanSpec, Store, WatchPart, WatchSpec},
};

mod bootstrap;
mod checkpoints;
mod disk;
mod engine;
mod feed;
mod forwarded;
mod full_disk;
mod hand_over;
mod leases;
mod listen;
mod meta;
mod observe;
mod peers;
mod ranges;
mod recent;
mod reconcile;
mod replicas;
mod rest;
mod route;
mod routing;
mod serve;
mod stop;
mod view;
mod watcher;

#[cfg(test)]
mod tests;

use disk::NodeDisk;
use peers::{Peers, Start};
use replicas::Replicas;
use routing::Routing;

/// Between two tries to announce this start.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(500);
/// How long one try may take.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a replica to open may take to be tried again.
const OPEN_PAUSE: Duration = Duration::from_millis(500);
/// How long a hand-over that a person asks for may take.
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks whether its target has caught up.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(20);

/// A node.
pub(crate) struct Node {
    platform: Arc<dyn Platform>,
    config: Config,
    /// Random, another one with each start.
    start_nonce: u128,
    started: Instant,
    /// Cancelled when the node is told to stop, or must.
    stopping: CancellationToken,
    /// Why it must.
    fault: Mutex<Option<String>>,
    disk: OnceLock<Arc<NodeDisk>>,
    joined: OnceLock<Joined>,
    network: OnceLock<Arc<PeerNetwork>>,
    replicas: OnceLock<Replicas>,
    addresses: AddressBook,
    /// The latest start of each node that has called.
    seen: Mutex<BTreeMap<NodeId, Start>>,
    meta: watch::Sender<Arc<MetaState>>,
    /// The next replica id when this start's announcement was first seen applied here. What the meta group's state says from
    /// then on is not history; replicas from this id on never were on this disk before.
    announced_at: OnceLock<ReplicaId>,
    /// No file can be made for the log's next segment.
    disk_full: AtomicBool,
    /// There was no room for the last checkpoint that was offered.
    checkpoint_refused: AtomicBool,
    /// What its watchers follow.
    feeds: feed::Feeds,
    /// A permit for each watcher.
    watchers: Arc<Semaphore>,
    /// How recent its replicas are known to be.
    recency: recent::Recency,
    /// Room for other nodes' answers to what this one has passed on.
    forwarded: forwarded::Room,
    routing: ArcSwapOption<Routing>,
    topology: watch::Sender<Arc<v1::Topology>>,
    metrics: SharedMetrics,
}

/// Runs a node until it is told to stop; clients are served on a runtime of their own.
///
/// # Errors
/// Whatever keeps it from starting, or made it stop, in words that say what to do.
pub async fn run(
    config: Config,
    clients: Handle,
    shutdown: CancellationToken,
    metrics: SharedMetrics,
) -> anyhow::Result<()> {
    run_on(Arc::new(System { clients: Some(clients) }), config, shutdown, metrics).await
}

/// Runs a node on a platform of its own.
///
/// # Errors
/// See [`run`].
pub async fn run_on(
    platform: Arc<dyn Platform>,
    config: Config,
    shutdown: CancellationToken,
    metrics: SharedMetrics,
) -> anyhow::Result<()> {
    let listeners = listen::Listeners::bind(platform.as_ref(), &config).await?;
    let node = Arc::new(Node::new(platform, config, shutdown.child_token(), metrics));
    let ended = node.run(listeners).await;
    let fault = node.fault.lock().take();
    match (fault, ended) {
        (Some(fault), _) => Err(anyhow::anyhow!(fault)),
        (None, ended) => ended,
    }
}

impl Node {
    fn new(
        platform: Arc<dyn Platform>,
        config: Config,
        stopping: CancellationToken,
        metrics: SharedMetrics,
    ) -> Self {
        Self {
            start_nonce: platform.random(),
            platform,
            config,
            started: Instant::now(),
            stopping,
            fault: Mutex::default(),
            disk: OnceLock::new(),
            joined: OnceLock::new(),
            network: OnceLock::new(),
            replicas: OnceLock::new(),
            addresses: AddressBook::default(),
            seen: Mutex::default(),
            meta: watch::Sender::new(Arc::default()),
            announced_at: OnceLock::new(),
            disk_full: AtomicBool::new(false),
            checkpoint_refused: AtomicBool::new(false),
            feeds: feed::Feeds::default(),
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
            recency: recent::Recency::default(),
            forwarded: forwarded::Room::new(),
            routing: ArcSwapOption::empty(),
            topology: watch::Sender::new(Arc::default()),
            metrics,
        }
    }

    async fn run(self: &Arc<Self>, listeners: listen::Listeners) -> anyhow::Result<()> {
        self.open_disk().await?;
        // Servers outlive the node's own tasks: leaders are handed over while peers still talk to it.
        let serving = CancellationToken::new();
        let mut servers = self.serve(listeners, &serving);
        let ran = self.run_tasks().await;
        if self.fault.lock().is_none() && ran.is_ok() {
            self.step_back().await;
        }
        serving.cancel();
        while servers.join_next().await.is_some() {}
        ran?;
        self.close().await?;
        Ok(())
    }

    /// Everything between the disk's opening and the order to stop.
    async fn run_tasks(self: &Arc<Self>) -> Result<()> {
        let Some(joined) = Arc::clone(self).join_cluster().await? else { return Ok(()) };
        self.open_meta(joined).await?;
        let mut tasks = JoinSet::new();
        let [reconcile, topology, announce, flush, observe, faults, leases] =
            std::array::from_fn(|_| Arc::clone(self));
        tasks.spawn(async move { reconcile.reconcile_loop().await });
        tasks.spawn(async move { topology.topology_loop().await });
        tasks.spawn(async move { announce.announce_loop().await });
        tasks.spawn(async move { flush.flush_loop().await });
        tasks.spawn(async move { observe.observe_loop().await });
        tasks.spawn(async move { faults.fault_loop().await });
        tasks.spawn(async move { leases.leases_loop().await });
        // Each ends when the node stops; one that panics takes the node with it, for nothing else would do its work.
        while let Some(ended) = tasks.join_next().await {
            if let Err(panicked) = ended {
                self.fail(format!("a task of the node has failed, which is a bug: {panicked}"));
            }
        }
        Ok(())
    }

    async fn open_disk(self: &Arc<Self>) -> Result<()> {
        let node = Arc::clone(self);
        let opened = self.platform.blocking().run(move || {
            let observer = Arc::new(observe::LogObserver::new(&node));
            Ok(NodeDisk::open(node.platform.as_ref(), &node.config, observer, node.platform.random()))
        });
        let (disk, recovery) = opened.await.map_err(|error| Error::internal(error.to_string()))??;
        self.platform.log_opened(disk.log.driver());
        if let Some(torn) = &recovery.torn_tail {
            tracing::info!(file = %torn.file.display(), offset = torn.offset, "cut off a torn tail of the log, never acknowledged");
        }
        for (replica, damage) in &recovery.damaged {
            tracing::error!(%replica, %damage, "the log of a replica is damaged");
        }
        if let Some(damage) = &recovery.unattributed {
            tracing::error!(%damage, "the log is damaged where it can't be told whose entries are lost");
        }
        if disk.distrusts_state() {
            tracing::warn!(
                "the machine has rebooted after a stop that was not clean; every replica is rebuilt from checkpoint and log"
            );
        }
        tracing::info!(segments = recovery.segments, records = recovery.records, "log opened");
        self.disk.set(Arc::new(disk)).map_err(|_set| Error::internal("the disk was opened twice"))
    }

    /// Becomes a node of a cluster, or takes up being one. `None` if it was stopped before.
    async fn join_cluster(self: Arc<Self>) -> Result<Option<Joined>> {
        let disk = self.disk()?;
        let joined = match disk.identity().joined {
            Some(joined) => joined,
            None => match self.bootstrap().await {
                Ok(joined) => {
                    fail::fail_point!(crate::failpoints::JOIN_BEFORE_NOTED);
                    disk.set_joined(joined)?;
                    fail::fail_point!(crate::failpoints::JOIN_AFTER_NOTED);
                    joined
                }
                Err(_) if self.stopping.is_cancelled() => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        self.joined.set(joined).map_err(|_set| Error::internal("the node joined twice"))?;
        let judge = Arc::downgrade(&self);
        let verify: Verify = Arc::new(move |answering| {
            let node = judge.upgrade().ok_or_else(|| Error::unavailable("the node has stopped"))?;
            node.check_answering(answering)
        });
        let network = Arc::new(PeerNetwork::new(
            self.handshake(NodeId(0)),
            self.addresses.clone(),
            verify,
            self.platform.dialer(),
            self.platform.blocking(),
        ));
        let observer = Arc::new(observe::ReplicaObserver::new(&self));
        let (disk, transport) = (Arc::clone(&disk), Arc::clone(&network) as _);
        let meta = self.meta.subscribe();
        let platform = self.platform.as_ref();
        let replicas = Replicas::new(joined.node, disk, transport, platform, &self.config, observer, meta)?;
        self.network.set(network).map_err(|_set| Error::internal("the network was made twice"))?;
        self.replicas.set(replicas).map_err(|_set| Error::internal("the replicas were made twice"))?;
        tracing::info!(cluster = %joined.cluster, node = %joined.node, "the node belongs to a cluster");
        Ok(Some(joined))
    }

    /// Opens the meta group's replica; the founder's starts the group, and with it the cluster.
    async fn open_meta(&self, joined: Joined) -> Result<()> {
        let replicas = self.replicas()?;
        let me = Replica { id: joined.meta_replica, node: joined.node };
        let founders = bootstrap::is_founder(joined).then_some(std::slice::from_ref(&me));
        if replicas.open(GroupId::META, me.id, founders, false).await? {
            let state = self.meta();
            self.learn(&state)?;
            return Ok(());
        }
        self.replace_meta(joined).await
    }

    /// Gets this node a new replica of the meta group in place of one that is lost.
    async fn replace_meta(&self, joined: Joined) -> Result<()> {
        tracing::warn!("this node's replica of the meta group is lost; asking the other nodes for a new one");
        let joined = loop {
            self.learn_addresses().await;
            match self.ask_for_meta_replica(joined).await {
                Ok(meta_replica) => break Joined { meta_replica, ..joined },
                Err(error) => tracing::info!(%error, "no new replica of the meta group yet"),
            }
            tokio::select! {
                () = self.stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(OPEN_PAUSE) => {}
            }
        };
        self.disk()?.set_joined(joined)?;
        if self.replicas()?.open(GroupId::META, joined.meta_replica, None, true).await? {
            return Ok(());
        }
        Err(Error::internal("a new replica of the meta group is lost at once"))
    }

    async fn ask_for_meta_replica(&self, joined: Joined) -> Result<ReplicaId> {
        let deadline = Instant::now() + ANNOUNCE_TIMEOUT;
        let lost = joined.meta_replica;
        let replace = MetaCommand::ReplaceReplica { group: GroupId::META, lost, node: joined.node };
        self.ask_any_peer(replace, deadline).await?;
        // Asked again after a lost answer it says only "done"; registering again always tells the replica.
        let register = MetaCommand::RegisterNode {
            join_nonce: self.disk()?.identity().join_nonce,
            profile: self.config.profile(),
            replaces: None,
        };
        match self.ask_any_peer(register, deadline).await? {
            MetaOutcome::NodeRegistered { node, meta_replica }
                if node == joined.node && meta_replica != lost =>
            {
                Ok(meta_replica)
            }
            MetaOutcome::Refused(why) => {
                self.fail(format!("the cluster refuses this node: {why}"));
                Err(Error::unavailable("refused"))
            }
            other => Err(Error::unavailable(format!("the meta group answered {other:?}"))),
        }
    }

    /// Announces this start until the meta group has taken it. A refusal stops the node.
    async fn announce_loop(&self) {
        let Some(joined) = self.joined() else { return };
        if let Err(error) = self.create_cluster(joined).await {
            self.fail(format!("the cluster could not be created: {error}"));
        }
        self.learn_addresses().await;
        loop {
            let announced = self.announce(joined).await;
            match announced {
                Ok(MetaOutcome::Refused(why)) => {
                    return self.fail(format!("the cluster refuses this node: {why}"));
                }
                Ok(_) => return tracing::info!("announced to the cluster"),
                Err(error) => tracing::debug!(%error, "not announced yet"),
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(ANNOUNCE_PAUSE) => {}
            }
        }
    }

    async fn announce(&self, joined: Joined) -> Result<MetaOutcome> {
        fail::fail_point!(crate::failpoints::ANNOUNCE_BEFORE);
        let command = MetaCommand::AnnounceStart {
            node: joined.node,
            incarnation: self.disk()?.identity().incarnation,
            start_nonce: self.start_nonce,
            profile: self.config.profile(),
        };
        match self.propose_meta(command.clone(), Instant::now() + ANNOUNCE_TIMEOUT).await {
            // A node that the others turn away, because its disk is a copy or its place is taken, never hears of a leader, or
            // believes in one that is not where it was. Asked for this, they tell it why.
            Err(_) => self.ask_any_peer(command, Instant::now() + ANNOUNCE_TIMEOUT).await,
            announced => announced,
        }
    }

    /// The founder's first entry, proposed until it stands.
    async fn create_cluster(&self, joined: Joined) -> Result<()> {
        if !bootstrap::is_founder(joined) {
            return Ok(());
        }
        let command = MetaCommand::CreateCluster {
            cluster: joined.cluster,
            settings: self.config.cluster.settings(),
            join_nonce: self.disk()?.identity().join_nonce,
            profile: self.config.profile(),
        };
        while self.meta().founding.is_none() && !self.stopping.is_cancelled() {
            let group = self.replicas()?.group(GroupId::META);
            if !group.is_some_and(|group| group.leadership().is_self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let proposed = self.propose_meta_here(command.clone(), Instant::now() + ANNOUNCE_TIMEOUT).await;
            match proposed {
                Ok(MetaOutcome::Refused(why)) if self.meta().founding.is_none() => {
                    return Err(Error::invalid(why));
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the cluster is not created yet"),
            }
        }
        Ok(())
    }

    /// Stops the node, because it can't go on. The first reason counts.
    pub(super) fn fail(&self, why: impl Into<String>) {
        let mut fault = self.fault.lock();
        if fault.is_none() {
            let why = why.into();
            tracing::error!(why, "the node stops");
            *fault = Some(why);
        }
        drop(fault);
        self.stopping.cancel();
    }

    fn disk(&self) -> Result<Arc<NodeDisk>> {
        self.disk
            .get()
            .cloned()
            .ok_or_else(|| Error::unavailable("the node is starting: its disk is not open yet"))
    }

    fn joined(&self) -> Option<Joined> {
        self.joined.get().copied()
    }

    fn is_self(&self, node: NodeId) -> bool {
        self.joined().is_some_and(|joined| joined.node == node)
    }

    /// The cluster that it belongs to, as tokens name it.
    fn cluster_id(&self) -> Result<String> {
        let joined = self.joined();
        let none = || Error::unavailable("the node is starting: it is in no cluster yet");
        joined.map(|joined| joined.cluster.to_string()).ok_or_else(none)
    }

    fn replicas(&self) -> Result<&Replicas> {
        self.replicas.get().ok_or_else(|| Error::unavailable("the node is starting: it is in no cluster yet"))
    }

    fn network(&self) -> Result<&Arc<PeerNetwork>> {
        self.network.get().ok_or_else(|| Error::unavailable("the node is starting: it is in no cluster yet"))
    }

    fn meta(&self) -> Arc<MetaState> {
        self.meta.borrow().clone()
    }

    /// How this node introduces itself to another.
    fn handshake(&self, to: NodeId) -> Handshake {
        let joined = self.joined();
        let incarnation = self.disk.get().map(|disk| disk.identity().incarnation).unwrap_or_default();
        Handshake {
            cluster: joined.map(|joined| joined.cluster).filter(|&cluster| cluster != ClusterId::default()),
            token: self.config.cluster_token.reveal().to_owned(),
            from: joined.map(|joined| joined.node).unwrap_or_default(),
            to,
            incarnation,
            start_nonce: self.start_nonce,
        }
    }

    fn serve(self: &Arc<Self>, listeners: listen::Listeners, serving: &CancellationToken) -> JoinSet<()> {
        let mut servers = JoinSet::new();
        let limits = ServiceLimits::from(&self.config);
        let store: Arc<dyn Store> = Arc::clone(self) as _;
        let (node, client, http) = (Arc::clone(self), Arc::clone(&store), store);
        let (metrics, shutdown) = (Arc::clone(&self.metrics), serving.clone());
        let clients = self.platform.clients();
        let grpc = async move {
            if let Err(error) = grpc::serve(listeners.client, client, limits, shutdown, metrics).await {
                tracing::error!(%error, "the client port has stopped serving");
            }
        };
        servers.spawn_on(grpc, &clients);
        let http = http::serve(listeners.http, http, limits, serving.clone(), Arc::clone(&self.metrics));
        servers.spawn_on(http, &clients);
        let peers = PeerService::server(Arc::new(Peers(node)), serving.clone());
        let metrics = Arc::clone(&self.metrics);
        servers.spawn(listen::serve_peers(listeners.peer, peers, limits, metrics, serving.clone()));
        servers
    }

    fn reasons_not_ready(&self) -> Vec<String> {
        if self.stopping.is_cancelled() {
            return vec!["the node is stopping".to_owned()];
        }
        let state = self.meta();
        let (Ok(replicas), Some(founding)) = (self.replicas(), &state.founding) else {
            return vec!["the node is in no cluster yet".to_owned()];
        };
        let mut reasons = Vec::new();
        for shard in &founding.ring.shards {
            let Some(placement) = state.placements.get(&shard.id.into()) else {
                reasons.push(format!("shard {} is not placed yet", shard.id));
                continue;
            };
            let Some(joined) = self.joined() else { continue };
            if placement.on_node(joined.node).is_none() {
                continue;
            }
            match replicas.group(shard.id.into()) {
                None => reasons.push(format!("the replica of shard {} is not open", shard.id)),
                Some(group) if group.leadership().leader.is_none() => {
                    reasons.push(format!("shard {} has no leader", shard.id));
                }
                // Whoever restarts nodes one by one must not take the next one while this one's vote is missing.
                Some(group) if !group.members().voters.contains_key(&group.replica()) => {
                    reasons.push(format!(
                        "the replica of shard {} has not caught up and does not vote yet",
                        shard.id
                    ));
                }
                Some(_) => {}
            }
        }
        reasons
    }

    async fn move_leader_to(&self, shard: ShardId, to: NodeId) -> Result<NodeId> {
        let state = self.meta();
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no shard {shard}"));
        let placement = state.placements.get(&shard.into()).ok_or_else(missing)?;
        if !state.nodes.contains_key(&to) {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no node {to}")));
        }
        let target = placement.voters.iter().find(|voter| voter.node == to).ok_or_else(|| {
            Error::new(ErrorKind::FailedPrecondition, format!("node {to} has no voter of shard {shard}"))
        })?;
        let deadline = Instant::now() + MOVE_TIMEOUT;
        let command = MetaCommand::PreferLeader { group: shard.into(), replica: target.id };
        if let MetaOutcome::Refused(why) = self.propose_meta(command, deadline).await? {
            return Err(Error::new(ErrorKind::FailedPrecondition, why));
        }
        // Whoever leads hands over by itself once it has settled; where that is this node, it need not wait.
        if let Some(group) = self.replicas()?.group(shard.into()).filter(|group| group.leadership().is_self) {
            self.hand_over_once_it_can(&group, target.id, deadline).await?;
        }
        self.wait_for_leader(shard, to, deadline).await
    }

    /// Hands a group over, if this node still leads it, as soon as the target has caught up: one that a leader so new has not
    /// heard yet counts as late.
    async fn hand_over_once_it_can(&self, group: &Group, to: ReplicaId, deadline: Instant) -> Result<()> {
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            let Err(error) = self.hand_over(group, to, patience).await else { return Ok(()) };
            if !group.leadership().is_self {
                // The leader has seen the preference too, and was first to hand over; or another one leads, who will.
                return Ok(());
            }
            if error.kind != ErrorKind::FailedPrecondition || Instant::now() + CATCH_UP_PAUSE >= deadline {
                return Err(error);
            }
            tokio::time::sleep(CATCH_UP_PAUSE).await;
        }
    }

    async fn wait_for_leader(&self, shard: ShardId, to: NodeId, deadline: Instant) -> Result<NodeId> {
        let Some(group) = self.replicas()?.group(shard.into()) else {
            // No replica here to watch: the preference stands, and its leader follows it.
            return Ok(to);
        };
        let mut leadership = group.watch_leadership();
        let led = leadership.wait_for(|seen| seen.leader.is_some_and(|leader| leader.node == to));
        match tokio::time::timeout_at(deadline, led).await {
            Ok(Ok(_)) => Ok(to),
            Ok(Err(_)) | Err(_) => Err(Error::unavailable(format!(
                "node {to} does not lead shard {shard} yet; it will once it has caught up"
            ))),
        }
    }
}

impl Store for Node {
    fn execute(&self, request: Request, deadline: Instant) -> BoxFuture<'_, Result<Reply>> {
        Self::execute(self, request, deadline).boxed()
    }

    fn scan(self: Arc<Self>, spec: ScanSpec) -> Parts<ScanPart> {
        self.scan_range(spec)
    }

    fn delete_range(self: Arc<Self>, start: Bytes, end: Bytes) -> Parts<DeletePart> {
        self.delete_whole_range(start, end)
    }

    fn watch(self: Arc<Self>, spec: WatchSpec) -> Parts<WatchPart> {
        self.watch_range(spec)
    }

    fn topology(&self) -> watch::Receiver<Arc<v1::Topology>> {
        self.topology.subscribe()
    }

    fn status(&self) -> BoxFuture<'_, v1::StatusResponse> {
        async move { self.make_status() }.boxed()
    }

    fn locate(&self, key: &Key) -> Result<v1::LocateResponse> {
        let routing = self.routing()?;
        let shard = self.shard_view(&self.meta(), routing.ring.shard_of(key));
        Ok(v1::LocateResponse { shard: Some(shard), hash: routing.ring.hash_of(key) })
    }

    fn move_leader(&self, shard: ShardId, to: NodeId) -> BoxFuture<'_, Result<NodeId>> {
        self.move_leader_to(shard, to).boxed()
    }

    fn health(&self) -> Health {
        Health { reasons: self.reasons_not_ready(), live: self.fault.lock().is_none() }
    }
}
