//! Watches: what changes in a range, as it happens, each change once.
//!
//! ```no_run
//! # async fn example(client: kvd_client::Client) -> kvd_client::Result<()> {
//! use futures::TryStreamExt as _;
//!
//! let mut changes = client.watch_prefix("workers/").stream();
//! // From here on nothing is missed.
//! changes.started().await?;
//! while let Some(item) = changes.try_next().await? {
//!     for event in &item.events {
//!         println!("{} is now {:?}", event.key, event.record);
//!     }
//!     // To go on from here in another process: client.watch_prefix("workers/").resume(item.token)
//! }
//! # Ok(()) }
//! ```
//!
//! # The approach
//! Any node serves a watch over all shards. Now and then its answers carry a token, which covers all events up to there. Events
//! are handed out only together with the token that covers them, so when a node fails or falls silent, the watch goes on at
//! another one with the last token, and drops what had come since: each event is given once.
//!
//! # What it promises
//! The changes of one key, and those of one shard, come in order; those of different shards in any order. While some shard has
//! no leader, the others' changes come, but no progress is told.
//!
//! # Bounds
//! [`BUFFER_BYTES_MAX`] of events without a token: a server that sends more is at fault. A reader that is slow holds up its
//! watch, and in the end the server ends it: it then goes on with the last token, if what it has missed is still kept.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt as _, Stream, future::BoxFuture};
use kvd_proto::{
    error::from_status,
    operation::event_from_wire,
    v1::{self, watch_request::From as WireFrom},
};
use kvd_types::{Error, ErrorKind, Event, Result, Revision};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Streaming;

use crate::{
    Client, backoff::Backoff, pipeline::describe, range::KeyRange, token::Token, watch_channels::Seat,
};

/// How often a watch is told that nothing happens, unless it says otherwise.
const PROGRESS_DEFAULT: Duration = Duration::from_secs(10);
/// The shortest interval of progress.
const PROGRESS_MIN: Duration = Duration::from_millis(100);
/// A node that is silent for so many intervals is given up.
const SILENT_INTERVALS: u32 = 3;
/// Bytes of events without a token that covers them.
const BUFFER_BYTES_MAX: usize = 16 << 20;

/// A watch: made by [`Client::watch`] and its kin, carried out by [`Watch::stream`].
#[derive(Clone, Debug)]
#[must_use = "a watch does nothing until its stream is read"]
pub struct Watch {
    client: Client,
    range: KeyRange,
    from: From,
    no_puts: bool,
    no_deletes: bool,
    previous: bool,
    progress: Duration,
    give_up_after: Option<Duration>,
}

/// From when on a watch tells.
#[derive(Clone, Debug)]
enum From {
    Now,
    After(Revision),
    Token(Token),
}

/// Some of what a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchItem {
    /// The changes since the last item.
    pub events: Vec<Event>,
    /// To go on after these: see [`Watch::resume`].
    pub token: Token,
    /// Nothing was missed that had been finished a progress interval, or 2.5 s if that is longer, before.
    pub progress: bool,
}

impl Watch {
    /// A watch of a range that has been through the client's namespace.
    pub(crate) const fn new(client: Client, range: KeyRange) -> Self {
        Self {
            client,
            range,
            from: From::Now,
            no_puts: false,
            no_deletes: false,
            previous: false,
            progress: PROGRESS_DEFAULT,
            give_up_after: None,
        }
    }

    /// The changes after this revision, on every shard, as long as the cluster keeps them. From now on, if not set.
    pub fn after(mut self, revision: Revision) -> Self {
        self.from = From::After(revision);
        self
    }

    /// The changes after those that an earlier watch of the same range has told of.
    pub fn resume(mut self, token: Token) -> Self {
        self.from = From::Token(token);
        self
    }

    /// Without the puts.
    pub const fn no_puts(mut self) -> Self {
        self.no_puts = true;
        self
    }

    /// Without the deletes.
    pub const fn no_deletes(mut self) -> Self {
        self.no_deletes = true;
        self
    }

    /// With the versions that were replaced or deleted.
    pub const fn previous(mut self) -> Self {
        self.previous = true;
        self
    }

    /// How often it is told that nothing happens, and a third of how long a node may be silent; 10 s if not set, and
    /// at least 100 ms.
    pub const fn progress_every(mut self, interval: Duration) -> Self {
        self.progress = interval;
        self
    }

    /// Fails once no node has answered for so long. Without it, the watch tries for ever.
    pub const fn give_up_after(mut self, patience: Duration) -> Self {
        self.give_up_after = Some(patience);
        self
    }

