//! Pages of a shard's keys, in either direction, as they are or as they were.
//!
//! # The problem
//! A scan asks for the keys of a range that a filter admits, perhaps only for how many they are, perhaps as of a revision of
//! the past; and no page of it may take long, however large the range, however little the filter admits and however often the
//! keys were replaced.
//!
//! # The approach
//! A page looks at the range in *stretches*: the next current versions, up to a bound, and then, if it is of the past, the
//! versions between the same keys that were replaced. When it has found enough or looked at enough it says where to go on,
//! even if it has found nothing.
//!
//! # Invariants
//! - **A page shows one moment.** One of current versions with their values is one scan of the table, which sees to it. Any
//!   other one is as of a revision: of the last one given, if none is asked for.
//! - **No version is missed.** Current versions are read before the replaced ones, and a version moves from there to here.
//! - A stretch ends with a key, so the next page begins with a key of which nothing was looked at.
//! - Counts of pages that follow each other, as of one revision, add up to that of the range.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use kvd_storage::engine::Direction;
use kvd_types::{
    Key, Record, Revision,
    limits::{SCAN_BYTES_MAX, SCAN_ROWS_MAX},
    operation::{Content, Filter, Page, ScanPage},
};

use super::{
    reader::{AsOf, ShardReader},
    record,
    write::after,
};
use crate::{Error, rows};

/// Rows of current versions that one stretch of a page of the past has at least: some of them may be too new.
const STRETCH_ROWS_MIN: usize = 32;

/// How much one page may look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Rows that are looked at.
    pub(crate) rows: usize,
    /// Bytes of rows that are looked at. What is read last may go beyond.
    pub(crate) bytes: usize,
    /// Rows of current versions that one stretch has.
    pub(crate) stretch_rows: usize,
    /// Rows of replaced versions that are read at once: few, because of a key's versions only one is of interest.
    pub(crate) replaced_rows: usize,
}

impl Effort {
    /// For keys to be given back.
    const READ: Self =
        Self { rows: 4 * SCAN_ROWS_MAX, bytes: 16 * SCAN_BYTES_MAX, stretch_rows: 512, replaced_rows: 128 };
    /// For keys to be counted.
    const COUNT: Self = Self { rows: 16 * SCAN_ROWS_MAX, ..Self::READ };

    fn spend(&mut self, rows: &[(Bytes, Bytes)]) {
        let bytes = rows.iter().map(|(row, value)| row.len().saturating_add(value.len())).sum();
        self.rows = self.rows.saturating_sub(rows.len());
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    const fn is_spent(self) -> bool {
        self.rows == 0 || self.bytes == 0
    }
}

/// Keys between two bounds.
#[derive(Clone, Debug)]
struct Range {
    /// The first key.
    start: Bytes,
    /// The first key beyond; empty: there is none.
    end: Bytes,
    direction: Direction,
}

impl ShardReader {
    /// A page of a scan: the keys within its bounds that its filter admits, as of the revision that it names or else as they
    /// are. All that gets a revision up to that must have been applied before. Who may serve it, and how recent it must be, is
    /// for the caller to decide.
    ///
    /// A page has as many keys as asked for and [`SCAN_ROWS_MAX`] at most (if they are only counted, 16 times as many), with
    /// about [`SCAN_BYTES_MAX`] bytes of what is given back, but one key at least if the range has any that the filter admits
    /// and that is found before the page has looked at enough. So it may be empty, and say where to go on.
    ///
    /// It is refused as compacted also if no revision is named, and all that was there when it began was forgotten meanwhile.
    ///
    /// # Errors
    /// The table can't be read, or a row is corrupt.
    pub fn page(&self, asked: &ScanPage) -> Result<AsOf<Page>, Error> {
        let effort = if asked.content == Content::CountOnly { Effort::COUNT } else { Effort::READ };
        self.page_within(asked, effort)
    }

    /// The same for so much effort at most.
    pub(crate) fn page_within(&self, asked: &ScanPage, effort: Effort) -> Result<AsOf<Page>, Error> {
        let at = match (asked.read.at, asked.content) {
            (Some(at), _) => Some(at),
            (None, Content::All) => None,
            (None, Content::KeysOnly | Content::CountOnly) => Some(self.stats().last_revision),
        };
        let found = self.look(asked, at, effort)?;
        match at {
            Some(at) => self.unless_compacted(at, found),
            None => Ok(AsOf::Known(found)),
        }
    }

