//! One replica of one group: a handle to write, read, receive messages and change members through.
//!
//! A [`Group`] is cheap to clone. Opening one starts its tasks (openraft's, the proposer, the read rounds, the drain, the sleeper);
//! [`Group::shutdown`] ends them and waits, so that a replica can be opened again on the same disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use kvd_machine::{Machine, MetaState, ShardReader};
use kvd_proto::peer::v1::envelope::Body;
use kvd_storage::{checkpoint::CheckpointStore, log::ReplicaLog, table::Table};
use kvd_types::{
    Command, Error, ErrorKind, GroupId, LogIndex, NodeId, Outcome, ReplicaId, Result, Revision, Term,
    cluster::Replica,
};
use openraft::{
    Config, ServerState, SnapshotPolicy,
    async_runtime::WatchReceiver as _,
    errors::{InitializeError, RaftError},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    blocking::Blocking,
    calls::{self, call},
    clock::Clock,
    codec,
    confirm::{CommittedTold, Voters},
    disk_reads::DiskReads,
    log_store::LogStore,
    network::{NetworkFactory, NetworkOptions},
    observe::Observer,
    pace::HistoryOptions,
    propose::{self, ProposalQueue},
    read::ReadQueue,
    state::{Fault, MemoryOptions, ReplicaState, StateParts},
    state_machine::StateMachine,
    transport::Transport,
    turns::DrainTurns,
    types::{Metrics, TypeConfig},
};

mod core_watch;
mod elections;
mod members;
mod messages;
pub(crate) mod open;
mod reads;
mod running;
pub(crate) mod sleeper;

pub use members::Members;
pub use reads::ReadPoint;
use running::{LeaseReads, Running, Served};
pub use sleeper::SleepOptions;
use sleeper::Sleeper;

/// How long openraft may take to note a checkpoint that was written.
const CHECKPOINT_NOTE_PATIENCE: Duration = Duration::from_secs(10);
/// Log entries in one append request, beside the log reader's bound in bytes.
const APPEND_ENTRIES_MAX: u64 = 1024;

/// A leader that no majority answers keeps quiet for at least so long.
const PROBE_INTERVAL_MIN: Duration = Duration::from_secs(6);

/// Openraft, with this crate's types.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// The times of a group, the same on all its replicas.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often a leader tells its followers that it is there.
    pub heartbeat: Duration,
    /// A follower that has heard nothing for the longest timeout, and then for a random time from this…
    pub election_timeout_min: Duration,
    /// …to this, asks to be elected: a leader that dies is replaced after one to two of these.
    pub election_timeout_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(120),
            election_timeout_min: Duration::from_millis(400),
            election_timeout_max: Duration::from_millis(600),
        }
    }
}

/// What a replica is opened with.
pub struct Parts {
    /// Its group.
    pub group: GroupId,
    /// Its own id.
    pub replica: ReplicaId,
    /// Its stream of the node's log.
    pub log: ReplicaLog,
    /// Its rows.
    pub table: Arc<Table>,
    /// Its checkpoints.
    pub checkpoints: CheckpointStore,
    /// Its way to the other replicas.
    pub transport: Arc<dyn Transport>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its times.
    pub timing: Timing,
    /// How much of its history it keeps while it leads.
    pub history: HistoryOptions,
    /// Reads may rely on the promise that its followers elect nobody else for a while. To keep it through a restart, a
    /// replica that has just been opened elects nobody for as long as it may have promised.
    pub lease_reads: bool,
    /// How its group sleeps while it has nothing to do; none: it never does.
    pub sleep: Option<SleepOptions>,
    /// When its rows go to the engine.
    pub memory: MemoryOptions,
    /// Where it waits for the disk.
    pub blocking: Blocking,
    /// How it reads rows that may have to be waited for: the same for all replicas of a node.
    pub disk_reads: DiskReads,
    /// When it may move rows to the engine: the same for all replicas of a node.
    pub drain_turns: DrainTurns,
    /// Told what it does.
    pub observer: Arc<dyn Observer>,
}

