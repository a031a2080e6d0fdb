//! Reads of a shard, from any thread, while entries are applied.
//!
//! A read sees whole entries: the table takes an entry's rows at once. Whether what it sees is recent enough is decided
//! before, by whoever knows the group's commit index.

use std::{ops::Bound, sync::Arc};

use kvd_storage::table::Table;
use kvd_types::{Key, Record, Revision};
use parking_lot::Mutex;

use super::record;
use crate::{Error, books, rows};

/// A handle that reads a shard's keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShardReader {
    table: Arc<Table>,
    published: Arc<Mutex<ShardStats>>,
}

/// A shard's counters, all as of one applied entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// How many keys there are.
    pub keys: u64,
    /// Bytes of the keys and their values, without metadata.
    pub bytes: u64,
    /// How many sessions are remembered.
    pub sessions: usize,
    /// The last revision given. If it is ahead of the node's clock, some leader's clock was.
    pub last_revision: Revision,
    /// Readers may be shown any revision up to this.
    pub ceiling: Revision,
    /// Reads at revisions below are refused.
    pub compacted: Revision,
    /// Rows that only such reads could see are still to be removed.
    pub is_forgetting: bool,
    /// Bytes of the versions that were replaced, and of the changes.
    pub history_bytes: u64,
    /// How long the shard has been led, in milliseconds.
    pub age_ms: u64,
    /// The age at which something is due, if anything ever is.
    pub next_due_ms: Option<u64>,
    /// How many leases have their home here.
    pub leases: u64,
    /// How many of them end: their shards have to be told.
    pub leases_ending: u64,
    /// The digest of the rows of keys, of their history and of leases.
    pub digest: u64,
}

/// What a read as of a revision comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsOf<T> {
    /// What was there.
    Known(T),
    /// It may have been forgotten; reads at this revision and later ones are answered.
    Compacted {
        /// The oldest revision that can be read.
        oldest: Revision,
    },
}

impl ShardReader {
    pub(super) const fn new(table: Arc<Table>, published: Arc<Mutex<ShardStats>>) -> Self {
        Self { table, published }
    }

    /// A key's current version.
    ///
    /// # Errors
    /// The table can't be read, or the row is corrupt.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, Error> {
        let row = rows::latest(key.as_bytes());
        self.table.get(&row)?.map(|bytes| record::decode(&row, &bytes)).transpose()
    }

    /// A key's version as of a revision. All that gets a revision up to that must have been applied before.
    ///
    /// # Errors
    /// The table can't be read, or a row is corrupt.
    pub fn get_as_of(&self, key: &Key, at: Revision) -> Result<AsOf<Option<Record>>, Error> {
        // A version that is replaced meanwhile moves from the first row to the second, so this order misses none.
        let found = match self.get(key)?.filter(|record| record.revision <= at) {
            Some(current) => Some(current),
            None => self.replaced_as_of(key, at)?,
        };
        self.unless_compacted(at, found)
    }

    /// The version of a key that was current at a revision, among those that were replaced.
    pub(super) fn replaced_as_of(&self, key: &Key, at: Revision) -> Result<Option<Record>, Error> {
        let start = rows::history(key.as_bytes(), at);
        let end = rows::history_end(key.as_bytes());
        let found = self.table.scan(Bound::Included(&start), Bound::Excluded(&end), 1, 1)?;
        let Some((row, bytes)) = found.first() else { return Ok(None) };
        let (record, until) = record::decode_replaced(row, bytes)?;
        Ok(Some(record).filter(|_| until > at))
    }

    /// What was read, if nothing of it had been forgotten by then: the bound is raised before anything is. Rows that have just
    /// been installed may have forgotten more than the machine knows of yet; their books say it.
    pub(super) fn unless_compacted<T>(&self, at: Revision, found: T) -> Result<AsOf<T>, Error> {
        let oldest = books::compacted(&self.table)?.max(self.stats().compacted);
        Ok(if at < oldest { AsOf::Compacted { oldest } } else { AsOf::Known(found) })
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// The shard's counters.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        *self.published.lock()
    }
}
