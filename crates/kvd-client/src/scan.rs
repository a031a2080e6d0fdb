//! Scans: the keys of a range over all shards, in one order.
//!
//! # The approach
//! A key's shard depends on its hash, so each shard holds some keys of any range. A scan reads every shard page by page and
//! merges the pages by key. While one page of a shard is being handed out, the next is fetched.
//!
//! # What it promises
//! Keys come in order, each once. A page is read linearizably at one moment; pages are read at different moments, so
//! a write during the scan is seen or not depending on where the scan is.
//!
//! # Bounds
//! Two pages per shard: the one in use and the next one.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    ops::{Bound, RangeBounds},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _, stream, stream::BoxStream};
use kvd_types::{
    Error, Key, Record, Result, ShardId,
    operation::{Request, Response, ScanPage},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Client,
    attempts::{Attempts, unexpected},
};

/// A scan: made by [`Client::scan`] and its kin, carried out by [`Scan::stream`] or [`Scan::collect`].
#[derive(Debug)]
#[must_use = "a scan does nothing until its rows are asked for"]
pub struct Scan {
    client: Client,
    start: Bytes,
    /// Empty: to the last key.
    end: Bytes,
    /// Nothing can lie in the range, though its bounds don't say so.
    empty: bool,
    limit: Option<usize>,
    deadline: Option<Duration>,
}

/// The rows of a scan. Ends after the first error.
pub struct Rows(BoxStream<'static, Result<(Key, Record)>>);

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}

impl Stream for Rows {
    type Item = Result<(Key, Record)>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl Scan {
    pub(crate) fn range<K: AsRef<[u8]>>(client: Client, range: &impl RangeBounds<K>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(key) => Bytes::copy_from_slice(key.as_ref()),
            Bound::Excluded(key) => after(key.as_ref()),
            Bound::Unbounded => Bytes::new(),
        };
        let (end, bounded) = match range.end_bound() {
            Bound::Included(key) => (after(key.as_ref()), true),
            Bound::Excluded(key) => (Bytes::copy_from_slice(key.as_ref()), true),
            Bound::Unbounded => (Bytes::new(), false),
        };
        let empty = bounded && start >= end;
        Self { client, start, end, empty, limit: None, deadline: None }
    }

    pub(crate) fn prefix(client: Client, prefix: &[u8]) -> Self {
        let start = Bytes::copy_from_slice(prefix);
        Self { client, start, end: prefix_end(prefix), empty: false, limit: None, deadline: None }
    }

    /// At most so many rows.
    pub const fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// How long each page is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The rows, one by one.
    #[must_use]
    pub fn stream(self) -> Rows {
        let merge = stream::once(Merge::begin(self)).try_flatten();
        Rows(Box::pin(merge))
    }

    /// All rows at once, in memory.
    ///
    /// # Errors
    /// As any request.
    pub async fn collect(self) -> Result<Vec<(Key, Record)>> {
        self.stream().try_collect().await
    }
}

/// The key after a key.
fn after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The first key after all those that begin with a prefix; empty if there is none.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end.into()
}

/// The merge of all shards' rows.
struct Merge {
    cursors: Vec<Cursor>,
    /// The next row of each cursor that has one.
    heads: BinaryHeap<Head>,
    /// The cursors whose next row is not in `heads` yet.
    hungry: Vec<usize>,
    left: usize,
}

/// Where the scan is in one shard.
struct Cursor {
    rows: std::vec::IntoIter<(Key, Record)>,
    next_page: Option<NextPage>,
    pages: Pages,
}

type NextPage = AbortOnDropHandle<Result<(Vec<(Key, Record)>, bool)>>;

/// How one shard's pages are fetched.
#[derive(Clone)]
struct Pages {
    client: Client,
    shard: ShardId,
    end: Bytes,
    limit: Option<usize>,
    patience: Duration,
}

struct Head {
    key: Key,
    record: Record,
    cursor: usize,
}

impl Merge {
    async fn begin(scan: Scan) -> Result<impl Stream<Item = Result<(Key, Record)>>> {
        let patience = scan.client.patience(scan.deadline)?;
        let left = if scan.empty { 0 } else { scan.limit.unwrap_or(usize::MAX) };
        let mut cursors = Vec::new();
        if left > 0 {
            let ring = Attempts::new(scan.client.core(), patience).ring().await?;
            for &shard in ring.shards() {
                let pages = Pages {
                    client: scan.client.clone(),
                    shard,
                    end: scan.end.clone(),
                    limit: scan.limit,
                    patience,
                };
                let first = pages.fetch(scan.start.clone());
                cursors.push(Cursor { rows: Vec::new().into_iter(), next_page: Some(first), pages });
            }
        }
        let hungry = (0..cursors.len()).collect();
        let merge = Self { cursors, heads: BinaryHeap::new(), hungry, left };
        Ok(stream::try_unfold(merge, |mut merge| async move {
            let row = merge.next().await?;
            Ok(row.map(|row| (row, merge)))
        }))
    }

    async fn next(&mut self) -> Result<Option<(Key, Record)>> {
        if self.left == 0 {
            return Ok(None);
        }
        while let Some(index) = self.hungry.pop() {
            let Some(cursor) = self.cursors.get_mut(index) else { continue };
            if let Some((key, record)) = cursor.next().await? {
                self.heads.push(Head { key, record, cursor: index });
            }
        }
        let Some(head) = self.heads.pop() else { return Ok(None) };
        self.hungry.push(head.cursor);
        self.left -= 1;
        Ok(Some((head.key, head.record)))
    }
}

impl Cursor {
    async fn next(&mut self) -> Result<Option<(Key, Record)>> {
        loop {
            if let Some(row) = self.rows.next() {
                return Ok(Some(row));
            }
            let Some(page) = self.next_page.take() else { return Ok(None) };
            let (rows, more) =
                page.await.map_err(|error| Error::internal(format!("the scan's task failed: {error}")))??;
            let enough = self.pages.limit.is_some_and(|limit| rows.len() >= limit);
            if more && !enough {
                let Some((last, _)) = rows.last() else {
                    return Err(Error::internal(
                        "the server sent an empty page and says that there are more rows",
                    ));
                };
                self.next_page = Some(self.pages.fetch(after(last.as_bytes())));
            }
            self.rows = rows.into_iter();
        }
    }
}

impl Pages {
    fn fetch(&self, start: Bytes) -> NextPage {
        let pages = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let page = ScanPage {
                shard: pages.shard,
                start,
                end: pages.end.clone(),
                // A page has at most so many rows anyway.
                limit: pages.limit.unwrap_or(0),
            };
            let mut attempts = Attempts::new(pages.client.core(), pages.patience);
            match attempts.ask(pages.shard, &Request::Scan(page)).await?.response {
                Response::Page { rows, more } => Ok((rows, more)),
                other => Err(unexpected(&other)),
            }
        }))
    }
}

/// The heap gives the lowest key first.
impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(&self.key).then_with(|| other.cursor.cmp(&self.cursor))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_prefix_ends_where_the_next_one_begins(
            prefix in proptest::collection::vec(prop_oneof![Just(0xff), any::<u8>()], 0..5),
            key in proptest::collection::vec(prop_oneof![Just(0xff), any::<u8>()], 0..8),
        ) {
            let end = prefix_end(&prefix);
            let inside = key >= prefix && (end.is_empty() || key.as_slice() < &end[..]);
            prop_assert_eq!(inside, key.starts_with(&prefix));
        }
    }
}
