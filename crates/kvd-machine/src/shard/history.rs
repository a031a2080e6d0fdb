//! What a shard's keys were: the versions that were replaced or deleted, and the changes in their order.
//!
//! # The problem
//! A scan over many shards reads them one after the other, yet must show one moment; a watcher that was away for a minute
//! must be told all that it missed; and neither may hold up a write, nor make the store keep everything for ever.
//!
//! # The approach
//! A write moves the version that it replaces from its row to one of its own, which says *until* when it was current; and
//! it notes itself as a *change*. A version was current at a revision R if R lies in `[revision, until)`: so a read as of R
//! needs one row, and a deletion leaves no tombstone to be skipped. Changes are in order, so they tell a watcher what
//! happened since, and they are the order in which history is forgotten: with the change at R goes the version that it
//! replaced. The changes of one entry share a row, so that a write costs no row more than it must.
//!
//! What may be forgotten is decided by the leader, as a revision in the entry: [`Proposal::compacted`]. From then on reads
//! below it are refused, on every replica alike, and each entry removes a few rows until none is left. An entry's share is
//! bounded, so nothing stalls however much there is to forget.
//!
//! # Invariants
//! - For each R >= [`History::compacted`] up to the last revision: the rows tell every key's version as of R, and every
//!   change after R.
//! - A replaced version is there exactly as long as the change that replaced it.
//! - All changes at one revision are in one row.
//!
//! # What it deliberately does not do
//! It doesn't know how long history is wanted: no clock. It doesn't keep more than the leader allows, however many read it.
//!
//! [`Proposal::compacted`]: kvd_types::Proposal::compacted

use std::{collections::VecDeque, ops::Bound};

use bytes::Bytes;
use kvd_storage::table::Table;
use kvd_types::{Key, Revision};
use prost::Message;

use super::{pending::Pending, record};
use crate::{Error, digest::row_hash, rows};

/// Changes that an entry may forget that makes none; one row more, if that is where it stops.
const FORGOTTEN_PER_ENTRY: usize = 512;
/// Changes that it may forget for each that it makes: more than one, so that history shrinks under any load. And hardly more,
/// as forgetting one is as much work for an engine as making it…
const FORGOTTEN_PER_CHANGE: usize = 2;
/// …but so many at least.
const FORGOTTEN_MIN: usize = 16;
/// Rows of changes, and bytes of them, that are read for that at once.
const ROWS_AT_ONCE: usize = 128;
const BYTES_AT_ONCE: usize = 256 << 10;
/// A row of changes is full with so many…
const CHANGES_PER_ROW: usize = 256;
/// …or so many bytes of their keys. Those at one revision stay together.
const KEY_BYTES_PER_ROW: usize = 64 << 10;

/// Some changes, in order. Persisted, keep stable.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ChangesRow {
    #[prost(message, repeated, tag = "1")]
    changes: Vec<ChangeRow>,
}

/// A change. Persisted, keep stable.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ChangeRow {
    /// Its revision.
    #[prost(fixed64, tag = "1")]
    revision: u64,
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
    /// The key was deleted, or lapsed.
    #[prost(bool, tag = "3")]
    deleted: bool,
    /// The revision of the version that was replaced; none: the key did not exist.
    #[prost(fixed64, optional, tag = "4")]
    previous: Option<u64>,
    /// The hash of the replaced version's row, so that it can be forgotten without being read.
    #[prost(fixed64, tag = "5")]
    previous_hash: u64,
    /// Bytes of that row, key and value.
    #[prost(uint64, tag = "6")]
    previous_bytes: u64,
}

/// What a write did to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Its revision.
    pub(crate) revision: Revision,
    /// The key.
    pub(crate) key: Key,
    /// Whether the key is gone; else it has a new version, of that revision.
    pub(crate) deleted: bool,
    /// The revision of the version that was replaced; none: the key did not exist.
    pub(crate) previous: Option<Revision>,
    /// The hash of that version's row.
    pub(crate) previous_hash: u64,
    previous_bytes: u64,
}

/// A shard's history, but for the rows themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    /// Reads at revisions below are refused.
    pub(super) compacted: Revision,
    /// All changes up to here have been removed.
    pub(super) forgotten: Revision,
    /// The sum of the hashes of all its rows.
    pub(super) digest: u64,
    /// Bytes of all its rows, keys and values.
    pub(super) bytes: u64,
}

/// The version that a write replaces.
#[derive(Clone, Copy)]
pub(super) struct Replaced<'a> {
    pub(super) revision: Revision,
    /// The value of its row.
    pub(super) row: &'a Bytes,
}

impl History {
    /// Notes a write at a revision: `deleted`, or put.
    pub(super) fn note(
        &mut self,
        pending: &mut Pending,
        key: &Key,
        at: Revision,
        replaced: Option<Replaced<'_>>,
        deleted: bool,
    ) {
        let mut change = Change {
            revision: at,
            key: key.clone(),
            deleted,
            previous: replaced.map(|replaced| replaced.revision),
            previous_hash: 0,
            previous_bytes: 0,
        };
        if let Some(Replaced { revision, row }) = replaced {
            let (row, value) = (rows::history(key.as_bytes(), revision), record::replaced(row, at));
            change.previous_hash = row_hash(&row, &value);
            change.previous_bytes = size_bytes(&row, &value);
            self.add(change.previous_hash, change.previous_bytes);
            pending.set(row, Some(value));
        }
        pending.changes.push(change);
    }

