//! The log's bytes: segment headers, record headers, and the payload of a state record.
//!
//! All integers are little endian. A segment is a file of a fixed size named after its sequence number. Sequence
//! numbers grow and are never used twice, which is what keeps the old bytes of a recycled file from ever being read.
//!
//! ```text
//! segment      0      header, copy one (84 bytes used, zeros up to 4096)
//!              4096   header, copy two
//!              8192   records, each starting on a multiple of 8
//!
//! header       0   8  magic "kvdlog\r\n"
//!              8   4  CRC-32 of bytes 12..84
//!              12  4  format version, 1
//!              16  8  sequence number of this segment
//!              24  8  sequence number of the segment that it follows on, 0 if there is none
//!              32  8  where the records of that segment end
//!              40  8  sequence number of the oldest segment that is still needed
//!              48  8  number of the first write in this segment
//!              56  8  size of this segment
//!              64  8  flags; bit 0: records of replicas unknown to this log may have been lost
//!              72  8  streams whose state is told at the head of this segment
//!              80  4  zeros
//!
//! record       0   4  CRC-32 of bytes 4..72
//!              4   4  bytes of payload
//!              8   4  CRC-32 of the payload
//!              12  1  kind: 1 entry, 2 vote, 3 committed, 4 truncate, 5 purge, 6 remove, 7 state, 8 start, 9 close
//!              13  1  flags; bit 0: last record of its write, bit 1: index and term mean something
//!              14  2  zeros
//!              16  8  sequence number of the segment
//!              24  8  number of the write that this record belongs to, from 1, growing by one
//!              32  4  how many writes right before that one were not known to be synced
//!              36  4  group
//!              40  8  replica
//!              48  8  number of the record in its replica's stream, from 1; of the latest one for a state record
//!              56  8  index: of the entry, of the last one kept (truncate), of the last one dropped (purge)
//!              64  8  term of that entry
//!              72     payload, then zeros up to a multiple of 8
//!
//! state        0   1  flags; bit 0: vote, bit 1: committed, bit 2: purged, bit 3: last, bit 4: damaged
//!              then, for each flag that is set, in that order: 4 bytes of length and the bytes (vote, committed,
//!              damaged: UTF-8 text), or 8 bytes of index and 8 of term (purged, last)
//! ```

use bytes::{Buf, BufMut, Bytes};
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};

use super::EntryId;

/// Size of one copy of a segment's header: a block of its own, so that one bad block can't take both.
pub(super) const HEADER_COPY_BYTES: usize = 4096;
/// Where a segment's records begin.
pub(super) const RECORDS_START: u64 = 2 * HEADER_COPY_BYTES as u64;
/// Size of a record without its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 72;
/// Every record starts on a multiple of this.
pub(super) const RECORD_ALIGNMENT: usize = 8;

/// No count on disk (segments, writes, records, indices, offsets) goes beyond this: a log that makes a million a second
/// gets there in 290 000 years. What says otherwise, even under a sound checksum, no writer has made, and it is taken for
/// bad. So one can count on from whatever was read.
pub(super) const COUNT_MAX: u64 = u64::MAX / 2;

const MAGIC: &[u8; 8] = b"kvdlog\r\n";
const VERSION: u32 = 1;
const SEGMENT_HEADER_BYTES: usize = 84;
const FLAG_UNATTRIBUTED: u64 = 1;
const FLAG_ENDS_WRITE: u8 = 1;
const FLAG_HAS_ID: u8 = 2;

/// What a segment says about itself and the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) sequence: u64,
    pub(super) previous: u64,
    pub(super) previous_end: u64,
    pub(super) oldest: u64,
    pub(super) first_write: u64,
    pub(super) segment_bytes: u64,
    pub(super) unattributed: bool,
    pub(super) streams: u64,
}

/// What a copy of a segment header turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderCopy {
    Good(SegmentHeader),
    /// Sound, but of a format that this program doesn't know.
    Version(u32),
    Bad,
}