    /// What changes. The stream ends after an error; what it fails with without being told to give up: compacted, if what comes
    /// next has been forgotten; invalid argument, for a token that isn't this watch's; not authenticated or not permitted.
    #[must_use]
    pub fn stream(self) -> WatchStream {
        let state = if self.range.is_empty {
            let (start, end) = (self.range.start.escape_ascii(), self.range.end.escape_ascii());
            State::Failed(Error::invalid(format!("no key lies in the range from {start} to {end}")))
        } else {
            State::Idle(Box::new(Follower::new(self)))
        };
        WatchStream { state, ahead: None, started: false }
    }
}

/// What a watch tells.
pub struct WatchStream {
    state: State,
    /// What came while it was waited for the start.
    ahead: Option<WatchItem>,
    started: bool,
}

enum State {
    Idle(Box<Follower>),
    Busy(BoxFuture<'static, (Box<Follower>, Result<WatchItem>)>),
    Failed(Error),
    Ended,
}

impl WatchStream {
    /// Waits until the watch has begun: every later change is told, even if its node fails. Nothing that the stream gives is lost
    /// by this.
    ///
    /// # Errors
    /// As the stream, which ends then.
    pub async fn started(&mut self) -> Result<()> {
        if self.started {
            return Ok(());
        }
        match std::future::poll_fn(|context| self.poll_item(context)).await {
            Some(item) => {
                self.ahead = Some(item?);
                Ok(())
            }
            None => Err(Error::new(ErrorKind::FailedPrecondition, "the watch has ended")),
        }
    }

    fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<WatchItem>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Idle(mut follower) => {
                    self.state = State::Busy(
                        async move {
                            let item = follower.next().await;
                            (follower, item)
                        }
                        .boxed(),
                    );
                }
                State::Busy(mut busy) => {
                    let Poll::Ready((follower, item)) = busy.poll_unpin(context) else {
                        self.state = State::Busy(busy);
                        return Poll::Pending;
                    };
                    if item.is_ok() {
                        self.started = true;
                        self.state = State::Idle(follower);
                    }
                    return Poll::Ready(Some(item));
                }
                State::Failed(error) => return Poll::Ready(Some(Err(error))),
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchItem>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(item) = this.ahead.take() {
            return Poll::Ready(Some(Ok(item)));
        }
        Poll::Ready(ready!(this.poll_item(context)))
    }
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchStream").field("started", &self.started).finish_non_exhaustive()
    }
}

/// Follows a watch from node to node.
struct Follower {
    watch: Watch,
    connection: Option<Connection>,
    buffer: Buffer,
    /// Nodes that were asked since one has answered.
    avoid: Vec<Arc<str>>,
    backoff: Backoff,
    /// When a node last answered.
    heard: Option<Instant>,
}

struct Connection {
    address: Arc<str>,
    answers: Streaming<v1::WatchResponse>,
    _seat: Seat,
}

impl Follower {
    fn new(watch: Watch) -> Self {
        Self {
            watch,
            connection: None,
            buffer: Buffer::default(),
            avoid: Vec::new(),
            backoff: Backoff::default(),
            heard: None,
        }
    }

    /// The next events with the token that covers them.
    async fn next(&mut self) -> Result<WatchItem> {
        let mut heard = *self.heard.get_or_insert_with(Instant::now);
        loop {
            match self.answer().await {
                Ok(answer) => {
                    heard = Instant::now();
                    self.heard = Some(heard);
                    self.backoff.reset();
                    self.avoid.clear();
                    if let Some(item) = self.take(answer)? {
                        return Ok(item);
                    }
                }
                Err(error) => {
                    let deadline = self.watch.give_up_after.map(|patience| heard + patience);
                    self.recover(error, deadline).await?;
                }
            }
        }
    }

    /// The next answer of the node that is followed, a new one if need be.
    async fn answer(&mut self) -> Result<v1::WatchResponse> {
        self.watch.client.core().check_open()?;
        let silence = self.watch.interval() * SILENT_INTERVALS;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.watch, &mut self.avoid).await?),
        };
        let address = &connection.address;
        match timeout(silence, connection.answers.message()).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(Error::unavailable(format!("node {address} has ended the watch"))),
            Ok(Err(status)) => Err(watch_error(address, &status)),
            Err(_elapsed) => {
                Err(Error::unavailable(format!("node {address} has been silent for {silence:?}")))
            }
        }
    }

    fn take(&mut self, answer: v1::WatchResponse) -> Result<Option<WatchItem>> {
        let namespace = self.watch.client.namespace_of_keys();
        let Some(item) = self.buffer.take(answer)? else { return Ok(None) };
        let events = item.events.into_iter().map(|event| namespace.event(event)).collect::<Result<_>>()?;
        self.watch.from = From::Token(item.token.clone());
        Ok(Some(WatchItem { events, ..item }))
    }

    /// After a failure: leaves the node, and waits until another one may be tried.
    async fn recover(&mut self, error: Error, deadline: Option<Instant>) -> Result<()> {
        self.buffer.clear();
        self.connection = None;
        let is_final = matches!(
            error.kind,
            ErrorKind::Compacted { .. }
                | ErrorKind::InvalidArgument
                | ErrorKind::PermissionDenied
                | ErrorKind::Unauthenticated
        );
        let given_up = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_final || given_up || self.watch.client.core().check_open().is_err() {
            return Err(error);
        }
        tracing::debug!(%error, "the watch goes on at another node");
        let until = Instant::now() + self.backoff.pause();
        sleep_until(deadline.map_or(until, |deadline| until.min(deadline))).await;
        Ok(())
    }
}

