//! A node's disk, opened and used by the real storage code in the order in which a node does it.
//!
//! Identity, log, then each replica: its rows if they may be believed and reach to where the log begins, else rebuilt
//! from the newest checkpoint; then the committed entries that they lack. The layers above (consensus, commands) are
//! left out: an entry is one changed row.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use bytes::Bytes;
use kvd_storage::{
    checkpoint::{Checkpoint, CheckpointStore, Manifest},
    disk::{Disk, SimDisk},
    engine::MemoryEngine,
    identity::{Identity, Joined, LOG_DIR},
    log::{self, EntryId, Log, Options, Recovery, ReplicaLog, Writer},
    table::Table,
};
use kvd_types::{ClusterId, GroupId, Incarnation, LogIndex, NodeId, ReplicaId};

use super::model::{APPLIED_KEY, Change, LogModel, Logs, Step, decode_id, encode_id};

/// The data directory.
pub(super) const DATA: &str = "/node";
/// The smallest segments that there are, so that a short workload goes through many.
pub(super) const SEGMENT_BYTES: u64 = 32 << 10;
/// Next to nothing, so that entries are read back from the disk.
const CACHE_BYTES: usize = 2000;
/// Entries that are read at once when they are applied.
const APPLY_BYTES_MAX: usize = 64 << 10;

/// Why a node stops, or can't start.
#[derive(Debug)]
pub(super) enum Failure {
    /// The storage said so.
    Storage(kvd_storage::Error),
    /// The log said so.
    Log(log::Error),
    /// The log's writer died.
    LogDied(std::io::Error),
    /// What was found when it started is not what must be there. Only a disk that lies excuses that.
    Differs(String),
    /// Something is wrong that nothing excuses.
    Wrong(String),
}

impl Failure {
    /// What is wrong, unless it is only that the storage has reported a failure.
    pub(super) fn violation(&self) -> Option<&str> {
        match self {
            Self::Differs(what) | Self::Wrong(what) => Some(what),
            Self::Storage(_) | Self::Log(_) | Self::LogDied(_) => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::LogDied(error) => error.fmt(f),
            Self::Differs(what) | Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl From<kvd_storage::Error> for Failure {
    fn from(error: kvd_storage::Error) -> Self {
        Self::Storage(error)
    }
}

impl From<log::Error> for Failure {
    fn from(error: log::Error) -> Self {
        Self::Log(error)
    }
}

/// Hears what happens while a node is opened, before it goes on.
pub(super) trait Watch {
    /// An identity of that incarnation is about to be stored, or has been.
    fn incarnation(&mut self, incarnation: u64, stored: bool);
    /// The log was opened and holds that, but for damaged replicas.
    ///
    /// # Errors
    /// That can't be.
    fn log_opened(&mut self, logs: Logs, recovery: &Recovery) -> Result<(), Failure>;
    /// Told how the log is doing.
    fn observer(&self) -> Arc<dyn log::Observer>;
    /// The log is about to be changed.
    fn log_step(&mut self, replica: ReplicaId, step: &Step);
}

/// One replica, open.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) log: ReplicaLog,
    pub(super) table: Table,
    pub(super) checkpoints: CheckpointStore,
    pub(super) applied: Option<EntryId>,
}

/// What opening a replica found.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened {
    /// What the rows said they were before anything was done; none if they were not believed.
    pub(super) believed: Option<Option<EntryId>>,
    /// Why not.
    pub(super) disbelief: Option<String>,
    /// The newest sound checkpoint.
    pub(super) checkpoint: Option<EntryId>,
    /// Checkpoint files that were found damaged.
    pub(super) damaged_checkpoints: usize,
    /// Its rows were made anew.
    pub(super) rebuilt: bool,
    /// It can't be rebuilt.
    pub(super) lost: bool,
}

/// An open data directory.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) disk: SimDisk,
    pub(super) engine: Arc<MemoryEngine>,
    pub(super) identity: Identity,
    pub(super) log: Arc<Log>,
    pub(super) replicas: BTreeMap<ReplicaId, Replica>,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Incarnation of the identity that was there; none if there was none.
    pub(super) incarnation: Option<u64>,
    pub(super) recovery: Recovery,
    pub(super) replicas: BTreeMap<ReplicaId, Opened>,
}

