//! One replica's applied state: the machine, its rows, and the cuts through them.
//!
//! Applying, draining to the engine, taking a checkpoint, installing one and reading all meet here. Two locks order
//! them:
//!
//! - the *applier* lock guards the machine and its place in the log. It is held for one entry at a time, and for the
//!   moment in which a generation of rows is frozen, so that a frozen generation is always a cut between two entries
//!   that carries its own place in the log;
//! - the *cut* lock is held by whoever moves rows out of memory: a drain, a checkpoint, an install. A checkpoint lets it go
//!   before it writes, as the rows that it has still to write are kept for it as they were. Only if that becomes more than
//!   [`MemoryOptions::cut_bytes_max`] it takes it again for the rest, and writes go on in memory, up to
//!   [`MemoryOptions::rows_max`] and [`MemoryOptions::bytes_max`]; beyond that, applying waits.
//!
//! A third lock keeps checkpoints and installs, which may take minutes, one after the other.
//!
//! An entry is applied on a thread for work that may wait, unless it is small and the engine has nothing to do. The runtime's
//! own threads keep the groups together: an election would follow if their heartbeats had to wait for an engine, or for a core
//! that has more to do than it can.
//!
//! A fault in the rows (a checksum that fails) is reported once and for good: whoever opened the group stops it and
//! rebuilds it from checkpoint and log. It is never served.

use std::{io, pin::pin, sync::Arc, time::Duration};

use kvd_machine::{Machine, Position};
use kvd_storage::{
    checkpoint::{CHUNK_BYTES_MAX, Checkpoint, CheckpointStore, Manifest},
    table::{DrainedCut, Table},
};
use kvd_types::{Error, GroupId, LogIndex, Outcome, Proposal, ReplicaId, Result, Term};
use openraft::EntryPayload;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedMutexGuard, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    blocking::Blocking,
    codec,
    disk_reads::{DiskReads, Reader},
    observe::Observer,
    turns::DrainTurns,
    types::{Entry, LogId, SnapshotMeta, StoredMembership},
};

/// An entry with so many commands is applied on a thread for work that may wait: it takes much longer than to hand it over.
pub(crate) const COMMANDS_APPLIED_ELSEWHERE: usize = 16;

/// Which of a replica's rows are in memory, and when they are drained to the engine.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// They are drained once so many wait, or applying waits for room…
    pub drain_rows: usize,
    /// …or so many bytes of them…
    pub drain_bytes: usize,
    /// …or this long after the first of them. The larger the batches, the less an engine has to do: what is written again
    /// meanwhile never gets there. But an engine may let nobody read while it takes one.
    pub drain_interval: Duration,
    /// Rows that may wait in memory while the engine's rows stand still; applying waits beyond it.
    pub rows_max: usize,
    /// Bytes of such rows.
    pub bytes_max: usize,
    /// Bytes of rows as they were that are kept for a checkpoint which is being written; beyond it the engine's rows stand
    /// still until it is. For engines that can't show their rows as they were.
    pub cut_bytes_max: usize,
    /// Bytes of current versions that are kept at hand for the writes that replace them.
    pub at_hand_bytes_max: u64,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            // With 10,000 rows or half a second a put under load cost a third to a half more CPU, as measured with sled.
            drain_rows: 100_000,
            drain_bytes: 32 << 20,
            drain_interval: Duration::from_secs(3),
            rows_max: 512 << 10,
            bytes_max: 128 << 20,
            cut_bytes_max: 64 << 20,
            at_hand_bytes_max: 16 << 20,
        }
    }
}

/// What a replica's state is made of.
pub(crate) struct StateParts {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) table: Arc<Table>,
    pub(crate) checkpoints: CheckpointStore,
    pub(crate) memory: MemoryOptions,
    pub(crate) blocking: Blocking,
    pub(crate) disk_reads: DiskReads,
    pub(crate) drain_turns: DrainTurns,
    pub(crate) observer: Arc<dyn Observer>,
}

