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
//! The threads are those of a runtime that does nothing else, at most [`THREADS_MAX`] of them: in the runtime that serves
//! requests there would be one for each read, with memory of its own. Clients' reads and those for entries have threads of
//! their own, so that clients can't keep entries waiting. At the bound a read waits for a thread; no more wait than are asked
//! of the node at once, which is bounded where they are asked for.
//!
//! # What is deliberately absent
//! It is not known whether the next read will wait, only whether the last ones have: where memory has most of what is asked for,
//! some reads wait in place.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use kvd_machine::ReadAhead;
use kvd_storage::table::Table;
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use crate::blocking::Blocking;

/// Threads that read on a node, for clients and again for entries. With more under way at once a quick disk gains little.
const THREADS_MAX: usize = 16;
/// Reads that take longer than this, on the average, wait for the disk: from memory they take a third of it, from a quick
/// disk three times as long.
const WAIT: Duration = Duration::from_micros(30);
/// No read counts for more than this in the average: a thread may have been kept off its core.
const COUNTED_MAX: Duration = Duration::from_micros(500);
/// How many reads the average is about.
const AVERAGED: u64 = 32;
/// Rows that a thread reads at a time for an entry.
const ROWS_AT_ONCE: usize = 4;
/// Bytes that are read ahead for an entry; each thread may go beyond them by a row. What is left is read as it is applied.
const AHEAD_BYTES_MAX: usize = 16 << 20;

/// A node's reads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DiskReads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pace: Arc<Pace>,
    /// None in a simulation, which has one thread.
    threads: Option<Threads>,
}

/// How long the last reads took.
#[derive(Debug, Default)]
struct Pace {
    average_ns: AtomicU64,
}

#[derive(Debug)]
struct Threads {
    clients: Pool,
    entries: Pool,
}

/// A runtime that has only threads for work that waits; none once it is dropped.
#[derive(Debug)]
struct Pool(Option<Runtime>);

/// For whom is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    Client,
    Entry,
}

impl DiskReads {
    /// Those of a node that has read nothing yet.
    ///
    /// # Errors
    /// The system's, if there can be no threads.
    pub fn new(blocking: Blocking) -> io::Result<Self> {
        let threads = match blocking {
            Blocking::Pool => Some(Threads { clients: Pool::new()?, entries: Pool::new()? }),
            Blocking::Inline => None,
        };
        Ok(Self(Arc::new(Inner { pace: Arc::default(), threads })))
    }

    /// Whether reads have lately waited for the disk.
    pub(crate) fn wait(&self) -> bool {
        self.0.pace.is_slow()
    }

    /// Makes a read of so many rows here.
    pub(crate) fn here<T>(&self, rows: usize, read: impl FnOnce() -> T) -> T {
        self.0.pace.measured(rows, read)
    }

    /// Has another thread make it, in its turn.
    ///
    /// # Errors
    /// The read panicked, or the node is going down.
    pub(crate) async fn elsewhere<T: Send + 'static>(
        &self,
        reader: Reader,
        rows: usize,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let pace = Arc::clone(&self.0.pace);
        let read = move || pace.measured(rows, read);
        match &self.0.threads {
            None => Blocking::Inline.run(|| Ok(read())).await,
            Some(threads) => threads.of(reader).run(read).await,
        }
    }

    /// Reads what an entry will ask for, as far as that can be read: what can't be fails again when it is applied, where it
    /// counts. Whoever closes the table waits for `reading`.
    pub(crate) async fn ahead(&self, table: &Arc<Table>, reading: &TaskTracker, ahead: &mut ReadAhead) {
        let room = Arc::new(Room::default());
        let mut rows = ahead.take_wanted().into_iter();
        while !self.wait() && room.is_left() {
            let Some(row) = rows.next() else { return };
            if let Ok(value) = self.here(1, || table.get(&row)) {
                room.take(value.as_ref());
                ahead.found(row, value);
            }
        }
        let rest: Vec<Bytes> = rows.collect();
        let read = rest.chunks(ROWS_AT_ONCE).map(|rows| {
            let (table, rows, room) = (Arc::clone(table), rows.to_vec(), Arc::clone(&room));
            let token = reading.token();
            self.elsewhere(Reader::Entry, rows.len(), move || {
                let _token = token;
                read_all(&table, rows, &room)
            })
        });
        for (row, value) in join_all(read).await.into_iter().flatten().flatten() {
            ahead.found(row, value);
        }
    }
}

impl Pace {
    fn is_slow(&self) -> bool {
        u128::from(self.average_ns.load(Ordering::Relaxed)) > WAIT.as_nanos()
    }

    /// Makes a read of so many rows, and notes how long it took.
    fn measured<T>(&self, rows: usize, read: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let found = read();
        self.note(started.elapsed() / u32::try_from(rows.max(1)).unwrap_or(u32::MAX));
        found
    }

    fn note(&self, took: Duration) {
        let took = u64::try_from(took.min(COUNTED_MAX).as_nanos()).unwrap_or(u64::MAX);
        // Two that are noted at the same time may count as one.
        let average = self.average_ns.load(Ordering::Relaxed);
        let average = average - average / AVERAGED + took / AVERAGED;
        self.average_ns.store(average, Ordering::Relaxed);
    }
}

impl Threads {
    const fn of(&self, reader: Reader) -> &Pool {
        match reader {
            Reader::Client => &self.clients,
            Reader::Entry => &self.entries,
        }
    }
}

