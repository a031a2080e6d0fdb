//! Each invariant is told of a sequence that breaks it, and must say so: one that sees nothing is worth nothing.

use super::*;

/// Node 1 has applied an entry.
pub(super) fn applied(term: u64, replica: u64, index: u64) -> Applied {
    Applied {
        node: 0,
        generation: 0,
        group: GroupId(1),
        replica: ReplicaId(replica),
        index: LogIndex(index),
        term: Term(term),
        digest: 1,
        is_taken_up: false,
        counted: None,
    }
}

#[test]
fn another_digest_or_term_at_an_index_is_refused() {
    let mut invariant = committed::CommittedNeverChanges::default();
    invariant.applied(&applied(1, 7, 3)).unwrap();
    let elsewhere = Applied { node: 1, ..applied(1, 8, 3) };
    invariant.applied(&elsewhere).unwrap();
    invariant.applied(&Applied { digest: 2, ..elsewhere }).unwrap_err();
    invariant.applied(&Applied { is_taken_up: true, digest: 2, ..elsewhere }).unwrap_err();
    invariant.applied(&Applied { term: Term(2), ..elsewhere }).unwrap_err();
    invariant.applied(&Applied { group: GroupId(2), digest: 2, ..elsewhere }).unwrap();
}

#[test]
fn an_entry_that_is_skipped_or_applied_again_is_refused() {
    let mut invariant = order::AppliedInOrder::default();
    invariant.applied(&applied(1, 7, 1)).unwrap_err();
    let mut invariant = order::AppliedInOrder::default();
    invariant.applied(&applied(1, 7, 0)).unwrap();
    invariant.applied(&applied(1, 7, 1)).unwrap();
    invariant.applied(&applied(1, 7, 1)).unwrap_err();
    invariant.applied(&applied(1, 7, 3)).unwrap_err();
    invariant.applied(&Applied { is_taken_up: true, ..applied(1, 7, 9) }).unwrap();
    invariant.applied(&applied(1, 7, 10)).unwrap();
    // Its rows were damaged, and are made anew by the same process.
    invariant.opened(0, ReplicaId(7));
    invariant.applied(&applied(1, 7, 11)).unwrap_err();
    invariant.opened(0, ReplicaId(7));
    invariant.applied(&applied(1, 7, 0)).unwrap();
}

#[test]
fn a_second_leader_of_a_term_is_refused() {
    let mut invariant = leaders::OneLeaderPerTerm::default();
    invariant.heard_leader(GroupId(1), Term(4), ReplicaId(7)).unwrap();
    invariant.heard_leader(GroupId(1), Term(5), ReplicaId(8)).unwrap();
    invariant.heard_leader(GroupId(2), Term(4), ReplicaId(9)).unwrap();
    invariant.heard_leader(GroupId(1), Term(4), ReplicaId(8)).unwrap_err();
}

#[test]
fn a_replica_on_another_disk_is_refused() {
    let mut invariant = identity::NeverReused::default();
    invariant.applied(&applied(1, 7, 0)).unwrap();
    invariant.applied(&applied(1, 7, 1)).unwrap();
    invariant.applied(&Applied { generation: 1, ..applied(1, 7, 2) }).unwrap_err();
    invariant.applied(&Applied { node: 1, ..applied(1, 7, 2) }).unwrap_err();
    invariant.applied(&Applied { group: GroupId(2), ..applied(1, 7, 2) }).unwrap_err();
}
