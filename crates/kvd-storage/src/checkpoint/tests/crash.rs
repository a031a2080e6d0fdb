//! Power cuts and failures at every operation.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;

use super::{CheckpointStore, Sample, manifest, names, read};
use crate::{
    Error, Result,
    disk::{Crash, Disk, Operation, SimDisk},
    engine::Row,
};

const DATA: &str = "/data";
const DIR: &str = "/data/checkpoints/7";
const CRASHES: [Crash; 4] =
    [Crash::Synced, Crash::Killed, Crash::Torn { block_bytes: 512 }, Crash::Torn { block_bytes: 4096 }];

fn new_disk(seed: u64) -> SimDisk {
    SimDisk::with_dir(seed, Path::new(DATA))
}

fn open(disk: &SimDisk) -> Result<CheckpointStore> {
    CheckpointStore::open(Arc::new(disk.clone()), Path::new(DIR))
}

/// Different for each index, and long enough to be torn.
fn rows(index: u64) -> Vec<Row> {
    let row = |number: u64| {
        let seed = number * 7919 + index * 104_729;
        let value = (0..97).map(|at| (seed.wrapping_mul(at + 3) >> 5).to_le_bytes()[0]).collect();
        (Bytes::from(format!("{number:08}")), value)
    };
    (0..60).map(row).collect()
}

fn write(store: &CheckpointStore, index: u64) -> Result<()> {
    let mut writer = store.writer(&manifest(index))?;
    for (key, value) in rows(index) {
        writer.append(&key, &value)?;
    }
    writer.finish().map(drop)
}

/// Writes three checkpoints and receives the sample's, number 42. Returns the last that was acknowledged.
fn work(disk: &SimDisk, sample: &Sample) -> (u64, Result<()>) {
    let mut acknowledged = 0;
    let result = (|| {
        let store = open(disk)?;
        for index in 1..=3 {
            write(&store, index)?;
            acknowledged = index;
        }
        let receiver = store.receive("sample", u64::try_from(sample.bytes.len()).unwrap())?;
        for piece in sample.bytes.chunks(100) {
            receiver.write(receiver.next_offset(), piece)?;
        }
        receiver.finish()?;
        acknowledged = 42;
        Ok(())
    })();
    (acknowledged, result)
}

/// The newest checkpoint is what was acknowledged, or what was under way; all is sound, and the store goes on.
fn check_after(disk: &SimDisk, acknowledged: u64, context: &str) {
    let store = open(disk).unwrap();
    let latest = store.latest().unwrap();
    let found = latest.as_ref().map_or(0, |latest| latest.manifest().applied_index.get());
    let next = match acknowledged {
        3 | 42 => 42,
        index => index + 1,
    };
    assert!(found == acknowledged || found == next, "{found} after {acknowledged}, {context}");
    if let Some(latest) = latest {
        let expected = if found == 42 { super::sample_rows() } else { rows(found) };
        assert_eq!(read(&latest), expected, "{context}");
    }
    assert_eq!(store.damaged(), [], "{context}");
    for other in store.list().unwrap() {
        other.verify().unwrap();
    }
    write(&store, 50).unwrap();
    let names = names(disk, Path::new(DIR));
    assert!(
        names.len() <= 2 && names.iter().all(|name| name.ends_with(".checkpoint")),
        "{names:?}, {context}"
    );
}

#[test]
fn a_power_cut_anywhere_loses_nothing_acknowledged() {
    let sample = Sample::new();
    let disk = new_disk(0);
    assert_eq!(work(&disk, &sample).0, 42);
    let operations = disk.operations();
    assert!(operations > 20);
    for operation in 0..=operations {
        for crash in CRASHES {
            for seed in 0..4 {
                let disk = new_disk(seed);
                disk.cut_power_at(operation);
                let (acknowledged, result) = work(&disk, &sample);
                // The last operations only remove what is superfluous.
                assert!(result.is_ok() || operation < operations, "{result:?}");
                let context = format!("operation {operation}, {crash:?}, seed {seed}");
                check_after(&disk.crash(crash), acknowledged, &context);
            }
        }
    }
}

