//! Turns what waits into bytes on disk: one write and one sync for everything that is there.
//!
//! The writer keeps each replica's [`Stream`] as of the last record that it encoded. Callers may be ahead of it, so
//! what it tells at the head of a segment comes from here and never from what callers see.
//!
//! # Order
//! - A write begins only when the one before it has been written, and a segment only when all of the one before it has
//!   been synced. That is what the argument in [`super::scan`] rests on.
//! - A batch in which nobody waits for durability (committed, truncate and purge records) is written and not synced;
//!   the next sync covers it.
//!
//! # When a segment is used again
//! The head of a new segment names the oldest segment that any replica has a live entry in, as of that very place in
//! the log. Once that head is synced, no recovery looks at an older segment, and only then is it given to the
//! [`Pool`]. The first head of an opened log also passes over the segments before it that are bare (see [`super::recovery`]):
//! they are given up in the same way.
//!
//! # Failure
//! The first failed write or sync ends the log for good. After a failed sync the kernel may drop the pages and call
//! them clean, so a second one that succeeds says nothing.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kvd_types::{GroupId, LogIndex, ReplicaId};
use parking_lot::Mutex;

use super::{
    EntryId, Observer,
    format::{self, Kind, RECORDS_START, RecordHeader, SegmentHeader},
    memory::{Location, Replica},
    pool::{Pool, Prepared},
    queue::{Item, Operation},
    stream::Stream,
};
use crate::disk::File;

/// Unsynced writes in a row before one is synced although nobody waits for it.
const UNSYNCED_WRITES_MAX: u32 = 256;
/// A write buffer that grew beyond this is given back.
const BUFFER_BYTES_KEPT: usize = 16 << 20;

/// The open segments that are needed.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<BTreeMap<u64, Arc<dyn File>>>);

impl Files {
    pub(super) fn get(&self, sequence: u64) -> Option<Arc<dyn File>> {
        self.0.lock().get(&sequence).cloned()
    }

    pub(super) fn add(&self, sequence: u64, file: Arc<dyn File>) {
        self.0.lock().insert(sequence, file);
    }

    /// How many there are, from that one on.
    pub(super) fn count_from(&self, sequence: u64) -> u64 {
        self.0.lock().range(sequence..).count() as u64
    }

    fn take_before(&self, sequence: u64) -> Vec<u64> {
        let mut files = self.0.lock();
        let needed = files.split_off(&sequence);
        std::mem::replace(&mut *files, needed).into_keys().collect()
    }
}

/// What the writer starts with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) pool: Arc<Pool>,
    pub(super) files: Arc<Files>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) streams: BTreeMap<ReplicaId, Stream>,
    pub(super) segment_bytes: u64,
    pub(super) cache_bytes: usize,
    /// The last segment of the recovered log and where its records end; none if it is new.
    pub(super) previous: Option<(u64, u64)>,
    /// Segments behind that one that hold nothing but their heads: given up once the first head is synced.
    pub(super) bare: Vec<u64>,
    pub(super) next_write: u64,
    /// The latest write that is known to be synced.
    pub(super) synced: u64,
    pub(super) unattributed: bool,
    /// Measure how long syncs take. Not under simulation, where real time means nothing.
    pub(super) timed: bool,
}

/// Where an entry was put.
#[derive(Debug)]
struct Placed {
    replica: Arc<Replica>,
    index: LogIndex,
    number: u64,
    location: Location,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Core {
    start: Start,
    segment: Prepared,
    /// Where in the segment the next write goes.
    offset: u64,
    next_write: u64,
    /// Writes since the last sync.
    unsynced: u32,
    buffer: Vec<u8>,
    /// Where the last record begins in the buffer.
    last_record: Option<usize>,
    placed: Vec<Placed>,
    /// The oldest segment that is needed once the current head is synced.
    needed_from: Option<u64>,
    records_unsynced: usize,
    bytes_unsynced: usize,
}

impl Core {
    /// Begins a new segment and makes its head durable.
    pub(super) fn new(start: Start) -> io::Result<Self> {
        let segment = start.pool.take()?;
        let mut core = Self {
            segment,
            offset: 0,
            next_write: start.next_write,
            unsynced: u32::try_from(start.next_write.saturating_sub(1).saturating_sub(start.synced))
                .unwrap_or(u32::MAX),
            buffer: Vec::new(),
            last_record: None,
            placed: Vec::new(),
            needed_from: None,
            records_unsynced: 0,
            bytes_unsynced: 0,
            start,
        };
        core.encode_head(core.start.previous)?;
        core.write()?;
        core.sync()?;
        core.start.pool.free(std::mem::take(&mut core.start.bare));
        Ok(core)
    }

