//! What a node notes of itself, for metrics and for its own safety.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use kvd_machine::{Machine, MetaState};
use kvd_raft::{Group, observe::Observer};
use kvd_storage::{log, space::Room};
use kvd_types::{GroupId, LogIndex, Proposal, ReplicaId, Term, limits::WATCHERS_MAX};
use tokio::{sync::watch, time::Instant};

use super::{Node, Ordering, Role};
use crate::metrics::SharedMetrics;

/// How often the groups' gauges are set.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(500);
/// Those of groups that sleep are set only every so many times: they don't change.
const ASLEEP_EVERY: u32 = 10;
/// How often the replicas are asked for faults.
const FAULT_INTERVAL: Duration = Duration::from_millis(100);

/// A flush is followed by a pause of so many times what it took…
const FLUSH_PAUSE_FACTOR: u32 = 10;
/// …but of no more than so many of the configured intervals.
const FLUSH_PAUSE_INTERVALS_MAX: u32 = 10;
/// After its pause a flush waits until the engine has been seen to keep up with what is written so many times in a row…
const FLUSH_LOOKS: u32 = 10;
/// …of so many in one of the configured intervals…
const FLUSH_LOOKS_PER_INTERVAL: u32 = 100;
/// …but no longer than so many of these.
const FLUSH_WAIT_INTERVALS_MAX: u32 = 10;

/// Hears how the log is doing.
pub(super) struct LogObserver {
    node: Weak<Node>,
    metrics: SharedMetrics,
}

impl LogObserver {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        Self { node: Arc::downgrade(node), metrics: Arc::clone(&node.metrics) }
    }
}

impl std::fmt::Debug for LogObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogObserver")
    }
}

impl log::Observer for LogObserver {
    fn synced(&self, _records: usize, bytes: usize, took: Duration) {
        self.metrics.log_synced(took, bytes as u64);
    }

    fn next_segment(&self, error: Option<&io::Error>) {
        let Some(node) = self.node.upgrade() else { return };
        let was_full = node.disk_full.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_full => {
                tracing::error!(%error, "no file can be made for the log's next segment; puts are refused until one can");
            }
            None if was_full => tracing::info!("the log has room again; puts are taken"),
            Some(_) | None => {}
        }
    }

    fn has_work(&self) {
        if let Some(node) = self.node.upgrade() {
            node.platform.log_has_work();
        }
    }

    fn failed(&self, error: &io::Error) {
        if let Some(node) = self.node.upgrade() {
            node.fail(format!(
                "the log can't be written: {error}. Nothing more is acknowledged; look at the disk, then start the node again"
            ));
        }
    }
}

/// Watches the replicas: measures every applied entry, publishes the meta group's state, and passes on what a platform
/// wants to know.
pub(super) struct ReplicaObserver {
    meta: watch::Sender<Arc<MetaState>>,
    metrics: SharedMetrics,
    platform: Option<Arc<dyn Observer>>,
}

impl ReplicaObserver {
    pub(super) fn new(node: &Node) -> Self {
        let (meta, metrics) = (node.meta.clone(), Arc::clone(&node.metrics));
        Self { meta, metrics, platform: node.platform.observer() }
    }
}

impl Observer for ReplicaObserver {
    fn taken_up(&self, group: GroupId, replica: ReplicaId, machine: &Machine) {
        if let Some(platform) = &self.platform {
            platform.taken_up(group, replica, machine);
        }
        self.publish(machine);
    }

    fn applied(
        &self,
        group: GroupId,
        replica: ReplicaId,
        machine: &Machine,
        proposal: Option<&Proposal>,
        took: Duration,
    ) {
        self.metrics.applied(took);
        if let Some(platform) = &self.platform {
            platform.applied(group, replica, machine, proposal, took);
        }
        self.publish(machine);
    }

    fn purged(&self, group: GroupId, replica: ReplicaId, upto: LogIndex) {
        if let Some(platform) = &self.platform {
            platform.purged(group, replica, upto);
        }
    }

    fn slept(&self, group: GroupId, replica: ReplicaId) {
        if let Some(platform) = &self.platform {
            platform.slept(group, replica);
        }
    }

    fn heard_leader(&self, group: GroupId, term: Term, leader: ReplicaId) {
        if let Some(platform) = &self.platform {
            platform.heard_leader(group, term, leader);
        }
    }
}

impl ReplicaObserver {
    /// Publishes the meta group's state.
    fn publish(&self, machine: &Machine) {
        let Machine::Meta(meta) = machine else { return };
        let applied = meta.state();
        self.meta.send_if_modified(|known| {
            let changed = known.epoch != applied.epoch;
            if changed {
                *known = applied;
            }
            changed
        });
    }
}

impl Node {
    /// Keeps the groups' gauges up to date, and looks how much room there is on the disk.
    pub(super) async fn observe_loop(&self) {
        let mut looks = 0;
        loop {
            self.look_at_space().await;
            self.metrics.set_watchers(WATCHERS_MAX.saturating_sub(self.watchers.available_permits()));
            let groups = self.replicas().map(super::Replicas::all).unwrap_or_default();
            self.metrics.set_asleep(groups.iter().filter(|group| group.sleeps()).count());
            looks = (looks + 1) % ASLEEP_EVERY;
            for group in groups.iter().filter(|group| looks == 0 || !group.sleeps()) {
                let gauges = self.metrics.group(group.id());
                let status = group.status();
                gauges.set_leader(status.term, status.leader.is_some(), status.role == Role::Leader);
                gauges.add_proposals(group.take_proposed());
                if let Some(applied) = status.applied_index {
                    gauges.set_applied(applied);
                }
                if let Some(reader) = group.reader() {
                    let stats = reader.stats();
                    gauges.set_contents(stats.keys, stats.history_bytes, stats.leases);
                }
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.rest(OBSERVE_INTERVAL) => {}
            }
        }
    }

