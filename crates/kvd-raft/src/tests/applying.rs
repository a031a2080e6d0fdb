//! Which threads apply entries, and what applying, draining and checkpoints wait for.

use std::{
    io,
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use kvd_machine::Machine;
use kvd_proto::log::encode_proposal;
use kvd_storage::{
    checkpoint::{Checkpoint, CheckpointStore},
    disk::SimDisk,
    engine::{Batch, Direction, Engine, MemoryEngine, Rows, SledEngine, SledOptions, Tree},
    table::Table,
};
use kvd_types::{Command, GroupId, LogIndex, Proposal, ReplicaId};
use openraft::EntryPayload;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use super::harness::{PATIENCE, put};
use crate::{
    blocking::Blocking,
    codec,
    disk_reads::DiskReads,
    observe::NoObserver,
    propose,
    state::{COMMANDS_APPLIED_ELSEWHERE, Fault, MemoryOptions, ReplicaState, StateParts},
    turns::DrainTurns,
    types::{EncodedProposal, Entry, SnapshotMeta},
};

/// A state in an engine that is read where entries are applied.
fn state(dir: &Path, memory: MemoryOptions) -> Arc<ReplicaState> {
    state_in(Arc::new(SledEngine::open(dir, SledOptions::default()).unwrap()), memory)
}

fn state_in(engine: Arc<dyn Engine>, memory: MemoryOptions) -> Arc<ReplicaState> {
    let (group, replica) = (GroupId(1), ReplicaId(1));
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let state = ReplicaState::open(StateParts {
        group,
        replica,
        table: Arc::new(Table::open(engine, replica).unwrap()),
        checkpoints: CheckpointStore::open(Arc::new(disk), Path::new("/data/checkpoints")).unwrap(),
        memory,
        blocking: Blocking::Pool,
        disk_reads: DiskReads::new(Blocking::Pool).unwrap(),
        drain_turns: DrainTurns::new(Blocking::Pool),
        observer: Arc::new(NoObserver),
    });
    Arc::new(state.unwrap())
}

fn entry(index: u64, commands: Vec<Command>) -> Entry {
    let proposal = EncodedProposal(encode_proposal(Proposal { commands, ..Proposal::default() }));
    Entry { log_id: codec::log_id(1, index), payload: EntryPayload::Normal(proposal) }
}

/// Heartbeats and votes must not wait for an entry that waits for the engine: with one thread, they would if the entry had it.
#[tokio::test]
async fn an_entry_that_may_take_long_leaves_the_thread_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), MemoryOptions::default());
    for (index, commands) in [(1, 0), (2, COMMANDS_APPLIED_ELSEWHERE)] {
        let (holds, held) = oneshot::channel();
        let (release, released) = mpsc::channel::<()>();
        let holder = thread::spawn({
            let state = Arc::clone(&state);
            move || {
                state.with_machine(|_| {
                    holds.send(()).unwrap();
                    // Else it would wait for a thread that waits for it.
                    released.recv_timeout(Duration::from_secs(10)).is_ok()
                })
            }
        });
        held.await.unwrap();
        let applying = tokio::spawn({
            let state = Arc::clone(&state);
            async move { state.apply(entry(index, vec![Command::OpenSession; commands])).await }
        });
        tokio::task::yield_now().await;
        let is_waited_for = release.send(()).is_ok();
        assert_eq!(applying.await.unwrap().unwrap().len(), commands);
        assert!(
            holder.join().unwrap() && is_waited_for,
            "an entry of {commands} commands kept the only thread waiting"
        );
        assert_eq!(*state.applied.borrow(), LogIndex(index));
    }
}

#[tokio::test]
async fn an_applier_at_the_bound_does_not_wait_for_the_end_of_a_drain() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), MemoryOptions { rows_max: 0, ..MemoryOptions::default() });
    state.apply(entry(1, vec![put("key", "value")])).await.unwrap();
    let mut waiting = Box::pin(state.wait_for_room());
    assert!((&mut waiting).now_or_never().is_none(), "the memory is full");
    // The drain does not come to its end.
    let hold = state.table.hold_drains();
    let draining = tokio::spawn({
        let state = Arc::clone(&state);
        async move { state.drain().await }
    });
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("there is room once the rows are set apart")
        .unwrap();
    assert!(!draining.is_finished());
    drop(hold);
    draining.await.unwrap().unwrap();
}