/// Why a replica can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its own log and checkpoints don't suffice to rebuild it: it must be replaced from its peers.
    #[error("replica {replica} of group {group} can't be rebuilt from its own disk: {reason}")]
    Lost {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// What is missing.
        reason: String,
    },
    /// Its rows failed their checks while the log was applied to them: open it again with `rebuild`.
    #[error("the rows of replica {replica} of group {group} can't be believed: {reason}")]
    Rows {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// Which check failed.
        reason: String,
    },
    /// Something else failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// What a replica is to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Orders the group's writes.
    Leader,
    /// Votes and follows.
    Follower,
    /// Asks to lead.
    Candidate,
    /// Follows without a vote.
    Learner,
    /// Has stopped.
    Stopped,
}

/// Where a replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// What it is to its group.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The replica that leads, and its node, as far as this one knows.
    pub leader: Option<Replica>,
    /// The last entry in its log.
    pub last_log_index: Option<LogIndex>,
    /// The last entry that it knows to be committed.
    pub committed_index: Option<LogIndex>,
    /// The last entry that it has applied.
    pub applied_index: Option<LogIndex>,
    /// The entry up to which its checkpoint reaches.
    pub checkpoint_index: Option<LogIndex>,
    /// Bytes of log that it keeps.
    pub log_bytes: u64,
    /// The digest of its contents; `None` while it installs a checkpoint.
    pub digest: Option<u64>,
    /// Its group's voters are being changed: two sets of them decide together.
    pub changes_voters: bool,
}

/// Who leads a group, as one of its replicas knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The replica that leads, and its node.
    pub leader: Option<Replica>,
    /// Whether it is this one.
    pub is_self: bool,
    /// The term that it leads in, or the latest one heard of.
    pub term: Term,
}

/// One replica of one group.
#[derive(Clone)]
pub struct Group(Arc<Inner>);

struct Inner {
    raft: Raft,
    log: ReplicaLog,
    state: Arc<ReplicaState>,
    reader: Option<ShardReader>,
    proposals: ProposalQueue,
    reads: ReadQueue,
    lease_reads: Option<LeaseReads>,
    /// In this term it has begun to hand its leadership over.
    hands_over: Arc<AtomicBool>,
    leadership: watch::Receiver<Leadership>,
    /// Whether a leader has spoken since this replica was opened.
    heard: watch::Sender<bool>,
    sleeper: Sleeper,
    timing: Timing,
    /// Holds a token for each checkpoint that is on its way to another replica.
    sending: TaskTracker,
    cancelled: CancellationToken,
    tasks: TaskTracker,
}

