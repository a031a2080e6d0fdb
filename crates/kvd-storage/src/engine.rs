//! Ordered bytes with atomic batches.
//!
//! # The problem
//! A replica's applied state must be larger than what fits in a quick restart's replay, ordered for scans, and cheap
//! to change in large batches. That is an embedded engine's work; but none that was measured is trusted with the only
//! copy of anything.
//!
//! # The approach
//! Two small traits, [`Engine`] and [`Tree`], over whichever engine: [`SledEngine`] for a state that fits in memory,
//! [`FjallEngine`] for one that does not, [`MemoryEngine`] in simulations and tests. One suite of behaviour runs against
//! each of them.
//!
//! # Invariants
//! - After a crash a batch is in the tree with all its rows or with none. Who reads beside it may meet some of its rows
//!   before the others, each of them whole: [`crate::table`] shows readers all or none.
//! - What survives a crash is the effect of a prefix of all batches, over all trees, in the order in which they were
//!   applied; it includes every batch applied before the last [`Engine::flush`] that returned.
//! - A name gives the same tree always, and a tree has one writer at a time: the tree itself sees to it.
//!
//! # What is deliberately absent
//! No checksums: an engine's word is not believed anyhow, so [`crate::table`] checks each row. No scans of one moment: one that
//! runs while batches are applied shows rows from different ones, and not every engine has [`Tree::snapshot`]. No batches over
//! several trees.

use std::{cmp::Ordering, fmt, ops::Bound, sync::Arc};

use bytes::Bytes;

use crate::error::Result;

mod fjall;
mod memory;
mod opening;
mod sled;

#[cfg(test)]
mod tests;

pub use self::{
    fjall::{FjallEngine, FjallOptions},
    memory::MemoryEngine,
    sled::{SledEngine, SledOptions},
};

/// A row: its key and its value.
pub type Row = (Bytes, Bytes);

/// Rows in the order of their keys, each of which may fail to be read. Ended by the first failure.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row>> + Send + 'a>;

/// In which order rows are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// From the lowest key to the highest.
    #[default]
    Ascending,
    /// From the highest key to the lowest.
    Descending,
}

impl Direction {
    /// How two keys follow each other.
    pub(crate) fn order(self, one: &[u8], other: &[u8]) -> Ordering {
        match self {
            Self::Ascending => one.cmp(other),
            Self::Descending => other.cmp(one),
        }
    }

    /// What comes in ascending order, in this one.
    pub fn over<'a, I>(self, ascending: I) -> Box<dyn Iterator<Item = I::Item> + 'a>
    where
        I: DoubleEndedIterator + 'a,
    {
        match self {
            Self::Ascending => Box::new(ascending),
            Self::Descending => Box::new(ascending.rev()),
        }
    }
}

/// Named trees of ordered bytes.
pub trait Engine: fmt::Debug + Send + Sync {
    /// The tree of this name, made empty if there is none yet.
    ///
    /// # Errors
    /// [`crate::Error::Engine`].
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>>;

    /// The names of all trees that were ever made, ascending; an emptied tree keeps its name.
    ///
    /// # Errors
    /// [`crate::Error::Engine`].
    fn tree_names(&self) -> Result<Vec<String>>;

    /// Makes all batches that have been applied durable. Expensive: call it rarely, by volume.
    ///
    /// # Errors
    /// [`crate::Error::Fatal`]: the process must stop. Every later call fails too.
    fn flush(&self) -> Result<()>;
}

/// Rows, ordered by the bytes of their keys. Values may be empty.
pub trait Tree: fmt::Debug + Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// [`crate::Error::Engine`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// Applies all changes of a batch. Calls wait for each other, and may wait for a flush.
    ///
    /// # Errors
    /// [`crate::Error::Engine`]: nothing will be there of it after a crash. [`crate::Error::Fatal`]: a flush or a batch
    /// failed before.
    fn apply(&self, batch: Batch) -> Result<()>;

    /// The rows within the bounds, `start` being the lower one whatever the direction. Rows that batches change meanwhile
    /// may show as before or as after.
    fn scan<'a>(&'a self, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> Rows<'a>;

    /// All rows in the order of their keys, as they are now whatever is changed while they are read; none, if that is more
    /// than the engine can do.
    fn snapshot(&self) -> Option<Rows<'_>>;

    /// Whether a row may have to be fetched from the disk to be read, as more are there than are kept in memory.
    fn reads_wait(&self) -> bool;

    /// Removes all rows. Neither atomic nor one batch: after a crash some of the rows may be left.
    ///
    /// # Errors
    /// [`crate::Error::Engine`]: some of the rows may be left. [`crate::Error::Fatal`]: a flush failed before.
    fn clear(&self) -> Result<()>;
}

/// Changes that become durable together. The last change of a key counts.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    changes: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    /// A batch of no changes, with room for some.
    #[must_use]
    pub fn with_capacity(changes: usize) -> Self {
        Self { changes: Vec::with_capacity(changes) }
    }

    /// Sets a key's value.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.push((key, Some(value)));
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, key: Bytes) {
        self.changes.push((key, None));
    }

    /// How many changes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are no changes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes, in order; `None` removes.
    #[must_use]
    pub fn into_changes(self) -> Vec<(Bytes, Option<Bytes>)> {
        self.changes
    }
}

/// Whether no key can lie within the bounds. The standard library's maps panic on such a range.
pub(crate) fn is_empty_range(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    }
}

/// Whether a key lies beyond the end of a range.
pub(crate) fn is_beyond(key: &[u8], end: Bound<&[u8]>) -> bool {
    match end {
        Bound::Included(end) => key > end,
        Bound::Excluded(end) => key >= end,
        Bound::Unbounded => false,
    }
}
