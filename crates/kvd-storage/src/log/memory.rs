//! What is known in memory of one replica's log: where each entry is on disk, and the latest entries themselves.
//!
//! Every entry has a [`Slot`] (32 bytes); the payloads of the latest ones are kept too. Entries that have not reached
//! the disk always are; of the others only as many as fit the cache's bytes, because replication and apply read what
//! was appended a moment ago.

use std::{collections::VecDeque, num::NonZeroU32, sync::Arc};

use bytes::Bytes;
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};
use parking_lot::Mutex;

use super::{Entry, EntryId, format, stream::Marks};

/// Where a record stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    /// Behind the segment's header, and within its greatest size.
    offset: NonZeroU32,
}

impl Location {
    /// `None`: there is no record at such an offset.
    pub(super) fn new(segment: u64, offset: u64) -> Option<Self> {
        let offset = u32::try_from(offset).ok().and_then(NonZeroU32::new)?;
        Some(Self { segment, offset })
    }

    pub(super) const fn offset(self) -> u64 {
        self.offset.get() as u64
    }
}

/// Slots that have room although there are no entries for them.
const SPARE_SLOTS: usize = 4096;

/// One entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) term: Term,
    /// Of its record in the replica's stream: tells it from another entry that had the same index before.
    pub(super) number: u64,
    pub(super) payload_bytes: u32,
    /// `None` until it is on disk.
    offset: Option<NonZeroU32>,
    /// Means nothing until then.
    segment: u64,
}

// There may be millions of them.
const _: () = assert!(size_of::<Slot>() == 32);

impl Slot {
    const fn new(term: Term, number: u64, payload_bytes: u32) -> Self {
        Self { term, number, payload_bytes, offset: None, segment: 0 }
    }

    const fn at(self, location: Location) -> Self {
        Self { offset: Some(location.offset), segment: location.segment, ..self }
    }

    /// `None` until it is on disk.
    pub(super) fn location(&self) -> Option<Location> {
        self.offset.map(|offset| Location { segment: self.segment, offset })
    }
}

/// An entry that was asked for: its payload, or where to read it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) index: LogIndex,
    pub(super) slot: Slot,
    pub(super) payload: Option<Bytes>,
}

/// A replica as all its handles share it.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) id: ReplicaId,
    pub(super) group: GroupId,
    /// The number of the latest record submitted. Held while submitting, so that the order of numbers, of changes to
    /// the memory and of the queue is one and the same. The writer never takes it.
    pub(super) submitted: Mutex<u64>,
    pub(super) memory: Mutex<Memory>,
}

impl Replica {
    pub(super) fn new(id: ReplicaId, group: GroupId, number: u64, memory: Memory) -> Arc<Self> {
        Arc::new(Self { id, group, submitted: Mutex::new(number), memory: Mutex::new(memory) })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) marks: Marks,
    pub(super) removed: bool,
    /// Index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Payloads of the last so many slots.
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
    retained_bytes: u64,
}

impl Memory {
    /// A log of which only that much is known: no entry yet.
    pub(super) fn at(marks: Marks) -> Self {
        Self { marks, ..Self::default() }
    }

    /// Adds an entry that is on disk already, behind the last one.
    pub(super) fn recover(&mut self, id: EntryId, number: u64, payload_bytes: u32, location: Location) {
        self.push(id, Slot::new(id.term, number, payload_bytes).at(location));
    }

    /// Adds an entry behind the last one.
    pub(super) fn append(&mut self, entry: &Entry, number: u64, payload_bytes: u32) {
        let id = EntryId { index: entry.index, term: entry.term };
        self.push(id, Slot::new(entry.term, number, payload_bytes));
        self.tail_bytes += entry.payload.len();
        self.tail.push_back(entry.payload.clone());
    }

    fn push(&mut self, id: EntryId, slot: Slot) {
        if self.slots.is_empty() {
            self.first = id.index.get();
        }
        self.retained_bytes += slot_bytes(&slot);
        self.slots.push_back(slot);
        self.marks.append(id);
    }

