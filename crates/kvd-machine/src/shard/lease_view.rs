//! Reading leases: for those who ask, and for whoever tells the other shards of their end.

use std::ops::Bound;

use bytes::Bytes;
use kvd_types::{Key, LeaseId, ShardId};

use super::{
    leases::{LeaseRow, decode},
    reader::ShardReader,
};
use crate::{Error, rows};

/// Bytes of rows that are read at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// A lease, as its home knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Its id.
    pub id: LeaseId,
    /// How long it lasts after a keep-alive, in milliseconds.
    pub ttl_ms: u64,
    /// How long it lasts still, in milliseconds; zero: it ends.
    pub remaining_ms: u64,
    /// The shards that may have keys of it.
    pub shards: Vec<ShardId>,
}

impl ShardReader {
    /// A lease whose home this shard is.
    ///
    /// # Errors
    /// The table can't be read, or a row is corrupt.
    pub fn lease(&self, id: LeaseId) -> Result<Option<LeaseView>, Error> {
        let row = rows::lease(id);
        let Some(value) = self.table().get(&row)? else { return Ok(None) };
        self.view(id, &row, value).map(Some)
    }

    /// The first leases from an id on whose home this shard is.
    ///
    /// # Errors
    /// The table can't be read, or a row is corrupt.
    pub fn leases(&self, from: LeaseId, limit: usize) -> Result<Vec<LeaseView>, Error> {
        let (start, end) = (rows::lease(from), [rows::LEASES + 1]);
        let found =
            self.table().scan(Bound::Included(&start), Bound::Excluded(&end), limit, READ_BYTES_MAX)?;
        found
            .into_iter()
            .map(|(row, value)| self.view(rows::parse_lease(&row, rows::LEASES)?, &row, value))
            .collect()
    }

    /// The first leases that end: their shards have to be told.
    ///
    /// # Errors
    /// The table can't be read, or a row is corrupt.
    pub fn ending_leases(&self, limit: usize) -> Result<Vec<LeaseView>, Error> {
        let (start, end) = ([rows::ENDING], [rows::ENDING + 1]);
        let found =
            self.table().scan(Bound::Included(&start), Bound::Excluded(&end), limit, READ_BYTES_MAX)?;
        let ids = found.into_iter().map(|(row, _)| rows::parse_lease(&row, rows::ENDING));
        // One that has let the last shard go meanwhile is no more.
        ids.filter_map(|id| id.and_then(|id| self.lease(id)).transpose()).collect()
    }

    /// The first keys of this shard that are attached to a lease, after a key.
    ///
    /// # Errors
    /// The table can't be read, or a row is corrupt.
    pub fn lease_keys(&self, id: LeaseId, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        let start = rows::lease_key(id, after.map_or(b"", |key| key.as_bytes()));
        let start = if after.is_some() { Bound::Excluded(start) } else { Bound::Included(start) };
        let end = rows::lease_keys_end(id);
        let found = self.table().scan(
            start.as_ref().map(AsRef::as_ref),
            Bound::Excluded(&end),
            limit,
            READ_BYTES_MAX,
        )?;
        found.into_iter().map(|(row, _)| rows::parse_lease_key(&row)).collect()
    }

    fn view(&self, id: LeaseId, row: &[u8], value: Bytes) -> Result<LeaseView, Error> {
        let lease: LeaseRow = decode(row, value)?;
        let remaining_ms = lease.expires_at_age_ms.saturating_sub(self.stats().age_ms);
        Ok(LeaseView {
            id,
            ttl_ms: lease.ttl_ms,
            remaining_ms: if lease.ends { 0 } else { remaining_ms },
            shards: lease.shards.into_iter().map(ShardId).collect(),
        })
    }
}
