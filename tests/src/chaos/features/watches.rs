//! Writers of keys on all shards, and a watcher that must be told of each of their writes, once and in order.
//!
//! The watch follows its nodes by itself; now and then it is dropped, and gone on with from its token through another client. It
//! never was told to give up, and what it asks for is a few minutes old at most: it has no reason to fail. In the end, when all
//! writers are still, the first mark of progress that vouches for all that they did must find nothing missing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use kvd_client::{Client, Error, Key, Result, Revision, Token, TxnOp, WatchItem, WatchStream};
use kvd_testkit::{
    check::versions::{From, Item, Watch},
    history::Process,
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Worker, book::Book};

/// What is counted.
pub(super) const TOLD: &str = "changes told to a watcher";
const RESUMED: &str = "watches resumed";
const MARKS: &str = "marks of progress";

/// How often a mark is asked for; a third of how long a node may be silent.
const PROGRESS: Duration = Duration::from_secs(1);
/// A mark vouches for what was finished so long before, as long as the interval is not longer.
const VOUCHES_AFTER: Duration = Duration::from_millis(2500);
/// What a busy machine adds to that.
const SLACK: Duration = Duration::from_secs(2);
/// How long one listens in one go.
const LISTENS: Duration = Duration::from_millis(200);
/// A watch is dropped after so many milliseconds, and resumed after so many more at most.
const DROPPED_AFTER_MS: std::ops::Range<u64> = 5_000..30_000;
const AWAY_MAX_MS: u64 = 3_000;
/// How long after the last fault the mark that vouches for all may take.
const FINISHED_WITHIN: Duration = Duration::from_secs(300);
/// Keys of each shard.
const KEYS: u32 = 2;

/// A writer.
pub(super) struct Author {
    book: Arc<Book>,
    client: Client,
    process: Process,
    written: u64,
}

impl Author {
    pub(super) fn new(book: &Arc<Book>, client: Client, process: Process) -> Self {
        Self { book: Arc::clone(book), client, process, written: 0 }
    }
}

impl Worker for Author {
    const PAUSE_MAX: Duration = Duration::from_millis(500);

    async fn turn(&mut self, random: &mut StdRng) -> Result<()> {
        let (shard, tag) = self.book.common.any_tag(random);
        let prefix = self.book.prefix(0);
        let keys: Vec<Key> =
            (0..KEYS).map(|number| Key::new(format!("{prefix}{tag}{number}"))).collect::<Result<_>>()?;
        let key = keys[random.random_range(0..keys.len())].clone();
        self.written += 1;
        let value = Bytes::from(format!("{}.{}", self.process, self.written));
        let write = |changes| self.book.write((0, shard), self.process, changes);
        let (writing, done): (_, Result<Option<Revision>>) = match random.random_range(0..10) {
            0..6 => {
                let writing = write(vec![(key.clone(), Some(value.clone()))]);
                (writing, self.client.put(&key, value).await.map(|put| Some(put.revision)))
            }
            6..8 => {
                let writing = write(vec![(key.clone(), None)]);
                (writing, self.client.delete(&key).await.map(|deleted| deleted.revision))
            }
            _ => {
                let writing = write(keys.iter().map(|key| (key.clone(), Some(value.clone()))).collect());
                let put = |txn: kvd_client::Txn, key| txn.then(TxnOp::put(key, value.clone()));
                let txn = keys.iter().fold(self.client.txn(), put);
                (writing, txn.await.map(|outcome| Some(outcome.revision)))
            }
        };
        writing.complete(&done);
        done.map(drop)
    }
}

/// A watcher.
pub(super) struct Watcher {
    book: Arc<Book>,
    /// The next one to watch through is the first.
    clients: [Client; 2],
    stream: WatchStream,
    token: Option<Token>,
}

impl Watcher {
    /// Begins to watch: all that is written from now on must be told.
    pub(super) async fn begin(book: &Arc<Book>, clients: [Client; 2], process: Process) -> Result<Self> {
        let (start, end) = book.bounds(0);
        let asked = book.common.moment();
        let mut stream = watch(book, &clients[0]).stream();
        stream.started().await?;
        let started = Some(book.common.moment());
        book.watch(Watch {
            process,
            start,
            end,
            no_puts: false,
            no_deletes: false,
            previous: true,
            progress_after: VOUCHES_AFTER + SLACK,
            from: From::Now { asked, started },
            items: Vec::new(),
        });
        Ok(Self { book: Arc::clone(book), clients, stream, token: None })
    }

    /// Watches until all writers are to stop.
    pub(super) async fn watch(mut self, mut random: StdRng) -> Self {
        let mut dropped_at = Instant::now();
        dropped_at += Duration::from_millis(random.random_range(DROPPED_AFTER_MS));
        while !self.book.common.is_over() {
            if Instant::now() >= dropped_at {
                self.go_on(Duration::from_millis(random.random_range(0..AWAY_MAX_MS))).await;
                dropped_at = Instant::now() + Duration::from_millis(random.random_range(DROPPED_AFTER_MS));
            }
            if let Ok(told) = timeout(LISTENS, self.stream.next()).await {
                self.take(told).await;
            }
        }
        self
    }

    /// Is told the rest: up to a mark that vouches for all that the writers, who are still, have done.
    pub(super) async fn finish(mut self) {
        self.go_on(Duration::ZERO).await;
        let vouches_from = Instant::now() + VOUCHES_AFTER + SLACK;
        let until = Instant::now() + FINISHED_WITHIN;
        loop {
            let Ok(told) = timeout_at(until, self.stream.next()).await else {
                let world = &self.book.common.world;
                return world
                    .violation(format!("a watcher was told of no progress within {FINISHED_WITHIN:?}"));
            };
            if self.take(told).await && Instant::now() >= vouches_from {
                break;
            }
        }
        let lacking = self.book.watched(|account| {
            account.watches.first().map(|watch| account.lacking(watch)).unwrap_or_default()
        });
        if let Some(first) = lacking.first() {
            self.book.common.world.violation(format!(
                "a watcher was told that nothing is missing, and {} changes are, the first {first}",
                lacking.len()
            ));
        }
    }

    /// Drops the watch, and goes on with it through the other client a while later.
    async fn go_on(&mut self, after: Duration) {
        let Some(token) = self.token.clone() else { return };
        self.clients.swap(0, 1);
        self.stream = watch(&self.book, &self.clients[0]).resume(token).stream();
        // Nothing is asked before the stream is read.
        sleep(after).await;
        self.book.common.count(RESUMED);
    }

    /// Takes what was told. Says whether that is a mark of progress.
    async fn take(&mut self, told: Option<Result<WatchItem, Error>>) -> bool {
        let common = &self.book.common;
        let item = match told {
            Some(Ok(item)) => item,
            ended => {
                let why = ended.and_then(Result::err).map_or("no reason".to_owned(), |why| why.to_string());
                common.world.violation(format!("a watch that is to go on for ever ends, with {why}"));
                self.go_on(PROGRESS).await;
                return false;
            }
        };
        item.events.iter().for_each(|_| common.count(TOLD));
        if item.progress {
            common.count(MARKS);
        }
        let at = common.moment();
        self.token = Some(item.token);
        let WatchItem { events, progress, .. } = item;
        self.book.watched(|account| {
            if let Some(watch) = account.watches.first_mut() {
                watch.items.push(Item { at, events, progress });
            }
        });
        progress
    }
}

fn watch(book: &Book, client: &Client) -> kvd_client::Watch {
    client.watch_prefix(book.prefix(0)).previous().progress_every(PROGRESS)
}
