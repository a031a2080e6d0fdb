//! Which threads apply entries, and what applying waits for.

use std::{path::Path, sync::Arc, thread, time::Duration};

use futures::FutureExt as _;
use kvd_proto::log::encode_proposal;
use kvd_storage::{
    checkpoint::CheckpointStore,
    disk::SimDisk,
    engine::{SledEngine, SledOptions},
    table::Table,
};
use kvd_types::{Command, GroupId, LogIndex, Proposal, ReplicaId};
use openraft::EntryPayload;
use tokio::sync::oneshot;

use super::harness::{PATIENCE, put};
use crate::{
    blocking::Blocking,
    codec,
    disk_reads::DiskReads,
    observe::NoObserver,
    state::{COMMANDS_APPLIED_ELSEWHERE, MemoryOptions, ReplicaState, StateParts},
    turns::DrainTurns,
    types::{EncodedProposal, Entry},
};

/// A state in an engine that is read where entries are applied.
fn state(dir: &Path, memory: MemoryOptions) -> Arc<ReplicaState> {
    let (group, replica) = (GroupId(1), ReplicaId(1));
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let state = ReplicaState::open(StateParts {
        group,
        replica,
        table: Arc::new(
            Table::open(Arc::new(SledEngine::open(dir, SledOptions::default()).unwrap()), replica).unwrap(),
        ),
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
        let (release, released) = std::sync::mpsc::channel::<()>();
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
