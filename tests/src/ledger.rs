//! What writers were told, against what is there.
//!
//! # The approach
//! Each key has one writer, which writes one value after the other and never the same twice. So it is known at any
//! moment which values the key may have: the last one acknowledged, or one of those since whose outcome is unknown. The key's
//! version counts its writes: it grows by one with each that was acknowledged and by at most one with each that is unknown.
//! A write that is applied twice shows at the next acknowledgement. After an acknowledged write no earlier one may come
//! to light any more.
//!
//! Counters are the opposite case: all writers increase the same few by compare-and-set.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use kvd_client::{Client, Conditional, Error, Record};
use tokio::task::JoinSet;

use crate::wait::until;

/// Keys of one writer.
const KEYS_PER_WRITER: u64 = 40;
/// Writes in between which a writer increases a counter.
const WRITES_PER_INCREMENT: u64 = 5;
/// Counters that all writers share.
const COUNTERS: u64 = 4;

/// What one key may hold.
#[derive(Clone, Debug, Default)]
struct Entry {
    acknowledged: Option<String>,
    version: u64,
    /// Values since whose outcome is unknown.
    unknown: Vec<String>,
}

impl Entry {
    fn acknowledge(&mut self, key: &str, value: String, version: u64) {
        let most = self.version + 1 + self.unknown.len() as u64;
        assert!(
            (self.version + 1..=most).contains(&version),
            "{key}: {value} has version {version} after {self:?}: a write is lost or was made twice"
        );
        *self = Self { acknowledged: Some(value), version, unknown: Vec::new() };
    }

    fn check(&self, key: &str, found: Option<&Record>) {
        let Some(found) = found else {
            assert!(self.acknowledged.is_none(), "{key} is gone; expected {self:?}");
            return;
        };
        let value = String::from_utf8_lossy(&found.value).into_owned();
        if self.acknowledged.as_ref() == Some(&value) {
            assert_eq!(found.version, self.version, "{key}: a value was written twice; expected {self:?}");
            return;
        }
        assert!(self.unknown.contains(&value), "{key} is {value}; expected {self:?}");
        let most = self.version + self.unknown.len() as u64;
        assert!((self.version + 1..=most).contains(&found.version), "{key}: {found:?}; expected {self:?}");
    }
}

/// What writers were told.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<String, Entry>,
    /// Per counter: increments acknowledged, and those whose outcome is unknown.
    counters: BTreeMap<String, (u64, u64)>,
    refused: u64,
}

/// Writers at work.
#[derive(Debug)]
pub struct Writers {
    acknowledged: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Ledger>,
}

impl Writers {
    /// Starts so many writers.
    #[must_use]
    pub fn start(client: &Client, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::default()).collect();
        let mut tasks = JoinSet::new();
        for (number, acknowledged) in acknowledged.iter().enumerate() {
            tasks.spawn(write(client.clone(), number, Arc::clone(&stop), Arc::clone(acknowledged)));
        }
        Self { acknowledged, stop, tasks }
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

    /// Stops them after the writes that are under way, and gives what they were told.
    ///
    /// # Panics
    /// What a writer was told can't be.
    pub async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        for ledger in self.tasks.join_all().await {
            all.entries.extend(ledger.entries);
            for (counter, (done, unknown)) in ledger.counters {
                let sum = all.counters.entry(counter).or_default();
                *sum = (sum.0 + done, sum.1 + unknown);
            }
            all.refused += ledger.refused;
        }
        all
    }
}

async fn write(client: Client, writer: usize, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> Ledger {
    let mut ledger = Ledger::default();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("writer-{writer}/{}", turn % KEYS_PER_WRITER);
        let value = format!("{writer}.{turn}");
        let entry = ledger.entries.entry(key.clone()).or_default();
        match client.put(&key, &value).await {
            Ok(put) => {
                entry.acknowledge(&key, value, put.version);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.outcome_unknown() => entry.unknown.push(value),
            Err(error) => ledger.note_refusal(&error),
        }
        if turn % WRITES_PER_INCREMENT == 0 {
            ledger.increase(&client, &format!("counter-{}", turn / WRITES_PER_INCREMENT % COUNTERS)).await;
        }
    }
    ledger
}

impl Ledger {
    /// Increases a counter by one, if nobody else does meanwhile.
    async fn increase(&mut self, client: &Client, counter: &str) {
        let current = match client.get(counter).await {
            Ok(current) => current,
            Err(error) => return self.note_refusal(&error),
        };
        let next = (current.as_ref().map_or(0, number) + 1).to_string();
        let put = client.put(counter, next);
        let put = match &current {
            None => put.if_absent(),
            Some(record) => put.if_revision(record.revision),
        };
        let told = self.counters.entry(counter.to_owned()).or_default();
        match put.await {
            Ok(Conditional::Done(_)) => told.0 += 1,
            Ok(Conditional::Failed { .. }) => {}
            Err(error) if error.outcome_unknown() => told.1 += 1,
            Err(error) => self.note_refusal(&error),
        }
    }

    fn note_refusal(&mut self, error: &Error) {
        assert!(error.is_retryable(), "{error}");
        self.refused += 1;
    }

    /// How many writes were acknowledged or may have been made.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entries.values().map(|entry| entry.version).sum()
    }

    /// Whether none were.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Requests that were certainly not carried out.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Writes whose outcome is unknown and that nobody has written over.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.entries.values().map(|entry| entry.unknown.len()).sum()
    }

    /// Checks every key that was written, one by one and by batch.
    ///
    /// # Panics
    /// One isn't as it must be.
    pub async fn check(&self, client: &Client) {
        let found = client.batch_get(self.entries.keys()).await.expect("the keys can be read");
        for ((key, entry), found) in self.entries.iter().zip(&found) {
            entry.check(key, found.as_ref());
        }
        for (counter, (done, unknown)) in &self.counters {
            let found = client.get(counter).await.expect("a counter can be read");
            let value = found.as_ref().map_or(0, number);
            assert!(
                (*done..=done + unknown).contains(&value),
                "{counter} is {value} after {done} increments and {unknown} unknown ones"
            );
            let version = found.map_or(0, |record| record.version);
            assert_eq!(version, value, "{counter} was written more often than increased");
        }
    }
}

fn number(record: &Record) -> u64 {
    String::from_utf8_lossy(&record.value).parse().expect("a counter holds a number")
}
