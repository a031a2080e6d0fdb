//! What both machines keep beside their data: whose rows they are, how far the log is applied, and the header.
//!
//! All of it changes with each entry, so it lives in memory and is written once per generation of the table.

use bytes::Bytes;
use kvd_storage::table::Table;
use kvd_types::{GroupId, LogIndex, Revision, Term};
use prost::Message;

use crate::{
    Error,
    rows::{self, FORMAT},
};

/// Changes of rows: a new value, or `None` for a row that goes.
pub(crate) type RowChanges = Vec<(Bytes, Option<Bytes>)>;

/// Where an entry stands in its group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its index.
    pub index: LogIndex,
    /// The term in which it was proposed.
    pub term: Term,
}

/// The bookkeeping row. Persisted, keep stable.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BooksRow {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint32, tag = "2")]
    group: u32,
    #[prost(message, optional, tag = "3")]
    applied: Option<PositionRow>,
    #[prost(message, optional, tag = "4")]
    shard: Option<ShardRow>,
}

/// The applied position, in the bookkeeping row.
#[derive(Clone, Copy, PartialEq, Message)]
struct PositionRow {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
}

/// A shard's counters, in the bookkeeping row.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ShardRow {
    /// The last revision given.
    #[prost(fixed64, tag = "1")]
    pub(crate) last_revision: u64,
    /// The last session id minted.
    #[prost(fixed64, tag = "2")]
    pub(crate) last_session: u64,
    /// The sessions' time, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub(crate) session_time_ms: u64,
    /// The clock of the last entry, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "4")]
    pub(crate) clock_seen_ms: u64,
    /// The sum of the latest rows' hashes.
    #[prost(fixed64, tag = "5")]
    pub(crate) digest: u64,
    /// How many keys there are.
    #[prost(uint64, tag = "6")]
    pub(crate) keys: u64,
    /// Bytes of the keys and their values.
    #[prost(uint64, tag = "7")]
    pub(crate) bytes: u64,
    /// Reads at revisions below are refused.
    #[prost(fixed64, tag = "8")]
    pub(crate) compacted: u64,
    /// All changes up to here have been removed.
    #[prost(fixed64, tag = "9")]
    pub(crate) forgotten: u64,
    /// The sum of the hashes of the rows of changes and replaced versions.
    #[prost(fixed64, tag = "10")]
    pub(crate) history_digest: u64,
    /// Bytes of those rows.
    #[prost(uint64, tag = "11")]
    pub(crate) history_bytes: u64,
    /// Readers may have been shown any revision up to this.
    #[prost(fixed64, tag = "12")]
    pub(crate) ceiling: u64,
    /// How long the shard has been led, in milliseconds.
    #[prost(uint64, tag = "13")]
    pub(crate) age_ms: u64,
    /// How many leases have their home here.
    #[prost(uint64, tag = "14")]
    pub(crate) leases: u64,
    /// How many of them end.
    #[prost(uint64, tag = "15")]
    pub(crate) leases_ending: u64,
    /// The sum of the hashes of the rows of leases.
    #[prost(fixed64, tag = "16")]
    pub(crate) leases_digest: u64,
}

/// The revision below which a shard's table can't be read, as far as its rows tell; see [`ShardRow::compacted`].
pub(crate) fn compacted(table: &Table) -> Result<Revision, Error> {
    let Some(bytes) = table.get(rows::BOOKS)? else { return Ok(Revision::ZERO) };
    let row = BooksRow::decode(bytes).map_err(|error| Error::corrupt(rows::BOOKS, error))?;
    Ok(row.shard.map_or(Revision::ZERO, |shard| Revision(shard.compacted)))
}

/// What both machines keep beside their data.
#[derive(Debug)]
pub(crate) struct Books {
    group: GroupId,
    applied: Option<Position>,
    header: Option<Bytes>,
    /// Something has changed since the row was last written.
    dirty: bool,
    header_dirty: bool,
}

impl Books {
    /// Reads the books of a table, and the shard's counters with them. An empty table has applied nothing.
    pub(crate) fn load(group: GroupId, table: &Table) -> Result<(Self, ShardRow), Error> {
        use std::ops::Bound::Unbounded;

        let header = table.get(rows::HEADER)?;
        let Some(bytes) = table.get(rows::BOOKS)? else {
            if let Some((row, _)) = table.scan(Unbounded, Unbounded, 1, 1)?.first() {
                return Err(Error::corrupt(row, "there are rows, but no bookkeeping row to say whose"));
            }
            let fresh = Self { group, applied: None, header, dirty: true, header_dirty: false };
            return Ok((fresh, ShardRow::default()));
        };
        let row = BooksRow::decode(bytes).map_err(|error| Error::corrupt(rows::BOOKS, error))?;
        if row.format == 0 {
            return Err(Error::corrupt(rows::BOOKS, "it names no format"));
        }
        if row.format != FORMAT {
            return Err(Error::FormatUnknown { found: row.format, known: FORMAT });
        }
        if row.group != group.get() {
            return Err(Error::WrongGroup { expected: group, found: GroupId(row.group) });
        }
        let applied = row.applied.map(|row| Position { index: LogIndex(row.index), term: Term(row.term) });
        let books = Self { group, applied, header, dirty: false, header_dirty: false };
        Ok((books, row.shard.unwrap_or_default()))
    }

    /// The last entry that was applied or skipped.
    pub(crate) const fn applied(&self) -> Option<Position> {
        self.applied
    }

    /// The opaque bytes that are stored with the state.
    pub(crate) const fn header(&self) -> Option<&Bytes> {
        self.header.as_ref()
    }

    /// Sets the opaque bytes that are stored with the state.
    pub(crate) fn set_header(&mut self, header: Bytes) {
        self.header = Some(header);
        self.header_dirty = true;
    }

    /// Moves the applied position to the next entry.
    pub(crate) fn advance(&mut self, entry: Position) -> Result<(), Error> {
        if let Some(applied) = self.applied
            && (entry.index <= applied.index || entry.term < applied.term)
        {
            return Err(Error::OutOfOrder { entry, applied });
        }
        self.applied = Some(entry);
        self.dirty = true;
        Ok(())
    }

    /// Appends the rows that have changed since the last call.
    pub(crate) fn take_changes(&mut self, shard: Option<ShardRow>, changes: &mut RowChanges) {
        if std::mem::take(&mut self.dirty) {
            let applied = self
                .applied
                .map(|position| PositionRow { index: position.index.get(), term: position.term.get() });
            let row = BooksRow { format: FORMAT, group: self.group.get(), applied, shard };
            changes.push((Bytes::from_static(rows::BOOKS), Some(row.encode_to_vec().into())));
        }
        if std::mem::take(&mut self.header_dirty) {
            changes.push((Bytes::from_static(rows::HEADER), self.header.clone()));
        }
    }
}
