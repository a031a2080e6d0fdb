//! Opens what a crash has left, with the real recovery, and holds all of it against the model.

use std::{panic, sync::Arc};

use kvd_storage::{disk::SimDisk, engine::MemoryEngine, log::EntryId};
use kvd_types::ReplicaId;

use super::{
    model::{Model, ReplicaModel},
    node::{Failure, Found, Node, Opened, Replica, id_of, rows_of},
};

/// Opens a disk and checks everything on it. The model goes on from what was found. A [`Failure::Wrong`] is a violation;
/// any other failure is what the storage itself said.
pub(super) fn open(
    disk: &SimDisk,
    engine: Arc<MemoryEngine>,
    model: &mut Model,
    trust: bool,
) -> Result<Node, Failure> {
    let opened = try_open(disk, engine, model, trust);
    if opened.is_err() {
        model.start_was_cut_short();
    }
    opened
}

fn try_open(
    disk: &SimDisk,
    engine: Arc<MemoryEngine>,
    model: &mut Model,
    trust: bool,
) -> Result<Node, Failure> {
    let identity = model.identity.clone();
    let (node, found) = Node::open(disk, engine, trust, model)?;
    let incarnation = found.incarnation.unwrap_or(0);
    if incarnation < identity.acknowledged || incarnation > identity.tried {
        return Err(Failure::Differs(format!(
            "the identity is of start {incarnation}, but {} was acknowledged and {} tried",
            identity.acknowledged, identity.tried
        )));
    }
    replicas(&node, &found, model, trust)?;
    Ok(node)
}

fn replicas(node: &Node, found: &Found, model: &mut Model, trust: bool) -> Result<(), Failure> {
    for (id, opened) in &found.replicas {
        let Some(known) = model.replicas.get_mut(id) else {
            return Err(Failure::Differs(format!("nobody ever made replica {id}")));
        };
        let log = model.logs.settled.get(id).cloned().unwrap_or_default();
        one(*id, opened, known, log.purged, trust)
            .map_err(|what| Failure::Differs(format!("replica {id}: {what} ({opened:?}, {known:?})")))?;
        if let Some(replica) = node.replicas.get(id) {
            rows(*id, replica, known)?;
            known.applied = replica.applied;
        }
        known.flushed = if opened.rebuilt { opened.checkpoint } else { known.flushed.min(known.applied) };
        // A peer that was never heard of will not be heard of again: what comes in its place may be something else.
        known.promised = known.promised.max(known.applied).max(opened.checkpoint);
        let promised = known.promised.map(|id| id.index.get());
        known.history.retain(|index, _| Some(*index) <= promised);
        known.checkpoint = opened.checkpoint;
        known.checkpoint_under_way = None;
    }
    model
        .replicas
        .retain(|id, known| found.replicas.contains_key(id) || known.retiring || !known.history.is_empty());
    Ok(())
}

/// What was found of one replica, before anything was made good.
fn one(
    id: ReplicaId,
    opened: &Opened,
    known: &ReplicaModel,
    purged: Option<EntryId>,
    trust: bool,
) -> Result<(), String> {
    if known.retiring {
        return Ok(());
    }
    if opened.lost {
        return Err("it can't be rebuilt".to_owned());
    }
    if opened.damaged_checkpoints > 0 {
        return Err("a checkpoint is called damaged".to_owned());
    }
    if let Some(why) = &opened.disbelief {
        return Err(format!("its rows are called damaged: {why}"));
    }
    let expected = [known.checkpoint, known.checkpoint_under_way.or(known.checkpoint)];
    if !expected.contains(&opened.checkpoint) {
        return Err(format!("its checkpoint is {:?}, expected {expected:?}", opened.checkpoint));
    }
    if purged.map(|id| id.index) > opened.checkpoint.map(|id| id.index) {
        return Err(format!("its log is purged up to {purged:?}, its checkpoint is {:?}", opened.checkpoint));
    }
    if let Some(believed) = opened.believed
        && (believed < known.flushed || believed > known.applied)
    {
        return Err(format!(
            "its rows are as of {believed:?}; flushed was {:?}, applied {:?}",
            known.flushed, known.applied
        ));
    }
    if trust && opened.believed.is_none() {
        return Err(format!("the rows of replica {id} were not believed"));
    }
    Ok(())
}

/// All rows, through memory and engine, and what the checkpoints hold.
fn rows(id: ReplicaId, replica: &Replica, known: &ReplicaModel) -> Result<(), Failure> {
    if known.retiring {
        return Ok(());
    }
    let differs = |what: String| Failure::Differs(format!("replica {id}: {what}"));
    // An error of the disk is none of the content: the power may be out again.
    let failed = |error: kvd_storage::Error| {
        if error.is_corruption() { differs(error.to_string()) } else { Failure::Storage(error) }
    };
    let found = rows_of(&replica.table).map_err(failed)?;
    if found != known.rows_at(replica.applied) {
        return Err(differs(format!("its rows are not those of {:?}: {found:?}", replica.applied)));
    }
    for checkpoint in replica.checkpoints.list().map_err(failed)? {
        let rows = checkpoint.rows().collect::<Result<_, _>>().map_err(failed)?;
        let as_of = id_of(&checkpoint);
        if known.rows_at(Some(as_of)) != rows {
            return Err(differs(format!("the checkpoint as of {as_of:?} does not hold the rows of then")));
        }
    }
    Ok(())
}

/// Does something with the code under test; a panic there is as wrong as a wrong result.
pub(super) fn no_panic<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    panic::catch_unwind(panic::AssertUnwindSafe(work)).unwrap_or_else(|panicked| {
        let text = panicked
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panicked.downcast_ref::<&str>().copied())
            .unwrap_or("without a message");
        Err(Failure::Wrong(format!("it panicked: {text}")))
    })
}