    /// Notes where an entry is on disk, if it is still the one that was written there, and evicts what the cache has
    /// too much of.
    pub(super) fn written(&mut self, index: LogIndex, number: u64, location: Location, cache_bytes: usize) {
        if let Some(slot) = self.position(index).and_then(|at| self.slots.get_mut(at))
            && slot.number == number
        {
            *slot = slot.at(location);
        }
        while self.tail_bytes > cache_bytes {
            let first_cached = self.slots.len().saturating_sub(self.tail.len());
            if self.slots.get(first_cached).is_none_or(|slot| slot.offset.is_none()) {
                break;
            }
            self.drop_first_cached();
        }
    }

    /// Drops all entries after that one.
    pub(super) fn truncate(&mut self, last_kept: Option<EntryId>) {
        self.marks.truncate(last_kept);
        while let Some(last_slot) = (self.slots.len() as u64).checked_sub(1) {
            if self.marks.last.is_some_and(|last| self.first + last_slot <= last.index.get()) {
                break;
            }
            if let Some(slot) = self.slots.pop_back() {
                self.retained_bytes -= slot_bytes(&slot);
            }
            if let Some(payload) = self.tail.pop_back() {
                self.tail_bytes -= payload.len();
            }
        }
    }

    /// Drops all entries up to that one.
    pub(super) fn purge(&mut self, upto: EntryId) {
        self.marks.purge(upto);
        let Some(purged) = self.marks.purged else { return };
        while !self.slots.is_empty() && self.first <= purged.index.get() {
            if self.tail.len() == self.slots.len() {
                self.drop_first_cached();
            }
            if let Some(slot) = self.slots.pop_front() {
                self.retained_bytes -= slot_bytes(&slot);
            }
            self.first += 1;
        }
        // What a long log took is given back once it is short.
        if self.slots.capacity() / 4 > self.slots.len().max(SPARE_SLOTS) {
            self.slots.shrink_to(self.slots.len().max(SPARE_SLOTS) * 2);
        }
    }

    /// The entries from an index on, up to (not including) another, of at most so many bytes but at least one.
    pub(super) fn wanted(&self, from: LogIndex, to: LogIndex, max_bytes: usize) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        let mut bytes = 0_usize;
        let first_cached = self.slots.len().saturating_sub(self.tail.len());
        let Some(start) = self.position(from) else { return wanted };
        for (at, slot) in (start..).zip(self.slots.range(start..)) {
            let index = LogIndex(self.first + at as u64);
            bytes = bytes.saturating_add(usize::try_from(slot.payload_bytes).unwrap_or(usize::MAX));
            if index >= to || (bytes > max_bytes && !wanted.is_empty()) {
                break;
            }
            let payload = at.checked_sub(first_cached).and_then(|at| self.tail.get(at)).cloned();
            wanted.push(Wanted { index, slot: *slot, payload });
        }
        wanted
    }

    /// Whether the entry that was read is still there and still the same one.
    pub(super) fn holds(&self, index: LogIndex, number: u64) -> bool {
        self.position(index).and_then(|at| self.slots.get(at)).is_some_and(|slot| slot.number == number)
    }

    pub(super) fn first_index(&self) -> Option<LogIndex> {
        (!self.slots.is_empty()).then_some(LogIndex(self.first))
    }

    pub(super) fn entries(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        self.position(index).and_then(|at| self.slots.get(at)).map(|slot| slot.term)
    }

    pub(super) fn retained_bytes(&self) -> u64 {
        self.retained_bytes
    }

    /// Where the oldest entry is that is on disk and not purged.
    pub(super) fn oldest_location(&self) -> Option<Location> {
        self.slots.front().and_then(Slot::location)
    }

    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> usize {
        self.tail_bytes
    }

    fn position(&self, index: LogIndex) -> Option<usize> {
        let at = usize::try_from(index.get().checked_sub(self.first)?).ok()?;
        (at < self.slots.len()).then_some(at)
    }

    fn drop_first_cached(&mut self) {
        if let Some(payload) = self.tail.pop_front() {
            self.tail_bytes -= payload.len();
        }
    }
}

