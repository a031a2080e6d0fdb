//! The rows of many shards in one order.
//!
//! # The problem
//! A key's shard depends on its hash, so every shard holds some keys of any range. A scan reads them page by page and must
//! give the rows in key order, up or down, with little memory, and be able to say where to go on later.
//!
//! # The approach
//! A [`Merge`] does no I/O. It says which pages it wants ([`Merge::wanted`]), takes them as they come ([`Merge::page`]), and
//! gives rows ([`Merge::step`]) as long as it has one of each shard that may still have some. Whoever drives it fetches.
//!
//! # Invariants
//! - Rows come in order, each once, whatever the sizes of the pages; a page may be empty though it isn't the last one.
//! - At most two pages of each shard are held or under way: the one in use and the next one.
//! - A page that is out of order, outside of what was asked for, or that doesn't get on, is refused: it would make a scan
//!   that loses rows or never ends.
//!
//! # What it deliberately does not do
//! It doesn't see to it that the pages are of one point in time: whoever fetches them reads them as of one revision.

use std::{cmp::Ordering, collections::BinaryHeap, vec};

use bytes::Bytes;
use kvd_types::{Error, Key, Result, ShardId};

use crate::route::after_key;

/// Merges the pages of some shards. `R` is what stands beside a key.
#[derive(Debug)]
pub struct Merge<R> {
    sources: Vec<Source<R>>,
    /// The next row of each source that has one.
    heads: BinaryHeap<Head<R>>,
    /// The sources whose next row is not in `heads` yet, though there may be one.
    hungry: Vec<usize>,
    descending: bool,
    left: u64,
    /// Where a scan would go on after the rows that were given: its start or, descending, its end.
    next: Bytes,
}

/// A page that is wanted: it is to be asked for with these bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The shard.
    pub shard: ShardId,
    /// The first key that may be in it; empty: from the first one.
    pub start: Bytes,
    /// The first key that may not; empty: to the last one.
    pub end: Bytes,
    /// More rows than this are of no use.
    pub rows_max: u64,
}

/// What a merge has for whoever drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<R> {
    /// The next row.
    Row(Key, R),
    /// It can't go on without the page of this shard, which was wanted before.
    Wait(ShardId),
    /// There are no more rows, or no more are needed.
    Done,
}

#[derive(Debug)]
struct Source<R> {
    shard: ShardId,
    rows: vec::IntoIter<(Key, R)>,
    /// The page after `rows`; never an empty one, so that whoever has none is asked for the next.
    spare: Option<vec::IntoIter<(Key, R)>>,
    /// What is not fetched yet.
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    /// To be asked for.
    Range(Bytes, Bytes),
    /// Asked for.
    Asked(Bytes, Bytes),
    /// Nothing.
    None,
}

#[derive(Debug)]
struct Head<R> {
    key: Key,
    row: R,
    source: usize,
    descending: bool,
}

impl<R> Merge<R> {
    /// A merge of the keys from `start` on, before `end` (empty: to the last one), of these shards; at most `limit` rows.
    #[must_use]
    pub fn new(shards: &[ShardId], start: Bytes, end: Bytes, descending: bool, limit: Option<u64>) -> Self {
        let source = |&shard: &ShardId| Source {
            shard,
            rows: Vec::new().into_iter(),
            spare: None,
            rest: Rest::Range(start.clone(), end.clone()),
        };
        let sources: Vec<_> = shards.iter().map(source).collect();
        Self {
            hungry: (0..sources.len()).collect(),
            sources,
            heads: BinaryHeap::new(),
            descending,
            left: limit.unwrap_or(u64::MAX),
            next: if descending { end } else { start },
        }
    }

    /// A page to fetch, each told once; more than one may be wanted at a time. Those that are needed first come first.
    pub fn wanted(&mut self) -> Option<Wanted> {
        let left = self.left;
        // First whoever holds the merge up.
        let starving = self.sources.iter().position(|source| source.wants(left) && source.rows.len() == 0);
        let index = starving.or_else(|| self.sources.iter().position(|source| source.wants(left)))?;
        let source = self.sources.get_mut(index)?;
        let Rest::Range(start, end) = std::mem::replace(&mut source.rest, Rest::None) else { return None };
        source.rest = Rest::Asked(start.clone(), end.clone());
        Some(Wanted { shard: source.shard, start, end, rows_max: left })
    }

