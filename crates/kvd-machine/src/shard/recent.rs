//! Current versions that were asked for or written lately, at hand for the writes that replace them.
//!
//! Every write asks for the version that it replaces, and an engine takes longer to find it than everything else takes that
//! the write does. Only the applier looks in here and only it changes rows, so what is here is what the table has: it is
//! changed with the rows of each entry, and begins anew whenever the rows do.
//!
//! Nothing depends on what is in here but how long an entry takes. Beyond the bound what was not asked for again goes first.

use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::{
    Weighter,
    unsync::{Cache, DefaultLifecycle as Lifecycle},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::rows;

/// What a row is believed to cost in memory beyond its key and value, in bytes.
const ROW_OVERHEAD_BYTES: usize = 128;
/// What a row is guessed to take, from which the first size follows.
const ROW_BYTES_GUESS: u64 = 512;
/// Room for rows, unless told otherwise, in bytes.
const BYTES_DEFAULT: u64 = 4 << 20;

/// Rows of keys' current versions.
pub(super) struct Recent(Mutex<Rows>);

type Rows = Cache<Bytes, Bytes, RowBytes, BuildHasherDefault<RowHasher>, Lifecycle<Bytes, Bytes>>;

impl Recent {
    /// Has room for about so many bytes.
    pub(super) fn new(bytes_max: u64) -> Self {
        let (guess, hasher) = (bytes_max / ROW_BYTES_GUESS, BuildHasherDefault::default());
        let guess = usize::try_from(guess).unwrap_or(usize::MAX);
        Self(Mutex::new(Rows::with(guess, bytes_max, RowBytes, hasher, Lifecycle::default())))
    }

    /// Another one with as much room, and nothing in it.
    pub(super) fn emptied(&self) -> Self {
        Self::new(self.0.lock().capacity())
    }

    pub(super) fn get(&self, row: &Bytes) -> Option<Bytes> {
        if Self::is_kept(row) { self.0.lock().get(row).cloned() } else { None }
    }

    /// Notes what the table has.
    pub(super) fn found(&self, row: &Bytes, value: &Bytes) {
        if Self::is_kept(row) {
            self.0.lock().insert(row.clone(), value.clone());
        }
    }

    /// Notes what an entry changes.
    pub(super) fn changed<'a>(&self, changes: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>) {
        let mut rows = self.0.lock();
        for (row, value) in changes.filter(|(row, _)| Self::is_kept(row)) {
            match value {
                Some(value) => rows.insert(row.clone(), value.clone()),
                None => drop(rows.remove(row)),
            }
        }
    }

    fn is_kept(row: &Bytes) -> bool {
        row.first() == Some(&rows::LATEST)
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(BYTES_DEFAULT)
    }
}

impl std::fmt::Debug for Recent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}

/// Weighs rows by the memory that they take.
#[derive(Clone)]
struct RowBytes;

impl Weighter<Bytes, Bytes> for RowBytes {
    fn weight(&self, row: &Bytes, value: &Bytes) -> u64 {
        let bytes = row.len().saturating_add(value.len()).saturating_add(ROW_OVERHEAD_BYTES);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// The same on every replica: nothing here is left to chance.
#[derive(Default)]
struct RowHasher(u64);

impl Hasher for RowHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64) -> Bytes {
        rows::latest(&number.to_be_bytes())
    }

    #[test]
    fn what_was_found_or_changed_is_there_and_what_was_removed_is_not() {
        let recent = Recent::default();
        let value = Bytes::from_static(b"value");
        recent.found(&row(1), &value);
        recent.changed([(&row(2), &Some(value.clone())), (&row(1), &None)].into_iter());
        assert_eq!(recent.get(&row(1)), None);
        assert_eq!(recent.get(&row(2)), Some(value));
    }

    #[test]
    fn rows_of_other_families_are_never_there() {
        let recent = Recent::default();
        let other = rows::history(b"key", kvd_types::Revision(1));
        recent.found(&other, &Bytes::new());
        recent.changed([(&other, &Some(Bytes::new()))].into_iter());
        assert_eq!(recent.get(&other), None);
    }

    #[test]
    fn it_keeps_to_its_bound() {
        let recent = Recent::new(1 << 20);
        let value = Bytes::from(vec![0; 1000]);
        for number in 0..10_000 {
            recent.found(&row(number), &value);
        }
        let there = (0..10_000).filter(|&number| recent.get(&row(number)).is_some()).count();
        assert!((100..1000).contains(&there), "{there}");
    }
}
