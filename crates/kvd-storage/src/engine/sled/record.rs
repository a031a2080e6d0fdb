//! What a batch changes, kept in the database until all of it is in.
//!
//! # The problem
//! What one flush writes is atomic, but a batch goes in by many parts, and a flush that begins between two of them would make
//! half a batch durable. Keeping batches out for as long as a flush lasts is right, and the quickest for both. But a flush of all
//! that a busy node has changed takes seconds, on a machine with more to do than it can a quarter of a minute, and meanwhile
//! everything that is written waits in memory.
//!
//! # The approach
//! A flush is waited for, but not for long. A batch that has waited enough first puts a record of all its changes into a tree
//! that only these are in, as one row; then its parts go in, and then the record is emptied. Whichever of these moments a flush
//! falls on, after a crash there is nothing of the batch, or all of it, or a record: from that, opening the database puts all
//! of it in again, which changes nothing of what is there already.
//!
//! A batch that begins while there is no flush needs no record, and a flush waits for those: see [`FlushGate`]. So nothing is
//! written twice but beside a flush that takes long.
//!
//! # Invariants
//! - A tree has one writer at a time, so it has one record, under its name.
//! - Records are put and emptied and never removed: a removal that races others on a tree could wait for ever.
//! - While a batch without a record is under way no flush begins, and while one has begun no such batch does.
//!
//! # At the bound
//! A record is a copy of the batch in memory. One of more than [`RECORD_BYTES_MAX`] waits for the flush instead.

use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

/// The tree of records. No tree of [`crate::table`] has such a name.
pub(super) const TREE: &str = "batches under way";
/// The largest batch that gets a record, by its keys and values.
const RECORD_BYTES_MAX: usize = 128 << 20;
const CHECKSUM_BYTES: usize = 8;

/// Changes, in order; `None` removes.
pub(super) type Changes = Vec<(Bytes, Option<Bytes>)>;

/// A record, but for the checksum before it: XXH3-64, little-endian.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(message, repeated, tag = "1")]
    changes: Vec<Change>,
}

#[derive(Clone, PartialEq, Message)]
struct Change {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
}

/// Whether a batch is small enough for a record.
pub(super) fn has_room(changes: &[(Bytes, Option<Bytes>)]) -> bool {
    let bytes = changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len));
    bytes.sum::<usize>() <= RECORD_BYTES_MAX
}

pub(super) fn encode(changes: &[(Bytes, Option<Bytes>)]) -> Vec<u8> {
    let changes = changes.iter().map(|(key, value)| Change { key: key.clone(), value: value.clone() });
    let record = Record { changes: changes.collect() };
    let mut encoded = Vec::with_capacity(CHECKSUM_BYTES + record.encoded_len());
    encoded.extend_from_slice(&[0; CHECKSUM_BYTES]);
    record.encode_raw(&mut encoded);
    if let Some((checksum, rest)) = encoded.split_first_chunk_mut() {
        *checksum = xxh3_64(rest).to_le_bytes();
    }
    encoded
}

/// The changes of a record, none of one that was emptied; nothing of one that is damaged.
pub(super) fn decode(encoded: &[u8]) -> Option<Changes> {
    if encoded.is_empty() {
        return Some(Vec::new());
    }
    let (checksum, rest) = encoded.split_first_chunk::<CHECKSUM_BYTES>()?;
    let record = (u64::from_le_bytes(*checksum) == xxh3_64(rest)).then(|| Record::decode(rest))?.ok()?;
    Some(record.changes.into_iter().map(|Change { key, value }| (key, value)).collect())
}

/// Keeps flushes and batches without a record apart.
#[derive(Debug)]
pub(super) struct FlushGate {
    users: Mutex<Users>,
    changed: Condvar,
    /// For how long since a flush began it is waited for.
    patience: Duration,
}

#[derive(Debug, Default)]
struct Users {
    /// Batches without a record that are under way.
    unrecorded: usize,
    /// Since when a flush has been under way, or has waited for such batches.
    flush: Option<Instant>,
}

/// A batch without a record, which no flush meets.
#[must_use]
pub(super) struct Unrecorded<'a>(&'a FlushGate);

