//! The replicas of a node: opened, looked up, watched over, discarded.
//!
//! A replica whose rows fail a check is closed and opened again, rebuilt from its checkpoint and log. One that can't be
//! rebuilt so is *lost*: it stays closed, never serves, and the node asks the meta group for a successor. A fault of the
//! node itself (nothing is known of what is durable) stops the process.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kvd_machine::MetaState;
use kvd_raft::{
    Fault, Group, HistoryOptions, MemoryOptions, OpenError, Parts, SleepOptions, Timing, Transport,
    blocking::Blocking, clock::Clock, disk_reads::DiskReads, observe::Observer, pulse::Pulses,
    turns::DrainTurns,
};
use kvd_storage::log;
use kvd_types::{Error, GroupId, NodeId, ReplicaId, Result, cluster::Replica};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::disk::NodeDisk;
use crate::{
    config::{Config, Engine},
    platform::Platform,
};

/// The replicas of a node.
pub(super) struct Replicas {
    disk: Arc<NodeDisk>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    blocking: Blocking,
    disk_reads: DiskReads,
    drain_turns: DrainTurns,
    timing: Timing,
    /// The pulses of the nodes whose replicas lead.
    pulses: Pulses,
    sleep: Option<SleepOptions>,
    memory: MemoryOptions,
    /// Bytes of current versions that all replicas together keep at hand.
    at_hand_bytes_max: u64,
    observer: Arc<dyn Observer>,
    meta: watch::Receiver<Arc<MetaState>>,
    open: RwLock<Open>,
}

#[derive(Default)]
struct Open {
    groups: BTreeMap<GroupId, Group>,
    /// Replicas that can't be rebuilt here, with the reason.
    lost: BTreeMap<ReplicaId, (GroupId, String)>,
}

/// How much may wait in memory before it is set apart to be drained: rows of each replica, bytes of all together, but for the
/// least that each has. With an engine for a state larger than memory no more bytes than its cache has, so that the one setting
/// bounds both.
fn memory_of(config: &Config) -> MemoryOptions {
    let usual = MemoryOptions::default();
    match config.storage.engine {
        Engine::Sled | Engine::Memory => usual,
        Engine::Fjall => MemoryOptions {
            drain_bytes: usual.drain_bytes / 2,
            bytes_max: usize::try_from(config.storage.cache_bytes).unwrap_or(usize::MAX),
            ..usual
        },
    }
}

/// What of it one of so many shards has: as much as the largest drain takes, at least. A drain begins long before the room is
/// full, as rows keep coming while it lasts.
fn memory_of_shard(of_node: MemoryOptions, at_hand_bytes_max: u64, shards: u32) -> MemoryOptions {
    let room = of_node.bytes_max / usize::try_from(shards.max(1)).unwrap_or(usize::MAX);
    let bytes_max = room.max(of_node.drain_bytes);
    MemoryOptions {
        bytes_max,
        drain_bytes: of_node.drain_bytes.min(bytes_max / 4),
        at_hand_bytes_max: at_hand_bytes_max / u64::from(shards.max(1)),
        ..of_node
    }
}

impl Replicas {
    pub(super) fn new(
        node: NodeId,
        disk: Arc<NodeDisk>,
        transport: Arc<dyn Transport>,
        platform: &dyn Platform,
        config: &Config,
        observer: Arc<dyn Observer>,
        meta: watch::Receiver<Arc<MetaState>>,
    ) -> Result<Self> {
        let disk_reads = DiskReads::new(platform.blocking())
            .map_err(|error| Error::internal(format!("no threads can be had that read: {error}")))?;
        let (election_timeout_min, election_timeout_max) = config.raft.election_timeout();
        let timing =
            Timing { heartbeat: config.raft.heartbeat(), election_timeout_min, election_timeout_max };
        let pulses = Pulses::new(node, disk.identity().incarnation, Arc::clone(&transport), timing);
        let sleep = config.raft.sleep_after().map(|after| SleepOptions { after, pulses: pulses.clone() });
        Ok(Self {
            disk,
            transport,
            clock: platform.clock(),
            blocking: platform.blocking(),
            disk_reads,
            drain_turns: DrainTurns::new(platform.blocking()),
            timing,
            pulses,
            sleep,
            memory: MemoryOptions {
                drain_rows: usize::try_from(config.storage.drain_rows).unwrap_or(usize::MAX),
                drain_interval: config.storage.drain_interval(),
                ..memory_of(config)
            },
            at_hand_bytes_max: config.storage.at_hand_bytes,
            observer,
            meta,
            open: RwLock::default(),
        })
    }

