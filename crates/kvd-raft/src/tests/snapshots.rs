//! What openraft is told of a checkpoint: it purges the log up to there.

use std::{path::Path, sync::Arc};

use kvd_storage::{checkpoint::CheckpointStore, disk::SimDisk, engine::MemoryEngine, table::Table};
use kvd_types::{GroupId, LogIndex, ReplicaId};
use openraft::{EntryPayload, RaftSnapshotBuilder as _};

use crate::{
    codec,
    disk_reads::DiskReads,
    state::{MemoryOptions, ReplicaState, StateParts},
    state_machine::StateMachine,
    types::Entry,
};

#[tokio::test]
async fn a_checkpoint_is_said_to_reach_as_far_as_it_does() {
    let (group, replica) = (GroupId(1), ReplicaId(1));
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let state = ReplicaState::open(StateParts {
        group,
        replica,
        table: Arc::new(Table::open(Arc::new(MemoryEngine::new()), replica).unwrap()),
        checkpoints: CheckpointStore::open(Arc::new(disk), Path::new("/data/checkpoints")).unwrap(),
        memory: MemoryOptions::default(),
        blocking: crate::blocking::Blocking::Pool,
        disk_reads: DiskReads::new(crate::blocking::Blocking::Pool).unwrap(),
        drain_turns: crate::turns::DrainTurns::new(crate::blocking::Blocking::Pool),
        observer: Arc::new(crate::observe::NoObserver),
    });
    let state = Arc::new(state.unwrap());
    let blank = |index| Entry { log_id: codec::log_id(1, index), payload: EntryPayload::Blank };
    state.apply(blank(1)).await.unwrap();
    state.prepare_checkpoint().await.unwrap();
    // Applying goes on before openraft comes for it.
    state.apply(blank(2)).await.unwrap();
    let built = StateMachine(state).build_snapshot().await.unwrap();
    assert_eq!(built.snapshot.manifest().applied_index, LogIndex(1));
    assert_eq!(built.meta.last_log_id, Some(codec::log_id(1, 1)), "the log would be purged beyond it");
}
