//! The log with its real threads.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Condvar;

use super::*;
use crate::disk::File;

const DEADLINE: Duration = Duration::from_secs(60);

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "{what} never happened");
        thread::yield_now();
    }
}

/// Counts what is synced.
#[derive(Debug, Default)]
struct Syncs {
    syncs: AtomicUsize,
    records: AtomicUsize,
    full: AtomicBool,
    ready_again: AtomicBool,
}

impl Observer for Syncs {
    fn synced(&self, records: usize, bytes: usize, _: Duration) {
        assert!(bytes >= records * format::RECORD_HEADER_BYTES);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
    }

    fn next_segment(&self, error: Option<&io::Error>) {
        match error {
            Some(error) => {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                self.full.store(true, Ordering::Release);
            }
            None if self.full.load(Ordering::Acquire) => self.ready_again.store(true, Ordering::Release),
            None => {}
        }
    }
}

#[test]
fn many_replicas_share_syncs_and_each_is_answered_in_order() {
    const REPLICAS: u64 = 16;
    const ENTRIES: u64 = 250;
    let dir = tempfile::tempdir().unwrap();
    let syncs = Arc::new(Syncs::default());
    let options = Options {
        segment_bytes: 256 << 10,
        cache_bytes_per_replica: 10_000,
        observer: Arc::<Syncs>::clone(&syncs),
        ..Options::default()
    };
    let (log, recovery) = Log::open(Arc::new(RealDisk), dir.path(), options.clone()).unwrap();
    assert_eq!(recovery, Recovery::default());
    let (sender, answers) = mpsc::channel();
    thread::scope(|scope| {
        for replica in 1..=REPLICAS {
            let (log, sender) = (&log, sender.clone());
            scope.spawn(move || {
                let handle = log.replica(GroupId(1), ReplicaId(replica)).unwrap();
                for index in 0..ENTRIES {
                    let sender = sender.clone();
                    let done: Done = Box::new(move |result| sender.send((replica, index, result)).unwrap());
                    handle.append(vec![entry(index, 1, &format!("{replica}/{index}/").repeat(30))], done);
                    let newest = handle.read(LogIndex(index)..LogIndex(index + 1), usize::MAX).unwrap();
                    assert_eq!(newest.len(), 1, "readable at once");
                    if index % 50 == 0 {
                        vote(&handle, &format!("{index}")).unwrap();
                        assert_eq!(
                            handle.read(LogIndex(0)..LogIndex(index), usize::MAX).unwrap().len() as u64,
                            index
                        );
                    }
                }
            });
        }
    });
    drop(sender);
    log.close().unwrap();
    let mut next = BTreeMap::new();
    for (replica, index, result) in answers {
        result.unwrap();
        let next = next.entry(replica).or_insert(0);
        assert_eq!(index, *next, "replica {replica} was answered out of order");
        *next += 1;
    }
    assert!(next.len() as u64 == REPLICAS && next.values().all(|answered| *answered == ENTRIES));
    let (records, syncs) = (syncs.records.load(Ordering::Relaxed), syncs.syncs.load(Ordering::Relaxed));
    assert!(records as u64 >= REPLICAS * (ENTRIES + 5), "{records} records in {syncs} syncs");

    let (log, recovery) = Log::open(Arc::new(RealDisk), dir.path(), options).unwrap();
    assert!(recovery.damaged.is_empty() && recovery.torn_tail.is_none(), "{recovery:?}");
    for replica in 1..=REPLICAS {
        let handle = log.replica(GroupId(1), ReplicaId(replica)).unwrap();
        assert_eq!(handle.state().vote.as_deref(), Some(&b"200"[..]));
        let entries = handle.read(LogIndex(0)..LogIndex(ENTRIES), usize::MAX).unwrap();
        let expected: Vec<_> =
            (0..ENTRIES).map(|index| entry(index, 1, &format!("{replica}/{index}/").repeat(30))).collect();
        assert_eq!(entries, expected);
    }
}

/// A disk whose syncs wait behind a gate.
#[derive(Debug)]
struct GatedDisk {
    disk: SimDisk,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.lock() = closed;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut closed = self.closed.lock();
        while *closed {
            self.opened.wait(&mut closed);
        }
    }
}

struct OpenOnDrop<'a>(&'a Gate);

impl Drop for OpenOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[derive(Debug)]
struct GatedFile {
    file: Box<dyn File>,
    gate: Arc<Gate>,
}

impl GatedDisk {
    fn gated(&self, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(GatedFile { file, gate: Arc::clone(&self.gate) })
    }
}

impl Disk for GatedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(self.gated(self.disk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(self.gated(self.disk.open(path)?))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.disk.available_bytes(dir)
    }
}