    /// The pulses of this node and the others.
    pub(super) const fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// The open replica of a group.
    pub(super) fn group(&self, group: GroupId) -> Option<Group> {
        self.open.read().groups.get(&group).cloned()
    }

    /// The open replica of this id.
    pub(super) fn replica(&self, id: ReplicaId) -> Option<Group> {
        self.open.read().groups.values().find(|group| group.replica() == id).cloned()
    }

    /// All open replicas, by group.
    pub(super) fn all(&self) -> Vec<Group> {
        self.open.read().groups.values().cloned().collect()
    }

    /// The replicas that can't be rebuilt here, with the reason.
    pub(super) fn lost(&self) -> Vec<(GroupId, ReplicaId, String)> {
        self.open.read().lost.iter().map(|(&replica, (group, why))| (*group, replica, why.clone())).collect()
    }

    pub(super) fn is_lost(&self, replica: ReplicaId) -> bool {
        self.open.read().lost.contains_key(&replica)
    }

    /// Opens a replica. `founders`: it is one of a group that may not have started yet, with these. `minted_just_now`: by
    /// the word of the meta group it never was on this node before.
    ///
    /// # Errors
    /// Whatever keeps it from being opened, except that it is lost: then it is noted as such, and this returns false.
    pub(super) async fn open(
        &self,
        group: GroupId,
        replica: ReplicaId,
        founders: Option<&[Replica]>,
        minted_just_now: bool,
    ) -> Result<bool> {
        if let Some(open) = self.group(group) {
            return if open.replica() == replica {
                Ok(true)
            } else {
                Err(Error::unavailable(format!("replica {} of group {group} is still open", open.replica())))
            };
        }
        match self.open_believing(group, replica, minted_just_now).await {
            Ok(opened) => {
                if let Some(founders) = founders {
                    opened.initialize(founders).await?;
                }
                self.open.write().groups.insert(group, opened);
                tracing::info!(%group, %replica, "replica opened");
                Ok(true)
            }
            Err(OpenError::Lost { reason, .. } | OpenError::Rows { reason, .. }) => {
                tracing::error!(%group, %replica, reason, "the replica is lost and must be replaced from its peers");
                self.open.write().lost.insert(replica, (group, reason));
                Ok(false)
            }
            Err(OpenError::Failed(error)) => Err(error),
        }
    }

    /// Opens a replica on its rows, or if these can't be believed, on rows that are made anew.
    async fn open_believing(
        &self,
        group: GroupId,
        replica: ReplicaId,
        minted_just_now: bool,
    ) -> Result<Group, OpenError> {
        let (parts, rebuild) = self.parts(group, replica, minted_just_now)?;
        match Group::open(parts, rebuild || self.disk.distrusts_state()).await {
            Err(OpenError::Rows { reason, .. }) => {
                tracing::error!(%group, %replica, reason, "the rows failed their checks; rebuilding them");
                let (parts, _) = self.parts(group, replica, false)?;
                Group::open(parts, true).await
            }
            opened => opened,
        }
    }