impl Pool {
    fn new() -> io::Result<Self> {
        let mut builder = Builder::new_current_thread();
        builder.max_blocking_threads(THREADS_MAX).thread_name("kvd-reads").build().map(Some).map(Self)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let Some(runtime) = &self.0 else { return Err(io::Error::other("the node is going down")) };
        runtime.spawn_blocking(work).await.map_err(io::Error::other)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // As it is dropped by tasks, it must not wait for its threads.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// How much may still be read ahead for an entry.
#[derive(Default)]
struct Room(AtomicUsize);

impl Room {
    fn is_left(&self) -> bool {
        self.0.load(Ordering::Relaxed) < AHEAD_BYTES_MAX
    }

    fn take(&self, value: Option<&Bytes>) {
        self.0.fetch_add(value.map_or(0, Bytes::len), Ordering::Relaxed);
    }
}

/// What a table has of rows, while there is room.
fn read_all(table: &Table, rows: Vec<Bytes>, room: &Room) -> Vec<(Bytes, Option<Bytes>)> {
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        if !room.is_left() {
            break;
        }
        if let Ok(value) = table.get(&row) {
            room.take(value.as_ref());
            found.push((row, value));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use kvd_machine::{Machine, Position};
    use kvd_storage::engine::MemoryEngine;
    use kvd_types::{
        Command, Condition, GroupId, Key, Lifetime, LogIndex, Proposal, ReplicaId, Term, Write, WriteOp,
    };

    use super::*;

    /// Those of a node whose reads have lately waited, or have not.
    fn reads(wait: bool) -> DiskReads {
        let reads = DiskReads::new(Blocking::Pool).unwrap();
        if wait {
            (0..8).for_each(|_| reads.0.pace.note(Duration::from_millis(1)));
        }
        assert_eq!(reads.wait(), wait);
        reads
    }

    #[test]
    fn reads_wait_once_they_have_taken_long_and_no_more_once_they_are_quick() {
        let pace = Pace::default();
        assert!(!pace.is_slow());
        (0..4).for_each(|_| pace.note(Duration::from_micros(300)));
        assert!(pace.is_slow());
        (0..16).for_each(|_| pace.note(Duration::from_micros(8)));
        assert!(!pace.is_slow());
    }

    #[test]
    fn one_read_that_took_very_long_changes_nothing() {
        let pace = Pace::default();
        pace.note(Duration::from_secs(5));
        assert!(!pace.is_slow());
    }

    /// A shard with this many keys, and what an entry wants that writes them all.
    fn wanted(keys: u64, value: &Bytes) -> (Arc<Table>, ReadAhead) {
        let table = Arc::new(Table::open(Arc::new(MemoryEngine::new()), ReplicaId(1)).unwrap());
        let mut machine = Machine::open(GroupId(7), Arc::clone(&table)).unwrap();
        machine.keep_at_hand(0);
        let put = |key: u64| {
            let key = Key::new(key.to_be_bytes().to_vec()).unwrap();
            let (value, lifetime, condition) = (value.clone(), Lifetime::Forever, Condition::Always);
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

    /// How many rows of the table were read ahead, as they are.
    fn found(table: &Table, ahead: &ReadAhead) -> usize {
        let rows = table.scan(Bound::Unbounded, Bound::Unbounded, usize::MAX, usize::MAX).unwrap();
        rows.iter().filter(|(row, value)| ahead.get(row) == Some(Some(value))).count()
    }

    #[tokio::test]
    async fn no_more_is_read_ahead_than_there_is_room_for() {
        let value = Bytes::from(vec![7; 1 << 20]);
        for waits in [false, true] {
            let (table, mut ahead) = wanted(64, &value);
            reads(waits).ahead(&table, &TaskTracker::new(), &mut ahead).await;
            let found = found(&table, &ahead);
            let at_least = AHEAD_BYTES_MAX >> 20;
            assert!((at_least - 1..=at_least + THREADS_MAX).contains(&found), "{found}, {waits}");
        }
    }

    #[tokio::test]
    async fn a_read_that_panics_fails_alone() {
        let reads = reads(true);
        let read = |number: usize| reads.elsewhere(Reader::Client, 1, move || assert_ne!(number % 3, 0));
        let made = join_all((0..100).map(read)).await;
        assert!(made.iter().enumerate().all(|(number, made)| made.is_err() == (number % 3 == 0)));
    }

    #[tokio::test]
    async fn many_reads_are_under_way_at_once() {
        let reads = reads(true);
        // Each waits for all others.
        let all = Arc::new(std::sync::Barrier::new(THREADS_MAX));
        let read = |_| {
            let all = Arc::clone(&all);
            reads.elsewhere(Reader::Client, 1, move || all.wait().is_leader())
        };
        let leads = join_all((0..THREADS_MAX).map(read)).await;
        assert_eq!(leads.into_iter().filter(|leads| matches!(leads, Ok(true))).count(), 1);
    }

    #[tokio::test]
    async fn no_more_threads_read_than_may() {
        let reads = reads(true);
        let (now, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let read = |_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            reads.elsewhere(Reader::Entry, 1, move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
                now.fetch_sub(1, Ordering::SeqCst);
            })
        };
        assert!(join_all((0..200).map(read)).await.iter().all(Result::is_ok));
        let most = usize::try_from(most.load(Ordering::SeqCst)).unwrap();
        assert!(most <= THREADS_MAX, "{most}");
    }

    #[tokio::test]
    async fn all_that_is_wanted_is_read_by_one_thread_or_by_many() {
        for (keys, waits) in [(1, true), (5, true), (300, true), (300, false), (0, true)] {
            let (table, mut ahead) = wanted(keys, &Bytes::from_static(b"v"));
            reads(waits).ahead(&table, &TaskTracker::new(), &mut ahead).await;
            assert!(ahead.take_wanted().is_empty());
            assert_eq!(found(&table, &ahead) as u64, keys, "of {keys}, {waits}");
        }
    }
}
