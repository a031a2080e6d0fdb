//! Reading what has changed, in order: for watchers that were away, or are slow.
//!
//! # The problem
//! A watcher asks for all changes of its keys after a revision. What it is interested in may be little of what has changed,
//! and what a change put may have been replaced since; and however much there is, one answer must be small and soon.
//!
//! # The approach
//! The rows of changes are read in order. Of those within the range the versions are looked up: one is its key's current
//! version or one that was replaced, and is there for as long as the change that replaced it. If one is missing, then because
//! it was forgotten meanwhile, and the whole answer is that it was.
//!
//! # Invariants
//! - All changes at one revision are in one answer.
//! - An answer says up to which revision it is complete, whether or not it has a change of that revision: who goes on from
//!   there misses nothing and gets nothing twice.
//!
//! # What it deliberately does not do
//! It doesn't wait for changes.

use std::ops::Bound;

use kvd_types::{
    Event, Key, Record, Revision,
    limits::{CHANGES_MAX, SCAN_BYTES_MAX},
    operation::{Changes, ChangesPage},
};

use super::{
    history::{Change, parse_changes},
    reader::{AsOf, ShardReader},
    record,
};
use crate::{Error, rows};

/// Rows of changes that are read at once.
const ROWS_AT_ONCE: usize = 16;
/// Bytes of them.
const BYTES_AT_ONCE: usize = 1 << 20;
/// Changes that are looked at for one answer, whether or not they are of interest. The last revision's may be more.
const LOOKED_AT_MAX: usize = 16 * CHANGES_MAX;

/// An answer that is being put together.
struct Answer<'a> {
    reader: &'a ShardReader,
    asked: &'a ChangesPage,
    limit: usize,
    bytes: usize,
    looked_at: usize,
    found: Changes,
}

impl ShardReader {
    /// What has changed after a revision, if all of it is still known: the first changes of the keys within the bounds, about
    /// as many as asked for and [`CHANGES_MAX`] at most, and about [`SCAN_BYTES_MAX`] bytes, but all of one revision together.
    /// There may be none although there is more to look at. Does not wait for any.
    ///
    /// # Errors
    /// The table can't be read, or a row is corrupt.
    pub fn events(&self, asked: &ChangesPage) -> Result<AsOf<Changes>, Error> {
        // Before the rows are read: an entry's rows are there before its last revision is told.
        let last = self.stats().last_revision;
        let limit = if asked.limit == 0 { CHANGES_MAX } else { asked.limit.min(CHANGES_MAX) };
        let found = Changes { upto: asked.after, ..Changes::default() };
        let mut answer = Answer { reader: self, asked, limit, bytes: 0, looked_at: 0, found };
        let missing = answer.fill()?;
        let mut found = answer.found;
        if !found.more {
            found.upto = found.upto.max(last);
        }
        match (self.unless_compacted(asked.after, found)?, missing) {
            (AsOf::Known(_), Some(missing)) => Err(missing),
            (found, _) => Ok(found),
        }
    }

    /// The version of a key that a write at exactly this revision made; none: it has been forgotten.
    fn version(&self, key: &Key, revision: Revision) -> Result<Option<Record>, Error> {
        // A version that is replaced meanwhile moves from the first row to the second.
        if let Some(current) = self.get(key)?.filter(|record| record.revision == revision) {
            return Ok(Some(current));
        }
        let row = rows::history(key.as_bytes(), revision);
        let Some(value) = self.table().get(&row)? else { return Ok(None) };
        record::decode_replaced(&row, &value).map(|(record, _)| Some(record))
    }
}

impl Answer<'_> {
    /// Reads changes until there are no more, or enough. Stops at a change whose version is not there: that is an error if
    /// it has not been forgotten.
    fn fill(&mut self) -> Result<Option<Error>, Error> {
        let mut from = Bound::Included(rows::changes(self.asked.after.next()));
        let end = rows::changes_end();
        loop {
            let bounds = (from.as_ref().map(AsRef::as_ref), Bound::Excluded(end.as_ref()));
            let page = self.reader.table().scan(bounds.0, bounds.1, ROWS_AT_ONCE, BYTES_AT_ONCE)?;
            let Some((last, _)) = page.last() else { return Ok(None) };
            from = Bound::Excluded(last.clone());
            for (row, value) in &page {
                let changes = parse_changes(row, value)?;
                for of_one_revision in changes.chunk_by(|one, next| one.revision == next.revision) {
                    if of_one_revision.first().is_none_or(|change| change.revision <= self.asked.after) {
                        continue;
                    }
                    let Some(is_taken) = self.take(of_one_revision)? else {
                        return Ok(Some(Error::corrupt(row, "a version that it tells of is missing")));
                    };
                    if !is_taken {
                        self.found.more = true;
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Takes the changes at one revision; false: there are enough without them. None: a version is missing.
    fn take(&mut self, changes: &[Change]) -> Result<Option<bool>, Error> {
        if self.found.events.len() >= self.limit || self.looked_at >= LOOKED_AT_MAX {
            return Ok(Some(false));
        }
        let mut events = Vec::new();
        let mut bytes = 0_usize;
        for change in changes.iter().filter(|change| self.is_of_interest(&change.key)) {
            let Some(event) = self.event(change)? else { return Ok(None) };
            bytes = bytes.saturating_add(size_bytes(&event));
            events.push(event);
        }
        if !self.found.events.is_empty() && self.bytes.saturating_add(bytes) > SCAN_BYTES_MAX {
            return Ok(Some(false));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.looked_at = self.looked_at.saturating_add(changes.len());
        self.found.events.append(&mut events);
        if let Some(change) = changes.last() {
            self.found.upto = change.revision;
        }
        Ok(Some(true))
    }

    fn is_of_interest(&self, key: &Key) -> bool {
        let (start, end) = (&self.asked.start, &self.asked.end);
        key.as_bytes() >= start.as_ref() && (end.is_empty() || key.as_bytes() < end.as_ref())
    }

    fn event(&self, change: &Change) -> Result<Option<Event>, Error> {
        let version = |at: Option<Revision>| match at {
            Some(at) => Ok::<_, Error>(self.reader.version(&change.key, at)?.map(Some)),
            None => Ok(Some(None)),
        };
        let Some(record) = version(Some(change.revision).filter(|_| !change.deleted))? else {
            return Ok(None);
        };
        let Some(previous) = version(change.previous.filter(|_| self.asked.want_previous))? else {
            return Ok(None);
        };
        let (key, revision) = (change.key.clone(), change.revision);
        Ok(Some(Event { key, revision, record, previous }))
    }
}

/// Bytes of the keys and values in an event.
fn size_bytes(event: &Event) -> usize {
    let values =
        [&event.record, &event.previous].map(|record| record.as_ref().map_or(0, |record| record.value.len()));
    values.iter().fold(event.key.as_bytes().len(), |sum, bytes| sum.saturating_add(*bytes))
}
