//! Scans: the keys of a range over all shards, in one order, as of one point in time.
//!
//! # The approach
//! A key's shard depends on its hash, so each shard holds some keys of any range. A scan first has the shards
//! that it concerns agree on a revision as of which nothing is missed that was finished before. It then reads every shard
//! page by page as of that revision, and merges the pages by key ([`kvd_placement::merge`]). While one page of a shard is
//! being handed out, the next is fetched.
//!
//! # What it promises
//! Keys come in order, each once, all as of one revision: every write that was finished before the scan was begun is seen, and
//! of two writes to one shard never the later one alone. The same scan as of the same revision gives the same rows. A scan
//! that takes longer than the cluster keeps what was overwritten fails as compacted.
//!
//! Of two writes to different shards that one client makes one after the other, it never sees the later one alone: each write gets
//! a later revision than all that its client has seen. The same goes for writes of two clients, if the second one has seen what
//! the first one wrote, or was given its session token.
//!
//! # What it doesn't
//! Where one client is told of a write in another way, the store knows nothing of it: made just while the scan begins, the later
//! write may be seen without the earlier one.
//!
//! # Bounds
//! Two pages per shard: the one in use and the next one.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    Stream, StreamExt as _, TryStreamExt as _,
    future::try_join_all,
    stream::{self, BoxStream, FuturesUnordered},
};
use kvd_placement::{
    Merge, Ring,
    merge::{Step, Wanted},
};
use kvd_proto::token::{ScanToken, scan_request};
use kvd_types::{
    Error, Key, Read, Record, Result, Revision, ShardId,
    operation::{Content, Filter, Page, Request, Response, ScanPage},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Client,
    attempts::{Attempts, unexpected},
    namespace::Namespace,
    range::KeyRange,
    request::as_of,
    token::Token,
};

/// A scan: made by [`Client::scan`] and its kin, carried out by [`Scan::stream`], [`Scan::collect`] or [`Scan::count`].
#[derive(Clone, Debug)]
#[must_use = "a scan does nothing until its rows are asked for"]
pub struct Scan {
    client: Client,
    range: KeyRange,
    limit: Option<usize>,
    descending: bool,
    content: Content,
    filter: Filter,
    from: From,
    any_replica: bool,
    deadline: Option<Duration>,
}

/// As of when a scan reads.
#[derive(Clone, Debug)]
enum From {
    Now,
    Revision(Revision),
    /// Where an earlier one stopped.
    Token(Token),
}

impl Scan {
    /// A scan of a range that has been through the client's namespace.
    pub(crate) fn new(client: Client, range: KeyRange) -> Self {
        Self {
            client,
            range,
            limit: None,
            descending: false,
            content: Content::All,
            filter: Filter::default(),
            from: From::Now,
            any_replica: false,
            deadline: None,
        }
    }

    /// At most so many rows.
    pub const fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// From the last key to the first.
    pub const fn descending(mut self) -> Self {
        self.descending = true;
        self
    }

    /// Without the values.
    pub const fn keys_only(mut self) -> Self {
        self.content = Content::KeysOnly;
        self
    }

    /// Only keys whose version is within these bounds. All keys of the range are looked at all the same.
    pub const fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// As of a revision that an earlier answer told, as long as the cluster keeps it.
    pub fn at(mut self, revision: Revision) -> Self {
        self.from = From::Revision(revision);
        self
    }

    /// Goes on where an earlier scan of the same range, with the same options, has stopped ([`Rows::token`]), as of the same
    /// revision. The limit counts anew.
    pub fn resume(mut self, token: Token) -> Self {
        self.from = From::Token(token);
        self
    }

    /// Any replica may serve the pages, those in this client's zone first. The scan promises the same.
    pub const fn from_any_replica(mut self) -> Self {
        self.any_replica = true;
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
        let namespace = self.client.namespace_of_keys().clone();
        let token = ScanToken {
            cluster_id: String::new(),
            request: self.request(),
            revision: Revision::ZERO,
            next: Bytes::new(),
        };
        let steps = stream::once(self.begin()).try_flatten();
        Rows { steps: steps.boxed(), namespace, token, began: false }
    }

