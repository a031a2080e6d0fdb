//! What a shard counts never goes back: its last revision, its ceiling, its age, and up to where its history is forgotten. Nor is
//! anything forgotten that is still to come.
//!
//! These are not in the digest of its contents, and decide what is due and which revisions may be given: equal on all replicas, and
//! right on none if they went back on all of them.

use std::collections::BTreeMap;

use kvd_types::{GroupId, LogIndex, Revision};

use super::{Applied, Invariant};

/// What a shard had counted by an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) last_revision: Revision,
    pub(crate) ceiling: Revision,
    pub(crate) compacted: Revision,
    pub(crate) age_ms: u64,
}

#[derive(Default)]
pub(super) struct OnlyGrows(BTreeMap<GroupId, BTreeMap<LogIndex, Counted>>);

impl Invariant for OnlyGrows {
    fn name(&self) -> &'static str {
        "what a shard counts only grows"
    }

    fn applied(&mut self, applied: &Applied) -> Result<(), String> {
        let Some(counted) = applied.counted else { return Ok(()) };
        let of_group = self.0.entry(applied.group).or_default();
        if counted.compacted > counted.last_revision {
            return Err(format!("{applied}: it has forgotten what is to come: {counted:?}"));
        }
        if let Some((_, before)) = of_group.range(..applied.index).next_back()
            && !grows(before, &counted)
        {
            return Err(format!("{applied}: {counted:?}, after {before:?}"));
        }
        match of_group.insert(applied.index, counted) {
            Some(other) if other != counted => {
                Err(format!("{applied}: {counted:?}, and elsewhere {other:?}"))
            }
            _ => Ok(()),
        }
    }
}

const fn grows(before: &Counted, now: &Counted) -> bool {
    before.last_revision.get() <= now.last_revision.get()
        && before.ceiling.get() <= now.ceiling.get()
        && before.compacted.get() <= now.compacted.get()
        && before.age_ms <= now.age_ms
}

#[cfg(test)]
mod tests {
    use kvd_types::{ReplicaId, Term};

    use super::*;

    fn applied(index: u64, counted: Counted) -> Applied {
        Applied {
            node: 0,
            generation: 0,
            group: GroupId(1),
            replica: ReplicaId(1),
            index: LogIndex(index),
            term: Term(1),
            digest: 0,
            is_taken_up: false,
            counted: Some(counted),
        }
    }

    #[test]
    fn what_goes_back_or_differs_is_found() {
        let first =
            Counted { last_revision: Revision(5), ceiling: Revision(9), compacted: Revision(3), age_ms: 100 };
        for wrong in [
            Counted { last_revision: Revision(4), ..first },
            Counted { ceiling: Revision(8), ..first },
            Counted { compacted: Revision(2), ..first },
            Counted { compacted: Revision(6), ..first },
            Counted { age_ms: 99, ..first },
        ] {
            let mut invariant = OnlyGrows::default();
            invariant.applied(&applied(1, first)).unwrap();
            invariant.applied(&applied(1, first)).unwrap();
            assert!(invariant.applied(&applied(2, wrong)).is_err(), "{wrong:?}");
            assert!(invariant.applied(&applied(1, wrong)).is_err(), "{wrong:?}");
        }
    }
}