impl File for GatedFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buffer, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }
    fn size_bytes(&self) -> io::Result<u64> {
        self.file.size_bytes()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

#[test]
fn a_stuck_disk_fills_the_queue_up_to_its_bound_and_stops_nobody_from_reading() {
    const BOUND: usize = 10_000;
    let gate = Arc::new(Gate::default());
    let disk = GatedDisk { disk: sim_disk(1), gate: Arc::clone(&gate) };
    let options = Options { writer: Writer::Thread, queue_bytes_max: BOUND, ..small() };
    let (log, _) = Log::open(Arc::new(disk), Path::new(DIR), options).unwrap();
    let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    wait_until("the next segment", || log.next_segment_is_ready());
    gate.set(true);
    let submitted = AtomicUsize::new(0);
    let (sender, answers) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0..30 {
                let sender = sender.clone();
                let done: Done = Box::new(move |result| sender.send(result).unwrap());
                replica.append(vec![entry(index, 1, &"x".repeat(1000))], done);
                submitted.fetch_add(1, Ordering::Release);
            }
        });
        // Whatever fails below, the other thread must come to its end.
        let _open = OpenOnDrop(&gate);
        wait_until("a full queue", || submitted.load(Ordering::Acquire) == 9);
        assert_eq!(log.queued_bytes(), 9 * 1072);
        assert_eq!(replica.read(LogIndex(0)..LogIndex(9), usize::MAX).unwrap().len(), 9);
        // The tenth would be beyond the bound, and nothing has been answered.
        assert!(answers.try_recv().is_err());
        assert!(submitted.load(Ordering::Acquire) == 9 && log.queued_bytes() < BOUND);
    });
    for _ in 0..30 {
        answers.recv_timeout(DEADLINE).unwrap().unwrap();
    }
    log.close().unwrap();
    assert_eq!(vote(&replica, "late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_full_disk_is_told_and_a_log_that_needs_no_segment_meanwhile_goes_on() {
    let disk = sim_disk(1);
    let syncs = Arc::new(Syncs::default());
    let options = Options { writer: Writer::Thread, observer: Arc::<Syncs>::clone(&syncs), ..small() };
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options).unwrap();
    let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    wait_until("the next segment", || log.next_segment_is_ready());
    disk.limit_space(Some(0));
    let large = "x".repeat(10_000);
    for index in 0..3 {
        append(&replica, vec![entry(index, 1, &large)]).unwrap();
    }
    wait_until("the news of a full disk", || syncs.full.load(Ordering::Acquire));
    append(&replica, vec![entry(3, 1, "little")]).unwrap();
    assert!(!log.next_segment_is_ready());
    disk.limit_space(None);
    wait_until("the news of space", || syncs.ready_again.load(Ordering::Acquire));
    for index in 4..10 {
        append(&replica, vec![entry(index, 1, &large)]).unwrap();
    }
    log.close().unwrap();
}

#[test]
fn a_log_without_threads_is_told_to_make_up_for_a_full_disk() {
    let disk = sim_disk(1);
    let syncs = Arc::new(Syncs::default());
    let options = Options { reserve_segments: 1, observer: Arc::<Syncs>::clone(&syncs), ..small() };
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options).unwrap();
    let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    let spares = log.spare_segments();
    disk.limit_space(Some(0));
    let large = "x".repeat(10_000);
    let mut index = 0;
    while !syncs.full.load(Ordering::Acquire) {
        append(&replica, vec![entry(index, 1, &large)]).unwrap();
        index += 1;
    }
    log.driver().replenish();
    assert!(!syncs.ready_again.load(Ordering::Acquire), "there is no room");
    disk.limit_space(None);
    log.driver().replenish();
    assert!(syncs.ready_again.load(Ordering::Acquire));
    assert!(log.spare_segments() >= spares);
    log.close().unwrap();
}

#[test]
fn a_callback_may_submit_to_a_full_queue_and_one_that_panics_kills_the_log() {
    let deaths = Arc::new(Deaths::default());
    let options = Options {
        writer: Writer::Thread,
        queue_bytes_max: 1,
        observer: Arc::<Deaths>::clone(&deaths),
        ..small()
    };
    let (log, _) = Log::open(Arc::new(sim_disk(1)), Path::new(DIR), options).unwrap();
    let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    let (done, waiting) = waiter();
    let inner = replica.clone();
    replica.append(
        vec![entry(0, 1, "a")],
        Box::new(move |result| {
            result.unwrap();
            inner.append(vec![entry(1, 1, "b")], done);
        }),
    );
    waiting.recv_timeout(DEADLINE).unwrap().unwrap();
    replica.save_vote(Bytes::new(), Box::new(|_| panic!("as this test wants it")));
    wait_until("the death of the log", || log.failure().is_some());
    assert!(vote(&replica, "late").is_err());
    assert!(log.close().is_err());
    assert_eq!(deaths.0.lock().len(), 1);
}