    /// All rows at once, in memory.
    ///
    /// # Errors
    /// As any request; compacted, if the scan took too long.
    pub async fn collect(self) -> Result<Vec<(Key, Record)>> {
        self.stream().try_collect().await
    }

    /// How many keys there are, whatever the limit.
    ///
    /// # Errors
    /// As any request; compacted, if it took too long.
    pub async fn count(self) -> Result<u64> {
        let (pages, range, shards) = self.prepare(Content::CountOnly).await?;
        let counts = shards.into_iter().map(|shard| count(&pages, &range, shard));
        Ok(try_join_all(counts).await?.into_iter().sum())
    }

    /// Stands for the range and the options in tokens.
    fn request(&self) -> u64 {
        let KeyRange { start, end, .. } = &self.range;
        scan_request(start, end, self.descending, self.content, self.filter)
    }

    async fn begin(self) -> Result<BoxStream<'static, Result<Progress>>> {
        let limit = self.limit.map(|rows| u64::try_from(rows).unwrap_or(u64::MAX));
        let (pages, range, shards) = self.prepare(self.content).await?;
        let merge = Merge::new(&shards, range.start, range.end, self.descending, limit);
        let began = Progress::Began {
            cluster_id: self.client.core().cluster_id(),
            revision: pages.revision,
            next: merge.resume().clone(),
        };
        let walk = Walk { merge, pages, under_way: FuturesUnordered::new() };
        let rows =
            stream::try_unfold(walk, |mut walk| async move { Ok(walk.next().await?.map(|row| (row, walk))) });
        Ok(stream::once(async { Ok(began) }).chain(rows).boxed())
    }

    /// How pages are fetched, what is left of the range, and the shards that it concerns.
    async fn prepare(&self, content: Content) -> Result<(Arc<Pages>, KeyRange, Vec<ShardId>)> {
        let patience = self.client.patience(self.deadline)?;
        let core = self.client.core();
        let ring = Attempts::new(core, patience).ring().await?;
        let mut range = self.range.clone();
        let revision = match &self.from {
            From::Now => None,
            From::Revision(revision) => Some(*revision),
            From::Token(token) => {
                let token = ScanToken::decode(token.as_bytes(), &core.cluster_id(), self.request())?;
                if self.descending {
                    range.end = token.next;
                } else {
                    range.start = token.next;
                }
                Some(token.revision)
            }
        };
        let shards = if range.is_empty { Vec::new() } else { ring.shards_of_range(&range.start, &range.end) };
        let revision = match revision {
            Some(revision) => revision,
            None => snapshot(&self.client, patience, &ring, &shards).await?,
        };
        let pages = Pages {
            client: self.client.clone(),
            descending: self.descending,
            content,
            filter: self.filter,
            revision: as_of(revision),
            any_replica: self.any_replica,
            patience,
        };
        Ok((Arc::new(pages), range, shards))
    }
}

/// Makes the shards readable as of one revision that misses nothing that was finished before.
async fn snapshot(client: &Client, patience: Duration, ring: &Ring, shards: &[ShardId]) -> Result<Revision> {
    // Of an empty range too, so that its scan has a revision.
    let shards = if shards.is_empty() { ring.shards().get(..1).unwrap_or_default() } else { shards };
    let Some(&asked) = shards.first() else { return Ok(Revision::ZERO) };
    let request = Request::Snapshot(shards.to_vec());
    match Attempts::new(client.core(), patience).ask(asked, &request).await?.response {
        Response::Snapshot(revision) => Ok(revision),
        other => Err(unexpected(&other)),
    }
}