    fn look(&self, asked: &ScanPage, at: Option<Revision>, mut effort: Effort) -> Result<Page, Error> {
        let mut collector = Collector::new(asked);
        let mut rest = Range::of(asked);
        let is_filtered = asked.filter != Filter::default();
        loop {
            let rows_max = match at {
                Some(_) if is_filtered => effort.stretch_rows,
                Some(_) => effort.stretch_rows.min(collector.keys_left().max(STRETCH_ROWS_MIN)),
                None if is_filtered => SCAN_ROWS_MAX,
                None => collector.keys_left(),
            };
            let (found, next) = self.stretch(&rest, at, rows_max, &mut effort)?;
            for (key, record) in rest.direction.over(found.into_iter()) {
                if !asked.filter.admits(&record) {
                    continue;
                }
                if !collector.has_room_for(&key, &record) {
                    return Ok(collector.into_page(Some(rest.position_at(&key))));
                }
                collector.take(key, record);
            }
            let Some(next) = next else { return Ok(collector.into_page(None)) };
            rest.go_on_at(next.clone());
            if at.is_none() || collector.keys_left() == 0 || effort.is_spent() {
                let is_more = self.has_rows(&rest, at)?;
                return Ok(collector.into_page(Some(next).filter(|_| is_more)));
            }
        }
    }

    /// The next keys of a range, and where to go on; none: there are no more.
    fn stretch(
        &self,
        rest: &Range,
        at: Option<Revision>,
        rows_max: usize,
        effort: &mut Effort,
    ) -> Result<(BTreeMap<Key, Record>, Option<Bytes>), Error> {
        let (start, end) = rest.latest();
        let current = self.read(rest.direction, &start, &end, rows_max)?;
        effort.spend(&current);
        let mut next = match current.last() {
            Some((row, _)) => Some(rest.position_after(&rows::latest_key(row)?)),
            None => None,
        };
        let mut found = BTreeMap::new();
        for (row, bytes) in &current {
            let record = record::decode(row, bytes)?;
            if at.is_none_or(|at| record.revision <= at) {
                found.insert(rows::latest_key(row)?, record);
            }
        }
        if let Some(at) = at {
            let within = next.as_ref().map_or_else(|| rest.clone(), |next| rest.until(next));
            if let Some(cut) = self.add_replaced(&within, at, &mut found, effort)? {
                let within = within.until(&cut);
                found.retain(|key, _| within.contains(key));
                next = Some(cut);
            }
        }
        Ok((found, next))
    }

    /// Adds the versions of a range that were replaced, and were current at a revision. Where the effort is spent before the
    /// range is done it says where to go on.
    fn add_replaced(
        &self,
        range: &Range,
        at: Revision,
        found: &mut BTreeMap<Key, Record>,
        effort: &mut Effort,
    ) -> Result<Option<Bytes>, Error> {
        let mut rest = range.clone();
        loop {
            let (start, end) = rest.history();
            let replaced = self.read(rest.direction, &start, &end, effort.replaced_rows)?;
            let Some((last, _)) = replaced.last() else { return Ok(None) };
            effort.spend(&replaced);
            for (row, bytes) in &replaced {
                let (key, revision) = rows::parse_history(row)?;
                if revision > at {
                    continue;
                }
                let (record, until) = record::decode_replaced(row, bytes)?;
                if until > at {
                    found.entry(key).or_insert(record);
                }
            }
            // The last key may have more rows. One look finds the one that matters, and the next key is gone on with.
            let (last, _) = rows::parse_history(last)?;
            if !found.contains_key(&last)
                && let Some(record) = self.replaced_as_of(&last, at)?
            {
                found.insert(last.clone(), record);
            }
            let next = rest.position_after(&last);
            if effort.is_spent() {
                return Ok(Some(next));
            }
            rest.go_on_at(next);
        }
    }

    /// Whether a range has anything that the next page would look at.
    fn has_rows(&self, range: &Range, at: Option<Revision>) -> Result<bool, Error> {
        let (start, end) = range.latest();
        if !self.read(range.direction, &start, &end, 1)?.is_empty() {
            return Ok(true);
        }
        let (start, end) = range.history();
        Ok(at.is_some() && !self.read(range.direction, &start, &end, 1)?.is_empty())
    }

