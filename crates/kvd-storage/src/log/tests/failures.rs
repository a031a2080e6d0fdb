//! Writes and syncs fail, disks fill up, reads refuse.

use super::{
    crashes::{History, history, run, state_after},
    *,
};
use crate::disk::Operation as DiskOperation;

/// Runs a history on a log whose disk fails once at some place, and checks all that follows from it.
fn fails_once(operation: DiskOperation, nth: u64, kind: io::ErrorKind, history: &History) -> bool {
    let disk = sim_disk(nth);
    let deaths = Arc::new(Deaths::default());
    let options = Options { observer: Arc::<Deaths>::clone(&deaths), ..small() };
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options).unwrap();
    disk.fail(operation, nth, kind);
    let log = Arc::new(log);
    let answered = run(&log, history);
    let died = log.failure().is_some();
    assert_eq!(*deaths.0.lock(), vec![kind; usize::from(died)]);
    if died {
        // Nothing is taken and nothing is written from now on, though the disk would work again.
        let operations = disk.operations();
        let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
        assert_eq!(vote(&replica, "late").unwrap_err().kind(), kind);
        assert_eq!(replica.save_committed(Bytes::from_static(b"late")).unwrap_err().kind(), kind);
        assert_eq!(Arc::into_inner(log).unwrap().close().unwrap_err().kind(), kind);
        assert_eq!(disk.operations(), operations);
    }
    // The process stops and starts again on what the page cache holds; then the power goes out.
    let restarted = disk.crash(Crash::Killed);
    let state = state_after(&restarted, history, answered);
    assert_eq!(state_after(&restarted.crash(Crash::Synced), history, state), state);
    state_after(&disk.crash(Crash::Torn { block_bytes: 512 }), history, answered);
    died
}

#[test]
fn after_a_failure_nothing_is_answered_and_nothing_answered_is_lost() {
    let history = history(21, 80);
    for (operation, kind) in [
        (DiskOperation::Sync, io::ErrorKind::Other),
        (DiskOperation::Write, io::ErrorKind::StorageFull),
        (DiskOperation::SyncDir, io::ErrorKind::Other),
        (DiskOperation::Rename, io::ErrorKind::PermissionDenied),
        (DiskOperation::Create, io::ErrorKind::QuotaExceeded),
    ] {
        let mut nth = 0;
        while fails_once(operation, nth, kind, &history) {
            nth += 1;
        }
        assert!(nth > 0, "{operation:?} never failed");
    }
}

#[test]
fn a_full_disk_loses_nothing_that_was_answered() {
    let history = history(22, 120);
    let mut full = 0;
    for space in (0..200_000).step_by(10_000) {
        let disk = sim_disk(space);
        disk.limit_space(Some(space));
        let answered = match open(&disk) {
            Ok((log, _)) => run(&Arc::new(log), &history),
            Err(Error::Io { source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::StorageFull);
                0
            }
            Err(error) => panic!("{error}"),
        };
        full += usize::from(answered < history.states.len() - 1);
        disk.limit_space(None);
        for crash in [Crash::Killed, Crash::Synced, Crash::Torn { block_bytes: 4096 }] {
            state_after(&disk.crash(crash), &history, answered);
        }
    }
    assert!(full > 5, "the disk was full only {full} times");
}

#[test]
fn a_log_opens_on_a_full_disk() {
    let disk = sim_disk(1);
    for round in 0..10_u64 {
        let (log, _) = open(&disk).unwrap();
        let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
        assert_eq!(replica.state().last.map_or(0, |last| last.index.get() + 1), round);
        append(&replica, vec![entry(round, 1, "x")]).unwrap();
        replica.purge(id(round, 1)).unwrap();
        vote(&replica, "v").unwrap();
        log.close().unwrap();
        if round == 2 {
            disk.limit_space(Some(0));
        }
    }
}