fn slot_bytes(slot: &Slot) -> u64 {
    format::total_bytes(u64::from(slot.payload_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Entry {
        Entry { index: LogIndex(index), term: Term(1), payload: Bytes::from(vec![7; 100]) }
    }

    fn id(index: u64) -> EntryId {
        EntryId { index: LogIndex(index), term: Term(1) }
    }

    const THERE: Location = Location { segment: 1, offset: NonZeroU32::MIN };

    /// Which of the entries from 0 on are in memory, and which on disk.
    fn whereabouts(memory: &Memory) -> Vec<(bool, bool)> {
        let wanted = memory.wanted(LogIndex(0), LogIndex(u64::MAX), usize::MAX);
        wanted.iter().map(|wanted| (wanted.payload.is_some(), wanted.slot.location().is_some())).collect()
    }

    #[test]
    fn only_entries_that_are_on_disk_are_evicted() {
        let mut memory = Memory::default();
        for index in 0..3 {
            memory.append(&entry(index), index + 1, 100);
        }
        memory.written(LogIndex(0), 1, THERE, 0);
        assert_eq!(whereabouts(&memory), [(false, true), (true, false), (true, false)]);
        // The first of those in memory isn't on disk, so none is evicted.
        memory.written(LogIndex(2), 3, THERE, 0);
        assert_eq!(whereabouts(&memory), [(false, true), (true, false), (true, true)]);
        memory.written(LogIndex(1), 2, THERE, 100);
        assert_eq!(whereabouts(&memory), [(false, true), (false, true), (true, true)]);
        assert_eq!(memory.cached_bytes(), 100);
    }

    #[test]
    fn an_entry_that_was_replaced_before_it_was_written_leaves_no_trace() {
        let mut memory = Memory::default();
        memory.append(&entry(0), 1, 100);
        memory.append(&entry(1), 2, 100);
        memory.truncate(Some(id(0)));
        memory.append(&entry(1), 4, 100);
        memory.written(LogIndex(1), 2, THERE, 1000);
        assert_eq!(whereabouts(&memory), [(true, false), (true, false)]);
        assert!(memory.holds(LogIndex(1), 4) && !memory.holds(LogIndex(1), 2));
        memory.written(LogIndex(1), 4, THERE, 1000);
        assert_eq!(whereabouts(&memory), [(true, false), (true, true)]);
        // Nor does one that was dropped.
        memory.purge(id(5));
        memory.written(LogIndex(0), 1, THERE, 1000);
        assert_eq!((memory.entries(), memory.cached_bytes(), memory.retained_bytes()), (0, 0, 0));
    }

    #[test]
    fn a_location_is_behind_a_header_and_within_a_segment() {
        let at = |offset| Location::new(7, offset).map(|location| (location.segment, location.offset()));
        assert_eq!(at(0), None);
        assert_eq!(at(format::RECORDS_START), Some((7, format::RECORDS_START)));
        let greatest = *crate::log::SEGMENT_BYTES_RANGE.end();
        assert_eq!(at(greatest), Some((7, greatest)));
        assert_eq!(at(1 << 32), None);
    }

    #[test]
    fn slots_are_given_back_after_a_purge_and_kept_for_what_comes_next() {
        let mut memory = Memory::default();
        let entries = 20 * SPARE_SLOTS as u64;
        for index in 0..entries {
            memory.recover(id(index), index + 1, 100, THERE);
        }
        let long = memory.slots.capacity();
        memory.purge(id(entries / 2));
        assert_eq!(memory.slots.capacity(), long, "half of it is in use");
        memory.purge(id(entries - 11));
        assert_eq!((memory.entries(), memory.first_index()), (10, Some(LogIndex(entries - 10))));
        assert!(memory.slots.capacity() <= 4 * SPARE_SLOTS, "{}", memory.slots.capacity());
        assert!(memory.holds(LogIndex(entries - 1), entries));
        // A short log is left alone.
        for index in entries..entries + 2 * SPARE_SLOTS as u64 {
            memory.recover(id(index), index + 1, 100, THERE);
        }
        let room = memory.slots.capacity();
        memory.purge(id(entries + 2 * SPARE_SLOTS as u64 - 1));
        assert_eq!((memory.entries(), memory.slots.capacity()), (0, room));
    }
}
