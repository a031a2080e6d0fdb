//! The seam through which others watch a replica: metrics, whoever needs the state as it is applied, and the invariants of
//! a simulation, which believe no replica's own word.

use std::time::Duration;

use kvd_machine::Machine;
use kvd_types::{GroupId, LogIndex, Proposal, ReplicaId, Term};

/// Told what a replica does, as it does it. Called under locks and from the core's path, so it must be quick.
pub trait Observer: Send + Sync + 'static {
    /// A state was taken up at the opening of a replica, or from a checkpoint that was installed.
    fn taken_up(&self, group: GroupId, replica: ReplicaId, machine: &Machine) {
        let _ = (group, replica, machine);
    }

    /// An entry was applied, which took so long: this is the machine now. `proposal` is what the entry asked for; blank and
    /// membership entries ask for nothing.
    fn applied(
        &self,
        group: GroupId,
        replica: ReplicaId,
        machine: &Machine,
        proposal: Option<&Proposal>,
        took: Duration,
    ) {
        let _ = (group, replica, machine, proposal, took);
    }

    /// The replica's log was told to drop its entries up to this one.
    fn purged(&self, group: GroupId, replica: ReplicaId, upto: LogIndex) {
        let _ = (group, replica, upto);
    }

    /// The replica sleeps: its group has nothing to do.
    fn slept(&self, group: GroupId, replica: ReplicaId) {
        let _ = (group, replica);
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