pub(super) fn group_of(replica: ReplicaId) -> GroupId {
    GroupId(u32::try_from(replica.get()).unwrap_or(u32::MAX))
}

pub(super) fn checkpoints_dir(replica: ReplicaId) -> std::path::PathBuf {
    Path::new(DATA).join("checkpoints").join(replica.to_string())
}

pub(super) fn manifest(replica: ReplicaId, applied: EntryId) -> Manifest {
    Manifest {
        group: group_of(replica),
        replica,
        applied_index: applied.index,
        applied_term: applied.term,
        state_header: encode_id(applied),
    }
}

pub(super) fn log_options(observer: Arc<dyn log::Observer>) -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        cache_bytes_per_replica: CACHE_BYTES,
        writer: Writer::Inline,
        observer,
        ..Options::default()
    }
}

impl Node {
    /// Opens the data directory. With `trust` the engine's rows may be believed.
    pub(super) fn open(
        disk: &SimDisk,
        engine: Arc<MemoryEngine>,
        trust: bool,
        watch: &mut dyn Watch,
    ) -> Result<(Self, Found), Failure> {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let data = Path::new(DATA);
        let mut found = Found::default();
        let loaded = Identity::load(disk, data)?;
        found.incarnation = loaded.as_ref().map(|identity| identity.incarnation.get());
        let mut identity = loaded.unwrap_or_else(|| Identity::new(7));
        identity.incarnation = Incarnation(identity.incarnation.get() + 1);
        identity.clean_stop = false;
        watch.incarnation(identity.incarnation.get(), false);
        identity.store(disk, data)?;
        watch.incarnation(identity.incarnation.get(), true);
        let (log, recovery) =
            Log::open(Arc::clone(&shared), &data.join(LOG_DIR), log_options(watch.observer()))?;
        watch.log_opened(logs_of(&log, &recovery)?, &recovery)?;
        found.recovery = recovery;
        if identity.joined.is_none() {
            identity.joined =
                Some(Joined { cluster: ClusterId(1), node: NodeId(1), meta_replica: ReplicaId(1) });
            identity.store(disk, data)?;
        }
        let mut node =
            Self { disk: disk.clone(), engine, identity, log: Arc::new(log), replicas: BTreeMap::new() };
        for (_, id) in node.log.replicas() {
            if found.recovery.damaged.contains_key(&id) {
                continue;
            }
            let opened = node.open_replica(id, trust, watch)?;
            found.replicas.insert(id, opened);
        }
        Ok((node, found))
    }

    /// Opens a replica that the log knows.
    fn open_replica(&mut self, id: ReplicaId, trust: bool, watch: &mut dyn Watch) -> Result<Opened, Failure> {
        let log = self.log.replica(group_of(id), id)?;
        let shared: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let engine: Arc<dyn kvd_storage::engine::Engine> = Arc::clone(&self.engine) as _;
        let checkpoints = CheckpointStore::open(shared, &checkpoints_dir(id))?;
        let mut opened = Opened::default();
        let purged = log.state().purged;
        let reaches =
            |id: Option<EntryId>| purged.is_none_or(|purged| id.map(|id| id.index) >= Some(purged.index));
        let table = match Table::open(Arc::clone(&engine), id) {
            Ok(table) => {
                match applied_of(&table) {
                    Ok(applied) if trust => opened.believed = Some(applied),
                    Ok(_) => {}
                    Err(error) => opened.disbelief = Some(error.to_string()),
                }
                table
            }
            Err(error) if error.is_corruption() => {
                opened.disbelief = Some(error.to_string());
                Table::recreate(engine, id)?
            }
            Err(error) => return Err(error.into()),
        };
        let newest = checkpoints.latest()?;
        opened.checkpoint = newest.as_ref().map(id_of);
        opened.damaged_checkpoints = checkpoints.damaged().len();
        let behind = opened.checkpoint.map(|id| id.index) > opened.believed.flatten().map(|id| id.index);
        if opened.believed.is_none_or(|applied| !reaches(applied)) || behind {
            if !reaches(opened.checkpoint) {
                opened.lost = true;
                table.clear()?;
                return Ok(opened);
            }
            opened.rebuilt = true;
            match &newest {
                Some(checkpoint) => table.replace(checkpoint.rows())?,
                None => table.clear()?,
            }
        }
        let applied = applied_of(&table)?;
        let mut replica = Replica { log, table, checkpoints, applied };
        replica.drop_conflicting_tail(|step| watch.log_step(id, step))?;
        let committed = replica.log.state().committed.as_deref().and_then(decode_id);
        replica.apply_upto(committed)?;
        self.replicas.insert(id, replica);
        Ok(opened)
    }
}