impl Group {
    /// Opens a replica and starts its tasks.
    ///
    /// With `rebuild` its rows are not believed, whatever they are: they are made anew from the newest checkpoint, and the
    /// log brings them up to date. Rows that are behind the start of the log are rebuilt in any case.
    ///
    /// # Errors
    /// [`OpenError::Lost`] if checkpoint and log leave a gap.
    pub async fn open(parts: Parts, rebuild: bool) -> Result<Self, OpenError> {
        let Parts {
            group,
            replica,
            log,
            table,
            checkpoints,
            transport,
            clock,
            timing,
            history,
            lease_reads,
            sleep,
            memory,
            blocking,
            disk_reads,
            drain_turns,
            observer,
        } = parts;
        let opened_at = Instant::now();
        let state = {
            let log = log.clone();
            let parts = StateParts {
                group,
                replica,
                table,
                checkpoints,
                memory,
                blocking,
                disk_reads,
                drain_turns,
                observer,
            };
            let opened = blocking.run(move || Ok(open::state(parts, &log, rebuild)));
            opened.await.map_err(|error| OpenError::Failed(Error::internal(error.to_string())))??
        };
        let open::Found { state, lacks_checkpoint } = state;
        let state = Arc::new(state);
        if lacks_checkpoint {
            open::write_lacking_checkpoint(&state).await?;
        }
        let sending = TaskTracker::new();
        let told = CommittedTold::default();
        let network = NetworkFactory {
            group,
            replica,
            transport: Arc::clone(&transport),
            sending: sending.clone(),
            told: told.clone(),
            options: NetworkOptions {
                append_patience: timing.election_timeout_max,
                control_patience: timing.election_timeout_min,
            },
        };
        let config = Arc::new(raft_config(group, timing, sleep.is_some())?);
        let cancelled = CancellationToken::new();
        let tasks = TaskTracker::new();
        // Before openraft starts: it applies what the rows lack as it does so, which may be more than memory takes.
        tasks.spawn(Arc::clone(&state).drain_loop());
        let store = LogStore::new(log.clone()).guarded_by(Arc::clone(&state));
        let started = Raft::new(replica, config, network, store, StateMachine(Arc::clone(&state)));
        let raft = match started.await {
            Ok(raft) => raft,
            Err(fatal) => {
                state.close().await;
                let fault = state.fault().borrow().clone();
                return Err(match fault {
                    Some(Fault::Rows(reason)) => OpenError::Rows { group, replica, reason },
                    _ => OpenError::Failed(Error::internal(format!("group {group} can't start: {fatal}"))),
                });
            }
        };

        let voters = Voters {
            group,
            replica,
            raft: raft.clone(),
            log: log.clone(),
            transport,
            told,
            patience: timing.election_timeout_max,
        };
        let running = Running { raft, log, state, voters, sending, cancelled, tasks };
        let served = Served { clock, timing, history, lease_reads, sleep, opened_at };
        Ok(running.serve(served))
    }