/// What broke, and so what must stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The replica's rows can't be believed: stop it and rebuild it from checkpoint and log.
    Rows(String),
    /// The group's core has ended though nobody asked it to, a bug or a contradiction between replicas: open it again. Its
    /// rows are sound.
    Core(String),
    /// Nothing is known of what is durable on this node: stop the process.
    Node(String),
}

/// One replica's applied state.
pub(crate) struct ReplicaState {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) table: Arc<Table>,
    pub(crate) checkpoints: CheckpointStore,
    applier: Mutex<Applier>,
    /// Held by whoever writes a checkpoint or installs one. Whoever takes `cut` too takes it after this.
    checkpointing: Arc<tokio::sync::Mutex<()>>,
    /// Held by whoever moves rows out of memory.
    cut: Arc<tokio::sync::Mutex<()>>,
    memory: MemoryOptions,
    pub(crate) blocking: Blocking,
    disk_reads: DiskReads,
    drain_turns: DrainTurns,
    /// What other threads read and apply.
    in_use: TaskTracker,
    /// Rows wait in memory.
    rows_waiting: Notify,
    /// So many that they are to be drained at once.
    much_waits: Notify,
    /// Counts what may have made room in memory, so that an applier at the bound can wait for it: rows were set apart to be
    /// drained, or a drain has ended.
    made_room: watch::Sender<u64>,
    fault: watch::Sender<Option<Fault>>,
    /// A checkpoint that was written and that openraft has still to be told of.
    prepared: Mutex<Option<(SnapshotMeta, Checkpoint)>>,
    /// The last entry that was applied.
    pub(crate) applied: watch::Sender<LogIndex>,
    /// Cancelled when the replica is closed: nothing may touch its rows from then on.
    closed: CancellationToken,
    pub(crate) observer: Arc<dyn Observer>,
}

/// The machine and its place in the log.
struct Applier {
    machine: Machine,
    last: Option<LogId>,
    membership: StoredMembership,
}

impl ReplicaState {
    /// Takes up the state that the table holds.
    pub(crate) fn open(parts: StateParts) -> Result<Self> {
        let StateParts {
            group,
            replica,
            table,
            checkpoints,
            memory,
            blocking,
            disk_reads,
            drain_turns,
            observer,
        } = parts;
        let mut machine = Machine::open(group, Arc::clone(&table)).map_err(Error::from)?;
        machine.keep_at_hand(memory.at_hand_bytes_max);
        let SnapshotMeta { last_log_id: last, last_membership: membership } = position_of(&machine)?;
        observer.taken_up(group, replica, &machine);
        Ok(Self {
            group,
            replica,
            table,
            checkpoints,
            memory,
            blocking,
            disk_reads,
            drain_turns,
            in_use: TaskTracker::new(),
            observer,
            applier: Mutex::new(Applier { machine, last, membership }),
            checkpointing: Arc::default(),
            cut: Arc::default(),
            rows_waiting: Notify::new(),
            much_waits: Notify::new(),
            made_room: watch::Sender::new(0),
            fault: watch::Sender::new(None),
            prepared: Mutex::default(),
            applied: watch::Sender::new(index_of(last.as_ref())),
            closed: CancellationToken::new(),
        })
    }