impl SegmentHeader {
    /// Both copies, as they stand at the start of a segment.
    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        let mut fields = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        fields.put_u32_le(VERSION);
        for field in [
            self.sequence,
            self.previous,
            self.previous_end,
            self.oldest,
            self.first_write,
            self.segment_bytes,
            if self.unattributed { FLAG_UNATTRIBUTED } else { 0 },
            self.streams,
        ] {
            fields.put_u64_le(field);
        }
        fields.put_u32_le(0);
        let crc = crc32fast::hash(&fields);
        for _ in 0..2 {
            let copy_end = buffer.len() + HEADER_COPY_BYTES;
            buffer.put_slice(MAGIC);
            buffer.put_u32_le(crc);
            buffer.put_slice(&fields);
            buffer.resize(copy_end, 0);
        }
    }

    /// Reads one copy.
    pub(super) fn decode(copy: &[u8]) -> HeaderCopy {
        let Some((mut bytes, fields)) =
            copy.get(..SEGMENT_HEADER_BYTES).and_then(|all| all.split_at_checked(12))
        else {
            return HeaderCopy::Bad;
        };
        if !bytes.starts_with(MAGIC) {
            return HeaderCopy::Bad;
        }
        bytes.advance(MAGIC.len());
        if bytes.get_u32_le() != crc32fast::hash(fields) {
            return HeaderCopy::Bad;
        }
        let mut fields = fields;
        let version = fields.get_u32_le();
        if version != VERSION {
            return HeaderCopy::Version(version);
        }
        let header = Self {
            sequence: fields.get_u64_le(),
            previous: fields.get_u64_le(),
            previous_end: fields.get_u64_le(),
            oldest: fields.get_u64_le(),
            first_write: fields.get_u64_le(),
            segment_bytes: fields.get_u64_le(),
            unattributed: fields.get_u64_le() & FLAG_UNATTRIBUTED != 0,
            streams: fields.get_u64_le(),
        };
        let counts =
            [header.sequence, header.previous, header.previous_end, header.oldest, header.first_write];
        if counts.iter().all(|count| *count <= COUNT_MAX) {
            HeaderCopy::Good(header)
        } else {
            HeaderCopy::Bad
        }
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Entry,
    Vote,
    Committed,
    Truncate,
    Purge,
    Remove,
    /// A replica's vote, committed, purged and last, told again at the head of a segment.
    State,
    /// The first record of a segment; of no replica.
    Start,
    /// The last record of a log that was closed; of no replica. It proves that all before it was synced.
    Close,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Vote => 2,
            Self::Committed => 3,
            Self::Truncate => 4,
            Self::Purge => 5,
            Self::Remove => 6,
            Self::State => 7,
            Self::Start => 8,
            Self::Close => 9,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::Truncate,
            5 => Self::Purge,
            6 => Self::Remove,
            7 => Self::State,
            8 => Self::Start,
            9 => Self::Close,
            _ => return None,
        })
    }

    /// Whether the record belongs to a replica's stream.
    pub(super) const fn of_replica(self) -> bool {
        !matches!(self, Self::Start | Self::Close)
    }
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    pub(super) ends_write: bool,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
    pub(super) segment: u64,
    pub(super) write: u64,
    pub(super) unsynced: u32,
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
    pub(super) number: u64,
    pub(super) id: Option<EntryId>,
}

impl RecordHeader {
    /// The number of the latest write that was known to be synced when this record was written.
    pub(super) fn synced(&self) -> u64 {
        self.write.saturating_sub(u64::from(self.unsynced).saturating_add(1))
    }

    /// Bytes of the whole record, payload and padding included.
    pub(super) fn total_bytes(&self) -> u64 {
        total_bytes(u64::from(self.payload_bytes))
    }

    /// Whether this is the payload that the record was written with.
    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        u64::try_from(payload.len()).is_ok_and(|bytes| bytes == u64::from(self.payload_bytes))
            && crc32fast::hash(payload) == self.payload_crc
    }

    /// Appends the record to a buffer.
    pub(super) fn encode(&self, payload: &[u8], buffer: &mut Vec<u8>) {
        let at = buffer.len();
        let id = self.id.unwrap_or_default();
        buffer.put_u32_le(0);
        buffer.put_u32_le(self.payload_bytes);
        buffer.put_u32_le(self.payload_crc);
        buffer.put_u8(self.kind.code());
        buffer.put_u8(
            if self.ends_write { FLAG_ENDS_WRITE } else { 0 }
                | if self.id.is_some() { FLAG_HAS_ID } else { 0 },
        );
        buffer.put_u16_le(0);
        buffer.put_u64_le(self.segment);
        buffer.put_u64_le(self.write);
        buffer.put_u32_le(self.unsynced);
        buffer.put_u32_le(self.group.get());
        buffer.put_u64_le(self.replica.get());
        buffer.put_u64_le(self.number);
        buffer.put_u64_le(id.index.get());
        buffer.put_u64_le(id.term.get());
        checksum_record(buffer, at);
        buffer.put_slice(payload);
        buffer.resize(buffer.len().next_multiple_of(RECORD_ALIGNMENT), 0);
    }

    /// Reads the record header at the start of some bytes; `None` unless a sound one of that segment stands there.
    pub(super) fn decode(bytes: &[u8], segment: u64) -> Option<Self> {
        let mut bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        // The cheapest check first: recovery asks this at millions of places.
        if bytes.get(16..24)? != segment.to_le_bytes() {
            return None;
        }
        let crc = crc32fast::hash(bytes.get(4..)?);
        if bytes.get_u32_le() != crc {
            return None;
        }
        let payload_bytes = bytes.get_u32_le();
        let payload_crc = bytes.get_u32_le();
        let kind = Kind::of(bytes.get_u8())?;
        let flags = bytes.get_u8();
        let zeros = bytes.get_u16_le();
        if flags & !(FLAG_ENDS_WRITE | FLAG_HAS_ID) != 0 || zeros != 0 {
            return None;
        }
        let header = Self {
            kind,
            ends_write: flags & FLAG_ENDS_WRITE != 0,
            payload_bytes,
            payload_crc,
            segment: bytes.get_u64_le(),
            write: bytes.get_u64_le(),
            unsynced: bytes.get_u32_le(),
            group: GroupId(bytes.get_u32_le()),
            replica: ReplicaId(bytes.get_u64_le()),
            number: bytes.get_u64_le(),
            id: Some(EntryId { index: LogIndex(bytes.get_u64_le()), term: Term(bytes.get_u64_le()) })
                .filter(|_| flags & FLAG_HAS_ID != 0),
        };
        header.is_in_range().then_some(header)
    }

    /// Whether a reader would believe its counts.
    pub(super) fn is_in_range(&self) -> bool {
        [self.segment, self.write, self.number].iter().all(|count| *count <= COUNT_MAX)
            && self.id.is_none_or(id_is_in_range)
    }

    /// Whether some bytes that are no sound record look as if that one had been written there: their segment and write
    /// are the expected ones, but for one flipped bit at most. (Old bytes of a file that is used again can hold
    /// anything, but hardly both numbers.)
    pub(super) fn resembles(bytes: &[u8], segment: u64, write: u64) -> bool {
        let Some(mut fields) = bytes.get(16..32) else { return false };
        let flipped =
            (fields.get_u64_le() ^ segment).count_ones() + (fields.get_u64_le() ^ write).count_ones();
        flipped <= 1
    }
}

