//! Many keys as of one moment: writes of single keys and of groups, scans of all of them page by page, and readings of moments
//! that are over.
//!
//! The keys are few and everybody's. Those of a group have one hash tag and are written together, always to the same
//! value, so that half of a transaction shows; the others are spread over the shards.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, TryStreamExt as _, future::BoxFuture};
use kvd_client::{Client, Error, ErrorKind, Found, Get, Key, Record, Result, Revision, TxnOp};
use rand::{RngExt as _, rngs::StdRng};

use super::Workload;
use crate::{
    check::versions::{Level, Read},
    history::{Moment, Process, RecordingClient},
    sim::records::Records,
};

/// All keys begin so.
pub(super) const PREFIX: &str = "moment/";
const SINGLES: u64 = 5;
const GROUPS: u64 = 2;
const GROUP_KEYS: u64 = 3;
/// Moments that a process remembers to look at again.
const REMEMBERED_MAX: usize = 12;
/// Longest padding of a value, in bytes.
const PADDING_MAX: usize = 300;

/// Somebody who writes and reads these keys; all of it is recorded.
pub(super) struct User {
    pub(super) records: Arc<Records>,
    pub(super) process: Process,
    pub(super) client: u64,
    written: u64,
}

/// See the module.
pub(crate) struct Moments {
    user: User,
    /// Moments, and when they were asked for.
    remembered: Vec<(Revision, Moment)>,
}

impl User {
    pub(super) const fn new(records: Arc<Records>, process: Process, client: u64) -> Self {
        Self { records, process, client, written: 0 }
    }

    fn value(&mut self, rng: &mut StdRng) -> Bytes {
        self.written += 1;
        let padding = if rng.random_bool(0.2) { rng.random_range(0..PADDING_MAX) } else { 0 };
        let nonce: u32 = rng.random();
        format!("{}.{}.{nonce:x}{}", self.process, self.written, ".".repeat(padding)).into()
    }

    /// Writes something.
    pub(super) async fn write(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let value = self.value(rng);
        match rng.random_range(0..10) {
            0..5 => {
                let key = single(rng)?;
                let writing = self.begin(vec![(key.clone(), Some(value.clone()))]);
                let done = client.put(&key, value).await.map(|put| Some(put.revision));
                writing.complete(&done);
                done.map(drop)
            }
            5 => {
                let key = single(rng)?;
                let writing = self.begin(vec![(key.clone(), None)]);
                let done = client.delete(&key).await.map(|deleted| deleted.revision);
                writing.complete(&done);
                done.map(drop)
            }
            _ => self.write_group(client, value, rng).await,
        }
    }

    async fn write_group(&self, client: &Client, value: Bytes, rng: &mut StdRng) -> Result<()> {
        let group = rng.random_range(0..GROUPS);
        let keys: Vec<Key> = (0..GROUP_KEYS).map(|number| grouped(group, number)).collect::<Result<_>>()?;
        let writing = self.begin(keys.iter().map(|key| (key.clone(), Some(value.clone()))).collect());
        let mut txn = client.txn();
        for key in &keys {
            txn = txn.then(TxnOp::put(key, value.clone()));
        }
        let done = txn.await.map(|outcome| Some(outcome.revision));
        writing.complete(&done);
        done.map(drop)
    }

    /// Has a key read, in a way that promises something.
    pub(super) async fn read(&self, what: &'static str, key: Key, get: Get, level: Level) -> Result<()> {
        let invoked = self.records.moment();
        let Found { record, served } = get.with_served().await?;
        if let Some(record) = record.as_ref().filter(|record| record.revision > served.revision) {
            let (revision, served) = (record.revision, served.revision);
            let what = format!("key {key} is shown as of {revision} by a replica that has had {served}");
            self.records.violated(what);
        }
        self.has_read(what, invoked, level, key, record);
        Ok(())
    }

