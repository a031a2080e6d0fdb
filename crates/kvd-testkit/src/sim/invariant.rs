//! What must hold at every moment of a simulation, one file each.
//!
//! A new invariant is a new file here and a line in [`all`].

use kvd_types::{GroupId, LogIndex, ReplicaId, Term};

mod committed;
mod identity;
mod leaders;
mod order;

/// An entry, or a checkpoint up to it, was applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied {
    /// Where, by its place among the nodes.
    pub(crate) node: usize,
    /// Which of its disks.
    pub(crate) generation: u64,
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// Of the replica's whole contents after it.
    pub(crate) digest: u64,
    /// A state was taken up, from the replica's own disk or from a checkpoint: all up to this entry at once.
    pub(crate) is_taken_up: bool,
}

/// Something that must hold. Each is told of everything, and says what breaks it.
pub(crate) trait Invariant: Send {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// A process of a node has begun.
    fn started(&mut self, node: usize) {
        let _ = node;
    }

    /// A replica has applied something.
    ///
    /// # Errors
    /// What doesn't hold.
    fn applied(&mut self, applied: &Applied) -> Result<(), String> {
        let _ = applied;
        Ok(())
    }

    /// A replica has spoken as leader.
    ///
    /// # Errors
    /// What doesn't hold.
    fn heard_leader(&mut self, group: GroupId, term: Term, leader: ReplicaId) -> Result<(), String> {
        let _ = (group, term, leader);
        Ok(())
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<leaders::OneLeaderPerTerm>::default(),
        Box::<committed::CommittedNeverChanges>::default(),
        Box::<order::AppliedInOrder>::default(),
        Box::<identity::NeverReused>::default(),
    ]
}