/// A flush, which meets no batch without a record.
#[must_use]
pub(super) struct Flushing<'a>(&'a FlushGate);

impl FlushGate {
    pub(super) fn new(patience: Duration) -> Self {
        Self { users: Mutex::default(), changed: Condvar::new(), patience }
    }

    /// Begins a batch; none: it needs a record, for a flush is under way. One that can have none waits for its end.
    pub(super) fn batch(&self, can_have_record: bool) -> Option<Unrecorded<'_>> {
        let mut users = self.users.lock();
        while let Some(since) = users.flush {
            if !can_have_record {
                self.changed.wait(&mut users);
            } else if self.changed.wait_until(&mut users, since + self.patience).timed_out() {
                return None;
            }
        }
        users.unrecorded += 1;
        Some(Unrecorded(self))
    }

    /// Begins a flush, once no other is under way and no batch without a record.
    pub(super) fn flush(&self) -> Flushing<'_> {
        let mut users = self.users.lock();
        self.changed.wait_while(&mut users, |users| users.flush.is_some());
        users.flush = Some(Instant::now());
        self.changed.wait_while(&mut users, |users| users.unrecorded > 0);
        Flushing(self)
    }
}

impl Drop for Unrecorded<'_> {
    fn drop(&mut self) {
        self.0.users.lock().unrecorded -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.users.lock().flush = None;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use proptest::prelude::*;

    use super::*;

    fn change() -> impl Strategy<Value = (Bytes, Option<Bytes>)> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        (bytes(), proptest::option::of(bytes()))
    }

    proptest! {
        #[test]
        fn a_record_says_what_a_batch_changes_and_a_damaged_one_says_nothing(
            changes in proptest::collection::vec(change(), 0..20),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let mut encoded = encode(&changes);
            prop_assert_eq!(decode(&encoded), Some(changes));
            let at = at.index(encoded.len());
            encoded[at] ^= 1 << bit;
            prop_assert_eq!(decode(&encoded), None);
            encoded.truncate(at);
            prop_assert_eq!(decode(&encoded), if at == 0 { Some(Vec::new()) } else { None });
        }
    }

    #[test]
    fn only_small_batches_have_records() {
        let row = (Bytes::new(), Some(Bytes::from(vec![0; 1 << 20])));
        let mut changes = vec![row; RECORD_BYTES_MAX >> 20];
        assert!(has_room(&changes));
        changes.push((Bytes::from("k"), None));
        assert!(!has_room(&changes));
    }

    #[test]
    fn a_batch_needs_a_record_while_a_flush_is_under_way_and_no_longer() {
        let gate = FlushGate::new(Duration::ZERO);
        drop([gate.batch(true).unwrap(), gate.batch(false).unwrap()]);
        let flush = gate.flush();
        assert!(gate.batch(true).is_none());
        drop(flush);
        assert!(gate.batch(true).is_some());
    }

    #[test]
    fn a_flush_waits_for_batches_without_records_and_they_for_it() {
        let gate = FlushGate::new(Duration::ZERO);
        let (batch, is_flushed) = (gate.batch(true).unwrap(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let _flush = gate.flush();
                is_flushed.store(true, Ordering::SeqCst);
            });
            // As soon as it waits no other batch begins without one.
            while gate.batch(true).is_some() {
                thread::yield_now();
            }
            assert!(!is_flushed.load(Ordering::SeqCst));
            drop(batch);
            let _batch = gate.batch(false).unwrap();
            assert!(is_flushed.load(Ordering::SeqCst));
        });
    }

    #[test]
    fn a_flush_that_does_not_take_long_is_waited_for() {
        let gate = FlushGate::new(Duration::from_secs(60));
        let flush = gate.flush();
        thread::scope(|scope| {
            let batch = scope.spawn(|| gate.batch(true).is_some());
            // Time enough for who does not wait.
            for _ in 0..10_000 {
                thread::yield_now();
            }
            assert!(!batch.is_finished());
            drop(flush);
            assert!(batch.join().unwrap());
        });
    }
}
