//! Openraft's conformance suite for log stores and state machines, on ours.

use std::sync::Arc;

use kvd_storage::{
    checkpoint::CheckpointStore,
    disk::RealDisk,
    engine::MemoryEngine,
    log::{Log, Options},
    table::Table,
};
use kvd_types::{GroupId, ReplicaId};
use openraft::{StorageError, testing::log::StoreBuilder};
use tempfile::TempDir;

use crate::{
    log_store::LogStore,
    state::{DrainOptions, ReplicaState, StateParts},
    state_machine::StateMachine,
    types::TypeConfig,
};

struct Builder;

/// What must outlive the store under test.
struct Disk {
    _dir: TempDir,
    _log: Log,
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
            drain: DrainOptions::default(),
            blocking: crate::blocking::Blocking::Pool,
            observer: Arc::new(crate::observe::NoObserver),
        });
        let state = state.unwrap();
        Ok((Disk { _dir: dir, _log: log }, store, StateMachine(Arc::new(state))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_finds_nothing_to_object_to() {
    openraft::testing::log::Suite::test_all(Builder).await.unwrap();
}
