//! What clients were told, kept as a history and judged as one.
//!
//! # The approach
//! A [`Record`] takes down all that its clients do. [`Writers`] are such clients at work: each has keys of its own, which others
//! read, all share some keys that they put, delete and compare-and-set as it comes, and all increase the same few counters. Each value
//! is put once. In the end every key is read, and the checkers of `kvd-testkit` judge the whole: no acknowledged
//! write is lost or made twice, no read is stale, whatever was killed meanwhile.
//!
//! # Invariants
//! - A key has a few hundred operations at most, then the next one takes its place: the search for an order must come to
//!   an end.
//! - A record that is dropped by a failing test is kept in a file, and the command that judges it is shown.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kvd_client::{Client, Error, Key, Record as Stored, Result, ShardId};
use kvd_testkit::{
    check::check,
    history::{Answer, Completion, History, Process, Recorder, RecordingClient},
};
use tokio::task::JoinSet;

use crate::wait::until;

/// Keys of one writer at a time.
const KEYS_PER_WRITER: u64 = 40;
/// Turns after which a writer goes on to other keys.
const TURNS_PER_KEYS: u64 = 4000;
/// Turns in between which a writer increases a counter, and uses a shared key.
const TURNS_PER_SHARED: u64 = 5;
/// Counters that all writers share at a time.
const COUNTERS: u64 = 4;
/// Turns after which a writer goes on to other counters and shared keys.
const TURNS_PER_COUNTERS: u64 = 400;
/// Keys that are located at a time.
const LOCATED_AT_ONCE: usize = 16;
/// Who reads in the end.
const READER: Process = Process(1000);

/// What clients do and are told.
#[derive(Debug)]
pub struct Record {
    recorder: Recorder,
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}

impl Record {
    /// A record that is empty.
    #[must_use]
    pub fn new() -> Self {
        Self { recorder: Recorder::real_time() }
    }

    /// A client all of whose operations are recorded.
    #[must_use]
    pub fn client(&self, client: &Client, process: u32) -> RecordingClient {
        RecordingClient::new(client.clone(), self.recorder.clone(), Process(process))
    }

    /// Notes what is done to the cluster.
    pub fn note(&self, text: impl Into<String>) {
        self.recorder.note(text);
    }

    /// Judges what has been recorded up to now.
    ///
    /// # Panics
    /// Something in it can't be.
    pub fn check(&self) -> History {
        let history = self.recorder.history();
        assert!(history.operations.iter().any(|it| it.answer().is_some()), "there is nothing to check");
        let report = check(&history);
        assert!(report.is_ok(), "{report}");
        history
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let file = tempfile::Builder::new().prefix("kvd-history-").suffix(".jsonl").tempfile();
        let path = file.ok().and_then(|file| file.into_temp_path().keep().ok());
        match path.map(|path| (self.recorder.history().save(&path), path)) {
            Some((Ok(()), path)) => eprintln!(
                "what the clients did and were told is in {0}; to judge it again: \
                 cargo run -p kvd-testkit --bin kvd-check -- {0}",
                path.display()
            ),
            failed => eprintln!("what the clients did and were told can't be saved: {failed:?}"),
        }
    }
}

/// What writers were told.
#[derive(Debug)]
pub struct Ledger {
    record: Record,
}

/// Writers at work.
#[derive(Debug)]
pub struct Writers {
    record: Record,
    acknowledged: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Starts so many writers.
    #[must_use]
    pub fn start(client: &Client, count: usize) -> Self {
        let record = Record::new();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::default()).collect();
        let mut tasks = JoinSet::new();
        for (number, acknowledged) in (0..).zip(&acknowledged) {
            let writer = Writer {
                client: record.client(client, number),
                number: number.into(),
                writers: count as u64,
                acknowledged: Arc::clone(acknowledged),
            };
            tasks.spawn(writer.run(Arc::clone(&stop)));
        }
        Self { record, acknowledged, stop, tasks }
    }

    /// Notes what is done to the cluster.
    pub fn note(&self, text: impl Into<String>) {
        self.record.note(text);
    }

    /// Waits until each of them has had so many more writes acknowledged.
    pub async fn progress(&mut self, writes: u64) {
        let before: Vec<u64> = self.acknowledged();
        until("each writer to get on", async || {
            assert!(self.tasks.try_join_next().is_none(), "a writer has ended");
            let now = self.acknowledged();
            let all = before.iter().zip(&now).all(|(before, now)| *now >= before + writes);
            if all { Ok(()) } else { Err(format!("{before:?} writes were acknowledged then, {now:?} now")) }
        })
        .await;
    }

    fn acknowledged(&self) -> Vec<u64> {
        self.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Stops them after what is under way, and gives what they were told.
    ///
    /// # Panics
    /// A writer was told what can't be.
    pub async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        Ledger { record: self.record }
    }
}