/// Whether a reader would believe an entry's index.
pub(super) const fn id_is_in_range(id: EntryId) -> bool {
    id.index.get() <= COUNT_MAX
}

/// Bytes of a record with a payload of that many bytes.
pub(super) const fn total_bytes(payload_bytes: u64) -> u64 {
    (payload_bytes + RECORD_HEADER_BYTES as u64).next_multiple_of(RECORD_ALIGNMENT as u64)
}

/// Marks the record at that place in a buffer as the last one of its write.
pub(super) fn end_write(buffer: &mut [u8], at: usize) {
    if let Some(flags) = buffer.get_mut(at + 13) {
        *flags |= FLAG_ENDS_WRITE;
    }
    checksum_record(buffer, at);
}

fn checksum_record(buffer: &mut [u8], at: usize) {
    let Some((crc, fields)) =
        buffer.get_mut(at..at + RECORD_HEADER_BYTES).and_then(|header| header.split_at_mut_checked(4))
    else {
        return;
    };
    crc.copy_from_slice(&crc32fast::hash(fields).to_le_bytes());
}

/// What the head of a segment tells of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StatePayload {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<EntryId>,
    pub(super) last: Option<EntryId>,
    pub(super) damaged: Option<Bytes>,
}

impl StatePayload {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut buffer = vec![0];
        let mut flags = 0;
        for (bit, bytes) in [(1, &self.vote), (2, &self.committed)] {
            flags |= put_bytes(&mut buffer, bit, bytes.as_ref());
        }
        for (bit, id) in [(4, self.purged), (8, self.last)] {
            if let Some(id) = id {
                flags |= bit;
                buffer.put_u64_le(id.index.get());
                buffer.put_u64_le(id.term.get());
            }
        }
        flags |= put_bytes(&mut buffer, 16, self.damaged.as_ref());
        if let Some(first) = buffer.first_mut() {
            *first = flags;
        }
        buffer
    }

    /// `None` if the bytes are no state, which under a sound checksum only another program can have written.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let flags = bytes.try_get_u8().ok()?;
        let has = |bit: u8| flags & bit != 0;
        let state = Self {
            vote: if has(1) { Some(get_bytes(&mut bytes)?) } else { None },
            committed: if has(2) { Some(get_bytes(&mut bytes)?) } else { None },
            purged: if has(4) { Some(get_id(&mut bytes)?) } else { None },
            last: if has(8) { Some(get_id(&mut bytes)?) } else { None },
            damaged: if has(16) { Some(get_bytes(&mut bytes)?) } else { None },
        };
        let ids_are_in_range = [state.purged, state.last].into_iter().flatten().all(id_is_in_range);
        (bytes.is_empty() && flags < 32 && ids_are_in_range).then_some(state)
    }
}

fn put_bytes(buffer: &mut Vec<u8>, bit: u8, bytes: Option<&Bytes>) -> u8 {
    let Some((bytes, length)) = bytes.and_then(|bytes| Some((bytes, u32::try_from(bytes.len()).ok()?)))
    else {
        return 0;
    };
    buffer.put_u32_le(length);
    buffer.put_slice(bytes);
    bit
}

fn get_bytes(bytes: &mut &[u8]) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(Bytes::copy_from_slice(taken))
}

fn get_id(bytes: &mut &[u8]) -> Option<EntryId> {
    Some(EntryId { index: LogIndex(bytes.try_get_u64_le().ok()?), term: Term(bytes.try_get_u64_le().ok()?) })
}

#[cfg(test)]
mod tests;
