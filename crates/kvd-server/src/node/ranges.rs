//! Ranges of keys over all shards: scans as of one revision, and deletions step by step.
//!
//! # A scan
//! is of one point in time without a clock that all agree on: the shards make themselves readable as of the largest revision
//! that any of them has had (see [`super::recent`]), and every page is read as of that. It sees every write that was finished
//! before it began, none that began after, and no half of a transaction. Its pages are asked for as they are needed and merged
//! in key order; what it holds is two pages of each shard, whatever the size of the range.
//!
//! # A deletion
//! goes shard by shard in steps of one command each. It tells how far it has come after each, and that it is done only when
//! nothing is left of what was there when it began; whoever is told less asks again. A write that comes meanwhile may be
//! deleted or not. Each step that may have been made without its answer coming is made again, and finds less.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use kvd_placement::merge::{Merge, Step, Wanted};
use kvd_proto::token::{ScanToken, scan_request};
use kvd_types::{
    Error, Outcome, Read, Record, Result, Revision, ShardId, Write, WriteOp,
    limits::{DELETE_STEP_KEYS_MAX, REQUEST_DEADLINE_DEFAULT, SCAN_BYTES_MAX, SCAN_ROWS_MAX},
    operation::{Content, Page, Request, Response, ScanPage, check_range},
};
use tokio::time::Instant;

use super::Node;
use crate::store::{BoxFuture, DeletePart, Parts, ScanPart, ScanSpec};

/// Rows and bytes of a part.
const PART_ROWS_MAX: usize = 1024;
const PART_BYTES_MAX: usize = 256 << 10;
/// Pages that are asked for at the same time.
const PAGES_AT_ONCE: usize = 16;
/// Rows of a page, so that two of each shard are no burden.
const PAGE_ROWS: u64 = 512;

/// A scan under way.
struct Scan {
    node: Arc<Node>,
    spec: ScanSpec,
    request: u64,
    at: Revision,
    merge: Merge<Record>,
    pages: stream::FuturesUnordered<BoxFuture<'static, Result<(ShardId, Page)>>>,
    count: u64,
    /// Rows that may still be given.
    left: u64,
    is_done: bool,
}

