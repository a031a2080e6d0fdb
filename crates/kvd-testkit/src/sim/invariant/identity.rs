//! A replica lives on one disk, for ever: its id never turns up on another.

use std::collections::BTreeMap;

use kvd_types::{GroupId, ReplicaId};

use super::{Applied, Invariant};

#[derive(Default)]
pub(crate) struct NeverReused(BTreeMap<ReplicaId, (usize, u64, GroupId)>);

impl Invariant for NeverReused {
    fn name(&self) -> &'static str {
        "an identity is never reused"
    }

    fn applied(&mut self, applied: &Applied) -> Result<(), String> {
        let here = (applied.node, applied.generation, applied.group);
        let known = *self.0.entry(applied.replica).or_insert(here);
        if known == here {
            return Ok(());
        }
        let (node, generation, group) = known;
        Err(format!(
            "{applied}, on its disk {}; it was one of group {group} on disk {generation} of node {}",
            applied.generation,
            node + 1
        ))
    }
}