    /// Says when it changes how much room there is.
    async fn look_at_space(&self) {
        let Ok(disk) = self.disk() else { return };
        let before = disk.space.room();
        let looked = self.platform.blocking().run(move || Ok(disk.space.look()));
        match looked.await {
            Ok(Ok(room)) if room == before => {}
            Ok(Ok(Room::Enough)) => tracing::info!("the disk has room again; puts are taken"),
            Ok(Ok(Room::Low)) => tracing::error!("the disk is nearly full; puts are refused"),
            Ok(Ok(Room::None)) => tracing::error!("the disk is full; puts and engine flushes wait for room"),
            Ok(Err(error)) => tracing::warn!(%error, "it can't be told how much room there is"),
            Err(error) => tracing::warn!(%error, "it can't be told how much room there is"),
        }
    }

    /// Stops the node once nothing is known of what is durable, or its engine is damaged.
    pub(super) async fn fault_loop(&self) {
        loop {
            if let Ok(disk) = self.disk()
                && let Some(what) = disk.damage()
            {
                return self.fail(format!(
                    "the engine's files are damaged: {what}. Start the node again: it rebuilds them from its checkpoints \
                     and log"
                ));
            }
            if let Ok(replicas) = self.replicas()
                && let (_, Some(what)) = replicas.faults()
            {
                return self.fail(what);
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.rest(FAULT_INTERVAL) => {}
            }
        }
    }

    /// Makes the engine durable now and then, so that a restart has little to do; nothing depends on it.
    pub(super) async fn flush_loop(&self) {
        let interval = self.config.storage.flush_interval();
        let mut took = Duration::ZERO;
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = async {
                    tokio::time::sleep(flush_pause(interval, took)).await;
                    self.engine_keeps_up(interval).await;
                } => {}
            }
            let Ok(disk) = self.disk() else { continue };
            let begun = Instant::now();
            let flushed = self.platform.blocking().run(move || Ok(disk.flush())).await;
            took = begun.elapsed();
            match flushed {
                Ok(Ok(flushed)) => tracing::debug!(flushed, took_ms = took.as_millis(), "the engine's flush"),
                Ok(Err(error)) => self.fail(format!("the engine can't be flushed: {error}")),
                Err(error) => self.fail(format!("the engine's flush has failed, which is a bug: {error}")),
            }
        }
    }

    /// Waits until the engine keeps up with what is written, but not for ever: a flush takes of the machine what the engine
    /// needs to do so.
    async fn engine_keeps_up(&self, interval: Duration) {
        let mut wait = FlushWait::default();
        let is_behind =
            || self.replicas().is_ok_and(|replicas| replicas.all().iter().any(Group::is_behind_its_engine));
        while !wait.is_over(is_behind()) {
            tokio::time::sleep(interval / FLUSH_LOOKS_PER_INTERVAL).await;
        }
    }
}

/// How often a flush has looked whether the engine keeps up.
#[derive(Debug, Default)]
struct FlushWait {
    looks: u32,
    kept_up: u32,
}

impl FlushWait {
    /// Whether it has waited enough, after another look.
    fn is_over(&mut self, is_behind: bool) -> bool {
        self.looks += 1;
        self.kept_up = if is_behind { 0 } else { self.kept_up + 1 };
        self.kept_up >= FLUSH_LOOKS || self.looks >= FLUSH_WAIT_INTERVALS_MAX * FLUSH_LOOKS_PER_INTERVAL
    }
}

/// The pause after a flush that took so long. Where everything is written to all the time, each flush writes everything,
/// and on a busy machine it takes what the writers need: so it gets a tenth of the time, and a restart applies more.
fn flush_pause(interval: Duration, took: Duration) -> Duration {
    let longest = interval.saturating_mul(FLUSH_PAUSE_INTERVALS_MAX);
    took.saturating_mul(FLUSH_PAUSE_FACTOR).clamp(interval, longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_that_takes_long_is_followed_by_a_longer_pause() {
        let interval = Duration::from_secs(30);
        assert_eq!(flush_pause(interval, Duration::ZERO), interval);
        assert_eq!(flush_pause(interval, Duration::from_secs(2)), interval);
        assert_eq!(flush_pause(interval, Duration::from_secs(5)), Duration::from_secs(50));
        assert_eq!(flush_pause(interval, Duration::MAX), interval * FLUSH_PAUSE_INTERVALS_MAX);
    }

    /// After how many looks a flush has waited enough.
    fn looks(mut is_behind: impl FnMut(u32) -> bool) -> u32 {
        let mut wait = FlushWait::default();
        (1..).find(|&look| wait.is_over(is_behind(look))).unwrap()
    }

    #[test]
    fn a_flush_waits_until_the_engine_keeps_up_but_not_for_ever() {
        assert_eq!(looks(|_| false), FLUSH_LOOKS);
        assert_eq!(looks(|look| look == 3), 3 + FLUSH_LOOKS);
        assert_eq!(looks(|look| look < 100 || look == 105), 105 + FLUSH_LOOKS);
        let longest = FLUSH_WAIT_INTERVALS_MAX * FLUSH_LOOKS_PER_INTERVAL;
        assert_eq!(looks(|_| true), longest);
        assert_eq!(looks(|look| look % FLUSH_LOOKS == 0), longest);
    }
}
