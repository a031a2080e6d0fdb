//! What a replica finds when it is opened: rows that may be believed or not, and a log that may contradict them.

use std::{io, sync::Arc};

use kvd_machine::Machine;
use kvd_storage::{
    checkpoint::Checkpoint,
    log::{self, ReplicaLog},
    table::Table,
};
use kvd_types::{Error, GroupId, LogIndex, ReplicaId};

use super::OpenError;
use crate::{
    codec,
    state::{Fault, ReplicaState, StateParts},
};

/// What a replica was found to be.
pub(super) struct Found {
    pub(super) state: ReplicaState,
    /// The newest good checkpoint ends before the log begins, or is about to: one is due before anybody asks for it. The
    /// rows have all of it.
    pub(super) lacks_checkpoint: bool,
}

/// Takes up a replica's state from its rows, or rebuilds these from the newest checkpoint.
pub(super) fn state(parts: StateParts, log: &ReplicaLog, rebuild: bool) -> Result<Found, OpenError> {
    let (group, replica) = (parts.group, parts.replica);
    let (table, checkpoints) = (Arc::clone(&parts.table), parts.checkpoints.clone());
    let purged = log.state().purged;
    let reaches_log = |applied: Option<LogIndex>| purged.is_none_or(|purged| applied >= Some(purged.index));
    let believed = match Machine::open(group, Arc::clone(&table)) {
        _ if rebuild => false,
        Ok(machine) => {
            let applied = machine.applied();
            let reaches = reaches_log(applied.map(|position| position.index));
            if !reaches {
                tracing::info!(%group, %replica, ?applied, ?purged, "the rows are behind the log; rebuilding them");
            }
            reaches
        }
        Err(error) => {
            tracing::error!(%group, %replica, %error, "the rows can't be believed; rebuilding them");
            false
        }
    };
    let newest = checkpoints.latest().map_err(storage_failed)?;
    if !believed {
        rebuild_rows(group, replica, purged, &table, newest.as_ref())?;
    }
    let state = ReplicaState::open(parts)?;
    let applied = state.position().last_log_id.as_ref().map(codec::entry_id);
    let checkpointed = newest.map(|checkpoint| {
        let manifest = checkpoint.manifest();
        log::EntryId { index: manifest.applied_index, term: manifest.applied_term }
    });
    if let Some(committed) = applied.into_iter().chain(checkpointed).max_by_key(|id| id.index) {
        drop_conflicting_tail(log, committed).map_err(|error| Error::internal(error.to_string()))?;
    }
    let found = log.state();
    // Entries are applied once they are committed, and may be lost from this log, which had not synced them: openraft then begins
    // its log after what is applied.
    let last = found.last.or(found.purged).map(|id| id.index);
    let applied = applied.map(|id| id.index);
    let begins_after = if applied > last { applied } else { found.purged.map(|id| id.index) };
    let lacks_checkpoint = checkpointed.map(|id| id.index) < begins_after;
    Ok(Found { state, lacks_checkpoint })
}

/// Rows that can't be rebuilt are cleared for good, so that no later start takes them for believable.
fn rebuild_rows(
    group: GroupId,
    replica: ReplicaId,
    purged: Option<log::EntryId>,
    table: &Table,
    newest: Option<&Checkpoint>,
) -> Result<(), OpenError> {
    let reached = newest.map(|checkpoint| checkpoint.manifest().applied_index);
    match (newest, purged) {
        (Some(checkpoint), purged) if purged.is_none_or(|purged| reached >= Some(purged.index)) => {
            tracing::info!(%group, %replica, ?reached, "rebuilding the rows from the checkpoint");
            table.replace(checkpoint.rows()).map_err(storage_failed)
        }
        // Without a checkpoint the log has everything since the group began.
        (_, None) => table.clear().map_err(storage_failed),
        (newest, Some(purged)) => {
            table.clear().map_err(storage_failed)?;
            let reason = match newest {
                Some(_) => format!("the newest good checkpoint reaches to log index {reached:?}"),
                None => "there is no good checkpoint".to_owned(),
            };
            let reason = format!("{reason}, and the log begins after index {}", purged.index);
            Err(OpenError::Lost { group, replica, reason })
        }
    }
}

/// Writes the checkpoint that a replica was found to lack, before openraft starts.
///
/// It can't be left for later. Openraft takes for granted that its snapshot reaches to where its log begins: it would send
/// whoever lacks what is between the one that ends before, and have no log to go on from there; and without any it writes
/// one as it starts, and takes it for the group's end if that fails. So a replica that needs a checkpoint is not opened on
/// a disk that has no room for one. A shard's is tried again by itself, and its other replicas serve meanwhile; without the
/// meta group's the node does not start. Either way it is for whoever runs the node to make room, as the error says: a
/// checkpoint takes about as much as the replica's rows.
///
/// # Errors
/// [`OpenError::Rows`] if the rows can't be believed; else failed: unavailable.
pub(super) async fn write_lacking_checkpoint(state: &Arc<ReplicaState>) -> Result<(), OpenError> {
    let (group, replica) = (state.group, state.replica);
    tracing::warn!(%group, %replica, "the newest good checkpoint ends before the log begins; writing another");
    let Err(error) = state.take_checkpoint().await else { return Ok(()) };
    state.close().await;
    let fault = state.fault().borrow().clone();
    Err(match fault {
        Some(Fault::Rows(reason)) => OpenError::Rows { group, replica, reason },
        _ => OpenError::Failed(Error::unavailable(format!(
            "replica {replica} of group {group} has no good checkpoint that reaches to where its log begins, and none could \
             be written: {error}. If the disk is full, make room; if the node has stopped for it, start it again then"
        ))),
    })
}

/// Drops entries that were never committed and contradict what was: a checkpoint was installed over them, and the machine
/// went down before the log had heard of it.
pub(crate) fn drop_conflicting_tail(log: &ReplicaLog, committed: log::EntryId) -> io::Result<()> {
    let state = log.state();
    let agrees = log.id(committed.index) == Some(committed)
        || state.purged.is_some_and(|purged| purged.index >= committed.index)
        || state.last.is_none_or(|last| last.index < committed.index);
    if agrees {
        return Ok(());
    }
    tracing::warn!(group = %log.group(), replica = %log.replica(), ?committed, last = ?state.last,
        "dropping a tail of the log that contradicts what is committed");
    let previous = committed.index.get().checked_sub(1).and_then(|index| log.id(LogIndex(index)));
    log.truncate_after(previous.or(state.purged))?;
    log.purge(committed)
}

fn storage_failed(error: kvd_storage::Error) -> OpenError {
    OpenError::Failed(Error::from(kvd_machine::Error::from(error)))
}
