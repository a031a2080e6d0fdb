//! What waits for the writer.
//!
//! One queue for all replicas, first in, first out. It is bounded by bytes: a caller that finds it full waits. The
//! bound is meant to be several times what the callers' own windows allow, so that it is never met in good health; it
//! only keeps a stalled disk from filling the memory. An item larger than the whole bound is taken when the queue is
//! empty. The bytes of an item count until it has been written, synced and answered.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::Arc,
    thread::{self, ThreadId},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::{Done, Entry, EntryId, memory::Replica};

/// What is to be written.
#[derive(Debug)]
pub(super) enum Operation {
    Append(Vec<Entry>),
    Vote(Bytes),
    Committed(Bytes),
    Truncate(Option<EntryId>),
    Purge(EntryId),
    Remove,
}

impl Operation {
    /// Whether someone waits until it is durable.
    pub(super) const fn is_durable(&self) -> bool {
        matches!(self, Self::Append(_) | Self::Vote(_) | Self::Remove)
    }

    /// How many records it makes.
    pub(super) fn records(&self) -> u64 {
        match self {
            Self::Append(entries) => entries.len() as u64,
            _ => 1,
        }
    }
}

/// One call of a caller.
pub(super) struct Item {
    pub(super) replica: Arc<Replica>,
    pub(super) operation: Operation,
    /// Number of its first record in the replica's stream.
    pub(super) number: u64,
    /// What it counts for in the queue.
    pub(super) bytes: usize,
    pub(super) done: Option<Done>,
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("replica", &self.replica.id)
            .field("operation", &self.operation)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Why nothing is written any more. An `io::Error` that can be told many times.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: io::ErrorKind,
    text: Arc<str>,
}

impl Failure {
    pub(super) fn new(error: &io::Error) -> Self {
        Self { kind: error.kind(), text: format!("the log is dead: {error}").into() }
    }

    pub(super) fn closed() -> Self {
        Self { kind: io::ErrorKind::BrokenPipe, text: "the log is closed".into() }
    }

    pub(super) fn error(&self) -> io::Error {
        io::Error::new(self.kind, &*self.text)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    bytes_max: usize,
    inner: Mutex<Inner>,
    filled: Condvar,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
    /// Set when the log dies or is closed; then nothing is taken any more.
    refuses: Option<Failure>,
    closing: bool,
    dead: bool,
    /// The writer's thread, which never waits for itself.
    writer: Option<ThreadId>,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, inner: Mutex::default(), filled: Condvar::new(), freed: Condvar::new() }
    }

    /// The calling thread is the writer: it may fill the queue (from a callback) beyond its bound.
    pub(super) fn this_is_the_writer(&self) {
        self.inner.lock().writer = Some(thread::current().id());
    }

    /// Waits until there is room for so many bytes and takes it.
    pub(super) fn reserve(&self, bytes: usize, may_wait: bool) -> Result<(), Failure> {
        let mut inner = self.inner.lock();
        let may_wait = may_wait && inner.writer != Some(thread::current().id());
        loop {
            if let Some(failure) = &inner.refuses {
                return Err(failure.clone());
            }
            let full = inner.bytes > 0 && inner.bytes.saturating_add(bytes) > self.bytes_max;
            if !full || !may_wait {
                inner.bytes = inner.bytes.saturating_add(bytes);
                return Ok(());
            }
            self.freed.wait(&mut inner);
        }
    }

    /// Adds an item whose bytes were reserved; gives it back if the queue was closed in between.
    pub(super) fn push(&self, item: Item) -> Result<(), (Item, Failure)> {
        let mut inner = self.inner.lock();
        if let Some(failure) = inner.refuses.clone() {
            inner.bytes = inner.bytes.saturating_sub(item.bytes);
            return Err((item, failure));
        }
        inner.items.push_back(item);
        drop(inner);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for items and takes them in order, up to so many bytes but at least one. None: closed and empty.
    pub(super) fn wait(&self, batch_bytes: usize) -> Option<Vec<Item>> {
        let mut inner = self.inner.lock();
        loop {
            let items = inner.take(batch_bytes);
            if !items.is_empty() {
                return Some(items);
            }
            if inner.closing {
                return None;
            }
            self.filled.wait(&mut inner);
        }
    }

    /// Takes what is there, as [`Queue::wait`] does; nothing if nothing is.
    pub(super) fn take(&self, batch_bytes: usize) -> Vec<Item> {
        self.inner.lock().take(batch_bytes)
    }

    /// The items of so many bytes were answered.
    pub(super) fn release(&self, bytes: usize) {
        let mut inner = self.inner.lock();
        inner.bytes = inner.bytes.saturating_sub(bytes);
        drop(inner);
        self.freed.notify_all();
    }

    /// Takes no more items; those that are in are still written.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.refuses.get_or_insert_with(Failure::closed);
        inner.closing = true;
        drop(inner);
        self.filled.notify_all();
        self.freed.notify_all();
    }

    /// Takes no more items and gives back those that were waiting, to be refused.
    pub(super) fn fail(&self, failure: Failure) -> Vec<Item> {
        let mut inner = self.inner.lock();
        inner.refuses = Some(failure);
        inner.closing = true;
        inner.dead = true;
        inner.bytes = 0;
        let items = inner.items.drain(..).collect();
        drop(inner);
        self.filled.notify_all();
        self.freed.notify_all();
        items
    }

    pub(super) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    pub(super) fn has_items(&self) -> bool {
        !self.inner.lock().items.is_empty()
    }

    /// Why the log is dead; none if it is alive or was closed.
    pub(super) fn death(&self) -> Option<Failure> {
        let inner = self.inner.lock();
        inner.refuses.clone().filter(|_| inner.dead)
    }

    pub(super) fn refuses(&self) -> Option<Failure> {
        self.inner.lock().refuses.clone()
    }
}

impl Inner {
    fn take(&mut self, batch_bytes: usize) -> Vec<Item> {
        let mut bytes = 0_usize;
        let mut count = 0;
        for item in &self.items {
            bytes = bytes.saturating_add(item.bytes);
            if bytes > batch_bytes && count > 0 {
                break;
            }
            count += 1;
        }
        self.items.drain(..count).collect()
    }
}
