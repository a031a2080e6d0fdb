//! Openraft's state machine and snapshots on a replica's applied state.

use std::{io, sync::Arc};

use futures::{Stream, StreamExt as _};
use kvd_storage::checkpoint::Checkpoint;
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};

use crate::{
    codec,
    state::ReplicaState,
    types::{Applied, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
};

/// A replica's state, as openraft sees it.
#[derive(Clone)]
pub(crate) struct StateMachine(pub(crate) Arc<ReplicaState>);

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Checkpoint;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let position = self.0.position();
        Ok((position.last_log_id, position.last_membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.0.wait_for_room().await?;
            fail::fail_point!(crate::failpoints::APPLY_BEFORE);
            let outcomes = self.0.apply(entry).await?;
            fail::fail_point!(crate::failpoints::APPLY_AFTER);
            if let Some(responder) = responder {
                responder.send(Applied(outcomes));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        checkpoint: Checkpoint,
    ) -> Result<(), io::Error> {
        fail::fail_point!(crate::failpoints::CHECKPOINT_BEFORE_INSTALL);
        self.0.install(checkpoint).await?;
        fail::fail_point!(crate::failpoints::CHECKPOINT_AFTER_INSTALL);
        let installed = self.0.position();
        if installed.last_log_id == meta.last_log_id {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "a checkpoint announced as of {:?} holds the state of {:?}",
            meta.last_log_id, installed.last_log_id
        )))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let state = Arc::clone(&self.0);
        let read = self.0.blocking.run(move || {
            let Some(checkpoint) = state.checkpoints.latest().map_err(io::Error::other)? else {
                return Ok(None);
            };
            let meta =
                codec::decode_header(checkpoint.manifest().state_header.clone()).map_err(io::Error::other)?;
            Ok(Some(Snapshot { meta, snapshot: checkpoint }))
        });
        read.await
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = Checkpoint;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (meta, snapshot) = self.0.prepared_checkpoint().await?;
        Ok(Snapshot { meta, snapshot })
    }
}
