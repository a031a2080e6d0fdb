//! The Raft log of all replicas of a node.
//!
//! # The problem
//! A write is acknowledged when a majority has it on disk, so every write waits for a `fdatasync`. A node holds
//! replicas of many groups: a log and a sync for each would divide the disk's few thousand syncs a second among them.
//!
//! # The approach
//! One stream of records for all replicas. One writer takes everything that waits, writes it once, syncs once, and
//! then answers each call in order. Entries, votes, committed positions, truncations and purges all go through it, so
//! that nothing of a replica is ever reordered. Callers read what they appended at once, from memory.
//!
//! The stream is cut into segments, files of a fixed size that are filled with zeros before they are used and used
//! again when nothing in them is needed: overwriting costs little more than half of what appending costs. Each record's
//! checksum covers its segment's sequence number, which is never used twice, so old bytes never pass for new ones. The
//! head of each segment tells the state of all replicas again, so that no older segment is kept for a vote.
//!
//! | module | what it is |
//! |---|---|
//! | `format` | the bytes |
//! | `scan` | one segment's bytes into records; a torn tail or corruption |
//! | `recovery` | the records of all segments into the state of each replica, and what was lost of whom |
//! | `stream`, `memory` | one replica: as of a place in the log, and as its callers see it |
//! | `queue`, `writer` | from calls to bytes on disk |
//! | `pool` | segment files, made ready ahead |
//! | `options`, `report` | what a log is told, and what it tells |
//!
//! # What holds
//! - `done(Ok)` means: it, and all before it of that replica, is on disk, and is there after any crash.
//! - After a crash a replica's log is what it was after some prefix of the calls, one that includes everything that
//!   was answered. No vote goes back, nothing that was truncated before something answered reappears.
//! - A failed write or sync is final for the whole log: everything pending and everything later gets the error,
//!   [`Observer::failed`] is called, and the node is expected to stop.
//! - Rotten bits are never silent. What they touched is said by replica ([`Recovery::damaged`]), and such a replica is
//!   not opened: it can only be removed, and made anew under another id from the other replicas. The one exception is
//!   told in `scan`: damage of the very last write before a crash looks like a torn write, and is reported as one.
//! - Always a new segment on opening: nothing is ever appended to a tail that was recovered. One that is still bare when
//!   the log is opened again is given up for it.
//!
//! # Bounds
//! The queue is bounded by [`Options::queue_bytes_max`]: a call that finds it full waits. The bound is for a stuck disk
//! and lies several times above what the groups' own windows allow together. The cache of each replica is bounded by
//! [`Options::cache_bytes_per_replica`]; entries that are not yet on disk count for the queue as well.
//! The files are not bounded: a replica that never purges keeps every segment from its oldest entry on. Whoever makes
//! checkpoints watches [`ReplicaLog::retained_bytes`] and [`ReplicaLog::pinned_bytes`].
//!
//! # What is deliberately absent
//! No Raft: payloads, votes and committed positions are opaque. No async: callbacks. No repair: other replicas hold
//! the truth. No compaction of old entries to the front: an idle replica purges instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};
use parking_lot::Mutex;

use crate::disk::Disk;

mod format;
mod memory;
mod options;
mod pool;
mod queue;
mod recovery;
mod replica;
mod report;
mod scan;
mod stream;
mod writer;

#[cfg(test)]
mod tests;

pub use options::{NoObserver, Observer, Options, SEGMENT_BYTES_RANGE, Writer};
pub use replica::{ReplicaLog, ReplicaState};
pub use report::{Damage, Error, Recovery, TornTail};

use memory::{Memory, Replica};
use pool::Pool;
use queue::{Failure, Item, Operation, Queue};
use recovery::Recovered;
use writer::{Core, Files, Start};

/// Longest vote or committed position, in bytes.
pub const STATE_BYTES_MAX: usize = 4096;
/// Called once with what came of it.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// An entry of a replica's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its index.
    pub index: LogIndex,
    /// The term of the leader that made it.
    pub term: Term,
    /// What it says; opaque here.
    pub payload: Bytes,
}

/// An entry, named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Its index.
    pub index: LogIndex,
    /// The term of the leader that made it.
    pub term: Term,
}

