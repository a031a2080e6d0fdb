//! Checkpoints: what goes in comes out, and nothing else ever does.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};
use tempfile::TempDir;

use super::{Checkpoint, CheckpointStore, Manifest};
use crate::{
    Result,
    disk::{Disk, RealDisk, SimDisk},
    engine::Row,
};

mod crash;
mod damage;
mod receive;
mod store;

fn manifest(index: u64) -> Manifest {
    Manifest {
        group: GroupId(3),
        replica: ReplicaId(17),
        applied_index: LogIndex(index),
        applied_term: Term(2),
        state_header: Bytes::from_static(b"membership"),
    }
}

fn open_store(dir: &Path) -> CheckpointStore {
    CheckpointStore::open(Arc::new(RealDisk), dir).unwrap()
}

fn numbered_rows(count: u32, value_bytes: usize) -> Vec<Row> {
    let row = |number| {
        let value = (0..value_bytes).map(|at| u8::try_from((at * 31 + number) % 251).unwrap());
        (Bytes::from(format!("key-{number:08}")), value.collect())
    };
    (0..usize::try_from(count).unwrap()).map(row).collect()
}

fn write(store: &CheckpointStore, manifest: &Manifest, rows: &[Row]) -> Result<Checkpoint> {
    let mut writer = store.writer(manifest)?;
    for (key, value) in rows {
        writer.append(key, value)?;
    }
    writer.finish()
}

fn read(checkpoint: &Checkpoint) -> Vec<Row> {
    checkpoint.rows().collect::<Result<_>>().unwrap()
}

/// A store with one small checkpoint of two blocks, and the bytes of that.
struct Sample {
    dir: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = write(&open_store(dir.path()), &manifest(42), &sample_rows()).unwrap();
        let bytes = fs::read(checkpoint.path()).unwrap();
        Self { path: checkpoint.path().to_owned(), dir, bytes }
    }
}

fn sample_rows() -> Vec<Row> {
    let row = |key, value| (Bytes::from_static(key), Bytes::from_static(value));
    vec![row(b"", b"empty key"), row(b"a", b""), row(b"b", b"value"), row(b"bb", b"\0\xff")]
}

/// Opens and verifies a file of these bytes.
fn verify_bytes(bytes: &[u8]) -> Result<()> {
    let (disk, path) = (SimDisk::new(0), Path::new("a.checkpoint"));
    disk.create(path).unwrap().write_all_at(bytes, 0).unwrap();
    Checkpoint::open(&disk, path)?.verify()
}

fn names(disk: &dyn Disk, dir: &Path) -> Vec<String> {
    let paths = disk.list(dir).unwrap();
    paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}
