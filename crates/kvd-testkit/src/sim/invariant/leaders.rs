//! A term of a group has at most one leader (Raft's election safety).

use std::collections::BTreeMap;

use kvd_types::{GroupId, ReplicaId, Term};

use super::Invariant;

#[derive(Default)]
pub(crate) struct OneLeaderPerTerm(BTreeMap<(GroupId, Term), ReplicaId>);

impl Invariant for OneLeaderPerTerm {
    fn name(&self) -> &'static str {
        "one leader per term"
    }

    fn heard_leader(&mut self, group: GroupId, term: Term, leader: ReplicaId) -> Result<(), String> {
        let known = *self.0.entry((group, term)).or_insert(leader);
        if known == leader {
            return Ok(());
        }
        Err(format!("group {group} has two leaders in term {term}, replicas {known} and {leader}"))
    }
}
