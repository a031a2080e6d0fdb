//! Reads of a shard, from any thread, while entries are applied.
//!
//! A read sees whole entries: the table takes an entry's rows at once. Whether what it sees is recent enough is decided
//! before, by whoever knows the group's commit index.

use std::{ops::Bound, sync::Arc};

use kvd_storage::table::Table;
use kvd_types::{
    Key, Record, Revision,
    limits::{SCAN_BYTES_MAX, SCAN_ROWS_MAX},
};
use parking_lot::Mutex;

use super::record;
use crate::{Error, rows};

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
    /// The digest of the keys' rows.
    pub digest: u64,
}

/// Rows of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys and their versions, in key order.
    pub rows: Vec<(Key, Record)>,
    /// There are more keys in the range.
    pub more: bool,
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

    /// The first keys of a range, in order: at most `limit_rows` and [`SCAN_ROWS_MAX`], and about `limit_bytes` and
    /// [`SCAN_BYTES_MAX`] at most, but one row at least. Bounds are keys' bytes; the next page starts after the last
    /// key of this one. A page is of one moment, two pages are of two.
    ///
    /// # Errors
    /// The table can't be read, or a row is corrupt.
    pub fn scan(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        limit_rows: usize,
        limit_bytes: usize,
    ) -> Result<Page, Error> {
        let start = match start {
            Bound::Unbounded => Bound::Included(rows::latest(b"")),
            bound => bound.map(rows::latest),
        };
        let end = match end {
            Bound::Unbounded => Bound::Excluded(rows::latest_end()),
            bound => bound.map(rows::latest),
        };
        let limit_rows = limit_rows.clamp(1, SCAN_ROWS_MAX);
        let limit_bytes = limit_bytes.clamp(1, SCAN_BYTES_MAX);
        let mut found = self.table.scan(as_slice(&start), as_slice(&end), limit_rows + 1, limit_bytes)?;
        // Either a row too many was found, or the page is short because of its bytes or at the end of the range.
        let more = found.len() > limit_rows
            || match found.last() {
                Some((last, _)) => !self.table.scan(Bound::Excluded(last), as_slice(&end), 1, 1)?.is_empty(),
                None => false,
            };
        found.truncate(limit_rows);
        let rows = found
            .iter()
            .map(|(row, bytes)| Ok((rows::latest_key(row)?, record::decode(row, bytes)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(Page { rows, more })
    }

    /// The shard's counters.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        *self.published.lock()
    }
}

fn as_slice(bound: &Bound<bytes::Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(AsRef::as_ref)
}