#[test]
fn a_read_error_is_an_error_and_not_the_end_of_the_log() {
    let history = history(23, 60);
    let base = sim_disk(1);
    let (log, _) = open(&base).unwrap();
    run(&Arc::new(log), &history);
    let mut reads = 0;
    loop {
        let disk = base.crash(Crash::Killed);
        disk.fail(DiskOperation::Read, reads, io::ErrorKind::Other);
        match open(&disk) {
            Err(Error::Io { .. }) => reads += 1,
            Err(error) => panic!("{error}"),
            Ok(_) => break,
        }
    }
    assert!(reads > 4, "{reads}");

    let (log, _) = open(&base).unwrap();
    let replica = log.create(GroupId(1), ReplicaId(50)).unwrap();
    append(&replica, (0..9).map(|index| entry(index, 1, &"x".repeat(1000))).collect()).unwrap();
    base.fail(DiskOperation::Read, 3, io::ErrorKind::Other);
    assert!(matches!(replica.read(LogIndex(0)..LogIndex(9), usize::MAX), Err(Error::Io { .. })));
    assert_eq!(replica.read(LogIndex(0)..LogIndex(9), usize::MAX).unwrap().len(), 9);
}

#[test]
fn an_entry_that_rots_while_the_log_is_open_is_reported_when_it_is_read() {
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    let replica = log.create(GroupId(1), ReplicaId(1)).unwrap();
    append(&replica, (0..9).map(|index| entry(index, 1, &"x".repeat(1000))).collect()).unwrap();
    let path = pool::segment_path(Path::new(DIR), 1);
    // The start record, then records of 72 + 1000 bytes: in the third one's payload, then in the second one's header.
    let third = format::RECORDS_START + 72 + 2 * 1072;
    disk.flip(&path, third + 100, 3).unwrap();
    let read = |from, to| replica.read(LogIndex(from)..LogIndex(to), usize::MAX);
    let Err(Error::Corrupt { replica: named, damage, .. }) = read(0, 9) else { panic!("not noticed") };
    assert_eq!((named, damage.file, damage.offset), (ReplicaId(1), path.clone(), third));
    assert_eq!(read(0, 2).unwrap().len(), 2);
    assert_eq!(read(3, 9).unwrap().len(), 6);
    disk.flip(&path, third - 1072 + 20, 3).unwrap();
    assert!(matches!(read(1, 2), Err(Error::Corrupt { .. })));
}

#[test]
fn a_segment_is_given_up_only_when_the_head_that_no_longer_needs_it_is_synced() {
    for fails in [false, true] {
        let disk = sim_disk(1);
        let (log, _) = open(&disk).unwrap();
        let replica = log.create(GroupId(1), ReplicaId(1)).unwrap();
        let large = "x".repeat(10_000);
        append(&replica, vec![entry(0, 1, &large), entry(1, 1, &large)]).unwrap();
        replica.purge(id(1, 1)).unwrap();
        vote(&replica, "v").unwrap();
        if fails {
            // The zeros of the new segment are synced first, then its head.
            disk.fail(DiskOperation::Sync, 1, io::ErrorKind::Other);
        }
        assert_eq!(append(&replica, vec![entry(2, 1, &large)]).is_err(), fails);
        assert_eq!(log.size_bytes(), if fails { 2 } else { 1 } * (32 << 10));
    }
}

#[test]
fn a_purge_never_overtakes_what_is_covered() {
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    let replica = log.create(GroupId(1), ReplicaId(1)).unwrap();
    append(&replica, (0..9).map(|index| entry(index, 1, "x")).collect()).unwrap();
    for (upto, covered) in [(0, None), (5, Some(LogIndex(4))), (8, Some(LogIndex(0)))] {
        let refused = replica.purge_covered(id(upto, 1), covered).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert_eq!((replica.entries(), replica.state().purged), (9, None), "nothing was dropped");
    }
    replica.purge_covered(id(4, 1), Some(LogIndex(4))).unwrap();
    replica.purge_covered(id(3, 1), None).unwrap();
    assert_eq!((replica.entries(), replica.state().purged), (4, Some(id(4, 1))));
    // The state came from a peer and is ahead of this log.
    replica.purge_covered(id(20, 2), None).unwrap();
    assert_eq!((replica.entries(), replica.state().purged), (0, Some(id(20, 2))));
}
