//! Reads one segment's records and tells a torn tail from corruption.
//!
//! # The argument
//! The writer numbers its writes. Each record carries the number of its write, and the number of the latest write that
//! was known to be synced when this one was made. Write `n` is made after all before it, at higher offsets.
//!
//! Say the record at some place fails its checks, and by the records before it, it belongs to write `n`: the one of
//! the last good record, or the next one if that record ends its write.
//! - If any later record says that write `n` was synced, then all of `n` once was on disk, and now it isn't: this is
//!   **corruption**, and acknowledged data may be lost.
//! - If none does, then no write after `n` was made that waited for `n`'s sync. Nothing of `n` or later needs to have
//!   been acknowledged, and a power cut may have kept any of its blocks and lost any others: a **torn tail**. Whatever
//!   of it still looks valid after the bad place was not acknowledged either, and is cut off.
//!
//! A segment that another one follows has no tail: its successor's header, which is written only after all of it was
//! synced, says where it ends. Closing the log writes a last record that says that all before it was synced.
//!
//! What no log can tell: bits that rot in the very last write, before anything was written after it, look like a torn
//! write. They are cut off, and reported as such. And behind a damaged header, the next record is looked for in what may
//! be a payload: one that holds a record of this very segment, bit for bit, would be believed.

use super::format::{
    Kind, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, RECORDS_START, RecordHeader, SegmentHeader,
};

/// What stands in a segment, in order of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Record {
        offset: u64,
        header: RecordHeader,
        payload: &'a [u8],
    },
    /// A record whose header is sound and whose payload isn't.
    BadPayload {
        offset: u64,
        header: RecordHeader,
    },
    /// Bytes that once were records of nobody knows whom.
    Lost {
        from: u64,
        to: u64,
    },
}

/// How a segment's records end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// There, says the next segment: all before was synced.
    At(u64),
    /// Nobody says. Another segment may prove that this write, and all before it, was synced (else it is zero).
    Open { synced: u64 },
}

/// What a scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan<'a> {
    pub(super) pieces: Vec<Piece<'a>>,
    /// Where the records that count end.
    pub(super) end: u64,
    /// Something of the write behind the end is there.
    pub(super) torn: bool,
    /// The number of the latest write in the segment; zero if there is no record.
    pub(super) last_write: u64,
    /// The latest write that some record proves to be synced.
    pub(super) synced: u64,
}

/// The sound record headers at or after some offset, and the latest write that any of them proves to be synced.
#[derive(Clone, Debug, Default)]
struct Ahead {
    offsets: Vec<u64>,
    synced: u64,
}

impl Ahead {
    fn look(image: &[u8], segment: u64, from: u64) -> Self {
        let mut ahead = Self::default();
        let mut offset = from.next_multiple_of(RECORD_ALIGNMENT as u64);
        while let Some(bytes) = slice(image, offset, RECORD_HEADER_BYTES as u64) {
            if let Some(header) = RecordHeader::decode(bytes, segment) {
                ahead.offsets.push(offset);
                ahead.synced = ahead.synced.max(header.synced());
            }
            offset += RECORD_ALIGNMENT as u64;
        }
        ahead
    }

    fn next_after(&self, offset: u64) -> Option<u64> {
        let at = self.offsets.partition_point(|there| *there <= offset);
        self.offsets.get(at).copied()
    }
}

/// Reads a segment, whose whole content is `image`.
pub(super) fn scan(image: &[u8], segment: u64, first_write: u64, limit: Limit) -> Scan<'_> {
    let (known_end, synced_elsewhere) = match limit {
        Limit::At(end) => (Some(end), 0),
        Limit::Open { synced } => (None, synced),
    };
    let stop = known_end.unwrap_or(u64::MAX);
    let mut scan = Scan { end: RECORDS_START, synced: synced_elsewhere, ..Scan::default() };
    // Of the record at `scan.end`, as far as the one before it tells.
    let mut write = first_write;
    let mut ahead: Option<Ahead> = None;
    while scan.end < stop {
        let at = scan.end;
        let rest = slice_from(image, at);
        let record = RecordHeader::decode(rest, segment)
            .filter(|header| at.saturating_add(header.total_bytes()) <= stop.min(image.len() as u64));
        let payload = record.and_then(|header| {
            slice(image, at + RECORD_HEADER_BYTES as u64, u64::from(header.payload_bytes))
                .filter(|payload| header.matches(payload))
        });
        if let (Some(header), Some(payload)) = (record, payload) {
            scan.pieces.push(Piece::Record { offset: at, header, payload });
            scan.note(&header, &mut write);
            continue;
        }
        // The bad place. Whether the log goes on behind it decides what it is.
        let ahead = ahead.get_or_insert_with(|| Ahead::look(image, segment, at));
        let bad_write = record.map_or(write, |header| header.write);
        if known_end.is_none() && synced_elsewhere.max(ahead.synced) < bad_write {
            scan.torn = scan.last_write == bad_write
                || record.is_some()
                || ahead.next_after(at).is_some()
                || RecordHeader::resembles(rest, segment, write);
            return scan;
        }
        if let Some(header) = record {
            scan.pieces.push(Piece::BadPayload { offset: at, header });
            scan.note(&header, &mut write);
            continue;
        }
        let next = ahead.next_after(at).filter(|next| *next < stop);
        let to = next.or(known_end).unwrap_or(at);
        scan.pieces.push(Piece::Lost { from: at, to });
        scan.end = to;
        let Some(next) = next else { return scan };
        if let Some(header) = RecordHeader::decode(slice_from(image, next), segment) {
            write = header.write;
        }
    }
    scan
}

impl Scan<'_> {
    /// Whether all is sound, and nothing of a replica stands here but the state that every head repeats.
    pub(super) fn is_bare(&self) -> bool {
        self.pieces.iter().all(|piece| {
            matches!(piece, Piece::Record { header, .. } if header.kind == Kind::State || !header.kind.of_replica())
        })
    }

    fn note(&mut self, header: &RecordHeader, write: &mut u64) {
        self.end += header.total_bytes();
        self.last_write = self.last_write.max(header.write);
        self.synced = self.synced.max(header.synced());
        *write = if header.ends_write { header.write.saturating_add(1) } else { header.write };
    }
}

/// Whether the start record and the state of every replica stand at a segment's head as they were written.
pub(super) fn head_is_whole(image: &[u8], header: &SegmentHeader) -> bool {
    let mut at = RECORDS_START;
    for number in 0..=header.streams {
        let Some(record) = RecordHeader::decode(slice_from(image, at), header.sequence) else { return false };
        let payload = slice(image, at + RECORD_HEADER_BYTES as u64, u64::from(record.payload_bytes));
        let expected = if number == 0 { Kind::Start } else { Kind::State };
        if record.kind != expected || !payload.is_some_and(|payload| record.matches(payload)) {
            return false;
        }
        at += record.total_bytes();
    }
    true
}

/// The latest write that any sound record header of a segment proves to be synced.
pub(super) fn synced_by_any(image: &[u8], segment: u64) -> u64 {
    Ahead::look(image, segment, RECORDS_START).synced
}

fn slice(image: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let from = usize::try_from(offset).ok()?;
    let to = usize::try_from(offset.checked_add(length)?).ok()?;
    image.get(from..to)
}

fn slice_from(image: &[u8], offset: u64) -> &[u8] {
    usize::try_from(offset).ok().and_then(|from| image.get(from..)).unwrap_or_default()
}
