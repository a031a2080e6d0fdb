//! Reads that may wait for the disk: on threads that may wait too, many at once.
//!
//! # The problem
//! An engine that holds more than fits in memory gives a row within microseconds if it has it there, else within hundreds of
//! them. A runtime has a thread for each core: if those wait for the disk, two reads are under way where the disk would take
//! dozens, and all other tasks wait too. But handing a read to another thread takes longer than a read from memory.
//!
//! # The approach
//! How long reads take is measured. While they have lately taken long they are made by threads for work that waits, else right
//! where they are asked for. What an entry will ask for is read before it is applied, by several of these threads at once
//! ([`kvd_machine::ReadAhead`]). An engine that never waits says so ([`Table::reads_wait`]), and nothing of this is done.
//!
//! Clients' reads and those for entries have turns of their own, so that clients can't keep entries waiting. At the bound
//! ([`TURNS`]) a read waits for its turn.
//!
//! # What is deliberately absent
//! It is not known whether the next read will wait, only whether the last ones have: where memory has most of what is asked for,
//! some reads wait in place.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use kvd_machine::ReadAhead;
use kvd_storage::table::Table;
use tokio::{sync::Semaphore, time::Instant};

use crate::blocking::Blocking;

/// Reads that threads make at once on a node, for clients and again for entries. More give a disk nothing to gain from.
const TURNS: usize = 32;
/// Reads that take longer than this, on the average, wait for the disk: from memory they take a third of it, from a quick
/// disk three times as long.
const WAIT: Duration = Duration::from_micros(30);
/// No read counts for more than this in the average: a thread may have been kept off its core.
const COUNTED_MAX: Duration = Duration::from_micros(500);
/// How many reads the average is about.
const AVERAGED: u64 = 32;
/// Rows that one thread reads for an entry, at least: waking it takes as long as a read from memory.
const ROWS_PER_THREAD_MIN: usize = 4;
/// Threads that read for one entry.
const THREADS_PER_ENTRY_MAX: usize = 16;
/// Bytes that each of them reads: what is left is read as the entry is applied.
const THREAD_BYTES_MAX: usize = 1 << 20;

/// A node's reads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DiskReads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blocking: Blocking,
    /// Of the last reads, in nanoseconds.
    average_ns: AtomicU64,
    clients: Semaphore,
    entries: Semaphore,
}

/// For whom is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    Client,
    Entry,
}

impl DiskReads {
    /// Those of a node that has read nothing yet.
    #[must_use]
    pub fn new(blocking: Blocking) -> Self {
        Self(Arc::new(Inner {
            blocking,
            average_ns: AtomicU64::new(0),
            clients: Semaphore::new(TURNS),
            entries: Semaphore::new(TURNS),
        }))
    }

    /// Whether reads have lately waited for the disk.
    pub(crate) fn wait(&self) -> bool {
        u128::from(self.0.average_ns.load(Ordering::Relaxed)) > WAIT.as_nanos()
    }

    /// Makes a read of so many rows here, and notes how long it took.
    pub(crate) fn here<T>(&self, rows: usize, read: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let found = read();
        self.note(started.elapsed() / u32::try_from(rows.max(1)).unwrap_or(u32::MAX));
        found
    }

    fn note(&self, took: Duration) {
        let took = u64::try_from(took.min(COUNTED_MAX).as_nanos()).unwrap_or(u64::MAX);
        // Two that are noted at the same time may count as one.
        let average = self.0.average_ns.load(Ordering::Relaxed);
        let average = average - average / AVERAGED + took / AVERAGED;
        self.0.average_ns.store(average, Ordering::Relaxed);
    }