    /// Looks at the machine.
    pub(crate) fn with_machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.applier.lock().machine)
    }

    /// The digest of the contents; `None` while the machine is busy with a checkpoint's install.
    pub(crate) fn try_digest(&self) -> Option<u64> {
        self.applier.try_lock().map(|applier| applier.machine.digest())
    }

    /// The last applied entry, and the membership as of it.
    pub(crate) fn position(&self) -> SnapshotMeta {
        let applier = self.applier.lock();
        SnapshotMeta { last_log_id: applier.last, last_membership: applier.membership.clone() }
    }

    /// How far both the applied state and the newest checkpoint reach: entries up to there are not needed.
    pub(crate) fn covered(&self) -> io::Result<Option<LogIndex>> {
        let applied = self.position().last_log_id.as_ref().map(|id| codec::entry_id(id).index);
        let newest = self.checkpoints.latest().map_err(io::Error::other)?;
        Ok(applied.min(newest.map(|checkpoint| checkpoint.manifest().applied_index)))
    }

    /// Tells the observer that the log was purged.
    pub(crate) fn purged(&self, upto: LogIndex) {
        self.observer.purged(self.group, self.replica, upto);
    }

    /// The first fault, once there is one.
    pub(crate) fn fault(&self) -> watch::Receiver<Option<Fault>> {
        self.fault.subscribe()
    }

    /// Reports a fault. Only the first report counts.
    pub(crate) fn report(&self, fault: Fault) {
        self.fault.send_if_modified(|known| {
            if known.is_some() {
                return false;
            }
            tracing::error!(group = %self.group, replica = %self.replica, ?fault, "the replica stops serving");
            *known = Some(fault);
            true
        });
    }

    /// Reports a machine's error, as which the replica stops.
    pub(crate) fn broken(&self, error: &kvd_machine::Error) -> io::Error {
        let fatal = matches!(error, kvd_machine::Error::Storage(storage) if storage.is_fatal());
        let what = error.to_string();
        self.report(if fatal { Fault::Node(what.clone()) } else { Fault::Rows(what.clone()) });
        io::Error::other(what)
    }

    /// Closes the state: when this returns nothing is moving its rows, and nothing will. Tasks of openraft that are still
    /// about get an error.
    pub(crate) async fn close(&self) {
        {
            // Under the applier's lock, so that no entry is half applied.
            let _applier = self.applier.lock();
            self.closed.cancel();
        }
        drop(self.checkpointing.lock().await);
        drop(self.cut.lock().await);
        self.in_use.close();
        self.in_use.wait().await;
    }

    /// Whether what was read just now was read of a state that is still kept.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.is_cancelled() && self.fault.borrow().is_none()
    }

    fn check_open(&self) -> io::Result<()> {
        if self.closed.is_cancelled() { Err(io::Error::other("the replica is closed")) } else { Ok(()) }
    }

    /// Reads rows: here, or, while reads wait for the disk, on another thread.
    ///
    /// # Errors
    /// The replica has been closed, or the read panicked; the read's own within.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        rows: usize,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        if !self.table.reads_wait() {
            return Ok(read());
        }
        if !self.disk_reads.wait() {
            return Ok(self.disk_reads.here(rows, read));
        }
        let token = self.in_use.token();
        self.check_open()?;
        let read = move || {
            let _token = token;
            read()
        };
        // Boxed, so that requests which don't come here take no memory for it.
        Box::pin(self.disk_reads.elsewhere(Reader::Client, rows, read)).await
    }

    /// Applies one entry, having read what it will ask for. An error stops the replica. For one caller at a time.
    pub(crate) async fn apply(self: &Arc<Self>, entry: Entry) -> io::Result<Vec<Outcome>> {
        let proposal = self.proposal(&entry)?;
        if let Some(proposal) = proposal.as_ref().filter(|_| self.table.reads_wait()) {
            let mut ahead = self.with_machine(|machine| machine.wanted(proposal));
            let _token = self.in_use.token();
            self.check_open()?;
            self.disk_reads.ahead(&self.table, &self.in_use, &mut ahead).await;
            self.applier.lock().machine.read_ahead(ahead);
        }
        if !self.may_take_long(proposal.as_ref()) {
            return self.apply_proposal(entry, proposal.as_ref());
        }
        // Whoever closes the state waits for it, even if nobody else does any more.
        let (state, token) = (Arc::clone(self), self.in_use.token());
        self.check_open()?;
        let apply = move || {
            let _token = token;
            state.apply_proposal(entry, proposal.as_ref())
        };
        self.blocking.run(apply).await
    }

    /// Whether applying an entry may take so long that it is no work for the threads that keep the group together: it has
    /// much to do, or may have to wait for the engine, which lets nobody read some rows while it takes others.
    fn may_take_long(&self, proposal: Option<&Proposal>) -> bool {
        let Some(proposal) = proposal else { return false };
        let commands = proposal.commands.len();
        // One without commands lets keys lapse and history be forgotten.
        commands == 0
            || commands >= COMMANDS_APPLIED_ELSEWHERE
            || self.table.is_frozen()
            || (self.table.reads_wait() && self.disk_reads.wait())
    }

    fn proposal(&self, entry: &Entry) -> io::Result<Option<Proposal>> {
        let EntryPayload::Normal(encoded) = &entry.payload else { return Ok(None) };
        let decoded = kvd_proto::log::decode_proposal(&encoded.0);
        decoded.map(Some).map_err(|error| {
            self.report(Fault::Rows(error.message.clone()));
            io::Error::other(error.message)
        })
    }

    fn apply_proposal(&self, entry: Entry, proposal: Option<&Proposal>) -> io::Result<Vec<Outcome>> {
        let started = Instant::now();
        let id = entry.log_id;
        let position = Position { index: LogIndex(id.index()), term: Term(id.committed_leader_id().term) };
        let mut applier = self.applier.lock();
        self.check_open()?;
        let outcomes = match proposal {
            Some(proposal) => applier.machine.apply(position, proposal),
            None => applier.machine.skip(position).map(|()| Vec::new()),
        };
        let outcomes = outcomes.map_err(|error| self.broken(&error))?;
        applier.last = Some(id);
        if let EntryPayload::Membership(membership) = entry.payload {
            applier.membership = StoredMembership::new(Some(id), membership);
        }
        let (machine, took) = (&applier.machine, started.elapsed());
        self.observer.applied(self.group, self.replica, machine, proposal, took);
        drop(applier);
        self.applied.send_replace(position.index);
        self.rows_waiting.notify_one();
        if self.has_much() {
            self.much_waits.notify_one();
        }
        Ok(outcomes)
    }

    /// Waits while as many rows as are allowed wait in memory.
    pub(crate) async fn wait_for_room(&self) -> io::Result<()> {
        if self.has_room() {
            return Ok(());
        }
        let (mut made_room, mut fault) = (self.made_room.subscribe(), self.fault.subscribe());
        while !self.has_room() {
            self.rows_waiting.notify_one();
            tokio::select! {
                told = made_room.changed() => told.map_err(io::Error::other)?,
                () = self.closed.cancelled() => return self.check_open(),
                broken = fault.wait_for(Option::is_some) => {
                    drop(broken.map_err(io::Error::other)?);
                    return Err(io::Error::other("the replica has stopped for a fault"));
                }
            }
        }
        Ok(())
    }

    /// Whether a drain is due at once. So it is where scans have many deletions in memory to pass over, and where applying
    /// waits for a drain, whatever it is set to be due after.
    fn has_much(&self) -> bool {
        self.table.active_rows() >= self.memory.drain_rows
            || self.table.active_bytes() >= self.memory.drain_bytes
            || self.table.wants_drain()
            || !self.has_room()
    }

    /// How much of the room for rows in memory is taken, in percent; at a hundred applying waits.
    pub(crate) fn room_taken_percent(&self) -> usize {
        let taken = |waiting: usize, max: usize| waiting.saturating_mul(100) / max.max(1);
        let MemoryOptions { rows_max, bytes_max, .. } = self.memory;
        taken(self.table.active_rows(), rows_max).max(taken(self.table.active_bytes(), bytes_max)).min(100)
    }

    fn tell_of_room(&self) {
        self.made_room.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Changes whenever rows have been set apart to be drained, and when a drain has ended.
    #[cfg(test)]
    pub(crate) fn made_room(&self) -> watch::Receiver<u64> {
        self.made_room.subscribe()
    }

    fn has_room(&self) -> bool {
        self.table.active_rows() <= self.memory.rows_max && self.table.active_bytes() <= self.memory.bytes_max
    }

    /// Freezes what is in memory, as a cut between two entries.
    fn freeze(&self) -> (bool, SnapshotMeta) {
        let mut applier = self.applier.lock();
        let header = codec::encode_header(applier.last.as_ref(), &applier.membership);
        applier.machine.set_header(header);
        applier.machine.prepare_freeze();
        let froze = self.table.freeze();
        // What is frozen no longer counts, and the drain may take long.
        self.tell_of_room();
        (froze, SnapshotMeta { last_log_id: applier.last, last_membership: applier.membership.clone() })
    }

    /// Drains rows to the engine as they come, until the state is closed: no sooner, as whoever closes it may first have to
    /// wait for an entry that waits for room. A drain that fails is reported, so that nobody waits for the next.
    pub(crate) async fn drain_loop(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.closed.cancelled() => return,
                () = self.rows_waiting.notified() => {}
            }
            let mut interval = pin!(tokio::time::sleep(self.memory.drain_interval));
            // What is told here may be of rows that the drain before has taken, too.
            while !self.has_much() {
                tokio::select! {
                    () = self.closed.cancelled() => return,
                    () = self.much_waits.notified() => {}
                    () = &mut interval => break,
                }
            }
            if let Err(error) = self.drain().await {
                if self.is_open() {
                    self.report(Fault::Core(format!("its rows don't get to the engine: {error}")));
                }
                return;
            }
        }
    }

    /// Moves what is in memory to the engine, in turn.
    pub(crate) async fn drain(self: &Arc<Self>) -> io::Result<()> {
        // In this order: a turn must not be kept for whoever waits for a checkpoint to be written.
        let _cut = self.cut.lock().await;
        let _turn = self.drain_turns.next().await;
        self.check_open()?;
        let state = Arc::clone(self);
        self.blocking
            .run(move || {
                state.freeze();
                state.table.drain().map_err(|error| state.broken(&error.into()))
            })
            .await?;
        self.tell_of_room();
        Ok(())
    }

    /// Writes a checkpoint and keeps it for openraft to be told of. What fails here costs nothing but the log's growth.
    pub(crate) async fn prepare_checkpoint(self: &Arc<Self>) -> io::Result<Option<LogId>> {
        let taken = self.take_checkpoint().await?;
        let reached = taken.0.last_log_id;
        *self.prepared.lock() = Some(taken);
        Ok(reached)
    }

    /// The checkpoint that was prepared, or else a new one.
    pub(crate) async fn prepared_checkpoint(self: &Arc<Self>) -> io::Result<(SnapshotMeta, Checkpoint)> {
        let prepared = self.prepared.lock().take();
        match prepared {
            Some(prepared) => Ok(prepared),
            None => self.take_checkpoint().await,
        }
    }

    /// Writes a checkpoint of what is applied now. Applying goes on meanwhile.
    pub(crate) async fn take_checkpoint(self: &Arc<Self>) -> io::Result<(SnapshotMeta, Checkpoint)> {
        let checkpointing = Arc::clone(&self.checkpointing).lock_owned().await;
        let cut = Arc::clone(&self.cut).lock_owned().await;
        self.check_open()?;
        let state = Arc::clone(self);
        let taken = self
            .blocking
            .run(move || {
                // Given back by the thread: it goes on if nobody waits for it any more.
                let _checkpointing = checkpointing;
                let broken = |error: kvd_storage::Error| state.broken(&error.into());
                // A generation left frozen by a drain that was cancelled would hold back the cut that is wanted.
                state.table.drain().map_err(broken)?;
                let (_, position) = state.freeze();
                state.table.drain().map_err(broken)?;
                let rows = state.table.hold_drains().into_cut(state.memory.cut_bytes_max);
                let cut = rows.holds_drains().then_some(cut);
                let checkpoint = state.write_checkpoint(&position, rows, cut);
                Ok((position, checkpoint.map_err(|error| state.checkpoint_failed(error))?))
            })
            .await?;
        self.tell_of_room();
        Ok(taken)
    }

    /// Makes sure that a checkpoint is among this replica's own, from which it would be rebuilt. One that a peer sent was
    /// received into their directory and is there already.
    fn adopt(&self, checkpoint: &Checkpoint) -> Result<(), kvd_storage::Error> {
        if self.checkpoints.list()?.iter().any(|own| own.path() == checkpoint.path()) {
            return Ok(());
        }
        let receiver =
            self.checkpoints.receive(&checkpoint.path().to_string_lossy(), checkpoint.size_bytes())?;
        while receiver.next_offset() < checkpoint.size_bytes() {
            let offset = receiver.next_offset();
            receiver.write(offset, &checkpoint.read_chunk(offset, CHUNK_BYTES_MAX)?)?;
        }
        receiver.finish().map(drop)
    }

    /// `cut` is held if drains are, and given back once the rows have been read: syncing the checkpoint and reading it back
    /// needs no stillness.
    fn write_checkpoint(
        &self,
        position: &SnapshotMeta,
        mut rows: DrainedCut<'_>,
        mut cut: Option<OwnedMutexGuard<()>>,
    ) -> Result<Checkpoint, kvd_storage::Error> {
        let (applied_index, applied_term) = position
            .last_log_id
            .map_or((LogIndex(0), Term(0)), |id| (LogIndex(id.index()), Term(id.committed_leader_id().term)));
        let mut writer = self.checkpoints.writer(&Manifest {
            group: self.group,
            replica: self.replica,
            applied_index,
            applied_term,
            state_header: codec::encode_header(position.last_log_id.as_ref(), &position.last_membership),
        })?;
        let written = loop {
            if cut.is_none() && rows.is_full() {
                // First, so that a drain which has to wait does so before its turn.
                cut = Some(Arc::clone(&self.cut).blocking_lock_owned());
                rows.hold();
            }
            let Some(row) = rows.next() else { break Ok(()) };
            let appended = row.and_then(|(key, value)| writer.append(&key, &value));
            if appended.is_err() {
                break appended;
            }
        };
        drop((rows, cut));
        written?;
        writer.finish()
    }

    /// A checkpoint that can't be written (a full disk) costs nothing but the log's growth; rows that can't be read, or a
    /// failed sync, stop the replica or the node.
    fn checkpoint_failed(&self, error: kvd_storage::Error) -> io::Error {
        if error.is_corruption() || error.is_fatal() {
            return self.broken(&error.into());
        }
        tracing::warn!(group = %self.group, replica = %self.replica, %error, "no checkpoint could be written");
        io::Error::other(error.to_string())
    }

    /// Replaces everything by a checkpoint's state.
    pub(crate) async fn install(self: &Arc<Self>, checkpoint: Checkpoint) -> io::Result<()> {
        let _checkpointing = self.checkpointing.lock().await;
        let _cut = self.cut.lock().await;
        self.check_open()?;
        let state = Arc::clone(self);
        self.blocking
            .run(move || {
                state.adopt(&checkpoint).map_err(|error| state.checkpoint_failed(error))?;
                let mut applier = state.applier.lock();
                state.table.replace(checkpoint.rows()).map_err(|error| state.broken(&error.into()))?;
                applier.machine.reload().map_err(|error| state.broken(&error))?;
                let position = position_of(&applier.machine).map_err(io::Error::other)?;
                applier.last = position.last_log_id;
                applier.membership = position.last_membership;
                state.applied.send_replace(index_of(applier.last.as_ref()));
                state.observer.taken_up(state.group, state.replica, &applier.machine);
                Ok(())
            })
            .await
    }
}

/// The index of the last entry that was applied; zero: none was.
fn index_of(last: Option<&LogId>) -> LogIndex {
    LogIndex(last.map_or(0, LogId::index))
}

/// Where a machine stands in its log.
fn position_of(machine: &Machine) -> Result<SnapshotMeta> {
    machine.header().map_or_else(|| Ok(SnapshotMeta::default()), codec::decode_header)
}
