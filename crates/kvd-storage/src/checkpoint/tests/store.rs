//! The directory: what is kept, what is passed over, what a table gives and gets.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bytes::Bytes;
use kvd_types::ReplicaId;

use super::{
    super::{CHUNK_BYTES_MAX, ROW_BYTES_MAX, STATE_HEADER_BYTES_MAX},
    CheckpointStore, Sample, manifest, names, numbered_rows, open_store, read, sample_rows, write,
};
use crate::{
    Error, Result,
    disk::{Operation, RealDisk, SimDisk},
    engine::MemoryEngine,
    table::Table,
};

#[test]
fn the_newest_two_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(&dir.path().join("made/on/the/way"));
    assert!(store.latest().unwrap().is_none());
    let first = write(&store, &manifest(9), &sample_rows()).unwrap();
    for index in [10, 11, 100] {
        write(&store, &manifest(index), &numbered_rows(10, 10)).unwrap();
    }
    let indices = |store: &CheckpointStore| {
        store.list().unwrap().iter().map(|found| found.manifest().applied_index.get()).collect::<Vec<_>>()
    };
    assert_eq!(indices(&store), [100, 11]);
    assert_eq!(store.latest().unwrap().unwrap().manifest(), &manifest(100));
    assert_eq!(read(&first), sample_rows(), "whoever has it open can read it to the end");
    assert_eq!(indices(&open_store(&dir.path().join("made/on/the/way"))), [100, 11]);
}

#[test]
fn a_damaged_one_is_passed_over_and_reported() {
    let sample = Sample::new();
    let store = open_store(sample.dir.path());
    let newer = write(&store, &manifest(43), &numbered_rows(10, 10)).unwrap();
    let mut bytes = fs::read(newer.path()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(newer.path(), bytes).unwrap();
    let store = open_store(sample.dir.path());
    assert_eq!(store.latest().unwrap().unwrap().manifest(), &manifest(42));
    let damaged = store.damaged();
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].0, newer.path());
    assert!(damaged[0].1.contains("offset") && damaged[0].1.contains("checksum"), "{damaged:?}");
    // It does not count as one of the two that are kept.
    write(&store, &manifest(44), &sample_rows()).unwrap();
    let kept = names(&RealDisk, sample.dir.path());
    assert!(kept.len() == 2 && kept[0].contains("42-") && kept[1].contains("44-"), "{kept:?}");
    assert_eq!(store.damaged(), []);
}

#[test]
fn a_newer_format_is_an_error_and_not_passed_over() {
    let sample = Sample::new();
    let mut bytes = sample.bytes.clone();
    bytes[8] = 2;
    let header_bytes = 16 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let crc = crc32fast::hash(&bytes[..header_bytes]).to_le_bytes();
    bytes[header_bytes..header_bytes + 4].copy_from_slice(&crc);
    fs::write(sample.dir.path().join("00000000000000000043-00000000000000000002.checkpoint"), bytes).unwrap();
    let error = open_store(sample.dir.path()).latest().unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 2, supported: 1, .. }), "{error}");
}

#[test]
fn a_file_under_a_wrong_name_is_damage() {
    let sample = Sample::new();
    let name = "00000000000000000077-00000000000000000002.checkpoint";
    fs::rename(&sample.path, sample.dir.path().join(name)).unwrap();
    let store = open_store(sample.dir.path());
    assert!(store.latest().unwrap().is_none());
    assert!(store.damaged()[0].1.contains("00000000000000000042-"), "{:?}", store.damaged());
}

#[test]
fn what_was_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let mut writer = store.writer(&manifest(1)).unwrap();
    writer.append(b"a", b"1").unwrap();
    assert_eq!(names(&RealDisk, dir.path()).len(), 1);
    drop(writer);
    assert_eq!(names(&RealDisk, dir.path()).len(), 0);
    fs::write(dir.path().join("0.tmp"), "left by a crash").unwrap();
    fs::write(dir.path().join("1.part"), "left by a crash").unwrap();
    write(&open_store(dir.path()), &manifest(1), &sample_rows()).unwrap();
    assert_eq!(names(&RealDisk, dir.path()).len(), 1);
}

#[test]
fn what_can_t_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let refused = |result: Result<()>| assert!(matches!(result, Err(Error::Misuse(_))), "{result:?}");
    let mut writer = store.writer(&manifest(1)).unwrap();
    writer.append(b"b", b"1").unwrap();
    refused(writer.append(b"b", b"2"));
    refused(writer.append(b"a", b"2"));
    refused(writer.append(b"c", &vec![0; ROW_BYTES_MAX]));
    let mut manifest = manifest(1);
    manifest.state_header = Bytes::from(vec![0; STATE_HEADER_BYTES_MAX + 1]);
    refused(store.writer(&manifest).map(drop));
    manifest.state_header.truncate(STATE_HEADER_BYTES_MAX);
    assert_eq!(write(&store, &manifest, &sample_rows()).unwrap().manifest(), &manifest);
}

