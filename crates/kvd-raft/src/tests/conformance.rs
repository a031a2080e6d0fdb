//! Openraft's conformance suite for log stores and state machines, on ours.

use std::sync::Arc;

use bytes::Bytes;
use kvd_storage::{
    checkpoint::CheckpointStore,
    disk::RealDisk,
    engine::MemoryEngine,
    log::{self, Log, Options},
    table::Table,
};
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};
use openraft::{StorageError, storage::RaftLogStorage as _, testing::log::StoreBuilder};
use tempfile::TempDir;

use crate::{
    codec,
    disk_reads::DiskReads,
    log_store::LogStore,
    state::{MemoryOptions, ReplicaState, StateParts},
    state_machine::StateMachine,
    types::TypeConfig,
};

pub(super) struct Builder;

/// What must outlive the store under test.
pub(super) struct Disk {
    _dir: TempDir,
    log: Log,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Disk> for Builder {
    async fn build(&self) -> Result<(Disk, LogStore, StateMachine), StorageError<TypeConfig>> {
        let (group, replica) = (GroupId(1), ReplicaId(1));
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk);
        let options = Options { segment_bytes: 1 << 20, ..Options::default() };
        let (log, _) = Log::open(disk.clone(), &dir.path().join("log"), options).unwrap();
        let store = LogStore::new(log.create(group, replica).unwrap());
        let table = Table::open(Arc::new(MemoryEngine::new()), replica).unwrap();
        let checkpoints = CheckpointStore::open(disk, &dir.path().join("checkpoints")).unwrap();
        let state = ReplicaState::open(StateParts {
            group,
            replica,
            table: Arc::new(table),
            checkpoints,
            memory: MemoryOptions::default(),
            blocking: crate::blocking::Blocking::Pool,
            disk_reads: DiskReads::new(crate::blocking::Blocking::Pool).unwrap(),
            drain_turns: crate::turns::DrainTurns::new(crate::blocking::Blocking::Pool),
            observer: Arc::new(crate::observe::NoObserver),
        });
        let state = state.unwrap();
        Ok((Disk { _dir: dir, log }, store, StateMachine(Arc::new(state))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_finds_nothing_to_object_to() {
    openraft::testing::log::Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn nothing_is_purged_that_no_checkpoint_holds() {
    let (disk, store, machine) = Builder.build().await.unwrap();
    let log = disk.log.replica(GroupId(1), ReplicaId(1)).unwrap();
    let entry =
        |index| log::Entry { index: LogIndex(index), term: Term(1), payload: Bytes::from_static(b"x") };
    let (done, durable) = tokio::sync::oneshot::channel();
    log.append((0..5).map(entry).collect(), Box::new(move |result| drop(done.send(result))));
    durable.await.unwrap().unwrap();
    let mut guarded = store.guarded_by(machine.0);
    let refused = guarded.purge(codec::log_id(1, 3)).await.unwrap_err();
    assert!(refused.to_string().contains("not to be purged"), "{refused}");
    assert_eq!(log.entries(), 5, "nothing was dropped");
}
