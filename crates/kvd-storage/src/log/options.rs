//! What a log is told: its settings, and whom it keeps informed.

use std::{fmt, io, ops::RangeInclusive, sync::Arc, time::Duration};

/// The smallest and largest [`Options::segment_bytes`].
pub const SEGMENT_BYTES_RANGE: RangeInclusive<u64> = (32 << 10)..=(1 << 30);

/// Who writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writer {
    /// A thread, and one more that makes segments ready.
    #[default]
    Thread,
    /// The calling thread, before the call returns. For simulations, in which nothing may run by itself. Callbacks
    /// may call the log again: what they submit is written when they have returned.
    Inline,
    /// Whoever holds the [`super::Driver`], when it sees fit. For simulations, in which writing takes time and many calls
    /// may wait for one sync.
    Driven,
}

/// Told how the log is doing. Called from the log's threads, so must be quick.
pub trait Observer: fmt::Debug + Send + Sync {
    /// So many records, of so many bytes, were made durable by one sync that took so long (zero with
    /// [`Writer::Inline`]).
    fn synced(&self, records: usize, bytes: usize, took: Duration) {
        let _ = (records, bytes, took);
    }

    /// Something waits to be written. Told with [`Writer::Driven`] alone: whoever drives the log has something to do.
    fn has_work(&self) {}

    /// The files for the next segment and the reserve are there, or could not be made. On an error of kind `StorageFull`
    /// it is tried again every second: refuse what grows until it works, for the log lives on its reserve
    /// ([`Options::reserve_segments`]) and dies when that is used up.
    fn next_segment(&self, error: Option<&io::Error>) {
        let _ = error;
    }

    /// The log is dead: stop the process. Called once, before the callbacks of what was pending.
    fn failed(&self, error: &io::Error) {
        let _ = error;
    }
}

/// An observer that doesn't care.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// Settings of a log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment, in bytes; within [`SEGMENT_BYTES_RANGE`] and a multiple of 4096. An entry can be half as long.
    pub segment_bytes: u64,
    /// Files that are kept beyond the next segment's, for what must go on when the disk is full: deletes, votes, changes
    /// of members, the next start. Whoever listens to [`Observer::next_segment`] is told once they can't be had.
    pub reserve_segments: usize,
    /// Bytes of payload that are kept in memory for each replica once they are on disk.
    pub cache_bytes_per_replica: usize,
    /// Bytes that may wait for the writer; a call that finds more waits.
    pub queue_bytes_max: usize,
    /// Bytes that the writer takes at once; a single larger call is still taken.
    pub batch_bytes_max: usize,
    /// Who writes.
    pub writer: Writer,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            reserve_segments: 1,
            cache_bytes_per_replica: 4 << 20,
            queue_bytes_max: 256 << 20,
            batch_bytes_max: 8 << 20,
            writer: Writer::default(),
            observer: Arc::new(NoObserver),
        }
    }
}
