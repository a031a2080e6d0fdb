//! What a node does with its disk, by chance and from a seed: votes, appends (alone and many in one write), changes of
//! mind about what was never committed, applying, draining, flushing, checkpoints, purges, a peer's checkpoint,
//! replicas that come and go, restarts.
//!
//! Each step is told to the model before it is done, and what was answered afterwards. A step that fails in a way that
//! leaves the node alive (a checkpoint on a full disk) is noted and the work goes on; anything else ends it.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use kvd_storage::{
    checkpoint::{Checkpoint, CheckpointStore},
    disk::{Disk, SimDisk, chance::Chance},
    engine::{Engine, MemoryEngine},
    log::{Done, Entry, EntryId},
    table::Table,
};
use kvd_types::{LogIndex, ReplicaId, Term};

use super::{
    check,
    model::{Change, LogModel, Model, ReplicaModel, Step, encode_id},
    node::{DATA, Failure, Node, Replica, checkpoints_dir, group_of, manifest},
};

/// Replicas that live throughout.
const REPLICAS: u64 = 3;
/// Ids of those that come and go start here.
const FIRST_SHORT_LIVED: u64 = 100;
/// Rows that are written again and again.
const KEYS: u64 = 24;
/// A peer's checkpoint arrives in pieces of so many bytes.
const PIECE_BYTES: usize = 700;

/// A node at work, and what its disk should hold.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) disk: SimDisk,
    pub(super) engine: Arc<MemoryEngine>,
    pub(super) model: Model,
    /// None before it was opened, or once it has stopped.
    pub(super) node: Option<Node>,
    /// Failures that were reported and survived.
    pub(super) reported: Vec<String>,
    chance: Chance,
    short_lived: u64,
}

/// A step of a replica's log within a burst.
type Call = (ReplicaId, Step);

impl Work {
    /// A new node on an empty disk.
    pub(super) fn new(seed: u64) -> Self {
        let disk = SimDisk::with_dir(seed, Path::new(DATA));
        Self {
            disk,
            engine: Arc::new(MemoryEngine::new()),
            model: Model::default(),
            node: None,
            reported: Vec::new(),
            chance: Chance::of(&[seed, 0x3017]),
            short_lived: 0,
        }
    }

    /// What is there after a crash: nothing is open yet.
    pub(super) fn after_crash(&self, disk: SimDisk, engine: Arc<MemoryEngine>, chance: Chance) -> Self {
        let model = self.model.clone();
        Self { disk, engine, model, node: None, reported: Vec::new(), chance, short_lived: self.short_lived }
    }

    /// Does that many steps, or as many as go. An error is why the node stopped.
    pub(super) fn run(&mut self, steps: u64) -> Result<(), Failure> {
        let done = self.try_run(steps);
        if done.is_err() {
            self.node = None;
        }
        done
    }

    fn try_run(&mut self, steps: u64) -> Result<(), Failure> {
        if self.node.is_none() {
            self.reopen(true)?;
        }
        let known = self.node()?.log.replicas();
        for (_, id) in known {
            if self.known(id).retiring {
                self.retire(id)?;
            }
        }
        for id in 1..=REPLICAS {
            self.ensure(ReplicaId(id))?;
        }
        for _ in 0..steps {
            self.step()?;
        }
        Ok(())
    }

    /// Opens what is there and holds it against the model.
    pub(super) fn reopen(&mut self, trust: bool) -> Result<(), Failure> {
        self.node = None;
        self.node = Some(check::open(&self.disk, Arc::clone(&self.engine), &mut self.model, trust)?);
        Ok(())
    }

    fn node(&mut self) -> Result<&mut Node, Failure> {
        self.node.as_mut().ok_or_else(|| Failure::Wrong("the node has stopped".to_owned()))
    }

    fn replica(&mut self, id: ReplicaId) -> Result<&mut Replica, Failure> {
        let missing = || Failure::Wrong(format!("replica {id} is not open"));
        self.node()?.replicas.get_mut(&id).ok_or_else(missing)
    }