    fn read(
        &self,
        direction: Direction,
        start: &Bytes,
        end: &Bytes,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let bounds = (Bound::Included(start.as_ref()), Bound::Excluded(end.as_ref()));
        Ok(self.table().scan_in(direction, bounds.0, bounds.1, rows_max, SCAN_BYTES_MAX)?)
    }
}

impl Range {
    fn of(page: &ScanPage) -> Self {
        let direction = if page.descending { Direction::Descending } else { Direction::Ascending };
        Self { start: page.start.clone(), end: page.end.clone(), direction }
    }

    /// The bounds of its current versions' rows.
    fn latest(&self) -> (Bytes, Bytes) {
        let end = if self.end.is_empty() { rows::latest_end() } else { rows::latest(&self.end) };
        (rows::latest(&self.start), end)
    }

    /// The bounds of its replaced versions' rows.
    fn history(&self) -> (Bytes, Bytes) {
        let end = if self.end.is_empty() { rows::histories_end() } else { rows::history_start(&self.end) };
        (rows::history_start(&self.start), end)
    }

    fn contains(&self, key: &Key) -> bool {
        key.as_bytes() >= self.start.as_ref() && (self.end.is_empty() || key.as_bytes() < self.end.as_ref())
    }

    /// Where to go on with a key.
    fn position_at(&self, key: &Key) -> Bytes {
        match self.direction {
            Direction::Ascending => key.bytes().clone(),
            Direction::Descending => after(key),
        }
    }

    /// Where to go on after a key.
    fn position_after(&self, key: &Key) -> Bytes {
        match self.direction {
            Direction::Ascending => after(key),
            Direction::Descending => key.bytes().clone(),
        }
    }

    /// Leaves what comes before a position behind.
    fn go_on_at(&mut self, position: Bytes) {
        match self.direction {
            Direction::Ascending => self.start = position,
            Direction::Descending => self.end = position,
        }
    }

    /// What comes before a position.
    fn until(&self, position: &Bytes) -> Self {
        let mut range = self.clone();
        match self.direction {
            Direction::Ascending => range.end = position.clone(),
            Direction::Descending => range.start = position.clone(),
        }
        range
    }
}

/// A page that is being filled.
struct Collector {
    content: Content,
    keys_max: u64,
    bytes_left: usize,
    page: Page,
}

impl Collector {
    fn new(asked: &ScanPage) -> Self {
        let most = if asked.content == Content::CountOnly { Effort::COUNT.rows } else { SCAN_ROWS_MAX };
        let keys_max = if asked.limit == 0 { most } else { asked.limit.min(most) };
        Self {
            content: asked.content,
            keys_max: u64::try_from(keys_max).unwrap_or(u64::MAX),
            bytes_left: SCAN_BYTES_MAX,
            page: Page::default(),
        }
    }

    fn keys_left(&self) -> usize {
        usize::try_from(self.keys_max.saturating_sub(self.page.count)).unwrap_or(usize::MAX)
    }

    /// Bytes of what is given back of a key.
    fn size_bytes(&self, key: &Key, record: &Record) -> usize {
        match self.content {
            Content::All => key.as_bytes().len().saturating_add(record.value.len()),
            Content::KeysOnly => key.as_bytes().len(),
            Content::CountOnly => 0,
        }
    }

    fn has_room_for(&self, key: &Key, record: &Record) -> bool {
        let is_first = self.page.count == 0;
        self.keys_left() > 0 && (is_first || self.size_bytes(key, record) <= self.bytes_left)
    }

    fn take(&mut self, key: Key, mut record: Record) {
        self.bytes_left = self.bytes_left.saturating_sub(self.size_bytes(&key, &record));
        self.page.count = self.page.count.saturating_add(1);
        match self.content {
            Content::All => self.page.rows.push((key, record)),
            Content::KeysOnly => {
                record.value = Bytes::new();
                self.page.rows.push((key, record));
            }
            Content::CountOnly => {}
        }
    }

    fn into_page(self, next: Option<Bytes>) -> Page {
        Page { next, ..self.page }
    }
}