/// Else batches would be small again: rows come while a drain waits for its turn.
#[tokio::test]
async fn what_was_told_of_rows_that_a_drain_took_is_no_reason_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let interval = Duration::from_secs(3600);
    let state = state(
        dir.path(),
        MemoryOptions { drain_rows: 10, drain_interval: interval, ..MemoryOptions::default() },
    );
    let some = |index: u64| (0..20).map(|key| put(&format!("key {index} {key}"), "value")).collect();
    state.apply(entry(1, some(1))).await.unwrap();
    state.apply(entry(2, some(2))).await.unwrap();
    let mut moved = state.made_room();
    let draining = tokio::spawn(Arc::clone(&state).drain_loop());
    while state.table.is_frozen() || state.table.active_rows() > 0 {
        tokio::time::timeout(PATIENCE, moved.changed()).await.expect("much waits").unwrap();
    }
    state.apply(entry(3, vec![put("key", "value")])).await.unwrap();
    let again = async {
        while state.table.active_rows() > 0 {
            moved.changed().await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(100), again).await.is_err(), "little waits");
    state.close().await;
    draining.await.unwrap();
}

#[tokio::test]
async fn a_drain_that_panics_stops_the_replica() {
    let (_allow, engine) = Slow::new(false);
    let memory = MemoryOptions { drain_interval: Duration::ZERO, ..MemoryOptions::default() };
    let state = state_in(engine.clone(), memory);
    let mut fault = state.fault();
    engine.panics.store(true, Ordering::Relaxed);
    state.apply(entry(1, vec![put("key", "value")])).await.unwrap();
    let draining = tokio::spawn(Arc::clone(&state).drain_loop());
    let told = tokio::time::timeout(PATIENCE, fault.wait_for(Option::is_some)).await;
    let told = told.expect("nobody is told").unwrap().clone();
    assert!(matches!(told, Some(Fault::Core(_))), "{told:?}");
    draining.await.unwrap();
}

/// An engine, or a tree of it, all of whose rows are read only once what [`Slow::new`] gives is dropped.
#[derive(Debug)]
struct Slow<T> {
    inner: T,
    /// Told as soon as all rows are asked for.
    asked: Arc<Notify>,
    allowed: Arc<Mutex<mpsc::Receiver<()>>>,
    has_snapshots: bool,
    /// Whether it panics at the next batch.
    panics: Arc<AtomicBool>,
}

impl Slow<MemoryEngine> {
    fn new(has_snapshots: bool) -> (mpsc::Sender<()>, Arc<Self>) {
        let (allow, allowed) = mpsc::channel();
        let allowed = Arc::new(Mutex::new(allowed));
        let asked = Arc::new(Notify::new());
        let panics = Arc::default();
        (allow, Arc::new(Self { inner: MemoryEngine::new(), asked, allowed, has_snapshots, panics }))
    }
}

impl<T: Sync> Slow<T> {
    fn once_allowed<'a>(&'a self, rows: Rows<'a>) -> Rows<'a> {
        let mut is_first = true;
        Box::new(rows.inspect(move |_| {
            if std::mem::replace(&mut is_first, false) {
                self.asked.notify_one();
                let told = self.allowed.lock().recv_timeout(PATIENCE);
                assert_eq!(told, Err(mpsc::RecvTimeoutError::Disconnected), "nobody has allowed it");
            }
        }))
    }
}

impl Engine for Slow<MemoryEngine> {
    fn tree(&self, name: &str) -> kvd_storage::Result<Arc<dyn Tree>> {
        let Self { inner, asked, allowed, has_snapshots, panics } = self;
        let (inner, allowed) = (inner.tree(name)?, Arc::clone(allowed));
        let (asked, panics) = (Arc::clone(asked), Arc::clone(panics));
        Ok(Arc::new(Slow { inner, asked, allowed, has_snapshots: *has_snapshots, panics }))
    }

    fn tree_names(&self) -> kvd_storage::Result<Vec<String>> {
        self.inner.tree_names()
    }

    fn flush(&self) -> kvd_storage::Result<()> {
        self.inner.flush()
    }
}

impl Tree for Slow<Arc<dyn Tree>> {
    fn get(&self, key: &[u8]) -> kvd_storage::Result<Option<Bytes>> {
        self.inner.get(key)
    }

    fn apply(&self, batch: Batch) -> kvd_storage::Result<()> {
        assert!(!self.panics.load(Ordering::Relaxed), "the engine panics, as it was told to");
        self.inner.apply(batch)
    }

    fn scan<'a>(&'a self, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> Rows<'a> {
        let rows = self.inner.scan(start, end, direction);
        if start == Bound::Unbounded { self.once_allowed(rows) } else { rows }
    }

    fn snapshot(&self) -> Option<Rows<'_>> {
        let rows = self.inner.snapshot().filter(|_| self.has_snapshots)?;
        Some(self.once_allowed(rows))
    }

    fn reads_wait(&self) -> bool {
        self.inner.reads_wait()
    }

    fn clear(&self) -> kvd_storage::Result<()> {
        self.inner.clear()
    }
}