    /// The group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.0.state.group
    }

    /// The replica.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.0.state.replica
    }

    /// Proposes a command and waits for its outcome, however long that takes: deadlines are the caller's.
    ///
    /// # Errors
    /// Not leader, overloaded, unavailable: it was not applied. Unknown: it may have been, or may be.
    pub async fn propose(&self, command: Command) -> Result<Outcome> {
        self.propose_after(command, Revision::ZERO).await
    }

    /// The same, with a revision that whoever proposes has seen: what the command writes gets a later one, unless that is too
    /// far in the future to be anything but an error of somebody's clock.
    ///
    /// # Errors
    /// See [`Self::propose`].
    pub async fn propose_after(&self, command: Command, after: Revision) -> Result<Outcome> {
        self.0.proposals.propose(command, after).await.map_err(|error| self.with_leader(error))
    }

    /// Reads the shard as this replica has applied it; `None` for the meta group.
    #[must_use]
    pub fn reader(&self) -> Option<&ShardReader> {
        self.0.reader.as_ref()
    }

    /// Takes note of a read's failure: rows that fail their checks, or can't be read, stop the replica. The other replicas
    /// have them, so whoever asked is to ask there.
    #[must_use]
    pub fn read_failed(&self, error: &kvd_machine::Error) -> Error {
        self.stopped(&self.0.state.broken(error))
    }

    /// The state of the meta group; `None` for a shard.
    #[must_use]
    pub fn meta_state(&self) -> Option<Arc<MetaState>> {
        self.0.state.with_machine(|machine| match machine {
            Machine::Meta(meta) => Some(meta.state()),
            Machine::Shard(_) => None,
        })
    }

    /// Who leads, as far as this replica has heard since it was opened. Cheap enough to be asked for every request.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        *self.0.leadership.borrow()
    }

    /// Changes when another replica leads, or none.
    #[must_use]
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// The first fault of this replica, once there is one.
    #[must_use]
    pub fn fault(&self) -> watch::Receiver<Option<Fault>> {
        self.0.state.fault()
    }

    /// Where the replica stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.metrics();
        let role = match (&metrics.running_state, metrics.state) {
            (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
            (Ok(()), ServerState::Leader) => Role::Leader,
            (Ok(()), ServerState::Candidate) => Role::Candidate,
            (Ok(()), ServerState::Follower) => Role::Follower,
            (Ok(()), ServerState::Learner) => Role::Learner,
        };
        let index = |id: Option<crate::types::LogId>| id.map(|id| LogIndex(id.index()));
        Status {
            group: self.id(),
            replica: self.replica(),
            role,
            term: Term(metrics.current_term),
            leader: leader_of(&metrics),
            last_log_index: metrics.last_log_index.map(LogIndex),
            committed_index: index(metrics.local_committed),
            applied_index: index(metrics.last_applied),
            checkpoint_index: index(metrics.snapshot),
            log_bytes: self.log_bytes(),
            digest: self.0.state.try_digest(),
            changes_voters: metrics.membership_config.membership().get_joint_config().len() > 1,
        }
    }

    /// Whether it sleeps: its group has nothing to do, and it has no timer.
    #[must_use]
    pub fn sleeps(&self) -> bool {
        self.0.sleeper.sleeps()
    }

    /// Whether more is written than the engine takes on this node, so that writers are made to pause if it leads.
    #[must_use]
    pub fn is_behind_its_engine(&self) -> bool {
        !propose::pause_of(&self.0.state).is_zero()
    }

    /// Bytes of log that it keeps.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.0.log.retained_bytes()
    }

    /// Bytes of the node's whole log that can be used again once this replica takes a checkpoint.
    #[must_use]
    pub fn pinned_log_bytes(&self) -> u64 {
        self.0.log.pinned_bytes()
    }

    /// Bytes of its newest checkpoint; zero: there is none.
    #[must_use]
    pub fn checkpoint_bytes(&self) -> u64 {
        self.0.state.checkpoints.newest_bytes()
    }

    /// How many commands it has proposed since this was last asked.
    #[must_use]
    pub fn take_proposed(&self) -> u64 {
        self.0.proposals.take_proposed()
    }

    /// Whether there is anything that the newest checkpoint lacks.
    #[must_use]
    pub fn is_ahead_of_checkpoint(&self) -> bool {
        let metrics = self.metrics();
        metrics.last_applied > metrics.snapshot
    }

    /// Whether the newest checkpoint does not reach to where the log begins (it was found damaged, say): until there is
    /// another, no replica can be brought up to date from here, nor this one be rebuilt.
    #[must_use]
    pub fn lacks_checkpoint(&self) -> bool {
        let purged = self.0.log.state().purged.map(|purged| purged.index.get());
        purged.is_some() && self.metrics().snapshot.map(|snapshot| snapshot.index()) < purged
    }

    /// Whether a checkpoint is on its way to another replica. One that is taken meanwhile purges what that replica needs
    /// next, so that it has to be sent another.
    #[must_use]
    pub fn sends_checkpoint(&self) -> bool {
        !self.0.sending.is_empty()
    }

    /// Takes a checkpoint, and has the log purged up to it.
    ///
    /// # Errors
    /// Unavailable, if the replica has stopped or no checkpoint can be written, on a full disk say.
    pub async fn checkpoint(&self) -> Result<()> {
        // Written first and told to openraft then: to openraft a snapshot that fails is the end of the group.
        let failed =
            |error: io::Error| Error::unavailable(format!("group {}: no checkpoint: {error}", self.id()));
        let reached = self.0.state.prepare_checkpoint().await.map_err(failed)?;
        fail::fail_point!(crate::failpoints::CHECKPOINT_BEFORE_NOTED);
        call(&self.0.raft, |raft| async move { raft.trigger().snapshot().await })
            .await
            .map_err(|fatal| self.stopped(&fatal))?;
        let mut metrics = self.0.raft.metrics();
        let noted = async {
            while metrics.borrow_watched().snapshot < reached {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(CHECKPOINT_NOTE_PATIENCE, noted).await;
        in_time.map_err(|_elapsed| {
            Error::unavailable(format!("group {} did not note its checkpoint", self.id()))
        })
    }

    /// Whether what was read just now was read of rows that are still kept. Asked after each read: a replica that is being
    /// closed or rebuilt must not answer from what is left.
    ///
    /// # Errors
    /// Unavailable.
    pub fn check_open(&self) -> Result<()> {
        if self.0.state.is_open() { Ok(()) } else { Err(self.stopped(&"it is being closed or rebuilt")) }
    }

    /// Stops the replica and waits until nothing of it touches its disk. Writes under way fail as unknown.
    ///
    /// # Errors
    /// If what was applied could not be drained to the engine; the log still has it.
    pub async fn shutdown(&self) -> io::Result<()> {
        self.0.cancelled.cancel();
        if let Err(error) = calls::shutdown(&self.0.raft).await {
            tracing::warn!(group = %self.id(), replica = %self.replica(), %error, "the replica did not stop cleanly");
        }
        let drained = if self.0.state.is_open() { self.0.state.drain().await } else { Ok(()) };
        self.0.state.close().await;
        self.0.tasks.wait().await;
        drained
    }

    fn metrics(&self) -> Metrics {
        // Cloned at once: holding the borrow would block the group's core.
        self.0.raft.metrics().borrow_watched().clone()
    }

    fn stopped(&self, why: &dyn std::fmt::Display) -> Error {
        Error::unavailable(format!("replica {} of group {} has stopped: {why}", self.replica(), self.id()))
    }

    /// Says "unavailable" where there is no leader to go to.
    fn with_leader(&self, error: Error) -> Error {
        match error.kind {
            ErrorKind::NotLeader(_) if self.leadership().leader.is_none() => {
                Error::unavailable(format!("group {} has no leader at the moment; retry", self.id()))
            }
            _ => error,
        }
    }

    /// Starts the group, once in its life, with its founders. All of them may call this, at any time and repeatedly, as
    /// long as they say the same.
    ///
    /// # Errors
    /// Unavailable, if the replica has stopped; internal, if openraft refuses the members.
    pub async fn initialize(&self, founders: &[Replica]) -> Result<()> {
        let members: BTreeMap<ReplicaId, NodeId> =
            founders.iter().map(|founder| (founder.id, founder.node)).collect();
        match call(&self.0.raft, |raft| async move { raft.initialize(members).await }).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                Err(Error::internal(error.to_string()))
            }
            Err(RaftError::Fatal(fatal)) => Err(self.stopped(&fatal)),
        }
    }
}

