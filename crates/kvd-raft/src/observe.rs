//! The seam through which others watch a replica: metrics, whoever needs the state as it is applied, and the invariants of
//! a simulation, which believe no replica's own word.

use std::time::Duration;

use kvd_machine::Machine;
use kvd_types::{GroupId, ReplicaId, Term};

/// Told what a replica does, as it does it. Called under locks and from the core's path, so it must be quick.
pub trait Observer: Send + Sync + 'static {
    /// An entry was applied, which took so long, or a checkpoint installed, or a state taken up (which count as nothing):
    /// this is the machine now.
    fn applied(&self, replica: ReplicaId, machine: &Machine, took: Duration) {
        let _ = (replica, machine, took);
    }

    /// Another replica has spoken to this one as the group's leader in a term.
    fn heard_leader(&self, group: GroupId, term: Term, leader: ReplicaId) {
        let _ = (group, term, leader);
    }
}

/// Looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