    /// Writes all items, and syncs if any of them waits for it. After an error nothing may be written any more.
    pub(super) fn process(&mut self, items: &[Item]) -> io::Result<()> {
        for item in items {
            self.encode_item(item)?;
        }
        self.write()?;
        if self.unsynced >= UNSYNCED_WRITES_MAX || items.iter().any(|item| item.operation.is_durable()) {
            self.sync()?;
        }
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Syncs everything, and then says so in a last record.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        self.make_room(0)?;
        self.encode(Kind::Close, GroupId::default(), ReplicaId::default(), 0, None, &Bytes::new())?;
        self.write()?;
        self.sync()
    }

    fn encode_item(&mut self, item: &Item) -> io::Result<()> {
        match &item.operation {
            Operation::Append(entries) => {
                for (number, entry) in (item.number..).zip(entries) {
                    let id = EntryId { index: entry.index, term: entry.term };
                    let location = self.record(item, Kind::Entry, number, Some(id), &entry.payload)?;
                    let replica = Arc::clone(&item.replica);
                    self.placed.push(Placed { replica, index: entry.index, number, location });
                }
            }
            Operation::Vote(vote) => {
                self.record(item, Kind::Vote, item.number, None, vote)?;
            }
            Operation::Committed(committed) => {
                self.record(item, Kind::Committed, item.number, None, committed)?;
            }
            Operation::Truncate(last_kept) => {
                self.record(item, Kind::Truncate, item.number, *last_kept, &Bytes::new())?;
            }
            Operation::Purge(upto) => {
                self.record(item, Kind::Purge, item.number, Some(*upto), &Bytes::new())?;
            }
            Operation::Remove => {
                self.record(item, Kind::Remove, item.number, None, &Bytes::new())?;
                self.start.streams.remove(&item.replica.id);
            }
        }
        Ok(())
    }

    /// Adds a replica's record to the buffer, in a new segment if the current one has no room for it.
    fn record(
        &mut self,
        item: &Item,
        kind: Kind,
        number: u64,
        id: Option<EntryId>,
        payload: &Bytes,
    ) -> io::Result<Location> {
        self.make_room(payload.len())?;
        let replica = &item.replica;
        let location = Location::new(self.segment.sequence, self.offset + self.buffer.len() as u64)
            .ok_or_else(|| io::Error::other("a record would be beyond its segment; this is a bug in kvd"))?;
        let header = self.encode(kind, replica.group, replica.id, number, id, payload)?;
        let stream = self.start.streams.entry(replica.id).or_insert_with(|| Stream::new(replica.group));
        if stream.number.saturating_add(1) != number {
            return Err(io::Error::other(format!(
                "replica {}: record {number} follows on record {}; this is a bug in kvd",
                replica.id, stream.number
            )));
        }
        stream.apply(&header, payload);
        Ok(location)
    }