    /// Writes the rows of an entry's changes, once it has made all of them.
    pub(super) fn write_changes(&mut self, pending: &mut Pending) {
        let mut row = ChangesRow::default();
        let mut key_bytes = 0;
        let mut changes = std::mem::take(&mut pending.changes).into_iter().peekable();
        while let Some(change) = changes.next() {
            let revision = change.revision;
            key_bytes += change.key.as_bytes().len();
            row.changes.push(change.into());
            let is_full = row.changes.len() >= CHANGES_PER_ROW || key_bytes >= KEY_BYTES_PER_ROW;
            let goes_on = changes.peek().is_some_and(|next| !is_full || next.revision == revision);
            if !goes_on {
                let full = std::mem::take(&mut row);
                key_bytes = 0;
                let (row, value) = (rows::changes(revision), Bytes::from(full.encode_to_vec()));
                self.add(row_hash(&row, &value), size_bytes(&row, &value));
                pending.set(row, Some(value));
            }
        }
    }

    /// Lets everything before a revision be forgotten. Says whether that is news.
    pub(super) fn compact(&mut self, upto: Revision) -> bool {
        let is_news = upto > self.compacted;
        self.compacted = self.compacted.max(upto);
        is_news
    }

    /// Forgets some of what may be forgotten: the share of an entry that has made so many changes. `next` are rows of changes
    /// that were read for an entry before and are next to be forgotten; what is read and not needed yet is left there.
    pub(super) fn forget(
        &mut self,
        table: &Table,
        next: &mut VecDeque<(Bytes, Bytes)>,
        pending: &mut Pending,
        changes_made: usize,
    ) -> Result<(), Error> {
        let most = match changes_made {
            0 => FORGOTTEN_PER_ENTRY,
            made => made.saturating_mul(FORGOTTEN_PER_CHANGE).max(FORGOTTEN_MIN),
        };
        let mut forgotten = 0_usize;
        while forgotten < most && self.forgotten < self.compacted {
            if next.is_empty() {
                let start = rows::changes(self.forgotten.next());
                let end = rows::changes(self.compacted.next());
                let bounds = (Bound::Included(start.as_ref()), Bound::Excluded(end.as_ref()));
                next.extend(table.scan(bounds.0, bounds.1, ROWS_AT_ONCE, BYTES_AT_ONCE)?);
            }
            match next.pop_front() {
                Some((row, value)) => {
                    forgotten = forgotten.saturating_add(self.forget_row(row, &value, pending)?);
                }
                None => self.forgotten = self.compacted,
            }
        }
        Ok(())
    }

    /// Forgets a row of changes; says how many there were.
    fn forget_row(&mut self, row: Bytes, value: &Bytes, pending: &mut Pending) -> Result<usize, Error> {
        let changes = parse_changes(&row, value)?;
        for change in &changes {
            if let Some(previous) = change.previous {
                self.remove(change.previous_hash, change.previous_bytes);
                pending.set(rows::history(change.key.as_bytes(), previous), None);
            }
        }
        self.forgotten = rows::parse_changes(&row)?;
        self.remove(row_hash(&row, value), size_bytes(&row, value));
        pending.set(row, None);
        Ok(changes.len())
    }

    const fn add(&mut self, hash: u64, bytes: u64) {
        self.digest = self.digest.wrapping_add(hash);
        self.bytes = self.bytes.wrapping_add(bytes);
    }

    const fn remove(&mut self, hash: u64, bytes: u64) {
        self.digest = self.digest.wrapping_sub(hash);
        self.bytes = self.bytes.wrapping_sub(bytes);
    }
}

impl From<Change> for ChangeRow {
    fn from(change: Change) -> Self {
        Self {
            revision: change.revision.get(),
            key: change.key.into_bytes(),
            deleted: change.deleted,
            previous: change.previous.map(Revision::get),
            previous_hash: change.previous_hash,
            previous_bytes: change.previous_bytes,
        }
    }
}

/// The changes in a row, in order.
pub(crate) fn parse_changes(row: &Bytes, value: &Bytes) -> Result<Vec<Change>, Error> {
    let decoded = ChangesRow::decode(value.clone()).map_err(|error| Error::corrupt(row, error))?;
    let changes = decoded.changes.into_iter().map(|change| {
        Ok(Change {
            revision: Revision(change.revision),
            key: Key::new(change.key).map_err(|error| Error::corrupt(row, error))?,
            deleted: change.deleted,
            previous: change.previous.map(Revision),
            previous_hash: change.previous_hash,
            previous_bytes: change.previous_bytes,
        })
    });
    let changes = changes.collect::<Result<Vec<_>, Error>>()?;
    let last = rows::parse_changes(row)?;
    let in_order = changes.windows(2).all(|pair| matches!(pair, [a, b] if a.revision <= b.revision));
    if !in_order || changes.last().map(|change| change.revision) != Some(last) {
        return Err(Error::corrupt(row, "its changes are not those that its key tells of"));
    }
    Ok(changes)
}

fn size_bytes(row: &[u8], value: &[u8]) -> u64 {
    u64::try_from(row.len().saturating_add(value.len())).unwrap_or(u64::MAX)
}