    fn known(&mut self, id: ReplicaId) -> &mut ReplicaModel {
        self.model.replicas.entry(id).or_default()
    }

    fn log_model(&self, id: ReplicaId) -> LogModel {
        self.model.logs.now().remove(&id).unwrap_or_default()
    }

    fn step(&mut self) -> Result<(), Failure> {
        let id = self.some_replica();
        match self.chance.below(100) {
            0..36 => {
                let call = self.some_call(id);
                self.calls(vec![call])
            }
            36..52 => self.burst(),
            52..70 => self.apply(id),
            70..75 => self.drain(id),
            75..80 => self.flush(),
            80..90 => self.checkpoint(id),
            90..93 => self.install(id),
            93..96 => self.come_and_go(),
            96..98 => self.note_clean_stop(),
            _ => self.restart(),
        }
    }

    fn some_replica(&mut self) -> ReplicaId {
        ReplicaId(1 + self.chance.below(REPLICAS))
    }

    /// Makes a replica if it is missing.
    fn ensure(&mut self, id: ReplicaId) -> Result<(), Failure> {
        if self.node()?.replicas.contains_key(&id) {
            return Ok(());
        }
        self.known(id);
        let node = self.node()?;
        let group = group_of(id);
        let log = node.log.replica(group, id)?;
        let shared: Arc<dyn Disk> = Arc::new(node.disk.clone());
        let engine: Arc<dyn Engine> = Arc::clone(&node.engine) as _;
        let table = Table::open(engine, id)?;
        let checkpoints = CheckpointStore::open(shared, &checkpoints_dir(id))?;
        node.replicas.insert(id, Replica { log, table, checkpoints, applied: None });
        self.calls(vec![(id, Step::Vote(Bytes::from_static(b"term 1 first")))])
    }

    fn some_change(&mut self) -> Change {
        let key = Bytes::from(format!("key {:04}", self.chance.below(KEYS)));
        let number = self.chance.next();
        let value = (!self.chance.one_in(5)).then(|| {
            Bytes::from(format!("{number:016x}").repeat(1 + usize::try_from(number % 4).unwrap_or(0)))
        });
        Change { key, value }
    }

    /// Entries that could come next.
    fn some_entries(&mut self, from: u64, term: Term, count: u64) -> Vec<Entry> {
        let entry = |index| {
            // Now and then long, so that segments fill up.
            let padding = if self.chance.one_in(4) { self.chance.below(3000) } else { self.chance.below(40) };
            let payload = self.some_change().encode(usize::try_from(padding).unwrap_or(0));
            Entry { index: LogIndex(index), term, payload }
        };
        (from..from + count).map(entry).collect()
    }

    fn some_call(&mut self, id: ReplicaId) -> Call {
        let log = self.log_model(id);
        let last = log.last();
        let term = last.map_or(1, |last| last.term.get());
        let committed = self.known(id).committed();
        let step = match self.chance.below(10) {
            0..6 => {
                let newer = u64::from(self.chance.one_in(8));
                let count = 1 + self.chance.below(3);
                Step::Append(self.some_entries(log.next_index(), Term(term + newer), count))
            }
            6..8 => Step::Vote(Bytes::from(format!("term {} {}", term + 1, self.chance.next()))),
            // Only what was never committed, and not what the log has purged.
            8 => {
                let first = committed.max(log.purged).map_or(0, |id| id.index.get() + 1);
                let kept = first + self.chance.below(log.next_index().saturating_sub(first) + 1);
                Step::Truncate(kept.checked_sub(1).and_then(|index| log.id(index)).or(log.purged))
            }
            _ => self.some_purge(id).unwrap_or(Step::Vote(Bytes::from_static(b"instead of a purge"))),
        };
        (id, step)
    }

    /// As far as a checkpoint reaches, or less.
    fn some_purge(&mut self, id: ReplicaId) -> Option<Step> {
        let checkpoint = self.known(id).checkpoint?;
        let purged = self.log_model(id).purged;
        let first = purged.map_or(0, |purged| purged.index.get() + 1);
        let upto = first + self.chance.below((checkpoint.index.get() + 1).saturating_sub(first));
        self.known(id).committed_id(upto).filter(|upto| upto.index <= checkpoint.index).map(Step::Purge)
    }

