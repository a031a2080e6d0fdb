//! A key has one owner: writes to it stand in the log of one shard, the one that the ring names, and in no other.

use std::collections::BTreeMap;

use kvd_placement::Ring;
use kvd_types::{GroupId, Key, cluster::RingSpec};

use super::Invariant;

#[derive(Default)]
pub(crate) struct OneOwner {
    /// None: the cluster has not been created yet.
    ring: Option<Ring>,
    owners: BTreeMap<Key, GroupId>,
}

impl Invariant for OneOwner {
    fn name(&self) -> &'static str {
        "a key has one owner"
    }

    fn ring(&mut self, spec: &RingSpec) -> Result<(), String> {
        match &self.ring {
            Some(known) if known.spec() == spec => Ok(()),
            // No range moves from shard to shard yet: a ring that changes leaves keys behind where nobody looks for them.
            Some(known) => Err(format!("the ring was {:?}, and is {spec:?} now", known.spec())),
            None => {
                self.ring = Some(Ring::build(spec).map_err(|error| format!("{spec:?}: {error}"))?);
                Ok(())
            }
        }
    }

    fn wrote(&mut self, group: GroupId, key: &Key) -> Result<(), String> {
        let owner = match self.owners.get(key) {
            Some(owner) => *owner,
            None => {
                self.owners.insert(key.clone(), group);
                group
            }
        };
        if owner != group {
            return Err(format!(
                "a write to {key} is applied in group {group}, and one was in group {owner}"
            ));
        }
        let named = self.ring.as_ref().map(|ring| GroupId::from(ring.shard_of(key)));
        if named == Some(group) {
            return Ok(());
        }
        Err(format!("a write to {key} is applied in group {group}; the ring names {named:?}"))
    }
}

#[cfg(test)]
mod tests {
    use kvd_placement::uniform;

    use super::*;

    fn key(text: &str) -> Key {
        Key::try_from(text).unwrap()
    }

    #[test]
    fn only_the_owner_that_the_ring_names_is_let_pass() {
        let spec = uniform(3);
        let ring = Ring::build(&spec).unwrap();
        let mut invariant = OneOwner::default();
        invariant.ring(&spec).unwrap();
        for key in (0..50).map(|number| key(&format!("key-{number}"))) {
            let owner = GroupId::from(ring.shard_of(&key));
            invariant.wrote(owner, &key).unwrap();
            invariant.wrote(owner, &key).unwrap();
            let other = GroupId(owner.get() % 3 + 1);
            let what = invariant.wrote(other, &key).unwrap_err();
            assert!(what.contains("one was in group"), "{what}");
        }
        let fresh = key("fresh");
        let other = GroupId(ring.shard_of(&fresh).get() % 3 + 1);
        let what = invariant.wrote(other, &fresh).unwrap_err();
        assert!(what.contains("the ring names"), "{what}");
    }

    #[test]
    fn a_write_before_there_is_a_ring_is_refused() {
        OneOwner::default().wrote(GroupId(1), &key("early")).unwrap_err();
    }

    #[test]
    fn a_ring_that_changes_is_refused() {
        let mut invariant = OneOwner::default();
        invariant.ring(&uniform(2)).unwrap();
        invariant.ring(&uniform(2)).unwrap();
        invariant.ring(&uniform(3)).unwrap_err();
    }
}