    /// Records what a read of a key has shown, to be judged with all that was written.
    fn has_read(&self, what: &'static str, invoked: Moment, level: Level, key: Key, found: Option<Record>) {
        let completed = self.records.moment();
        self.records.count(what);
        self.records.read(Read {
            process: self.process,
            client: self.client,
            invoked,
            known: completed,
            completed,
            level,
            start: key.bytes().clone(),
            end: kvd_placement::route::after_key(key.as_bytes()),
            rows: found.map(|record| (key, record)).into_iter().collect(),
            descending: false,
        });
    }

    fn begin(&self, changes: Vec<(Key, Option<Bytes>)>) -> crate::sim::records::Writing {
        self.records.write(self.process, self.client, changes)
    }
}

/// A key by itself.
pub(super) fn single(rng: &mut StdRng) -> Result<Key> {
    Key::new(format!("{PREFIX}s{}", rng.random_range(0..SINGLES)))
}

fn grouped(group: u64, number: u64) -> Result<Key> {
    // The group's keys stand between the others, so that a page ends within one.
    Key::new(format!("{PREFIX}s{number}{{g{group}}}"))
}

/// Any key.
pub(super) fn any(rng: &mut StdRng) -> Result<Key> {
    if rng.random_bool(0.5) {
        single(rng)
    } else {
        grouped(rng.random_range(0..GROUPS), rng.random_range(0..GROUP_KEYS))
    }
}

/// The bounds of all keys.
pub(super) fn bounds() -> (Bytes, Bytes) {
    (PREFIX.into(), kvd_placement::route::prefix_end(PREFIX.as_bytes()))
}

impl Moments {
    pub(crate) const fn new(records: Arc<Records>, process: Process, client: u64) -> Self {
        Self { user: User::new(records, process, client), remembered: Vec::new() }
    }

    async fn act(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        match rng.random_range(0..100) {
            0..55 => self.user.write(client, rng).await,
            55..80 => self.scan(client, None, rng).await,
            80..90 => match self.any_moment(rng) {
                Some(at) => self.scan(client, Some(at), rng).await,
                None => Ok(()),
            },
            _ => match self.any_moment(rng) {
                Some(at) => self.get(client, at, rng).await,
                None => Ok(()),
            },
        }
    }

    fn any_moment(&self, rng: &mut StdRng) -> Option<(Revision, Moment)> {
        self.remembered.get(rng.random_range(0..self.remembered.len().max(1))).copied()
    }