    /// Several calls of several replicas, all but the first in one write.
    fn burst(&mut self) -> Result<(), Failure> {
        let mut calls: Vec<Call> = Vec::new();
        let mut planned = self.model.clone();
        for _ in 0..2 + self.chance.below(4) {
            let id = self.some_replica();
            // What comes later in a burst is made for the log as it is then.
            std::mem::swap(&mut self.model, &mut planned);
            let call = self.some_call(id);
            self.model.logs.submit(call.0, &call.1);
            std::mem::swap(&mut self.model, &mut planned);
            calls.push(call);
        }
        self.calls(calls)
    }

    /// Makes calls of the log, in one write if there are several.
    fn calls(&mut self, calls: Vec<Call>) -> Result<(), Failure> {
        let mut ready = Vec::new();
        let answers = self.model.logs.answers();
        for (id, step) in calls {
            let at = self.model.logs.submit(id, &step);
            let answers = Arc::clone(&answers);
            let done: Done = Box::new(move |result| {
                if result.is_ok() {
                    answers.fetch_max(at, std::sync::atomic::Ordering::Relaxed);
                }
            });
            ready.push((id, step, done));
        }
        let node = self.node()?;
        if ready.len() == 1 {
            for (id, step, done) in ready {
                submit(&node.log, id, &step, done);
            }
        } else {
            // What a callback submits waits until it has returned, and so becomes one write.
            let log = Arc::downgrade(&node.log);
            let driver = node.log.replica(group_of(ReplicaId(1)), ReplicaId(1))?;
            driver.append(
                Vec::new(),
                Box::new(move |_| {
                    for (id, step, done) in ready {
                        if let Some(log) = log.upgrade() {
                            submit(&log, id, &step, done);
                        }
                    }
                }),
            );
        }
        let failure = node.log.failure();
        self.model.logs.settle();
        failure.map_or(Ok(()), |error| Err(Failure::LogDied(error)))
    }

    /// Commits some of what is settled, and applies it.
    fn apply(&mut self, id: ReplicaId) -> Result<(), Failure> {
        let settled = self.model.logs.settled.get(&id).cloned().unwrap_or_default();
        let now = self.log_model(id);
        let first = self.replica(id)?.applied.map_or(0, |applied| applied.index.get() + 1);
        let known = self.known(id).committed().map_or(0, |committed| committed.index.get() + 1);
        let end = settled.next_index().min(now.next_index()).max(first);
        if end == first {
            return Ok(());
        }
        let last = first + self.chance.below(end - first);
        let Some(committed) = now.id(last).filter(|committed| settled.id(last) == Some(*committed)) else {
            return Ok(());
        };
        for index in known..=last {
            let Some(entry) = now.entries.get(&index) else { continue };
            let change = Change::decode(&entry.payload)
                .ok_or_else(|| Failure::Wrong(format!("entry {index} makes no sense")))?;
            self.known(id).history.insert(index, (entry.term, change));
        }
        if self.known(id).committed_id(last) != Some(committed) {
            return Err(Failure::Wrong(format!("entry {last} of replica {id} is not what was committed")));
        }
        self.calls(vec![(id, Step::Committed(encode_id(committed)))])?;
        let known = self.known(id);
        known.applied = known.applied.max(Some(committed));
        known.promised = known.promised.max(Some(committed));
        self.replica(id)?.apply_upto(Some(committed))
    }

    fn drain(&mut self, id: ReplicaId) -> Result<(), Failure> {
        Ok(self.replica(id)?.drain()?)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let ids: Vec<_> = self.node()?.replicas.keys().copied().collect();
        for id in ids {
            let replica = self.replica(id)?;
            replica.drain()?;
            let applied = replica.applied;
            self.node()?.engine.flush()?;
            self.known(id).flushed = applied;
        }
        Ok(())
    }

