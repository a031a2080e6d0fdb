//! A log is never purged of what its replica may still need: entries are dropped only once they were applied and a durable
//! checkpoint holds them. Openraft has been seen to ask for more on a starved machine (its issue 2116).
//!
//! What was applied is what the witness saw, and the checkpoint is what a power cut at that moment would leave on the disk,
//! read through and found whole; the node's own word counts for neither.

use std::collections::BTreeMap;

use kvd_types::{LogIndex, ReplicaId};

use super::{Applied, Invariant, Purged};

#[derive(Default)]
pub(crate) struct NeverAhead(BTreeMap<(usize, ReplicaId), LogIndex>);

impl Invariant for NeverAhead {
    fn name(&self) -> &'static str {
        "nothing is purged that is needed"
    }

    fn started(&mut self, node: usize) {
        self.0.retain(|&(owner, _), _| owner != node);
    }

    fn opened(&mut self, node: usize, replica: ReplicaId) {
        self.0.remove(&(node, replica));
    }

    fn applied(&mut self, applied: &Applied) -> Result<(), String> {
        self.0.insert((applied.node, applied.replica), applied.index);
        Ok(())
    }

    fn purged(&mut self, purged: &Purged) -> Result<(), String> {
        let applied = self.0.get(&(purged.node, purged.replica)).copied();
        if applied >= Some(purged.upto)
            && purged.checkpoint.is_none_or(|durable| durable >= Some(purged.upto))
        {
            return Ok(());
        }
        Err(format!("{purged}, and it had applied up to {applied:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariant::tests::applied;

    fn purged(upto: u64, checkpoint: Option<Option<u64>>) -> Purged {
        Purged {
            node: 0,
            group: kvd_types::GroupId(1),
            replica: ReplicaId(7),
            upto: LogIndex(upto),
            checkpoint: checkpoint.map(|index| index.map(LogIndex)),
        }
    }

    #[test]
    fn a_purge_up_to_what_is_applied_and_in_a_checkpoint_is_fine() {
        let mut invariant = NeverAhead::default();
        invariant.applied(&applied(1, 7, 10)).unwrap();
        invariant.purged(&purged(8, Some(Some(8)))).unwrap();
        invariant.purged(&purged(9, None)).unwrap();
    }

    #[test]
    fn a_purge_beyond_what_is_applied_is_refused() {
        let mut invariant = NeverAhead::default();
        invariant.purged(&purged(0, Some(Some(5)))).unwrap_err();
        invariant.applied(&applied(1, 7, 10)).unwrap();
        invariant.applied(&applied(1, 8, 30)).unwrap();
        let what = invariant.purged(&purged(11, Some(Some(20)))).unwrap_err();
        assert!(what.contains("up to 11") && what.contains("10"), "{what}");
        invariant.purged(&purged(10, Some(Some(20)))).unwrap();
        // What an earlier process had applied says nothing of what this one has.
        invariant.started(0);
        invariant.purged(&purged(10, Some(Some(20)))).unwrap_err();
    }

    #[test]
    fn a_purge_beyond_the_durable_checkpoint_is_refused() {
        let mut invariant = NeverAhead::default();
        invariant.applied(&applied(1, 7, 10)).unwrap();
        invariant.purged(&purged(6, Some(Some(5)))).unwrap_err();
        invariant.purged(&purged(6, Some(None))).unwrap_err();
    }
}