    /// Reads all keys as of now or then, some at a time, and counts them once more.
    async fn scan(
        &mut self,
        client: &Client,
        at: Option<(Revision, Moment)>,
        rng: &mut StdRng,
    ) -> Result<()> {
        let records = Arc::clone(&self.user.records);
        let (start, end) = bounds();
        let any_replica = rng.random_bool(0.3);
        let descending = rng.random_bool(0.3);
        let page = if rng.random_bool(0.5) { rng.random_range(1..5) } else { 100 };
        let begin = || {
            let scan = client.scan_prefix(PREFIX);
            let scan = if descending { scan.descending() } else { scan };
            if any_replica { scan.from_any_replica() } else { scan }
        };
        let invoked = records.moment();
        let mut scan = begin().limit(page);
        if let Some((at, _)) = at {
            scan = scan.at(at);
        }
        let mut rows: Vec<(Key, Record)> = Vec::new();
        let mut known = None;
        let read = loop {
            let mut stream = scan.stream();
            let mut here = 0;
            let end = loop {
                let row = stream.try_next().await;
                if let (None, Some(revision)) = (known, stream.revision()) {
                    known = Some((revision, records.moment()));
                }
                match row {
                    Ok(Some(row)) => {
                        here += 1;
                        rows.push(row);
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            match (end, stream.token()) {
                (Ok(()), Some(token)) if here == page => scan = begin().limit(page).resume(token),
                (end, _) => break end,
            }
        };
        let compacted =
            read.as_ref().is_err_and(|error| self.is_compacted(error, at.map_or(invoked, |at| at.1)));
        if read.is_ok() && any_replica {
            records.count("scans by any replica");
        }
        records.count(if compacted { "scans of what was compacted" } else { "scans" });
        let Some((revision, known)) = known else { return read.or_else(|error| excuse(error, compacted)) };
        let (start, end) = if read.is_ok() { (start, end) } else { reached(start, end, &rows, descending) };
        let counted = rows.len();
        let completed = records.moment();
        let level = if at.is_some() { Level::At(revision) } else { Level::Snapshot(revision) };
        let User { process, client: number, .. } = self.user;
        records.read(Read {
            process,
            client: number,
            invoked,
            known,
            completed,
            level,
            start,
            end,
            rows,
            descending,
        });
        if at.is_none() {
            self.remember(revision, invoked, rng);
        }
        if read.is_ok() && rng.random_bool(0.2) {
            self.count(client, revision, counted).await?;
        }
        read.or_else(|error| excuse(error, compacted))
    }

    /// Counts all keys as of a moment at which there were so many.
    async fn count(&self, client: &Client, at: Revision, keys: usize) -> Result<()> {
        match client.scan_prefix(PREFIX).at(at).count().await {
            Ok(counted) if usize::try_from(counted).ok() == Some(keys) => Ok(()),
            Ok(counted) => {
                let what = format!("as of {at} {keys} keys were read and {counted} were counted");
                self.user.records.violated(what);
                Ok(())
            }
            Err(error) => excuse(error.clone(), matches!(error.kind, ErrorKind::Compacted { .. })),
        }
    }

    /// Reads one key as of then.
    async fn get(&self, client: &Client, (at, asked): (Revision, Moment), rng: &mut StdRng) -> Result<()> {
        let key = any(rng)?;
        let invoked = self.user.records.moment();
        let get = client.get(&key).at(at);
        let found = if rng.random_bool(0.3) { get.from_any_replica().await } else { get.await };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let compacted = self.is_compacted(&error, asked);
                return excuse(error, compacted);
            }
        };
        self.user.has_read("gets of the past", invoked, Level::At(at), key, found);
        Ok(())
    }

    /// Whether it is refused as compacted, which it may be only when what was there then is older than the retention.
    fn is_compacted(&self, error: &Error, asked: Moment) -> bool {
        let ErrorKind::Compacted { oldest } = error.kind else { return false };
        let records = &self.user.records;
        let age_ns = records.moment().time_ns.saturating_sub(asked.time_ns);
        let retention_ns = u64::try_from(records.retention.as_nanos()).unwrap_or(u64::MAX);
        if age_ns < retention_ns {
            let retention = records.retention;
            records.violated(format!(
                "what was there {age_ns} ns ago is compacted, and is to be kept for {retention:?}: the oldest is {oldest}"
            ));
        }
        true
    }

    fn remember(&mut self, at: Revision, asked: Moment, rng: &mut StdRng) {
        if self.remembered.len() == REMEMBERED_MAX {
            self.remembered.swap_remove(rng.random_range(0..REMEMBERED_MAX));
        }
        if self.remembered.iter().all(|(known, _)| *known != at) {
            self.remembered.push((at, asked));
        }
    }
}

/// That something was compacted is an answer.
fn excuse(error: Error, compacted: bool) -> Result<()> {
    if compacted { Ok(()) } else { Err(error) }
}

/// What a scan that was cut has read.
fn reached(start: Bytes, end: Bytes, rows: &[(Key, Record)], descending: bool) -> (Bytes, Bytes) {
    match rows.last() {
        None => (start.clone(), start),
        Some((key, _)) if descending => (key.bytes().clone(), end),
        Some((key, _)) => (start, kvd_placement::route::after_key(key.as_bytes())),
    }
}

impl Workload for Moments {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client.client(), rng).boxed()
    }
}