fn leader_of(metrics: &Metrics) -> Option<Replica> {
    let id = metrics.current_leader?;
    let node = *metrics.membership_config.get_node(&id)?;
    Some(Replica { id, node })
}

/// How long a leader that no majority answers keeps quiet, and then tries again: it must leave time for a lease and an election.
fn probe_interval(timing: Timing) -> Duration {
    timing.election_timeout_max.saturating_mul(2).max(PROBE_INTERVAL_MIN)
}

/// Openraft's settings: those that were found to matter are named here, the others are its defaults.
fn raft_config(group: GroupId, timing: Timing, sleeps: bool) -> Result<Config, Error> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: format!("group-{group}"),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_timeout_min),
        election_timeout_max: millis(timing.election_timeout_max),
        // A partitioned replica that comes back must not depose a working leader.
        enable_pre_vote: Some(true),
        // A restarted leader has to win an election like anybody else.
        enable_leader_restore: Some(false),
        // Else see `sleeper`.
        quorum_loss_probe_interval: (!sleeps).then(|| millis(probe_interval(timing))),
        // Checkpoints are taken by bytes of log, by whoever watches them, and the log is purged right up to each: even one
        // entry that is kept keeps the node's whole log from there on. By the time a checkpoint is written followers are
        // past where it began; one that isn't is sent the checkpoint.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        max_payload_entries: APPEND_ENTRIES_MAX,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| Error::invalid(format!("the raft settings don't fit together: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_sensible_timing_makes_settings_that_fit_together() {
        for max_ms in [30, 600, 3000, 3001, 30_000, 600_000] {
            let max = Duration::from_millis(max_ms);
            let timing =
                Timing { heartbeat: max / 10, election_timeout_min: max / 2, election_timeout_max: max };
            for sleeps in [true, false] {
                raft_config(GroupId(1), timing, sleeps)
                    .unwrap_or_else(|error| panic!("{max_ms} ms: {error}"));
            }
        }
    }
}
