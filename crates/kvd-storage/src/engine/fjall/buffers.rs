//! Which tree's rows go from memory to a file next. Pure: it only counts.
//!
//! Two things have a bound: the rows that all trees together hold in memory, and how far back the journal is still needed,
//! which is to where the tree begins whose rows have been in memory for longest. For the first, the tree with the most is
//! written; for the second, the oldest one, or a tree that is seldom written to would keep every journal ever since.

use std::collections::BTreeMap;

/// What the trees hold in memory alone.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    active: BTreeMap<String, Active>,
    active_bytes: u64,
    /// All that was ever noted: a place in the journal, near enough.
    written_bytes: u64,
}

#[derive(Debug)]
struct Active {
    bytes: u64,
    /// What `written_bytes` was before the first of them.
    since: u64,
}

impl Buffers {
    /// So much more is in memory for a tree.
    pub(super) fn note(&mut self, tree: &str, bytes: u64) {
        let since = self.written_bytes;
        self.written_bytes += bytes;
        self.active_bytes += bytes;
        if let Some(active) = self.active.get_mut(tree) {
            active.bytes += bytes;
        } else {
            self.active.insert(tree.to_owned(), Active { bytes, since });
        }
    }

    /// Nothing is in memory any more for a tree.
    pub(super) fn forget(&mut self, tree: &str) {
        if let Some(active) = self.active.remove(tree) {
            self.active_bytes -= active.bytes;
        }
    }

    /// The tree to be written to a file, if one must be.
    pub(super) fn next(&self, active_bytes_max: u64, journal_bytes_max: u64) -> Option<&str> {
        let oldest = self.active.iter().min_by_key(|(_, active)| active.since);
        let largest = self.active.iter().max_by_key(|(_, active)| active.bytes);
        let next = match (oldest, largest) {
            (Some(oldest), _) if self.written_bytes - oldest.1.since > journal_bytes_max => oldest,
            (_, Some(largest)) if self.active_bytes > active_bytes_max => largest,
            _ => return None,
        };
        Some(next.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_goes_for_the_room_and_the_oldest_for_the_journal() {
        let mut buffers = Buffers::default();
        assert_eq!(buffers.next(0, 0), None, "nothing is in memory");
        buffers.note("small", 10);
        buffers.note("large", 60);
        buffers.note("large", 30);
        assert_eq!(buffers.next(100, 100), None);
        assert_eq!(buffers.next(99, 100), Some("large"));
        assert_eq!(buffers.next(100, 99), Some("small"), "the journal is needed back to its rows");
        buffers.forget("small");
        buffers.forget("never there");
        assert_eq!(buffers.next(90, 90), None);
        buffers.note("small", 1);
        assert_eq!(buffers.next(91, 90), Some("large"));
        buffers.forget("large");
        assert_eq!(buffers.next(1, 1), None);
    }
}
