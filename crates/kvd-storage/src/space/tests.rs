//! Tests of a disk that fills up and has room again.

use bytes::Bytes;
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};

use super::*;
use crate::{
    disk::SimDisk,
    identity::{Identity, LOG_DIR},
    log::{Entry, EntryId, Log, Observer, Options, ReplicaLog, Writer},
};

const DATA: &str = "/data";
const SMALL: SpaceOptions =
    SpaceOptions { low_bytes: 64 << 10, enough_bytes: 96 << 10, ballast_bytes: 16 << 10 };

fn disk() -> SimDisk {
    SimDisk::with_dir(1, Path::new(DATA))
}

fn space(disk: &SimDisk) -> Space {
    Space::new(Arc::new(disk.clone()), Path::new(DATA), SMALL)
}

fn look(space: &Space, disk: &SimDisk, available: u64) -> Room {
    disk.limit_space(Some(available));
    space.look().unwrap()
}

#[test]
fn room_is_low_below_one_mark_and_enough_above_another() {
    let disk = disk();
    let space = space(&disk);
    assert_eq!(space.room(), Room::Enough);
    assert_eq!(look(&space, &disk, 70 << 10), Room::Enough);
    assert_eq!(look(&space, &disk, 63 << 10), Room::Low);
    assert_eq!(look(&space, &disk, 70 << 10), Room::Low, "it does not flap");
    assert_eq!(look(&space, &disk, 15 << 10), Room::None);
    assert_eq!(look(&space, &disk, 95 << 10), Room::Low);
    assert_eq!(look(&space, &disk, 96 << 10), Room::Enough);
    assert_eq!(disk.files(), [], "no ballast as long as that would make room low");
    assert_eq!(look(&space, &disk, 112 << 10), Room::Enough);
    assert_eq!(disk.files(), [(Path::new(DATA).join(FILE), 16 << 10)]);
}

#[test]
fn there_is_room_for_what_leaves_as_much_as_the_ballast() {
    let disk = disk();
    let space = space(&disk);
    for (available, bytes, expected) in [
        (16 << 10, 0, true),
        ((16 << 10) - 1, 0, false),
        (64 << 10, 48 << 10, true),
        (64 << 10, (48 << 10) + 1, false),
        (64 << 10, u64::MAX, false),
    ] {
        disk.limit_space(Some(available));
        assert_eq!(space.has_room_for(bytes).unwrap(), expected, "{bytes} of {available}");
    }
    assert_eq!(disk.files(), [], "looking makes nothing");
}

#[test]
fn a_ballast_that_can_t_be_made_leaves_nothing() {
    let disk = disk();
    disk.fail(crate::disk::Operation::Write, 0, io::ErrorKind::StorageFull);
    assert_eq!(space(&disk).look().unwrap(), Room::Enough);
    assert_eq!(disk.files(), []);
    space(&disk).look().unwrap();
    assert_eq!(disk.files().len(), 1);
}

/// Notes whether the log is short of files.
#[derive(Debug, Default)]
struct Short(AtomicBool);

impl Observer for Short {
    fn next_segment(&self, error: Option<&io::Error>) {
        self.0.store(error.is_some(), Ordering::Relaxed);
    }
}

fn open_log(disk: &SimDisk, short: &Arc<Short>) -> Log {
    let options = Options {
        segment_bytes: 32 << 10,
        reserve_segments: 3,
        writer: Writer::Inline,
        observer: Arc::<Short>::clone(short),
        ..Options::default()
    };
    Log::open(Arc::new(disk.clone()), &Path::new(DATA).join(LOG_DIR), options).unwrap().0
}

/// A few kilobytes more.
fn append(replica: &ReplicaLog) -> io::Result<()> {
    let index = replica.state().last.map_or(LogIndex(0), |last| LogIndex(last.index.get() + 1));
    let (done, answer) = std::sync::mpsc::channel();
    let entry = Entry { index, term: Term(1), payload: Bytes::from(vec![1; 8000]) };
    replica.append(vec![entry], Box::new(move |result| drop(done.send(result))));
    answer.recv().unwrap()
}

/// As a node does it: room first, then the identity, then the log.
fn start(disk: &SimDisk, short: &Arc<Short>) -> (Log, ReplicaLog) {
    space(disk).make_room().unwrap();
    let data = Path::new(DATA);
    let mut identity = Identity::load(disk, data).unwrap().unwrap_or_else(|| Identity::new(1));
    identity.incarnation.0 += 1;
    identity.store(disk, data).unwrap();
    let log = open_log(disk, short);
    let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    (log, replica)
}

#[test]
fn a_full_disk_leaves_the_log_its_reserve_and_room_ends_the_shortage() {
    let disk = disk();
    let short = Arc::new(Short::default());
    let (log, replica) = start(&disk, &short);
    append(&replica).unwrap();
    assert!(!short.0.load(Ordering::Relaxed));
    disk.limit_space(Some(0));
    let mut taken = 0;
    while !short.0.load(Ordering::Relaxed) {
        append(&replica).unwrap();
        taken += 1;
    }
    assert!(taken <= 4, "told as soon as the reserve was touched, not after {taken}");
    // What makes room goes on, in what is left of the segment and in the reserve.
    for _ in 0..3 {
        append(&replica).unwrap();
    }
    // All of it purged, the old segments are the reserve again.
    replica.purge(EntryId { index: replica.state().last.unwrap().index, term: Term(1) }).unwrap();
    for _ in 0..40 {
        append(&replica).unwrap();
        replica.purge(EntryId { index: replica.state().last.unwrap().index, term: Term(1) }).unwrap();
    }
    assert!(!short.0.load(Ordering::Relaxed), "there is a reserve, so the shortage is over");
    log.close().unwrap();
}

#[test]
fn room_elsewhere_on_the_disk_ends_the_shortage_too() {
    let disk = disk();
    let short = Arc::new(Short::default());
    let (_log, replica) = start(&disk, &short);
    disk.limit_space(Some(0));
    while !short.0.load(Ordering::Relaxed) {
        append(&replica).unwrap();
    }
    disk.limit_space(None);
    for _ in 0..4 {
        append(&replica).unwrap();
    }
    assert!(!short.0.load(Ordering::Relaxed));
}

#[test]
fn a_store_starts_on_a_full_disk_and_takes_what_makes_room() {
    let disk = disk();
    space(&disk).look().unwrap();
    let short = Arc::new(Short::default());
    let (log, replica) = start(&disk, &short);
    append(&replica).unwrap();
    drop(replica);
    log.close().unwrap();
    disk.limit_space(Some(0));
    for round in 1..3 {
        let (log, replica) = start(&disk, &short);
        assert!(short.0.load(Ordering::Relaxed), "start {round}: it says that what grows must be refused");
        append(&replica).unwrap();
        drop(replica);
        log.close().unwrap();
    }
    let identity = Identity::load(&disk, Path::new(DATA)).unwrap().unwrap();
    assert_eq!(identity.incarnation.get(), 3);
    assert!(disk.open(&Path::new(DATA).join(FILE)).is_err(), "the ballast was given up");
    disk.limit_space(None);
    let (_log, replica) = start(&disk, &short);
    assert!(!short.0.load(Ordering::Relaxed));
    assert_eq!(replica.entries(), 3);
    space(&disk).look().unwrap();
    disk.open(&Path::new(DATA).join(FILE)).unwrap();
}