/// Begins or resumes a watch at a node, which is avoided from then on unless it answers.
async fn connect(watch: &Watch, avoid: &mut Vec<Arc<str>>) -> Result<Connection> {
    let core = watch.client.core();
    let address = match core.choose_any(avoid) {
        Some(address) => address,
        None => {
            avoid.clear();
            core.choose_any(avoid).ok_or_else(|| Error::unavailable("no node is known"))?
        }
    };
    avoid.push(Arc::clone(&address));
    let peer = core.peer(&address)?;
    let (mut kv, seat) = peer.watches();
    let patience = core.config.connect_timeout + core.config.try_timeout;
    match timeout(patience, kv.watch(watch.to_wire())).await {
        Ok(Ok(answers)) => Ok(Connection { address, answers: answers.into_inner(), _seat: seat }),
        Ok(Err(status)) => Err(watch_error(&address, &status)),
        Err(_elapsed) => Err(Error::unavailable(format!("node {address}: no answer in time"))),
    }
}

impl Watch {
    /// How often a node is to say that it is well: so often that before all is given up, a silent one is left for another.
    fn interval(&self) -> Duration {
        let patience = self.give_up_after.map_or(Duration::MAX, |patience| patience / (2 * SILENT_INTERVALS));
        self.progress.min(patience).max(PROGRESS_MIN)
    }

    fn to_wire(&self) -> v1::WatchRequest {
        let from = match &self.from {
            From::Now => None,
            From::After(revision) => Some(WireFrom::AfterRevision(revision.get())),
            From::Token(token) => Some(WireFrom::Resume(token.bytes().clone())),
        };
        v1::WatchRequest {
            start: self.range.start.clone(),
            end: self.range.end.clone(),
            from,
            no_puts: self.no_puts,
            no_deletes: self.no_deletes,
            prev_kv: self.previous,
            progress_interval_ms: u32::try_from(self.interval().as_millis()).unwrap_or(u32::MAX),
        }
    }
}

/// The error of a watch. A watch changes nothing, so where it isn't told, none is in doubt: the node is unavailable.
fn watch_error(address: &str, status: &tonic::Status) -> Error {
    let error = from_status(status);
    match error.kind {
        ErrorKind::OutcomeUnknown => Error::unavailable(format!("node {address}: {}", describe(status))),
        _ => error,
    }
}

/// Events that no token covers yet.
#[derive(Debug, Default)]
struct Buffer {
    events: Vec<Event>,
    bytes: usize,
    progress: bool,
}

impl Buffer {
    /// Takes an answer; gives what a token now covers.
    fn take(&mut self, answer: v1::WatchResponse) -> Result<Option<WatchItem>> {
        self.progress |= answer.is_progress;
        for event in answer.events {
            let event = event_from_wire(event)?;
            self.bytes += event_bytes(&event);
            self.events.push(event);
        }
        if answer.resume.is_empty() {
            if self.bytes > BUFFER_BYTES_MAX {
                return Err(Error::internal(format!(
                    "the server sent more than {BUFFER_BYTES_MAX} bytes of events without saying how to go on after them"
                )));
            }
            return Ok(None);
        }
        let Self { events, progress, .. } = std::mem::take(self);
        Ok(Some(WatchItem { events, token: Token::new(answer.resume), progress }))
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

fn event_bytes(event: &Event) -> usize {
    let values = event.record.iter().chain(&event.previous).map(|record| record.value.len());
    event.key.as_bytes().len() + values.sum::<usize>()
}

impl Client {
    /// Tells what changes in a range. See [`watch`](crate::watch).
    pub fn watch<K: AsRef<[u8]>>(&self, range: impl std::ops::RangeBounds<K>) -> Watch {
        Watch::new(self.clone(), self.namespace_of_keys().range(&KeyRange::of(&range)))
    }

    /// Tells what changes of the keys that begin so.
    pub fn watch_prefix(&self, prefix: impl AsRef<[u8]>) -> Watch {
        Watch::new(self.clone(), self.namespace_of_keys().range(&KeyRange::prefix(prefix.as_ref())))
    }

    /// Tells what changes of one key.
    pub fn watch_key(&self, key: impl AsRef<[u8]>) -> Watch {
        Watch::new(self.clone(), self.namespace_of_keys().range(&KeyRange::key(key.as_ref())))
    }
}

#[cfg(test)]
mod tests;