/// What all handles share.
struct Shared {
    dir: PathBuf,
    segment_bytes: u64,
    batch_bytes_max: usize,
    observer: Arc<dyn Observer>,
    queue: Queue,
    files: Arc<Files>,
    pool: Arc<Pool>,
    replicas: Mutex<Replicas>,
    /// The writer, if it has no thread.
    inline: Option<Mutex<Core>>,
    /// Whether callers do the writer's work.
    writes_in_calls: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("dir", &self.dir).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Replicas {
    known: BTreeMap<ReplicaId, Arc<Replica>>,
    damaged: BTreeMap<ReplicaId, Damage>,
    /// Since the log was opened.
    removed: BTreeSet<ReplicaId>,
    unattributed: Option<Damage>,
}

/// The Raft log of all replicas of a node. Dropping it closes it.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    pool: Option<JoinHandle<()>>,
    closed: bool,
}

impl Log {
    /// Opens the log in a directory, which is made if it is missing. Reads all of it: takes seconds per gigabyte.
    ///
    /// # Errors
    /// What the disk says (a read error too: it is never taken for the end of the log), settings that make no sense,
    /// or a format that this program doesn't know. Damage is no error: see [`Recovery`].
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<(Self, Recovery), Error> {
        if !SEGMENT_BYTES_RANGE.contains(&options.segment_bytes)
            || !options.segment_bytes.is_multiple_of(4096)
        {
            return Err(Error::Options(format!(
                "a segment of {} bytes: must be a multiple of 4096, from {} to {}",
                options.segment_bytes,
                SEGMENT_BYTES_RANGE.start(),
                SEGMENT_BYTES_RANGE.end()
            )));
        }
        disk.create_dir_all(dir).map_err(Error::io("cannot make the log's directory", dir))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_dir(parent).map_err(Error::io("cannot sync the directory above the log's", parent))?;
        }
        let recovered = recovery::recover(disk.as_ref(), dir)?;
        Self::start(disk, dir, options, recovered)
    }

    fn start(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        recovered: Recovered,
    ) -> Result<(Self, Recovery), Error> {
        let report = recovered.report;
        let mut replicas = Replicas {
            damaged: report.damaged.clone(),
            unattributed: report.unattributed.clone(),
            ..Replicas::default()
        };
        let mut streams = BTreeMap::new();
        for (id, (stream, memory)) in recovered.streams {
            replicas.known.insert(id, Replica::new(id, stream.group, stream.number, memory));
            streams.insert(id, stream);
        }
        let files = Arc::new(Files::default());
        let previous = recovered.chain.last().map(|(sequence, _)| (*sequence, recovered.end));
        for (sequence, file) in recovered.chain {
            files.add(sequence, file);
        }
        let pool = Arc::new(Pool::new(
            disk,
            dir,
            pool::Sizes { segment_bytes: options.segment_bytes, reserve: options.reserve_segments },
            Arc::clone(&options.observer),
            recovered.next_sequence,
            recovered.free,
        ));
        let core = Core::new(Start {
            pool: Arc::clone(&pool),
            files: Arc::clone(&files),
            observer: Arc::clone(&options.observer),
            streams,
            segment_bytes: options.segment_bytes,
            cache_bytes: options.cache_bytes_per_replica,
            previous,
            bare: recovered.bare,
            next_write: recovered.next_write,
            synced: recovered.synced,
            unattributed: report.unattributed.is_some(),
            timed: options.writer == Writer::Thread,
        })
        .map_err(Error::io("cannot begin a new log segment", dir))?;
        let (inline, threaded) = match options.writer {
            Writer::Inline | Writer::Driven => (Some(Mutex::new(core)), None),
            Writer::Thread => (None, Some(core)),
        };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            segment_bytes: options.segment_bytes,
            batch_bytes_max: options.batch_bytes_max,
            observer: options.observer,
            queue: Queue::new(options.queue_bytes_max),
            files,
            pool,
            replicas: Mutex::new(replicas),
            inline,
            writes_in_calls: options.writer == Writer::Inline,
        });
        let mut log = Self { shared, writer: None, pool: None, closed: false };
        if let Some(core) = threaded {
            log.spawn(core).map_err(Error::io("cannot start the log's threads", dir))?;
        }
        Ok((log, report))
    }

    fn spawn(&mut self, core: Core) -> io::Result<()> {
        let pool = Arc::clone(&self.shared.pool);
        pool.expect_thread();
        self.pool = Some(thread::Builder::new().name("kvd-log-pool".to_owned()).spawn(move || pool.run())?);
        let shared = Arc::clone(&self.shared);
        let writer = thread::Builder::new().name("kvd-log-writer".to_owned());
        self.writer = Some(writer.spawn(move || shared.run(core))?);
        Ok(())
    }

    /// A replica's log, which is made if this log doesn't know the replica.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::MayBeDamaged`] (use [`Log::create`] for a replica that is known to be new),
    /// [`Error::WrongGroup`], [`Error::Removed`].
    pub fn replica(&self, group: GroupId, replica: ReplicaId) -> Result<ReplicaLog, Error> {
        let mut replicas = self.shared.replicas.lock();
        if let Some(damage) = replicas.damaged.get(&replica) {
            return Err(Error::Damaged { replica, damage: damage.clone() });
        }
        if let Some(known) = replicas.known.get(&replica) {
            if known.group != group {
                return Err(Error::WrongGroup { replica, group: known.group, asked: group });
            }
            return Ok(ReplicaLog::new(Arc::clone(&self.shared), Arc::clone(known)));
        }
        if let Some(damage) = &replicas.unattributed {
            return Err(Error::MayBeDamaged { replica, damage: damage.clone() });
        }
        self.shared.add(&mut replicas, group, replica)
    }

    /// The log of a replica that never was on this node before, by the word of whoever minted its id.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Removed`].
    pub fn create(&self, group: GroupId, replica: ReplicaId) -> Result<ReplicaLog, Error> {
        let mut replicas = self.shared.replicas.lock();
        if replicas.known.contains_key(&replica) {
            return Err(Error::Exists(replica));
        }
        self.shared.add(&mut replicas, group, replica)
    }

    /// The replicas that this log knows, damaged ones included.
    #[must_use]
    pub fn replicas(&self) -> Vec<(GroupId, ReplicaId)> {
        self.shared.replicas.lock().known.iter().map(|(id, replica)| (replica.group, *id)).collect()
    }

    /// The damaged replicas that were not removed.
    #[must_use]
    pub fn damaged(&self) -> BTreeMap<ReplicaId, Damage> {
        self.shared.replicas.lock().damaged.clone()
    }

    /// Forgets a replica for ever, a damaged one too. Its handles refuse everything from now on; `done` is called once
    /// it is durable, at once if this log doesn't know the replica.
    pub fn remove(&self, replica: ReplicaId, done: Done) {
        let known = {
            let mut replicas = self.shared.replicas.lock();
            replicas.damaged.remove(&replica);
            replicas.removed.insert(replica);
            replicas.known.remove(&replica)
        };
        match known {
            Some(known) => {
                ReplicaLog::new(Arc::clone(&self.shared), known).submit(Operation::Remove, Some(done));
            }
            None => done(Ok(())),
        }
    }

    /// Bytes that wait for the writer.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.shared.queue.bytes()
    }

    /// Bytes of all segments that are needed.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.shared.bytes_from(0)
    }

    /// Longest payload of an entry, in bytes.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        self.shared.entry_bytes_max()
    }

    /// Whether a file is ready for the next segment. If not for long, the disk is probably full.
    #[must_use]
    pub fn next_segment_is_ready(&self) -> bool {
        self.shared.pool.is_ready()
    }

    /// How many more segments the log can begin without any room on the disk. The next start needs one.
    #[must_use]
    pub fn spare_segments(&self) -> usize {
        self.shared.pool.spares()
    }

    /// Why the log takes nothing any more; none while it is alive.
    #[must_use]
    pub fn failure(&self) -> Option<io::Error> {
        self.shared.queue.refuses().map(|failure| failure.error())
    }

    /// Makes a log with [`Writer::Driven`] write.
    #[must_use]
    pub fn driver(&self) -> Driver {
        Driver(Arc::clone(&self.shared))
    }

    /// Writes and syncs all that was submitted, answers it, and ends the threads. Handles refuse everything
    /// afterwards.
    ///
    /// # Errors
    /// What the log died of, if it did.
    pub fn close(mut self) -> io::Result<()> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let failed = self.shared.queue.refuses();
        self.shared.queue.close();
        if let Some(core) = &self.shared.inline {
            self.shared.drive();
            if failed.is_none() {
                self.shared.finish(&mut core.lock());
            }
        }
        // The writer first: it may still need a segment.
        let mut panicked = self.writer.take().is_some_and(|writer| writer.join().is_err());
        self.shared.pool.stop();
        panicked |= self.pool.take().is_some_and(|pool| pool.join().is_err());
        if panicked {
            return Err(io::Error::other("a thread of the log panicked"));
        }
        match self.shared.queue.death() {
            Some(failure) => Err(failure.error()),
            None => Ok(()),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::error!(dir = %self.shared.dir.display(), %error, "the log was not closed cleanly");
        }
    }
}