    fn parts(
        &self,
        group: GroupId,
        replica: ReplicaId,
        minted_just_now: bool,
    ) -> Result<(Parts, bool), OpenError> {
        let known = self.disk.log.replicas().contains(&(group, replica));
        let log = if minted_just_now && !known {
            self.disk.log.create(group, replica)
        } else {
            self.disk.log.replica(group, replica)
        };
        let log = log.map_err(|error| match error {
            log::Error::Damaged { .. } | log::Error::MayBeDamaged { .. } => {
                OpenError::Lost { group, replica, reason: error.to_string() }
            }
            other => OpenError::Failed(Error::internal(other.to_string())),
        })?;
        let (table, rebuild) = self.disk.table(replica)?;
        let (settings, shards) = {
            let meta = self.meta.borrow();
            let settings = meta.founding.as_ref().map(|founding| &founding.settings);
            (
                settings.map(|settings| settings.data).unwrap_or_default(),
                settings.map_or(1, |settings| settings.shards),
            )
        };
        let parts = Parts {
            group,
            replica,
            log,
            table: Arc::new(table),
            checkpoints: self.disk.checkpoints(replica)?,
            transport: Arc::clone(&self.transport),
            clock: Arc::clone(&self.clock),
            timing: self.timing,
            history: HistoryOptions {
                retention: Duration::from_millis(settings.history_retention_ms),
                bytes_max: settings.history_bytes_max,
            },
            lease_reads: settings.lease_reads,
            sleep: self.sleep.clone(),
            // A node has a replica of each shard at most.
            memory: memory_of_shard(self.memory, self.at_hand_bytes_max, shards),
            blocking: self.blocking,
            disk_reads: self.disk_reads.clone(),
            drain_turns: self.drain_turns.clone(),
            observer: Arc::clone(&self.observer),
        };
        Ok((parts, rebuild))
    }

    /// Closes a replica whose rows can't be believed, and clears these for good, so that whenever it is opened next they
    /// are made anew.
    pub(super) async fn disbelieve(&self, group: GroupId, replica: ReplicaId) -> Result<()> {
        self.close(group).await?;
        let disk = Arc::clone(&self.disk);
        let cleared = self.blocking.run(move || {
            Ok(disk
                .table(replica)
                .and_then(|(table, _)| table.clear().map_err(|error| Error::internal(error.to_string()))))
        });
        cleared.await.map_err(|error| Error::internal(error.to_string()))?
    }

    /// Stops a group's replica, if it is open.
    pub(super) async fn close(&self, group: GroupId) -> Result<()> {
        let Some(open) = self.open.write().groups.remove(&group) else { return Ok(()) };
        open.shutdown()
            .await
            .map_err(|error| Error::internal(format!("group {group} did not stop cleanly: {error}")))
    }

    /// Stops everything.
    pub(super) async fn close_all(&self) {
        let groups = std::mem::take(&mut self.open.write().groups);
        let stopped = groups.values().map(|group| async move {
            if let Err(error) = group.shutdown().await {
                tracing::warn!(group = %group.id(), %error, "a replica did not stop cleanly");
            }
        });
        futures::future::join_all(stopped).await;
    }

    /// Discards what a retired replica left on this disk.
    pub(super) async fn discard(&self, group: GroupId, replica: ReplicaId) -> Result<()> {
        if self.group(group).is_some_and(|open| open.replica() == replica) {
            self.close(group).await?;
        }
        let disk = Arc::clone(&self.disk);
        let removed = self.blocking.run(move || Ok(remove_files(&disk, replica)));
        removed.await.map_err(|error| Error::internal(error.to_string()))??;
        self.open.write().lost.remove(&replica);
        tracing::info!(%group, %replica, "retired replica discarded");
        Ok(())
    }

    /// The replicas that have stopped for a fault, and which; a fault of the node is told apart by itself.
    pub(super) fn faults(&self) -> (Vec<(Group, Fault)>, Option<String>) {
        let mut stopped = Vec::new();
        let mut node_fault = None;
        for group in self.all() {
            let fault = group.fault().borrow().clone();
            match fault {
                Some(Fault::Node(what)) => node_fault = Some(what),
                Some(fault) => stopped.push((group, fault)),
                None => {}
            }
        }
        (stopped, node_fault)
    }
}

fn remove_files(disk: &NodeDisk, replica: ReplicaId) -> Result<()> {
    let failed = |error: kvd_storage::Error| Error::internal(error.to_string());
    // The log last: while it knows the replica, a discard that was cut short is taken up again.
    disk.table(replica)?.0.destroy().map_err(failed)?;
    disk.checkpoints(replica)?.destroy().map_err(failed)?;
    fail::fail_point!(crate::failpoints::DISCARD_BEFORE_LOG);
    disk.log.remove(
        replica,
        Box::new(move |result| {
            if let Err(error) = result {
                tracing::warn!(%replica, %error, "a retired replica's log was not removed");
            }
        }),
    );
    Ok(())
}
