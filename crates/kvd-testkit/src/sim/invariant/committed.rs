//! What was applied anywhere is applied everywhere: the same entry, to the same effect (Raft's state machine safety), at
//! each index, for ever, through crashes, checkpoints and rebuilds.

use std::collections::BTreeMap;

use kvd_types::{GroupId, LogIndex, Term};

use super::{Applied, Invariant};

#[derive(Default)]
pub(crate) struct CommittedNeverChanges(BTreeMap<(GroupId, LogIndex), (Term, u64, usize)>);

impl Invariant for CommittedNeverChanges {
    fn name(&self) -> &'static str {
        "committed entries never change"
    }

    fn applied(&mut self, applied: &Applied) -> Result<(), String> {
        let known = (applied.term, applied.digest, applied.node);
        let (term, digest, node) = *self.0.entry((applied.group, applied.index)).or_insert(known);
        if (term, digest) == (applied.term, applied.digest) {
            return Ok(());
        }
        Err(format!(
            "{applied}; but node {} had applied {}@{term} there, digest {digest:016x}",
            node + 1,
            applied.index
        ))
    }
}