/// Does a log's writing, if nobody else does.
#[derive(Clone, Debug)]
pub struct Driver(Arc<Shared>);

impl Driver {
    /// Writes, syncs and answers all that waits. Does nothing if the log has a thread for that.
    pub fn write(&self) {
        self.0.drive();
    }

    /// Tries once more to make the files that a full disk had no room for, and tells the observer when all are there. To be
    /// called about once a second. Does nothing if none are missing, or if the log has a thread for that.
    pub fn replenish(&self) {
        self.0.pool.retry();
    }
}

impl Shared {
    fn add(
        self: &Arc<Self>,
        replicas: &mut Replicas,
        group: GroupId,
        id: ReplicaId,
    ) -> Result<ReplicaLog, Error> {
        if replicas.removed.contains(&id) {
            return Err(Error::Removed(id));
        }
        let replica = Replica::new(id, group, 0, Memory::default());
        replicas.known.insert(id, Arc::clone(&replica));
        Ok(ReplicaLog::new(Arc::clone(self), replica))
    }

    /// Something was submitted.
    fn has_work(&self) {
        if self.writes_in_calls {
            self.drive();
        } else if self.inline.is_some() {
            self.observer.has_work();
        }
    }

    fn is_threaded(&self) -> bool {
        self.inline.is_none()
    }