/// How pages are fetched.
#[derive(Debug)]
struct Pages {
    client: Client,
    descending: bool,
    content: Content,
    filter: Filter,
    revision: Revision,
    any_replica: bool,
    patience: Duration,
}

impl Pages {
    async fn fetch(&self, wanted: Wanted) -> Result<Page> {
        let page = ScanPage {
            shard: wanted.shard,
            start: wanted.start,
            end: wanted.end,
            // A page has at most so many rows anyway.
            limit: usize::try_from(wanted.rows_max).ok().filter(|&rows| rows != usize::MAX).unwrap_or(0),
            descending: self.descending,
            content: self.content,
            filter: self.filter,
            read: Read { any_replica: self.any_replica, ..Read::at(self.revision) },
        };
        let mut attempts = Attempts::new(self.client.core(), self.patience);
        match attempts.ask(wanted.shard, &Request::Scan(page)).await?.response {
            Response::Page(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }
}

/// How many keys a shard has in a range.
async fn count(pages: &Pages, range: &KeyRange, shard: ShardId) -> Result<u64> {
    let mut merge: Merge<Record> =
        Merge::new(&[shard], range.start.clone(), range.end.clone(), pages.descending, None);
    let mut counted = 0;
    while let Some(wanted) = merge.wanted() {
        let page = pages.fetch(wanted).await?;
        counted += page.count;
        merge.page(shard, Vec::new(), page.next)?;
    }
    Ok(counted)
}

/// The merge of all shards' rows.
struct Walk {
    merge: Merge<Record>,
    pages: Arc<Pages>,
    under_way: FuturesUnordered<AbortOnDropHandle<(ShardId, Result<Page>)>>,
}

/// What a scan has come to.
enum Progress {
    Began { cluster_id: String, revision: Revision, next: Bytes },
    Row { key: Key, record: Record, next: Bytes },
}

impl Walk {
    async fn next(&mut self) -> Result<Option<Progress>> {
        loop {
            while let Some(wanted) = self.merge.wanted() {
                let pages = Arc::clone(&self.pages);
                let shard = wanted.shard;
                let fetch = tokio::spawn(async move { (shard, pages.fetch(wanted).await) });
                self.under_way.push(AbortOnDropHandle::new(fetch));
            }
            match self.merge.step() {
                Step::Row(key, record) => {
                    return Ok(Some(Progress::Row { key, record, next: self.merge.resume().clone() }));
                }
                Step::Done => return Ok(None),
                Step::Wait(shard) => {
                    let Some(fetched) = self.under_way.next().await else {
                        return Err(Error::internal(format!("no page of shard {shard} is under way")));
                    };
                    let (shard, page) = fetched
                        .map_err(|error| Error::internal(format!("the scan's task failed: {error}")))?;
                    let page = page?;
                    self.merge.page(shard, page.rows, page.next)?;
                }
            }
        }
    }
}

/// The rows of a scan. Ends after the first error.
pub struct Rows {
    steps: BoxStream<'static, Result<Progress>>,
    namespace: Namespace,
    token: ScanToken,
    began: bool,
}

impl Rows {
    /// As of when the scan reads. Known once the first row or the end has been given.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.began.then_some(self.token.revision)
    }

    /// Where a later scan goes on after the rows that were given so far: see [`Scan::resume`]. Known as soon as
    /// [`Rows::revision`] is.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.began.then(|| Token::new(self.token.encode()))
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("at", &self.revision()).finish_non_exhaustive()
    }
}

impl Stream for Rows {
    type Item = Result<(Key, Record)>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match ready!(this.steps.poll_next_unpin(context)) {
                Some(Ok(Progress::Began { cluster_id, revision, next })) => {
                    this.token = ScanToken { cluster_id, revision, next, request: this.token.request };
                    this.began = true;
                }
                Some(Ok(Progress::Row { key, record, next })) => {
                    this.token.next = next;
                    return Poll::Ready(Some(this.namespace.row(&key, record)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}