    fn make_room(&mut self, payload_bytes: usize) -> io::Result<()> {
        let bytes = format::total_bytes(payload_bytes as u64);
        if self.used() + bytes <= self.start.segment_bytes {
            return Ok(());
        }
        self.write()?;
        self.sync()?;
        let previous = (self.segment.sequence, self.offset);
        fail::fail_point!(crate::failpoints::SEGMENT_BEFORE_ROLL);
        self.segment = self.start.pool.take()?;
        fail::fail_point!(crate::failpoints::SEGMENT_AFTER_ROLL);
        self.offset = 0;
        self.encode_head(Some(previous))?;
        if self.used() + bytes <= self.start.segment_bytes {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "a segment of {} bytes has no room for the state of {} replicas and a record of {bytes} bytes: \
                 larger segments are needed",
                self.start.segment_bytes,
                self.start.streams.len()
            ),
        ))
    }

    fn used(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Encodes a new segment's header and the state of all replicas.
    fn encode_head(&mut self, previous: Option<(u64, u64)>) -> io::Result<()> {
        let sequence = self.segment.sequence;
        let oldest = self.start.streams.values().filter_map(Stream::oldest_segment).min().unwrap_or(sequence);
        let (previous, previous_end) = previous.unwrap_or_default();
        let states: Vec<_> = self
            .start
            .streams
            .iter()
            .filter(|(_, stream)| stream.number > 0)
            .map(|(id, stream)| (*id, stream.group, stream.number, Bytes::from(stream.to_state().encode())))
            .collect();
        SegmentHeader {
            sequence,
            previous,
            previous_end,
            oldest,
            first_write: self.next_write,
            segment_bytes: self.start.segment_bytes,
            unattributed: self.start.unattributed,
            streams: states.len() as u64,
        }
        .encode(&mut self.buffer);
        debug_assert_eq!(self.buffer.len() as u64, RECORDS_START);
        self.encode(Kind::Start, GroupId::default(), ReplicaId::default(), 0, None, &Bytes::new())?;
        for (id, group, number, state) in states {
            self.encode(Kind::State, group, id, number, None, &state)?;
        }
        self.start.files.add(sequence, Arc::clone(&self.segment.file));
        self.needed_from = Some(oldest);
        Ok(())
    }

    fn encode(
        &mut self,
        kind: Kind,
        group: GroupId,
        replica: ReplicaId,
        number: u64,
        id: Option<EntryId>,
        payload: &Bytes,
    ) -> io::Result<RecordHeader> {
        let header = RecordHeader {
            kind,
            ends_write: false,
            payload_bytes: u32::try_from(payload.len()).map_err(io::Error::other)?,
            payload_crc: crc32fast::hash(payload),
            segment: self.segment.sequence,
            write: self.next_write,
            unsynced: self.unsynced,
            group,
            replica,
            number,
            id,
        };
        if !header.is_in_range() {
            return Err(io::Error::other(format!(
                "the counts of the log's records are used up, which only damage can have done: {header:?}"
            )));
        }
        self.last_record = Some(self.buffer.len());
        header.encode(payload, &mut self.buffer);
        self.records_unsynced += 1;
        Ok(header)
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(last_record) = self.last_record.take() else { return Ok(()) };
        format::end_write(&mut self.buffer, last_record);
        fail::fail_point!(crate::failpoints::LOG_BEFORE_WRITE);
        self.segment.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.bytes_unsynced += self.buffer.len();
        self.buffer.clear();
        self.next_write += 1;
        self.unsynced = self.unsynced.saturating_add(1);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.unsynced == 0 {
            return Ok(());
        }
        let began = self.start.timed.then(Instant::now);
        fail::fail_point!(crate::failpoints::LOG_BEFORE_SYNC);
        self.segment.file.sync_data()?;
        fail::fail_point!(crate::failpoints::LOG_AFTER_SYNC);
        let took = began.map_or(Duration::ZERO, |began| began.elapsed());
        self.unsynced = 0;
        let records = std::mem::take(&mut self.records_unsynced);
        let bytes = std::mem::take(&mut self.bytes_unsynced);
        self.start.observer.synced(records, bytes, took);
        for placed in self.placed.drain(..) {
            placed.replica.memory.lock().written(
                placed.index,
                placed.number,
                placed.location,
                self.start.cache_bytes,
            );
        }
        if let Some(oldest) = self.needed_from.take() {
            fail::fail_point!(crate::failpoints::SEGMENT_BEFORE_FREE);
            self.start.pool.free(self.start.files.take_before(oldest));
        }
        Ok(())
    }
}