/// Begins a checkpoint, and comes back once it reads the rows, which are set apart by then.
async fn begin_checkpoint(
    state: &Arc<ReplicaState>,
    engine: &Slow<MemoryEngine>,
) -> JoinHandle<io::Result<(SnapshotMeta, Checkpoint)>> {
    let writing = tokio::spawn({
        let state = Arc::clone(state);
        async move { state.take_checkpoint().await }
    });
    tokio::time::timeout(PATIENCE, engine.asked.notified()).await.expect("the checkpoint reads no row");
    writing
}

#[tokio::test]
async fn drains_go_on_while_a_checkpoint_is_written() {
    for has_snapshots in [true, false] {
        let (allow, engine) = Slow::new(has_snapshots);
        let state = state_in(engine.clone(), MemoryOptions::default());
        state.apply(entry(1, vec![put("key", "before")])).await.unwrap();
        let before = state.with_machine(Machine::digest);
        let writing = begin_checkpoint(&state, &engine).await;
        state.apply(entry(2, vec![put("key", "after"), put("other", "after")])).await.unwrap();
        let drained = tokio::time::timeout(PATIENCE, state.drain()).await;
        drained.expect("the drain waits for the checkpoint").unwrap();
        assert_eq!(state.table.active_rows(), 0);
        assert!(!writing.is_finished());
        drop(allow);
        let (position, checkpoint) = writing.await.unwrap().unwrap();
        assert_eq!(position.last_log_id, Some(codec::log_id(1, 1)));
        assert_eq!(checkpoint.manifest().applied_index, LogIndex(1));
        state.install(checkpoint).await.unwrap();
        assert_eq!(state.with_machine(Machine::digest), before, "the checkpoint has what came after it");
    }
}

#[tokio::test]
async fn drains_wait_for_a_checkpoint_once_much_is_kept_for_it() {
    let (allow, engine) = Slow::new(false);
    let memory = MemoryOptions { cut_bytes_max: 1, ..MemoryOptions::default() };
    let state = state_in(engine.clone(), memory);
    state.apply(entry(1, vec![put("key", "before")])).await.unwrap();
    let before = state.with_machine(Machine::digest);
    let mut writing = begin_checkpoint(&state, &engine).await;
    state.apply(entry(2, vec![put("key", "after")])).await.unwrap();
    state.drain().await.unwrap();
    state.apply(entry(3, vec![put("other", "after")])).await.unwrap();
    // A drain that does not come to its end keeps it waiting now.
    let hold = state.table.hold_drains();
    let draining = tokio::spawn({
        let state = Arc::clone(&state);
        async move { state.drain().await }
    });
    while !state.table.is_frozen() {
        tokio::task::yield_now().await;
    }
    drop(allow);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut writing).await.is_err());
    drop(hold);
    draining.await.unwrap().unwrap();
    let (_, checkpoint) = tokio::time::timeout(PATIENCE, writing).await.unwrap().unwrap().unwrap();
    state.install(checkpoint).await.unwrap();
    assert_eq!(state.with_machine(Machine::digest), before, "the checkpoint has what came after it");
}

#[tokio::test]
async fn writers_are_slowed_while_a_checkpoint_holds_drains_once_much_of_the_memory_is_taken() {
    const ROWS_MAX: usize = 40;
    let (allow, engine) = Slow::new(false);
    let state = state_in(
        engine.clone(),
        MemoryOptions { drain_rows: 1, rows_max: ROWS_MAX, cut_bytes_max: 0, ..MemoryOptions::default() },
    );
    state.apply(entry(1, vec![put("key", "before")])).await.unwrap();
    let writing = begin_checkpoint(&state, &engine).await;
    for index in 2.. {
        state.apply(entry(index, vec![put(&format!("key {index}"), "value")])).await.unwrap();
        let taken = state.table.active_rows() * 100 / ROWS_MAX;
        assert_eq!(!propose::pause_of(&state).is_zero(), taken > 40, "{taken} % of the room");
        if taken > 60 {
            break;
        }
    }
    assert!(!writing.is_finished());
    drop(allow);
    let (position, _) = writing.await.unwrap().unwrap();
    assert_eq!(position.last_log_id, Some(codec::log_id(1, 1)));
    state.drain().await.unwrap();
    assert_eq!(propose::pause_of(&state), Duration::ZERO);
}