    /// Writes a checkpoint, and now and then purges at once.
    fn checkpoint(&mut self, id: ReplicaId) -> Result<(), Failure> {
        let Some(applied) = self.replica(id)?.applied else { return Ok(()) };
        self.known(id).checkpoint_under_way = Some(applied);
        let written = self.replica(id)?.checkpoint(id, applied);
        if !self.published(id, applied, written)? {
            return Ok(());
        }
        let purge = if self.chance.one_in(2) { self.some_purge(id) } else { None };
        purge.map_or(Ok(()), |purge| self.calls(vec![(id, purge)]))
    }

    /// Notes what became of a checkpoint. Says whether it is there; an error is one that stops the node.
    fn published(
        &mut self,
        id: ReplicaId,
        applied: EntryId,
        published: kvd_storage::Result<Checkpoint>,
    ) -> Result<bool, Failure> {
        match published {
            Ok(_) => {
                let known = self.known(id);
                known.checkpoint = Some(applied);
                known.promised = known.promised.max(Some(applied));
                known.checkpoint_under_way = None;
                Ok(true)
            }
            Err(error) if error.is_fatal() || error.is_corruption() => Err(error.into()),
            Err(error) => {
                // Nothing was published, says the store.
                self.known(id).checkpoint_under_way = None;
                self.reported.push(error.to_string());
                Ok(false)
            }
        }
    }

    /// A peer has gone on without this replica and sends its checkpoint, which replaces everything.
    fn install(&mut self, id: ReplicaId) -> Result<(), Failure> {
        let from = self.known(id).committed().map_or(0, |committed| committed.index.get() + 1);
        let ahead = 1 + self.chance.below(6);
        let term = Term(self.log_model(id).last().map_or(1, |last| last.term.get()) + 1);
        for entry in self.some_entries(from, term, ahead) {
            if let Some(change) = Change::decode(&entry.payload) {
                self.known(id).history.insert(entry.index.get(), (term, change));
            }
        }
        let Some(upto) = self.known(id).committed() else { return Ok(()) };
        self.known(id).checkpoint_under_way = Some(upto);
        let sent = peers_checkpoint(id, self.known(id), upto)?;
        let received = self.receive(id, &sent);
        if !self.published(id, upto, received)? {
            // As if the peer had never been: what it knows will be heard of again, but not as this.
            let reached = from..=upto.index.get();
            self.known(id).history.retain(|index, _| !reached.contains(index));
            return Ok(());
        }
        let checkpoint = self.replica(id)?.checkpoints.latest()?;
        let checkpoint = checkpoint.ok_or_else(|| Failure::Wrong("a checkpoint vanished".to_owned()))?;
        // From here on the rows may be those.
        self.known(id).applied = Some(upto);
        let replica = self.replica(id)?;
        replica.table.replace(checkpoint.rows())?;
        replica.applied = Some(upto);
        let known = self.known(id);
        (known.applied, known.flushed) = (Some(upto), Some(upto));
        let mut steps = Vec::new();
        let log = self.log_model(id);
        if log.id(upto.index.get()) != Some(upto) {
            if log.next_index() > upto.index.get() {
                let previous = upto.index.get().checked_sub(1).and_then(|index| log.id(index));
                steps.push((id, Step::Truncate(previous.or(log.purged))));
            }
            steps.push((id, Step::Purge(upto)));
        }
        steps.into_iter().try_for_each(|step| self.calls(vec![step]))
    }

    fn receive(&mut self, id: ReplicaId, sent: &[u8]) -> kvd_storage::Result<Checkpoint> {
        let breaks = self.chance.one_in(3);
        let checkpoints = match self.replica(id) {
            Ok(replica) => replica.checkpoints.clone(),
            Err(error) => return Err(kvd_storage::Error::Misuse(error.to_string())),
        };
        let mut receiver = checkpoints.receive("a peer's", sent.len() as u64)?;
        if breaks {
            receiver.write(0, sent.get(..sent.len() / 2).unwrap_or_default())?;
            drop(receiver);
            receiver = checkpoints.receive("a peer's", sent.len() as u64)?;
        }
        loop {
            let offset = receiver.next_offset();
            let rest = sent.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
            if rest.is_empty() {
                return receiver.finish();
            }
            receiver.write(offset, rest.get(..PIECE_BYTES).unwrap_or(rest))?;
        }
    }