    /// Half of what a segment holds; the other half is for the state of all replicas at its head.
    fn entry_bytes_max(&self) -> usize {
        let bytes = (self.segment_bytes - format::RECORDS_START) / 2 - format::RECORD_HEADER_BYTES as u64;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    fn bytes_from(&self, sequence: u64) -> u64 {
        self.files.count_from(sequence) * self.segment_bytes
    }

    /// The writer's thread.
    fn run(&self, mut core: Core) {
        self.queue.this_is_the_writer();
        let guard = FailOnPanic(self);
        while let Some(items) = self.queue.wait(self.batch_bytes_max) {
            self.write(&mut core, items);
        }
        self.finish(&mut core);
        drop(guard);
    }

    /// Does the writer's work, if it has no thread. A call from within a callback leaves it to the one outside.
    fn drive(&self) {
        let Some(core) = &self.inline else { return };
        // Another thread may have added an item after the last look and failed to get the lock: look again.
        while self.queue.has_items() {
            let Some(mut core) = core.try_lock() else { return };
            let items = self.queue.take(self.batch_bytes_max);
            if !items.is_empty() {
                self.write(&mut core, items);
            }
        }
    }

    fn write(&self, core: &mut Core, items: Vec<Item>) {
        if let Err(error) = core.process(&items) {
            self.fail(&error, items);
            return;
        }
        let bytes = items.iter().map(|item| item.bytes).sum();
        fail::fail_point!(crate::failpoints::LOG_BEFORE_CALLBACKS);
        for done in items.into_iter().filter_map(|item| item.done) {
            done(Ok(()));
        }
        fail::fail_point!(crate::failpoints::LOG_AFTER_CALLBACKS);
        self.queue.release(bytes);
    }

    fn finish(&self, core: &mut Core) {
        if self.queue.death().is_none()
            && let Err(error) = core.close()
        {
            self.fail(&error, Vec::new());
        }
    }

    fn fail(&self, error: &io::Error, items: Vec<Item>) {
        let failure = Failure::new(error);
        tracing::error!(dir = %self.dir.display(), %error, "the log is dead");
        let waiting = self.queue.fail(failure.clone());
        self.observer.failed(&failure.error());
        for done in items.into_iter().chain(waiting).filter_map(|item| item.done) {
            done(Err(failure.error()));
        }
    }
}

/// A callback that panics must not leave others waiting for ever.
struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(&io::Error::other("the log's writer panicked"), Vec::new());
        }
    }
}