#[test]
fn chunks_make_up_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write(&open_store(dir.path()), &manifest(1), &numbered_rows(20_000, 300)).unwrap();
    let bytes = fs::read(checkpoint.path()).unwrap();
    let mut joined = Vec::new();
    loop {
        let offset = u64::try_from(joined.len()).unwrap();
        let chunk = checkpoint.read_chunk(offset, 77_777).unwrap();
        if chunk.is_empty() {
            break;
        }
        joined.extend_from_slice(&chunk);
    }
    assert_eq!(joined, bytes);
    assert_eq!(checkpoint.read_chunk(0, usize::MAX).unwrap().len(), bytes.len().min(CHUNK_BYTES_MAX));
    assert!(checkpoint.read_chunk(u64::MAX, 10).unwrap().is_empty());
}

#[test]
fn a_destroyed_store_leaves_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(&dir.path().join("7"));
    write(&store, &manifest(1), &sample_rows()).unwrap();
    store.destroy().unwrap();
    assert!(names(&RealDisk, dir.path()).is_empty());
}

#[test]
fn a_checkpoint_taken_while_writes_go_on_is_one_cut() {
    const KEYS: u32 = 500;
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let table = Table::open(Arc::new(MemoryEngine::new()), ReplicaId(1)).unwrap();
    let write_round = |round: u32| {
        let value = Bytes::copy_from_slice(&round.to_be_bytes());
        table.write((0..KEYS).map(|number| (Bytes::from(format!("{number:05}")), Some(value.clone()))));
    };
    write_round(0);
    table.freeze();
    table.drain().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                write_round(round);
                table.freeze();
                thread::yield_now();
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                table.drain().unwrap();
                thread::yield_now();
            }
        });
        for index in 0..10 {
            let mut writer = store.writer(&manifest(index)).unwrap();
            for row in table.hold_drains().into_cut(usize::MAX) {
                let (key, value) = row.unwrap();
                writer.append(&key, &value).unwrap();
            }
            let checkpoint = writer.finish().unwrap();
            let rows = read(&checkpoint);
            assert_eq!(rows.len(), usize::try_from(KEYS).unwrap());
            assert!(rows.iter().all(|(_, value)| *value == rows[0].1), "a mixture of rounds");
            let installed = Table::open(Arc::new(MemoryEngine::new()), ReplicaId(2)).unwrap();
            installed.replace(checkpoint.rows()).unwrap();
            let found = installed.hold_drains().rows().collect::<Result<BTreeMap<_, _>>>().unwrap();
            assert_eq!(found, rows.into_iter().collect());
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_damaged_checkpoint_is_never_installed() {
    let sample = Sample::new();
    let checkpoint = super::Checkpoint::open(&RealDisk, &sample.path).unwrap();
    let table = Table::open(Arc::new(MemoryEngine::new()), ReplicaId(2)).unwrap();
    table.write([(Bytes::from("old"), Some(Bytes::from("row")))]);
    // All blocks are sound; only the digest tells that they aren't those that were written.
    let mut damaged = checkpoint;
    damaged.footer.digest ^= 1;
    assert!(table.replace(damaged.rows()).is_err_and(|error| error.is_corruption()));
    assert_eq!(table.get(b"old").unwrap(), Some(Bytes::from("row")));
    assert_eq!(table.get(b"a").unwrap(), None);
}

#[test]
fn much_is_synced_on_the_way_and_not_all_of_it_at_the_end() {
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let store = CheckpointStore::open(Arc::new(disk.clone()), Path::new("/data/checkpoints")).unwrap();
    let mut writer = store.writer(&manifest(1)).unwrap();
    disk.fail(Operation::Sync, 0, ErrorKind::Other);
    // Values that don't compress.
    let mut state = 1_u64;
    let failed = (0_u32..32).find_map(|number| {
        let value: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .take(1 << 20)
        .collect();
        writer.append(&number.to_be_bytes(), &value).err().map(|error| (number, error))
    });
    let (number, error) = failed.expect("nothing was synced in 32 MiB");
    assert!(error.is_fatal(), "{error}");
    assert!((15..=18).contains(&number), "synced after {number} MiB");
}
