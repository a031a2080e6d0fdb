//! A replica applies one entry after the other from the state that it took up: none is skipped, none is applied again.

use std::collections::BTreeMap;

use kvd_types::{LogIndex, ReplicaId};

use super::{Applied, Invariant};

#[derive(Default)]
pub(crate) struct AppliedInOrder(BTreeMap<(usize, ReplicaId), LogIndex>);

impl Invariant for AppliedInOrder {
    fn name(&self) -> &'static str {
        "applied in order"
    }

    fn started(&mut self, node: usize) {
        self.0.retain(|&(owner, _), _| owner != node);
    }

    fn opened(&mut self, node: usize, replica: ReplicaId) {
        self.0.remove(&(node, replica));
    }

    fn applied(&mut self, applied: &Applied) -> Result<(), String> {
        let before = self.0.insert((applied.node, applied.replica), applied.index);
        let follows = match before {
            Some(before) => applied.index.get() == before.get() + 1,
            // Of a replica that began with nothing.
            None => applied.index.get() == 0,
        };
        if follows || applied.is_taken_up {
            return Ok(());
        }
        Err(format!("{applied}; what it had applied or taken up before in this process was {before:?}"))
    }
}