    /// A replica of its own id comes, or the last one that came goes.
    fn come_and_go(&mut self) -> Result<(), Failure> {
        let id = ReplicaId(FIRST_SHORT_LIVED + self.short_lived);
        if !self.node()?.replicas.contains_key(&id) {
            self.ensure(id)?;
            let entries = self.some_entries(0, Term(1), 2);
            self.calls(vec![(id, Step::Append(entries))])?;
            return self.apply(id);
        }
        self.short_lived += 1;
        self.retire(id)
    }

    /// The log last: while it knows the replica, this is taken up again.
    fn retire(&mut self, id: ReplicaId) -> Result<(), Failure> {
        self.known(id).retiring = true;
        if let Some(replica) = self.node()?.replicas.remove(&id) {
            replica.table.destroy()?;
            replica.checkpoints.destroy()?;
        }
        self.calls(vec![(id, Step::Remove)])
    }

    /// The identity is replaced in mid-flight, too.
    fn note_clean_stop(&mut self) -> Result<(), Failure> {
        let node = self.node()?;
        node.identity.clean_stop = !node.identity.clean_stop;
        match node.identity.store(&node.disk, Path::new(DATA)) {
            Err(error) if !error.is_fatal() => {
                self.reported.push(error.to_string());
                Ok(())
            }
            stored => Ok(stored?),
        }
    }

    fn restart(&mut self) -> Result<(), Failure> {
        self.flush()?;
        let Some(node) = self.node.take() else { return Ok(()) };
        let Node { log, replicas, .. } = node;
        drop(replicas);
        let log = Arc::into_inner(log).ok_or_else(|| Failure::Wrong("somebody has the log".to_owned()))?;
        log.close().map_err(Failure::LogDied)?;
        self.model.logs.settle_all();
        let trust = !self.chance.one_in(4);
        self.reopen(trust)
    }

    /// Ends in good order, so that everything is settled.
    pub(super) fn close(&mut self) -> Result<(), Failure> {
        self.flush()?;
        let Some(node) = self.node.take() else { return Ok(()) };
        let Node { log, replicas, .. } = node;
        drop(replicas);
        if let Some(log) = Arc::into_inner(log) {
            log.close().map_err(Failure::LogDied)?;
        }
        self.model.logs.settle_all();
        Ok(())
    }
}

/// The bytes of a checkpoint that another replica of the group has written.
fn peers_checkpoint(id: ReplicaId, known: &ReplicaModel, upto: EntryId) -> Result<Vec<u8>, Failure> {
    let disk = SimDisk::with_dir(1, Path::new(DATA));
    let store = CheckpointStore::open(Arc::new(disk), &checkpoints_dir(id))?;
    let mut writer = store.writer(&manifest(ReplicaId(999), upto))?;
    for (key, value) in known.rows_at(Some(upto)) {
        writer.append(&key, &value)?;
    }
    let checkpoint = writer.finish()?;
    Ok(checkpoint.read_chunk(0, usize::MAX)?.to_vec())
}

fn submit(log: &kvd_storage::log::Log, id: ReplicaId, step: &Step, done: Done) {
    if matches!(step, Step::Remove) {
        return log.remove(id, done);
    }
    let Ok(replica) = log.replica(group_of(id), id) else { return };
    // Those that nobody is told of: a failure shows in the log itself.
    let noted = match step {
        Step::Append(entries) => {
            replica.append(entries.clone(), done);
            return;
        }
        Step::Vote(vote) => {
            replica.save_vote(vote.clone(), done);
            return;
        }
        Step::Committed(committed) => replica.save_committed(committed.clone()),
        Step::Truncate(kept) => replica.truncate_after(*kept),
        Step::Purge(upto) => replica.purge(*upto),
        Step::Remove => Ok(()),
    };
    drop(noted);
}
