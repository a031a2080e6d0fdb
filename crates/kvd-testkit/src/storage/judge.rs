//! A store whose disk has lied, or whose bytes have changed while it was stopped: was it noticed?
//!
//! Three verdicts are fine. *Detected*: the store refuses to open, or says which replicas lost something, and the others
//! are as they were. *Repaired*: it says that something is damaged, and nothing is lost. *Harmless*: nobody says anything,
//! and everything is as it was. Anything else is silent damage.
//!
//! One thing looks like a torn write and can't be told from it: damage of the very last write that was synced before the
//! store went down uncleanly. It is cut off and reported as such ([`kvd_storage::log::Recovery::torn_tail`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kvd_storage::{
    disk::SimDisk,
    engine::MemoryEngine,
    log::{NoObserver, Observer, Recovery},
};
use kvd_types::ReplicaId;

use super::{
    check::no_panic,
    model::{Logs, Model, ReplicaModel, Step},
    node::{Failure, Found, Node, Opened, Replica, Watch, id_of, rows_of},
};

/// What became of a change for the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Something is lost, and it was said.
    Detected,
    /// Something was said, and nothing is lost.
    Repaired,
    /// Nothing was said, and nothing is lost.
    Harmless,
}

/// Notes what the log holds when it is opened, without an opinion.
#[derive(Debug, Default)]
struct Witness {
    logs: Logs,
}

impl Watch for Witness {
    fn incarnation(&mut self, _: u64, _: bool) {}

    fn log_opened(&mut self, logs: Logs, _: &Recovery) -> Result<(), Failure> {
        self.logs = logs;
        Ok(())
    }

    fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(NoObserver)
    }

    fn log_step(&mut self, _: ReplicaId, _: &Step) {}
}

/// Opens a store and says whether what is wrong with it was noticed. An error is silent damage, or a panic.
pub(super) fn judge(disk: &SimDisk, engine: MemoryEngine, model: &Model) -> Result<Verdict, String> {
    let mut witness = Witness::default();
    match no_panic(|| Node::open(disk, Arc::new(engine), true, &mut witness)) {
        Err(failure) => failure.violation().map_or(Ok(Verdict::Detected), |what| Err(what.to_owned())),
        Ok((node, found)) => compare(&node, &found, &witness.logs, model),
    }
}

fn compare(node: &Node, found: &Found, logs: &Logs, model: &Model) -> Result<Verdict, String> {
    let recovery = &found.recovery;
    let mut missing: BTreeSet<ReplicaId> = recovery.damaged.keys().copied().collect();
    let mut reported = !recovery.bad_headers.is_empty() || recovery.torn_tail.is_some();
    let incarnation = found.incarnation.unwrap_or(0);
    if incarnation != model.identity.acknowledged {
        return Err(format!(
            "the identity is of start {incarnation}, not of {}, and nobody noticed",
            model.identity.acknowledged
        ));
    }
    let mut detected = !missing.is_empty();
    if recovery.unattributed.is_some() {
        detected = true;
        missing.extend(model.logs.settled.keys().filter(|id| !logs.contains_key(id)));
    }
    if !model.logs.allows_of_others(logs, &missing) {
        if recovery.torn_tail.is_none() || !model.logs.allows_without_last(logs, &missing) {
            return Err(format!("{} ({recovery:?})", model.logs.explain(logs)));
        }
        detected = true;
    }
    for (id, opened) in &found.replicas {
        let known = model.replicas.get(id).ok_or_else(|| format!("nobody ever made replica {id}"))?;
        if known.retiring {
            continue;
        }
        let (lost, said) = replica(*id, opened, node.replicas.get(id), known, reported || detected)
            .map_err(|what| format!("replica {id}: {what}"))?;
        detected |= lost;
        reported |= said;
    }
    Ok(match (detected, reported) {
        (true, _) => Verdict::Detected,
        (false, true) => Verdict::Repaired,
        (false, false) => Verdict::Harmless,
    })
}

/// Whether something of one replica is lost, and whether something was said.
fn replica(
    id: ReplicaId,
    opened: &Opened,
    open: Option<&Replica>,
    known: &ReplicaModel,
    mut reported: bool,
) -> Result<(bool, bool), String> {
    if opened.lost {
        return Ok((true, true));
    }
    reported |= opened.damaged_checkpoints > 0 || opened.disbelief.is_some();
    if opened.checkpoint != known.checkpoint && opened.damaged_checkpoints == 0 {
        return Err(format!("its checkpoint is {:?}, not {:?}", opened.checkpoint, known.checkpoint));
    }
    let Some(open) = open else { return Err(format!("replica {id} was not opened")) };
    let mut lost = false;
    match rows_of(&open.table) {
        Ok(rows) if rows == known.rows_at(open.applied) => {}
        Ok(_) => return Err(format!("its rows are not those of {:?}", open.applied)),
        Err(error) if error.is_corruption() => return Ok((true, true)),
        Err(error) => return Err(error.to_string()),
    }
    if open.applied < known.flushed {
        // It starts from less, so something must have been said; what is missing comes from its peers.
        if !reported {
            return Err(format!("its rows go back from {:?} to {:?}", known.flushed, open.applied));
        }
        lost = true;
    }
    let Ok(checkpoints) = open.checkpoints.list() else { return Ok((lost, true)) };
    for checkpoint in checkpoints {
        let rows: kvd_storage::Result<BTreeMap<_, _>> = checkpoint.rows().collect();
        match rows {
            Ok(rows) if rows == known.rows_at(Some(id_of(&checkpoint))) => {}
            Ok(_) => return Err("a checkpoint holds other rows, and passes".to_owned()),
            Err(_) => reported = true,
        }
    }
    Ok((lost, reported))
}
