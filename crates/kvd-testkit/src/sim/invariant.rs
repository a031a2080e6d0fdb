//! What must hold at every moment of a simulation, one file each.
//!
//! A new invariant is a new file here and a line in [`all`].

use std::fmt;

use kvd_types::{GroupId, Key, LogIndex, ReplicaId, Term, cluster::RingSpec};

mod committed;
mod identity;
mod leaders;
mod order;
mod owners;
mod purged;
pub(crate) mod time;

#[cfg(test)]
mod tests;

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
    /// Of the replica's whole contents after it, and of what a shard counts.
    pub(crate) digest: u64,
    /// A state was taken up, from the replica's own disk or from a checkpoint: all up to this entry at once.
    pub(crate) is_taken_up: bool,
    /// What a shard counts, beside its contents.
    pub(crate) counted: Option<time::Counted>,
}

/// A replica's log was told to drop entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purged {
    /// Where, by its place among the nodes.
    pub(crate) node: usize,
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    /// Up to this one.
    pub(crate) upto: LogIndex,
    /// The last entry of the newest checkpoint that a power cut would leave, if there is one. None: the node's disk has
    /// lied, and what is on it is nobody's fault but its own.
    pub(crate) checkpoint: Option<Option<LogIndex>>,
}

/// Something that must hold. Each is told of everything, and says what breaks it.
pub(crate) trait Invariant: Send {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// A process of a node has begun.
    fn started(&mut self, node: usize) {
        let _ = node;
    }

    /// A replica takes up a state, which may be none: what it had applied before in this process is gone.
    fn opened(&mut self, node: usize, replica: ReplicaId) {
        let _ = (node, replica);
    }

    /// A replica has applied something.
    ///
    /// # Errors
    /// What doesn't hold.
    fn applied(&mut self, applied: &Applied) -> Result<(), String> {
        let _ = applied;
        Ok(())
    }

    /// A replica of the meta group has applied something, with this ring in its state.
    ///
    /// # Errors
    /// What doesn't hold.
    fn ring(&mut self, spec: &RingSpec) -> Result<(), String> {
        let _ = spec;
        Ok(())
    }

    /// A replica has applied an entry with a write to a key, whatever came of it.
    ///
    /// # Errors
    /// What doesn't hold.
    fn wrote(&mut self, group: GroupId, key: &Key) -> Result<(), String> {
        let _ = (group, key);
        Ok(())
    }

    /// A replica's log was told to drop entries.
    ///
    /// # Errors
    /// What doesn't hold.
    fn purged(&mut self, purged: &Purged) -> Result<(), String> {
        let _ = purged;
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
        Box::<purged::NeverAhead>::default(),
        Box::<owners::OneOwner>::default(),
        Box::<time::OnlyGrows>::default(),
    ]
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, group, replica, index: LogIndex(index), term: Term(term), digest, .. } = self;
        let what = if self.is_taken_up { "took up" } else { "applied" };
        write!(
            f,
            "node {} {what} {index}@{term} of group {group} as replica {replica}: {digest:016x}",
            node + 1
        )
    }
}

impl fmt::Display for Purged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, group, replica, upto, checkpoint } = self;
        let node = node + 1;
        write!(f, "node {node} purged group {group} as replica {replica} up to {upto}; ")?;
        match checkpoint {
            Some(Some(index)) => write!(f, "a checkpoint up to {index} is durable"),
            Some(None) => f.write_str("no checkpoint is durable"),
            None => f.write_str("its disk has lied"),
        }
    }
}