impl Node {
    /// See [`crate::store::Store::scan`].
    pub(super) fn scan_range(self: Arc<Self>, spec: ScanSpec) -> Parts<ScanPart> {
        let parts = Scan::begin(self, spec).map(|begun| match begun {
            Ok(scan) => stream::try_unfold(scan, Scan::next_part).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        parts.flatten_stream().boxed()
    }

    /// See [`crate::store::Store::delete_range`].
    pub(super) fn delete_whole_range(self: Arc<Self>, start: Bytes, end: Bytes) -> Parts<DeletePart> {
        let shards = check_range(&start, &end)
            .and_then(|()| self.routing())
            .map(|routing| routing.ring.shards_of_range(&start, &end));
        let shards = match shards {
            Ok(shards) => shards,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let left = shards.into_iter().zip(std::iter::repeat(start)).collect();
        let deletion = Deletion { node: self, end, left, deleted: 0, is_told: false };
        stream::try_unfold(deletion, Deletion::step).boxed()
    }
}

impl Scan {
    async fn begin(node: Arc<Node>, spec: ScanSpec) -> Result<Self> {
        check_range(&spec.start, &spec.end)?;
        let routing = node.routing()?;
        let cluster = node.cluster_id()?;
        let request = scan_request(&spec.start, &spec.end, spec.descending, spec.content, spec.filter);
        let (mut start, mut end, mut at) = (spec.start.clone(), spec.end.clone(), spec.at);
        if !spec.resume.is_empty() {
            let token = ScanToken::decode(&spec.resume, &cluster, request)?;
            if at.is_some_and(|at| at != token.revision) {
                return Err(Error::invalid("the scan goes on as of another revision than it began with"));
            }
            at = Some(token.revision);
            if spec.descending {
                end = token.next;
            } else {
                start = token.next;
            }
        }
        let shards = routing.ring.shards_of_range(&spec.start, &spec.end);
        let deadline = Instant::now() + REQUEST_DEADLINE_DEFAULT;
        let at = match at {
            Some(at) => at,
            None => node.snapshot(&shards, deadline).await?,
        };
        let left = spec.limit.unwrap_or(u64::MAX);
        // One more, to tell whether there are more.
        let merge =
            Merge::new(&shards, start, end, spec.descending, spec.limit.map(|limit| limit.saturating_add(1)));
        Ok(Self {
            left,
            node,
            spec,
            request,
            at,
            merge,
            pages: stream::FuturesUnordered::new(),
            count: 0,
            is_done: false,
        })
    }

    /// The next part; none after the last one.
    async fn next_part(mut self) -> Result<Option<(ScanPart, Self)>> {
        if self.is_done {
            return Ok(None);
        }
        let mut part = ScanPart { revision: self.at, ..ScanPart::default() };
        let mut resume = self.merge.resume().clone();
        let mut is_all = false;
        let mut bytes = 0;
        while part.rows.len() < PART_ROWS_MAX && bytes < PART_BYTES_MAX {
            self.ask_for_pages();
            match self.merge.step() {
                Step::Row(..) if self.left == 0 => {
                    self.is_done = true;
                    break;
                }
                Step::Row(key, record) => {
                    resume = self.merge.resume().clone();
                    self.left -= 1;
                    bytes += key.as_bytes().len() + record.value.len();
                    self.count += 1;
                    part.rows.push((key, record));
                }
                Step::Done => {
                    (self.is_done, is_all) = (true, true);
                    break;
                }
                Step::Wait(shard) => {
                    // What is there is given, rather than held back for a slow shard.
                    if !part.rows.is_empty() && bytes > 0 && self.pages.is_empty() {
                        break;
                    }
                    let page = self.pages.next().await;
                    let (shard, page) =
                        page.ok_or_else(|| Error::internal(format!("no page of shard {shard} comes")))??;
                    if self.spec.content == Content::CountOnly {
                        self.count += page.count;
                    }
                    self.merge.page(shard, page.rows, page.next)?;
                }
            }
        }
        part.count = self.count;
        if !is_all {
            let token = ScanToken {
                cluster_id: self.node.cluster_id()?,
                request: self.request,
                revision: self.at,
                next: resume,
            };
            part.resume = token.encode();
        }
        Ok(Some((part, self)))
    }

    fn ask_for_pages(&mut self) {
        while self.pages.len() < PAGES_AT_ONCE
            && let Some(wanted) = self.merge.wanted()
        {
            let (node, spec, at) = (Arc::clone(&self.node), self.spec.clone(), self.at);
            self.pages.push(async move { node.page_of(wanted, spec, at).await }.boxed());
        }
    }
}

impl Node {
    async fn page_of(&self, wanted: Wanted, spec: ScanSpec, at: Revision) -> Result<(ShardId, Page)> {
        let Wanted { shard, start, end, rows_max } = wanted;
        let limit = match spec.content {
            Content::CountOnly => 0,
            Content::All | Content::KeysOnly => {
                usize::try_from(rows_max.min(PAGE_ROWS)).unwrap_or(SCAN_ROWS_MAX)
            }
        };
        let page = ScanPage {
            shard,
            start,
            end,
            limit,
            descending: spec.descending,
            content: spec.content,
            filter: spec.filter,
            read: Read::at(at),
        };
        let routing = self.routing()?;
        let deadline = Instant::now() + REQUEST_DEADLINE_DEFAULT;
        match self.execute_on(&routing, shard, Request::Scan(page), deadline).await?.response {
            Response::Page(page) => Ok((shard, page)),
            _ => Err(Error::internal("a scan was answered with something else")),
        }
    }
}

/// A deletion under way.
struct Deletion {
    node: Arc<Node>,
    end: Bytes,
    /// The shards that may still have keys of the range, and from where on.
    left: Vec<(ShardId, Bytes)>,
    deleted: u64,
    is_told: bool,
}

impl Deletion {
    async fn step(mut self) -> Result<Option<(DeletePart, Self)>> {
        let Some((shard, start)) = self.left.pop() else {
            if self.is_told {
                return Ok(None);
            }
            self.is_told = true;
            return Ok(Some((DeletePart { deleted: self.deleted, is_done: true }, self)));
        };
        let op = WriteOp::DeleteRange { shard, start, end: self.end.clone(), limit: DELETE_STEP_KEYS_MAX };
        let routing = self.node.routing()?;
        let deadline = Instant::now() + REQUEST_DEADLINE_DEFAULT;
        let request = Request::write(Write { session: None, op });
        match self.node.execute_on(&routing, shard, request, deadline).await?.response {
            Response::RangeDeleted(Outcome::RangeDeleted { deleted, next, .. }) => {
                self.deleted += u64::from(deleted);
                self.left.extend(next.map(|next| (shard, next)));
            }
            _ => return Err(Error::internal("the deletion of a range was answered with something else")),
        }
        Ok(Some((DeletePart { deleted: self.deleted, is_done: false }, self)))
    }
}

const _: () = assert!(PART_BYTES_MAX <= SCAN_BYTES_MAX);