    /// Takes a page that was wanted: its rows, and where the next one starts or, descending, ends.
    ///
    /// # Errors
    /// Internal: the page was not wanted, or makes no sense.
    pub fn page(&mut self, shard: ShardId, rows: Vec<(Key, R)>, next: Option<Bytes>) -> Result<()> {
        let source = self.sources.iter_mut().find(|source| source.shard == shard);
        let Some(source) = source else { return Err(bad(shard, "that was not asked for")) };
        let Rest::Asked(start, end) = std::mem::replace(&mut source.rest, Rest::None) else {
            return Err(bad(shard, "that was not asked for"));
        };
        check(shard, &rows, &start, &end, self.descending)?;
        if let Some(next) = next {
            let last = rows.last().map(|(key, _)| key.as_bytes());
            source.rest = rest(shard, last, start, end, next, self.descending)?;
        }
        if source.rows.len() == 0 && source.spare.is_none() {
            source.rows = rows.into_iter();
        } else if !rows.is_empty() {
            source.spare = Some(rows.into_iter());
        }
        Ok(())
    }

    /// The next row, or what is missing for it.
    pub fn step(&mut self) -> Step<R> {
        if self.left == 0 {
            return Step::Done;
        }
        while let Some(&index) = self.hungry.last() {
            let Some(source) = self.sources.get_mut(index) else {
                self.hungry.pop();
                continue;
            };
            match source.next() {
                Some((key, row)) => {
                    self.heads.push(Head { key, row, source: index, descending: self.descending });
                }
                None if matches!(source.rest, Rest::None) => {}
                None => return Step::Wait(source.shard),
            }
            self.hungry.pop();
        }
        let Some(head) = self.heads.pop() else { return Step::Done };
        self.hungry.push(head.source);
        self.left -= 1;
        self.next = if self.descending { head.key.bytes().clone() } else { after_key(head.key.as_bytes()) };
        Step::Row(head.key, head.row)
    }

    /// Where to go on after the rows that were given: a scan of the same range that starts here or, descending, ends here
    /// gives exactly the others.
    #[must_use]
    pub const fn resume(&self) -> &Bytes {
        &self.next
    }
}

impl<R> Source<R> {
    /// Whether a page should be asked for.
    fn wants(&self, left: u64) -> bool {
        let held = u64::try_from(self.rows.len()).unwrap_or(u64::MAX);
        matches!(self.rest, Rest::Range(..)) && self.spare.is_none() && held < left
    }

    fn next(&mut self) -> Option<(Key, R)> {
        if self.rows.len() == 0
            && let Some(spare) = self.spare.take()
        {
            self.rows = spare;
        }
        self.rows.next()
    }
}

/// Whether a page is in order and within what was asked for.
fn check<R>(shard: ShardId, rows: &[(Key, R)], start: &[u8], end: &[u8], descending: bool) -> Result<()> {
    let inside = |key: &Key| *key.as_bytes() >= *start && (end.is_empty() || *key.as_bytes() < *end);
    let ordered = rows.array_windows().all(|[(a, _), (b, _)]| if descending { a > b } else { a < b });
    if !ordered {
        return Err(bad(shard, "whose keys are out of order"));
    }
    if rows.iter().any(|(key, _)| !inside(key)) {
        return Err(bad(shard, "with keys outside of the range that was asked for"));
    }
    Ok(())
}

/// What is left of a range after a page.
fn rest(
    shard: ShardId,
    last: Option<&[u8]>,
    start: Bytes,
    end: Bytes,
    next: Bytes,
    descending: bool,
) -> Result<Rest> {
    let gets_on = if descending {
        let inside = !next.is_empty() && next >= start;
        inside && (end.is_empty() || next < end) && last.is_none_or(|last| *next <= *last)
    } else {
        let inside = end.is_empty() || next <= end;
        inside && next > start && last.is_none_or(|last| *next > *last)
    };
    if !gets_on {
        return Err(bad(shard, "that does not get on"));
    }
    let (start, end) = if descending { (start, next) } else { (next, end) };
    Ok(if !end.is_empty() && start >= end { Rest::None } else { Rest::Range(start, end) })
}

fn bad(shard: ShardId, what: &str) -> Error {
    Error::internal(format!("shard {shard} gave a page {what}"))
}

/// The heap gives the row first that comes first.
impl<R> Ord for Head<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.key.cmp(&other.key).then_with(|| self.source.cmp(&other.source));
        if self.descending { order } else { order.reverse() }
    }
}

impl<R> PartialOrd for Head<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> PartialEq for Head<R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<R> Eq for Head<R> {}

#[cfg(test)]
mod tests;
