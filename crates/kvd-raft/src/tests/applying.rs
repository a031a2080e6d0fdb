//! Which threads apply entries.

use std::{path::Path, sync::Arc, thread, time::Duration};

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
fn state(dir: &Path) -> Arc<ReplicaState> {
    let (group, replica) = (GroupId(1), ReplicaId(1));
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let state = ReplicaState::open(StateParts {
        group,
        replica,
        table: Arc::new(
            Table::open(Arc::new(SledEngine::open(dir, SledOptions::default()).unwrap()), replica).unwrap(),
        ),
        checkpoints: CheckpointStore::open(Arc::new(disk), Path::new("/data/checkpoints")).unwrap(),
        memory: MemoryOptions::default(),
        blocking: Blocking::Pool,
        disk_reads: DiskReads::new(Blocking::Pool).unwrap(),
        drain_turns: DrainTurns::new(Blocking::Pool),
        observer: Arc::new(NoObserver),
    });
    Arc::new(state.unwrap())
}

fn entry(index: u64, commands: usize) -> Entry {
    let commands = vec![Command::OpenSession; commands];
    let proposal = EncodedProposal(encode_proposal(Proposal { commands, ..Proposal::default() }));
    Entry { log_id: codec::log_id(1, index), payload: EntryPayload::Normal(proposal) }
}

/// Heartbeats and votes must not wait for an entry that waits for the engine: with one thread, they would if the entry had it.
#[tokio::test]
async fn an_entry_that_may_take_long_leaves_the_thread_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path());
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
            async move { state.apply(entry(index, commands)).await }
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