/// One of them.
struct Writer {
    client: RecordingClient,
    number: u64,
    writers: u64,
    /// Puts to its own keys.
    acknowledged: Arc<AtomicU64>,
}

impl Writer {
    async fn run(self, stop: Arc<AtomicBool>) {
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let value = format!("{}.{turn}", self.number);
            let key = own_key(self.number, turn);
            if tell(self.client.put(&key, &value).await).is_some() {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // Somebody reads what somebody writes.
            let other = (self.number + turn) % self.writers;
            tell(self.client.get(own_key(other, turn)).await);
            if turn % TURNS_PER_SHARED == 0 {
                self.increase(&counter(turn)).await;
                self.share(turn, &format!("{value}s")).await;
            }
        }
    }

    /// Increases a counter by one, if nobody else does meanwhile.
    async fn increase(&self, counter: &str) {
        let Some(current) = tell(self.client.get(counter).await) else { return };
        let next = (current.as_ref().map_or(0, number) + 1).to_string();
        tell(match &current {
            None => self.client.put_if_absent(counter, next).await,
            Some(stored) => self.client.put_if_revision(counter, next, stored.revision).await,
        });
    }

    /// Does something to a key that everybody uses.
    async fn share(&self, turn: u64, value: &str) {
        let key = format!("shared-{}", turn / TURNS_PER_COUNTERS);
        match (turn / TURNS_PER_SHARED + self.number) % 5 {
            0 => drop(tell(self.client.put(&key, value).await)),
            1 => drop(tell(self.client.delete(&key).await)),
            2 => drop(tell(self.client.put_if_absent(&key, value).await)),
            _ => {
                let Some(Some(stored)) = tell(self.client.get(&key).await) else { return };
                let revision = stored.revision;
                match turn / TURNS_PER_SHARED % 2 {
                    0 => drop(tell(self.client.put_if_revision(&key, value, revision).await)),
                    _ => drop(tell(self.client.delete_if_revision(&key, revision).await)),
                }
            }
        }
    }
}

fn own_key(writer: u64, turn: u64) -> String {
    format!("writer-{writer}/{}/{}", turn / TURNS_PER_KEYS, turn % KEYS_PER_WRITER)
}

fn counter(turn: u64) -> String {
    format!("{COUNTER}{}/{}", turn / TURNS_PER_COUNTERS, turn / TURNS_PER_SHARED % COUNTERS)
}

const COUNTER: &str = "counter-";

/// What came of a request, if it was answered. A refusal must be one that may pass.
fn tell<T>(result: Result<T>) -> Option<T> {
    let may_pass = |error: &Error| error.is_retryable() || error.outcome_unknown();
    match result {
        Ok(answer) => Some(answer),
        Err(error) if may_pass(&error) => None,
        Err(error) => panic!("{error}"),
    }
}

impl Ledger {
    /// How many writes were acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        let made = |answer: &Answer| matches!(answer, Answer::Put { .. } | Answer::Deleted { .. });
        self.history().operations.iter().filter(|it| it.answer().is_some_and(made)).count()
    }

    /// Whether none were.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Requests that were certainly not carried out.
    #[must_use]
    pub fn refused(&self) -> usize {
        let is_refused = |completion: &Completion| matches!(completion, Completion::Fail(_));
        self.history().operations.iter().filter(|it| is_refused(&it.completion)).count()
    }

    /// Writes whose outcome is unknown.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.history().operations.iter().filter(|it| it.is_unknown()).count()
    }

    /// What they did and were told.
    #[must_use]
    pub fn history(&self) -> History {
        self.record.recorder.history()
    }

    /// Reads every key that was used, and judges all there is.
    ///
    /// # Panics
    /// Something isn't as it must be.
    pub async fn check(&self, client: &Client) {
        let history = self.history();
        let keys: BTreeSet<&Key> = history.operations.iter().map(|operation| &operation.key).collect();
        let located: Vec<(&Key, ShardId)> =
            stream::iter(keys.iter().filter(|&&key| !history.shards.contains_key(key)))
                .map(async |&key| Result::<_>::Ok((key, client.locate(key).await?.shard.id)))
                .buffer_unordered(LOCATED_AT_ONCE)
                .try_collect()
                .await
                .expect("the keys can be located");
        for (key, shard) in located {
            self.record.recorder.set_shard(key.clone(), shard);
        }
        let reader = self.record.client(client, READER.0);
        let found = reader.batch_get(keys.iter().copied()).await.expect("the keys can be read");
        for (key, stored) in keys.iter().zip(&found) {
            let Some(stored) = stored.as_ref().filter(|_| key.as_bytes().starts_with(COUNTER.as_bytes()))
            else {
                continue;
            };
            assert_eq!(stored.version, number(stored), "{key} was written more often than increased");
        }
        self.record.check();
    }
}

fn number(stored: &Stored) -> u64 {
    String::from_utf8_lossy(&stored.value).parse().expect("a counter holds a number")
}