    /// Has another thread make it, in its turn.
    ///
    /// # Errors
    /// The read panicked, or the runtime is going down.
    pub(crate) async fn elsewhere<T: Send + 'static>(
        &self,
        reader: Reader,
        rows: usize,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let turns = match reader {
            Reader::Client => &self.0.clients,
            Reader::Entry => &self.0.entries,
        };
        let _turn = turns.acquire().await.map_err(io::Error::other)?;
        let reads = self.clone();
        self.0.blocking.run(move || Ok(reads.here(rows, read))).await
    }

    /// Reads what an entry will ask for, as far as that can be read: what can't be fails again when it is applied, where it
    /// counts.
    pub(crate) async fn ahead(&self, table: &Arc<Table>, ahead: &mut ReadAhead) {
        let mut rows = ahead.take_wanted().into_iter();
        while !self.wait() {
            let Some(row) = rows.next() else { return };
            if let Ok(value) = self.here(1, || table.get(&row)) {
                ahead.found(row, value);
            }
        }
        let rest: Vec<Bytes> = rows.collect();
        let per_thread = rest.len().div_ceil(THREADS_PER_ENTRY_MAX).max(ROWS_PER_THREAD_MIN);
        let read = rest.chunks(per_thread).map(|rows| {
            let (table, rows) = (Arc::clone(table), rows.to_vec());
            self.elsewhere(Reader::Entry, rows.len(), move || read_all(&table, rows))
        });
        for (row, value) in join_all(read).await.into_iter().flatten().flatten() {
            ahead.found(row, value);
        }
    }
}

/// What a table has of rows, up to a bound of bytes.
fn read_all(table: &Table, rows: Vec<Bytes>) -> Vec<(Bytes, Option<Bytes>)> {
    let mut bytes = 0;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        if bytes > THREAD_BYTES_MAX {
            break;
        }
        if let Ok(value) = table.get(&row) {
            bytes += value.as_ref().map_or(0, Bytes::len);
            found.push((row, value));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use kvd_machine::{Machine, Position};
    use kvd_storage::engine::MemoryEngine;
    use kvd_types::{
        Command, Condition, GroupId, Key, Lifetime, LogIndex, Proposal, ReplicaId, Term, Write, WriteOp,
    };

    use super::*;

    fn reads() -> DiskReads {
        DiskReads::new(Blocking::Inline)
    }

    #[test]
    fn reads_wait_once_they_have_taken_long_and_no_more_once_they_are_quick() {
        let reads = reads();
        assert!(!reads.wait());
        for _ in 0..4 {
            reads.note(Duration::from_micros(300));
        }
        assert!(reads.wait());
        for _ in 0..16 {
            reads.note(Duration::from_micros(8));
        }
        assert!(!reads.wait());
    }

    #[test]
    fn one_read_that_took_very_long_changes_nothing() {
        let reads = reads();
        reads.note(Duration::from_secs(5));
        assert!(!reads.wait());
    }

    /// A shard with this many keys, and what an entry wants that writes them all.
    fn wanted(keys: u64) -> (Arc<Table>, ReadAhead) {
        let table = Arc::new(Table::open(Arc::new(MemoryEngine::new()), ReplicaId(1)).unwrap());
        let mut machine = Machine::open(GroupId(7), Arc::clone(&table)).unwrap();
        machine.keep_at_hand(0);
        let put = |key: u64| {
            let key = Key::new(key.to_be_bytes().to_vec()).unwrap();
            let (value, lifetime, condition) =
                (Bytes::from_static(b"v"), Lifetime::Forever, Condition::Always);
            Command::Write(Write {
                op: WriteOp::Put { key, value, lifetime, condition, want_previous: false },
                session: None,
            })
        };
        let proposal = Proposal { commands: (0..keys).map(put).collect(), ..Proposal::default() };
        let position = Position { index: LogIndex(1), term: Term(1) };
        machine.apply(position, &proposal).unwrap();
        let ahead = machine.wanted(&proposal);
        (table, ahead)
    }

    #[tokio::test]
    async fn all_that_is_wanted_is_read_by_one_thread_or_by_many() {
        for (keys, waits) in [(1, true), (5, true), (300, true), (300, false), (0, true)] {
            let (table, mut ahead) = wanted(keys);
            let reads = DiskReads::new(Blocking::Pool);
            if waits {
                (0..8).for_each(|_| reads.note(Duration::from_millis(1)));
            }
            reads.ahead(&table, &mut ahead).await;
            assert!(ahead.take_wanted().is_empty());
            let rows =
                table.scan(std::ops::Bound::Unbounded, std::ops::Bound::Unbounded, 1000, 1 << 20).unwrap();
            let found = rows.iter().filter(|(row, value)| ahead.is_found(row, value)).count();
            assert_eq!(found as u64, keys, "of {keys}, {waits}");
        }
    }
}
