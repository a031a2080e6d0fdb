//! Whom a change concerns, found without asking everybody.
//!
//! Nearly all watchers watch one key, or a prefix. Those are found by the key, or by its beginnings of the lengths that
//! are watched; only watchers of other ranges are asked one by one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvd_placement::route::{after_key, prefix_end};

/// What watchers watch. A range is given by its start and its end, which is empty where there is none.
#[derive(Default)]
pub(super) struct Index {
    keys: BTreeMap<Bytes, BTreeSet<u64>>,
    prefixes: BTreeMap<Bytes, BTreeSet<u64>>,
    /// The lengths of the prefixes, and how many have each.
    lengths: BTreeMap<usize, usize>,
    others: BTreeMap<u64, (Bytes, Bytes)>,
}

enum Shape {
    Key,
    Prefix,
    Other,
}

impl Shape {
    fn of(start: &[u8], end: &[u8]) -> Self {
        if *after_key(start) == *end {
            Self::Key
        } else if *prefix_end(start) == *end {
            Self::Prefix
        } else {
            Self::Other
        }
    }
}

impl Index {
    pub(super) fn insert(&mut self, id: u64, start: &Bytes, end: &Bytes) {
        match Shape::of(start, end) {
            Shape::Key => {
                self.keys.entry(start.clone()).or_default().insert(id);
            }
            Shape::Prefix => {
                let of_prefix = self.prefixes.entry(start.clone()).or_insert_with(|| {
                    *self.lengths.entry(start.len()).or_default() += 1;
                    BTreeSet::new()
                });
                of_prefix.insert(id);
            }
            Shape::Other => {
                self.others.insert(id, (start.clone(), end.clone()));
            }
        }
    }

    pub(super) fn remove(&mut self, id: u64, start: &Bytes, end: &Bytes) {
        match Shape::of(start, end) {
            Shape::Key => {
                remove_from(&mut self.keys, start, id);
            }
            Shape::Prefix => {
                if remove_from(&mut self.prefixes, start, id)
                    && let Some(count) = self.lengths.get_mut(&start.len())
                {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&start.len());
                    }
                }
            }
            Shape::Other => {
                self.others.remove(&id);
            }
        }
    }

    /// The watchers whose ranges a key is in.
    pub(super) fn of(&self, key: &[u8]) -> impl Iterator<Item = u64> {
        let prefixes = self.lengths.keys().map_while(|&length| key.get(..length));
        let of_prefixes = prefixes.filter_map(|prefix| self.prefixes.get(prefix));
        let covers = |(start, end): &(Bytes, Bytes)| *key >= **start && (end.is_empty() || *key < **end);
        let others = self.others.iter().filter(move |(_, range)| covers(range)).map(|(&id, _)| id);
        self.keys.get(key).into_iter().chain(of_prefixes).flatten().copied().chain(others)
    }
}

/// Whether nobody is left there.
fn remove_from(watched: &mut BTreeMap<Bytes, BTreeSet<u64>>, at: &Bytes, id: u64) -> bool {
    let Some(ids) = watched.get_mut(at) else { return false };
    ids.remove(&id);
    ids.is_empty() && watched.remove(at).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_key() -> impl Strategy<Value = Bytes> {
        let byte = prop_oneof![Just(0), Just(b'a'), Just(b'b'), Just(0xff)];
        prop::collection::vec(byte, 0..4).prop_map(Bytes::from)
    }

    fn some_range() -> impl Strategy<Value = (Bytes, Bytes)> {
        prop_oneof![
            some_key().prop_map(|key| (key.clone(), after_key(&key))),
            some_key().prop_map(|prefix| (prefix.clone(), prefix_end(&prefix))),
            (some_key(), some_key()),
        ]
    }

    proptest! {
        #[test]
        fn those_are_found_whose_ranges_a_key_is_in(
            ranges in prop::collection::vec((some_range(), any::<bool>()), 0..20),
            key in some_key(),
        ) {
            let mut index = Index::default();
            let mut expected = Vec::new();
            for (id, ((start, end), _)) in (0..).zip(&ranges) {
                index.insert(id, start, end);
            }
            for (id, ((start, end), leaves)) in (0..).zip(&ranges) {
                if *leaves {
                    index.remove(id, start, end);
                } else if key >= *start && (end.is_empty() || key < *end) {
                    expected.push(id);
                }
            }
            let mut found: Vec<u64> = index.of(&key).collect();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
            if ranges.iter().all(|(_, leaves)| *leaves) {
                prop_assert!(index.keys.is_empty() && index.prefixes.is_empty());
                prop_assert!(index.lengths.is_empty() && index.others.is_empty());
            }
        }
    }
}
