//! What one entry changes, before it goes to the table all at once.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use kvd_storage::table::Table;

use super::{ahead::ReadAhead, history::Change, recent::Recent};
use crate::Error;

/// Bytes of rows that are read at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// The rows that an entry has changed so far, over those of the table.
#[derive(Debug)]
pub(super) struct Pending {
    table: Arc<Table>,
    recent: Arc<Recent>,
    ahead: ReadAhead,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    /// The changes of keys, in their order, that have no row yet.
    pub(super) changes: Vec<Change>,
}

impl Pending {
    pub(super) const fn new(table: Arc<Table>, recent: Arc<Recent>, ahead: ReadAhead) -> Self {
        Self { table, recent, ahead, rows: BTreeMap::new(), changes: Vec::new() }
    }

    /// Gives a row a new value, or removes it.
    pub(super) fn set(&mut self, row: Bytes, value: Option<Bytes>) {
        self.rows.insert(row, value);
    }

    /// A row as the commands before in this entry have left it.
    pub(super) fn get(&self, row: &Bytes) -> Result<Option<Bytes>, Error> {
        if let Some(changed) = self.rows.get(row) {
            return Ok(changed.clone());
        }
        if let Some(known) = self.recent.get(row) {
            return Ok(Some(known));
        }
        let found = match self.ahead.get(row) {
            Some(read) => read.cloned(),
            None => self.table.get(row)?,
        };
        if let Some(value) = &found {
            self.recent.found(row, value);
        }
        Ok(found)
    }

    /// The first rows from one on and before another, as the commands before have left them; and whether there are more.
    pub(super) fn first(
        &self,
        start: &Bytes,
        end: &Bytes,
        limit: usize,
    ) -> Result<(Vec<(Bytes, Bytes)>, bool), Error> {
        let mut found = Vec::new();
        let mut from = Bound::Included(start.clone());
        while from.as_ref().map(|from| from < end) != Bound::Included(false) {
            let bounds = (from.as_ref().map(AsRef::as_ref), Bound::Excluded(end.as_ref()));
            let stored = self.table.scan(bounds.0, bounds.1, limit.saturating_add(1), READ_BYTES_MAX)?;
            let last = stored.last().map(|(row, _)| row.clone());
            let upto = last
                .as_ref()
                .map_or_else(|| Bound::Excluded(end.clone()), |last| Bound::Included(last.clone()));
            let mut rows: BTreeMap<Bytes, Option<Bytes>> =
                stored.into_iter().map(|(row, value)| (row, Some(value))).collect();
            rows.extend(self.rows.range((from, upto)).map(|(row, value)| (row.clone(), value.clone())));
            for (row, value) in rows {
                let Some(value) = value else { continue };
                if found.len() >= limit {
                    return Ok((found, true));
                }
                found.push((row, value));
            }
            let Some(last) = last else { break };
            from = Bound::Excluded(last);
        }
        Ok((found, false))
    }

    /// All rows that have changed, to go to the table before anything else is asked for.
    pub(super) fn into_rows(self) -> BTreeMap<Bytes, Option<Bytes>> {
        self.recent.changed(self.rows.iter());
        self.rows
    }
}