/// What all replicas of a log hold that are not damaged. Those without a record don't count.
fn logs_of(log: &Log, recovery: &Recovery) -> Result<Logs, log::Error> {
    let mut found = Logs::new();
    for (group, id) in log.replicas() {
        if recovery.damaged.contains_key(&id) {
            continue;
        }
        let model = LogModel::of(&log.replica(group, id)?)?;
        if model != LogModel::default() {
            found.insert(id, model);
        }
    }
    Ok(found)
}

pub(super) fn id_of(checkpoint: &Checkpoint) -> EntryId {
    let manifest = checkpoint.manifest();
    EntryId { index: manifest.applied_index, term: manifest.applied_term }
}

fn applied_of(table: &Table) -> kvd_storage::Result<Option<EntryId>> {
    Ok(table.get(APPLIED_KEY)?.as_deref().and_then(decode_id))
}

/// All rows of a table.
pub(super) fn rows_of(table: &Table) -> kvd_storage::Result<BTreeMap<Bytes, Bytes>> {
    use std::ops::Bound::Unbounded;
    Ok(table.scan(Unbounded, Unbounded, usize::MAX, usize::MAX)?.into_iter().collect())
}

impl Replica {
    /// Drops entries that contradict what the rows hold, and goes on behind the rows if they are ahead of the log.
    pub(super) fn drop_conflicting_tail(&self, mut about_to: impl FnMut(&Step)) -> Result<(), Failure> {
        let Some(applied) = self.applied else { return Ok(()) };
        let state = self.log.state();
        let fine = self.log.id(applied.index) == Some(applied)
            || state.purged.is_some_and(|purged| purged.index >= applied.index);
        if fine {
            return Ok(());
        }
        if state.last.is_some_and(|last| last.index >= applied.index) {
            let previous = applied.index.get().checked_sub(1).and_then(|index| self.log.id(LogIndex(index)));
            let kept = previous.or(state.purged);
            about_to(&Step::Truncate(kept));
            self.log.truncate_after(kept).map_err(Failure::LogDied)?;
        }
        about_to(&Step::Purge(applied));
        self.log.purge(applied).map_err(Failure::LogDied)
    }

    /// Applies what is committed and not yet applied, reading it from the log.
    pub(super) fn apply_upto(&mut self, committed: Option<EntryId>) -> Result<(), Failure> {
        let Some(committed) = committed else { return Ok(()) };
        loop {
            let next = self.applied.map_or(0, |applied| applied.index.get() + 1);
            if next > committed.index.get() {
                return Ok(());
            }
            let entries =
                self.log.read(LogIndex(next)..LogIndex(committed.index.get() + 1), APPLY_BYTES_MAX)?;
            if entries.first().is_none_or(|first| first.index.get() != next) {
                // The committed position may be ahead of entries that were to be sent again.
                return Ok(());
            }
            for entry in entries {
                let change = Change::decode(&entry.payload)
                    .ok_or_else(|| Failure::Wrong(format!("entry {} makes no sense", entry.index)))?;
                let id = EntryId { index: entry.index, term: entry.term };
                self.table.write([
                    (change.key, change.value),
                    (Bytes::from_static(APPLIED_KEY), Some(encode_id(id))),
                ]);
                self.applied = Some(id);
            }
        }
    }

    /// Moves all rows to the engine.
    pub(super) fn drain(&self) -> kvd_storage::Result<()> {
        self.table.drain()?;
        self.table.freeze();
        self.table.drain()
    }

    /// Writes a checkpoint of what is applied.
    pub(super) fn checkpoint(&self, id: ReplicaId, applied: EntryId) -> kvd_storage::Result<Checkpoint> {
        self.drain()?;
        let cut = self.table.hold_drains().into_cut(usize::MAX);
        let mut writer = self.checkpoints.writer(&manifest(id, applied))?;
        for row in cut {
            let (key, value) = row?;
            writer.append(&key, &value)?;
        }
        writer.finish()
    }
}