#[test]
fn a_checkpoint_that_was_seen_after_a_kill_is_there_after_the_next_power_cut() {
    let disk = new_disk(0);
    write(&open(&disk).unwrap(), 1).unwrap();
    let operations = disk.operations();
    let mut seen = 0;
    for operation in 0..operations {
        let disk = new_disk(operation);
        disk.cut_power_at(operation);
        drop(open(&disk).and_then(|store| write(&store, 1)));
        let killed = disk.crash(Crash::Killed);
        let Some(found) = open(&killed).unwrap().latest().unwrap() else { continue };
        seen += 1;
        let after = open(&killed.crash(Crash::Synced)).unwrap().latest().unwrap();
        assert_eq!(after.map(|after| after.manifest().clone()).as_ref(), Some(found.manifest()));
    }
    assert!(seen > 0, "the kill never came between a name and its sync");
}

#[test]
fn a_failure_of_any_operation_is_told_and_harmless() {
    let sample = Sample::new();
    let kinds = [
        Operation::Write,
        Operation::Sync,
        Operation::Create,
        Operation::CreateDir,
        Operation::Rename,
        Operation::SyncDir,
        Operation::Read,
    ];
    for kind in kinds {
        for nth in 0.. {
            let disk = new_disk(nth);
            disk.fail(kind, nth, io::ErrorKind::Other);
            let (acknowledged, result) = work(&disk, &sample);
            let Err(error) = result else {
                // There are no more of the kind.
                assert!(nth > 0, "{kind:?} is never used");
                break;
            };
            let fatal = matches!(kind, Operation::Sync | Operation::SyncDir);
            assert_eq!(error.is_fatal(), fatal, "{kind:?} {nth}: {error}");
            assert!(matches!(error, Error::Io { .. } | Error::Fatal { .. }), "{kind:?} {nth}: {error}");
            for crash in CRASHES {
                check_after(&disk.crash(crash), acknowledged, &format!("{kind:?} {nth}, {crash:?}"));
            }
        }
    }
}

#[test]
fn a_full_disk_is_no_disaster() {
    let disk = new_disk(1);
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    for space in (0..6000).step_by(500) {
        disk.limit_space(Some(space));
        let error = write(&store, 2).unwrap_err();
        assert!(
            matches!(error, Error::Io { ref source, .. } if source.kind() == io::ErrorKind::StorageFull),
            "{error}"
        );
        assert_eq!(names(&disk, Path::new(DIR)).len(), 1, "what was begun is gone");
    }
    assert_eq!(
        open(&disk).unwrap().latest().unwrap().unwrap().manifest(),
        &manifest(1),
        "it starts on a full disk"
    );
    disk.limit_space(None);
    write(&store, 2).unwrap();
    assert_eq!(store.latest().unwrap().unwrap().manifest(), &manifest(2));
}

#[test]
fn a_receiver_goes_on_after_a_failed_write() {
    let sample = Sample::new();
    let disk = new_disk(3);
    let store = open(&disk).unwrap();
    let receiver = store.receive("sample", u64::try_from(sample.bytes.len()).unwrap()).unwrap();
    receiver.write(0, &sample.bytes[..100]).unwrap();
    disk.fail(Operation::Write, 0, io::ErrorKind::StorageFull);
    assert!(receiver.write(100, &sample.bytes[100..]).is_err());
    assert_eq!(receiver.next_offset(), 100);
    receiver.write(100, &sample.bytes[100..]).unwrap();
    receiver.finish().unwrap().verify().unwrap();
}

#[test]
fn rot_in_any_byte_makes_it_fall_back_to_the_one_before() {
    let disk = new_disk(5);
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    write(&store, 2).unwrap();
    let newest = store.latest().unwrap().unwrap();
    for offset in (0..newest.size_bytes()).filter(|offset| !(8..12).contains(offset)).step_by(53) {
        let damaged = disk.crash(Crash::Synced);
        damaged.flip(newest.path(), offset, 3).unwrap();
        let store = open(&damaged).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().manifest(), &manifest(1), "offset {offset}");
        assert_eq!(store.damaged().len(), 1);
    }
}

#[test]
fn an_open_checkpoint_outlives_its_name() {
    let disk = new_disk(6);
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    let first = store.latest().unwrap().unwrap();
    write(&store, 2).unwrap();
    write(&store, 3).unwrap();
    assert!(disk.open(first.path()).is_err());
    assert_eq!(read(&first), rows(1));
}
