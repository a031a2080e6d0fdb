//! Reads the log back when it is opened.
//!
//! The segment with the highest sequence number and a sound header is the last one; each header names the segment
//! before it and where that one ends, back to the oldest that is needed. Their records are replayed in order. What
//! doesn't add up is laid at the door of the replicas that it concerns:
//!
//! - a record whose payload is bad names its replica;
//! - a record whose header is bad names nobody: every replica is in doubt until a later record of it follows on the
//!   number of the one before, and damaged if none does;
//! - a gap in a replica's record numbers, or a state at a segment's head that differs from what was replayed, is
//!   damage of that replica, whatever the cause;
//! - a replica could have been created in the lost bytes and never been heard of again. Until the head of a segment,
//!   which lists all replicas, follows, that is said of the whole log ([`Recovery::unattributed`]).
//!
//! A segment begins with a write of its own head, and only once that is synced is anything older given up. So a last
//! segment whose head is not whole, and which nothing proves to be synced, was never begun: the one before it is the
//! last one, with all that it needs. (Its sound header may say that older segments are not needed. Only its head, with
//! the state of every replica, would make that true.)
//!
//! Last segments in which nothing stands but their heads (the log was opened, and nothing came of it) are left out: the
//! next segment follows on the one before them, and they are used again once its head is synced. A node that can't start
//! for some other reason and tries for ever thus needs no more disk each time.
//!
//! Then the last write, which nothing proves to be synced, is written once more in place and synced. It may be in the
//! page cache only (the process was killed before its sync) or be there although its sync failed: then the kernel
//! believes it clean, and a plain sync would do nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use kvd_types::{LogIndex, ReplicaId};

use super::{
    Damage, Error, Recovery, TornTail,
    format::{
        COUNT_MAX, HEADER_COPY_BYTES, HeaderCopy, Kind, RECORDS_START, RecordHeader, SegmentHeader,
        StatePayload,
    },
    memory::{Location, Memory},
    pool::{UNFINISHED, segment_path, sequence_of},
    scan::{self, Limit, Piece, Scan},
    stream::Stream,
};
use crate::disk::{Disk, File};

/// What the log goes on from.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) report: Recovery,
    pub(super) streams: BTreeMap<ReplicaId, (Stream, Memory)>,
    /// The segments that are needed, oldest first.
    pub(super) chain: Vec<(u64, Arc<dyn File>)>,
    /// Where the records of the last one end.
    pub(super) end: u64,
    /// Those behind it that hold nothing but their heads: given up once the next head is synced.
    pub(super) bare: Vec<u64>,
    /// Segments that are not needed.
    pub(super) free: BTreeSet<u64>,
    /// Higher than that of any file.
    pub(super) next_sequence: u64,
    pub(super) next_write: u64,
    /// The latest write that was proven to be synced.
    pub(super) synced: u64,
}

struct Segment {
    path: PathBuf,
    file: Arc<dyn File>,
    bytes: u64,
    header: Option<SegmentHeader>,
}

/// Reads the log in a directory, which exists.
pub(super) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, Error> {
    let mut report = Recovery::default();
    let segments = find_segments(disk, dir, &mut report)?;
    let (last, never_begun) = find_last(&segments)?;
    let unheaded = synced_without_header(&segments, last.map_or(0, |last| last.sequence))?;
    let (mut chain, broken) = walk(&segments, last, dir);

    let mut replay = Replay::default();
    let mut end = RECORDS_START;
    let mut synced = 0;
    let mut last_write = 0;
    let mut bare = 0;
    for (at, header) in chain.iter().enumerate() {
        let Some(segment) = segments.get(&header.sequence) else { continue };
        let limit = match chain.get(at + 1) {
            Some(next) => Limit::At(next.previous_end),
            None => match never_begun.filter(|next| next.previous == header.sequence) {
                // Whoever wrote that header had synced all before it, and cut off what was torn.
                Some(next) => Limit::At(next.previous_end),
                None => Limit::Open { synced: unheaded },
            },
        };
        let image = read(segment, segment.bytes)?;
        let scan = scan::scan(&image, header.sequence, header.first_write, limit);
        replay.segment(segment, header, &scan, at == 0);
        report.segments += 1;
        report.bytes = report.bytes.saturating_add(scan.end);
        last_write = last_write.max(scan.last_write).max(header.first_write);
        synced = synced.max(scan.synced).max(header.first_write.saturating_sub(1));
        end = scan.end;
        bare = if scan.is_bare() { bare + 1 } else { 0 };
        if at + 1 == chain.len() {
            if unheaded > last_write {
                replay.lost_last(segment);
            }
            let unbegun = never_begun.and_then(|header| segments.get(&header.sequence));
            report.torn_tail = torn_tail(segment, &scan).or_else(|| {
                let file = unbegun?.path.clone();
                tracing::warn!(file = %file.display(), "the log's last segment was never begun: its first write was torn");
                Some(TornTail { file, offset: RECORDS_START })
            });
            rewrite_unproven(segment, header, &scan, synced, &image)?;
        }
    }
    if chain.is_empty() && unheaded > 0 {
        replay.unattributed = Some(Damage {
            file: dir.to_owned(),
            offset: 0,
            text: "there are records, but no segment has a sound header".to_owned(),
        });
        last_write = unheaded;
    }
    report.records = replay.records;
    let streams = replay.finish(broken.as_ref(), &mut report);
    let needed: BTreeSet<u64> = chain.iter().map(|header| header.sequence).collect();
    // One must be left: a first write that is torn is told from damage by the segment to which it can fall back.
    let kept = chain.len().saturating_sub(bare).max(1);
    let bare = chain.split_off(kept.min(chain.len()));
    Ok(Recovered {
        report,
        streams,
        end: bare.first().map_or(end, |header| header.previous_end),
        bare: bare.iter().map(|header| header.sequence).collect(),
        free: segments.keys().filter(|sequence| !needed.contains(sequence)).copied().collect(),
        next_sequence: segments.keys().next_back().map_or(1, |highest| highest.saturating_add(1)),
        next_write: last_write.saturating_add(1),
        synced: synced.min(last_write),
        chain: chain
            .iter()
            .filter_map(|header| Some((header.sequence, Arc::clone(&segments.get(&header.sequence)?.file))))
            .collect(),
    })
}

fn find_segments(
    disk: &dyn Disk,
    dir: &Path,
    report: &mut Recovery,
) -> Result<BTreeMap<u64, Segment>, Error> {
    let mut segments = BTreeMap::new();
    for path in disk.list(dir).map_err(Error::io("cannot list the log's directory", dir))? {
        if path.file_name().is_some_and(|name| name == UNFINISHED) {
            disk.remove(&path).map_err(Error::io("cannot remove an unfinished log segment", &path))?;
        }
        let Some(sequence) = sequence_of(&path).filter(|sequence| *sequence <= COUNT_MAX) else { continue };
        let file: Arc<dyn File> =
            Arc::from(disk.open(&path).map_err(Error::io("cannot open a log segment", &path))?);
        let bytes = file.size_bytes().map_err(Error::io("cannot size a log segment", &path))?;
        let mut segment = Segment { path, file, bytes, header: None };
        let head = read(&segment, RECORDS_START.min(bytes))?;
        let mut bad_copies = 0;
        for copy in head.chunks(HEADER_COPY_BYTES) {
            match SegmentHeader::decode(copy) {
                // A file that is to be used again still has the header of its last use.
                HeaderCopy::Good(header) if header.sequence == sequence => segment.header = Some(header),
                HeaderCopy::Version(version) => return Err(Error::Version { file: segment.path, version }),
                _ => bad_copies += 1,
            }
        }
        if segment.header.is_some() && bad_copies > 0 {
            tracing::warn!(file = %segment.path.display(), "one copy of a log segment's header is bad");
            report.bad_headers.push(segment.path.clone());
        }
        segments.insert(sequence, segment);
    }
    Ok(segments)
}

/// The header of the last segment that was begun, and of the lowest one behind it that was not: see the module.
fn find_last(
    segments: &BTreeMap<u64, Segment>,
) -> Result<(Option<SegmentHeader>, Option<SegmentHeader>), Error> {
    let mut never_begun = None;
    for segment in segments.values().rev() {
        let Some(header) = segment.header else { continue };
        let has_previous = segments.get(&header.previous).is_some_and(|previous| previous.header.is_some());
        // Without the one before it there is nothing to fall back to: what is lost is then found to be.
        if !has_previous || was_begun(segment, &header)? {
            return Ok((Some(header), never_begun));
        }
        never_begun = Some(header);
    }
    Ok((None, never_begun))
}

/// Whether a segment's head is whole, or something proves that it once was.
fn was_begun(segment: &Segment, header: &SegmentHeader) -> Result<bool, Error> {
    let image = read(segment, segment.bytes)?;
    Ok(scan::head_is_whole(&image, header)
        || scan::synced_by_any(&image, header.sequence) >= header.first_write)
}

/// Segments behind the last one with a sound header: usually never used. One may have been begun by a write that was
/// torn; if it was used beyond its first write, its header was synced once and is lost.
fn synced_without_header(segments: &BTreeMap<u64, Segment>, last: u64) -> Result<u64, Error> {
    let mut synced = 0;
    for (sequence, segment) in segments.range(last.saturating_add(1)..) {
        let image = read(segment, segment.bytes)?;
        synced = synced.max(scan::synced_by_any(&image, *sequence));
    }
    Ok(synced)
}

/// The needed segments, oldest first, and which one is missing if one is.
fn walk(
    segments: &BTreeMap<u64, Segment>,
    last: Option<SegmentHeader>,
    dir: &Path,
) -> (Vec<SegmentHeader>, Option<Damage>) {
    let mut chain: Vec<SegmentHeader> = Vec::new();
    let Some(last) = last else { return (chain, None) };
    let mut broken = None;
    let mut current = last;
    while current.sequence > last.oldest {
        chain.push(current);
        let previous = current.previous;
        // Sequence numbers only ever fall on the way back: a header that says otherwise would lead in circles.
        match segments
            .get(&previous)
            .and_then(|segment| segment.header)
            .filter(|_| previous < current.sequence)
        {
            Some(header) if previous >= last.oldest => current = header,
            _ => {
                broken = Some(Damage {
                    file: segment_path(dir, previous),
                    offset: 0,
                    text: "the segment is missing or both copies of its header are bad".to_owned(),
                });
                break;
            }
        }
    }
    if broken.is_none() {
        chain.push(current);
    }
    chain.reverse();
    (chain, broken)
}

fn read(segment: &Segment, bytes: u64) -> Result<Vec<u8>, Error> {
    let context = |error| Error::io("cannot read a log segment", &segment.path)(error);
    let length = usize::try_from(bytes).map_err(|error| context(io::Error::other(error)))?;
    let mut image = vec![0; length];
    segment.file.read_exact_at(&mut image, 0).map_err(context)?;
    Ok(image)
}

fn torn_tail(segment: &Segment, scan: &Scan<'_>) -> Option<TornTail> {
    scan.torn.then(|| {
        tracing::warn!(
            file = %segment.path.display(),
            offset = scan.end,
            "the log's last write was torn; it was never acknowledged and is cut off"
        );
        TornTail { file: segment.path.clone(), offset: scan.end }
    })
}

fn rewrite_unproven(
    segment: &Segment,
    header: &SegmentHeader,
    scan: &Scan<'_>,
    synced: u64,
    image: &[u8],
) -> Result<(), Error> {
    let first_unproven = scan.pieces.iter().find_map(|piece| match piece {
        Piece::Record { offset, header, .. } if header.write > synced => Some(*offset),
        _ => None,
    });
    let context = |error| Error::io("cannot write a log segment's last write again", &segment.path)(error);
    if header.first_write > synced {
        let mut head = Vec::new();
        header.encode(&mut head);
        segment.file.write_all_at(&head, 0).map_err(context)?;
    }
    if let Some(from) = first_unproven
        && let (Ok(start), Ok(end)) = (usize::try_from(from), usize::try_from(scan.end))
        && let Some(bytes) = image.get(start..end)
    {
        segment.file.write_all_at(bytes, from).map_err(context)?;
    }
    segment.file.sync_data().map_err(context)
}

/// A stream as far as it was replayed.
#[derive(Debug, Default)]
struct Replayed {
    stream: Stream,
    memory: Memory,
    /// The last entry before the oldest segment. It and those before it must have been dropped in the end.
    before: Option<LogIndex>,
    /// What may concern this replica, until its next record shows that it doesn't.
    doubt: Option<Damage>,
    damage: Option<Damage>,
}

#[derive(Debug, Default)]
struct Replay {
    streams: BTreeMap<ReplicaId, Replayed>,
    unattributed: Option<Damage>,
    records: u64,
}

impl Replay {
    fn segment(&mut self, segment: &Segment, header: &SegmentHeader, scan: &Scan<'_>, oldest: bool) {
        let damage =
            |offset, text: &str| Damage { file: segment.path.clone(), offset, text: text.to_owned() };
        // Its head lists every replica, so nothing that was lost before can hide one any longer.
        self.unattributed = header
            .unattributed
            .then(|| damage(0, "records of replicas unknown to this log were lost before"));
        for piece in &scan.pieces {
            match *piece {
                Piece::Record { offset, header, payload } => {
                    self.records += 1;
                    if header.kind.of_replica()
                        && let Err(text) = self.record(offset, &header, payload, oldest)
                    {
                        self.damage(&header, damage(offset, text));
                    }
                }
                Piece::BadPayload { offset, header } if header.kind.of_replica() => {
                    self.damage(&header, damage(offset, "the payload of a record fails its checksum"));
                }
                Piece::BadPayload { .. } => {}
                Piece::Lost { from, to } => {
                    let damage = damage(from, &format!("records are unreadable up to offset {to}"));
                    self.doubt_all(&damage);
                    self.unattributed = Some(damage);
                }
            }
        }
    }

    /// The log went on in a segment that can't be read.
    fn lost_last(&mut self, segment: &Segment) {
        let damage = Damage {
            file: segment.path.clone(),
            offset: 0,
            text: "the segment after this one was in use, but both copies of its header are bad".to_owned(),
        };
        self.doubt_all(&damage);
        self.unattributed = Some(damage);
    }

    fn doubt_all(&mut self, damage: &Damage) {
        for replayed in self.streams.values_mut() {
            replayed.doubt.get_or_insert_with(|| damage.clone());
        }
    }

    fn damage(&mut self, header: &RecordHeader, damage: Damage) {
        let replayed = self
            .streams
            .entry(header.replica)
            .or_insert_with(|| Replayed { stream: Stream::new(header.group), ..Replayed::default() });
        replayed.stream.number = header.number;
        replayed.damage.get_or_insert(damage);
    }

    /// Replays a record, or says what is wrong with its replica.
    fn record(
        &mut self,
        offset: u64,
        header: &RecordHeader,
        payload: &[u8],
        oldest: bool,
    ) -> Result<(), &'static str> {
        if header.kind == Kind::Remove {
            self.streams.remove(&header.replica);
            return Ok(());
        }
        let state = match header.kind {
            Kind::State => Some(StatePayload::decode(payload).ok_or("a state record makes no sense")?),
            _ => None,
        };
        let Some(replayed) = self.streams.get_mut(&header.replica) else {
            let replayed = match state {
                Some(state) if oldest => {
                    let before = state.last.filter(|_| state.last != state.purged).map(|last| last.index);
                    let stream = Stream::from_state(header.group, header.number, state);
                    let memory = Memory::at(stream.marks.clone());
                    Replayed { stream, memory, before, ..Replayed::default() }
                }
                Some(_) => return Err("all its records before this one are missing"),
                None if header.number == 1 => {
                    Replayed { stream: Stream::new(header.group), ..Replayed::default() }
                }
                None => return Err("its records before this one are missing"),
            };
            self.streams.insert(header.replica, replayed);
            return if header.kind == Kind::State {
                Ok(())
            } else {
                self.record(offset, header, payload, oldest)
            };
        };
        if replayed.damage.is_some() {
            return Ok(());
        }
        if replayed.stream.group != header.group {
            return Err("a record names another group");
        }
        let Some(state) = state else {
            if header.number != replayed.stream.number.saturating_add(1) {
                return Err("records before this one are missing");
            }
            replayed.doubt = None;
            return replayed.apply(offset, header, payload);
        };
        let mut expected = replayed.stream.to_state();
        expected.damaged.clone_from(&state.damaged);
        if state.damaged.is_some() {
            replayed.stream = Stream::from_state(header.group, header.number, state);
            return Ok(());
        }
        if header.number != replayed.stream.number || state != expected {
            return Err("records before this state are missing");
        }
        replayed.doubt = None;
        Ok(())
    }

    fn finish(
        mut self,
        broken: Option<&Damage>,
        report: &mut Recovery,
    ) -> BTreeMap<ReplicaId, (Stream, Memory)> {
        let mut streams = BTreeMap::new();
        for (id, mut replayed) in std::mem::take(&mut self.streams) {
            let damage = replayed.damage.take().or(replayed.doubt.take()).or_else(|| {
                let text = replayed.stream.damaged.clone()?;
                Some(Damage { file: PathBuf::new(), offset: 0, text })
            });
            let damage = damage.or_else(|| {
                let before = replayed.before?;
                let purged = replayed.stream.marks.purged.map(|purged| purged.index);
                (purged < Some(before)).then(|| {
                    broken.cloned().unwrap_or_else(|| Damage {
                        file: PathBuf::new(),
                        offset: 0,
                        text: format!("entries up to index {before} are in no segment"),
                    })
                })
            });
            if let Some(damage) = damage {
                tracing::error!(replica = %id, group = %replayed.stream.group, %damage, "a replica's log is damaged");
                replayed.stream.damage(damage.to_string());
                replayed.memory = Memory::default();
                report.damaged.insert(id, damage);
            }
            streams.insert(id, (replayed.stream, replayed.memory));
        }
        if let Some(damage) = &self.unattributed {
            tracing::error!(%damage, "records of replicas that this log doesn't know may be lost");
        }
        report.unattributed = self.unattributed;
        streams
    }
}

impl Replayed {
    fn apply(&mut self, offset: u64, header: &RecordHeader, payload: &[u8]) -> Result<(), &'static str> {
        let payload = match header.kind {
            Kind::Vote | Kind::Committed => Bytes::copy_from_slice(payload),
            _ => Bytes::new(),
        };
        match (header.kind, header.id) {
            (Kind::Entry, Some(id)) => {
                if self.stream.marks.next_index().is_some_and(|next| next != id.index) {
                    return Err("an entry doesn't follow on the one before it");
                }
                let location =
                    Location::new(header.segment, offset).ok_or("a record is beyond its segment")?;
                self.memory.recover(id, header.number, header.payload_bytes, location);
            }
            (Kind::Vote, _) => self.memory.marks.vote = Some(payload.clone()),
            (Kind::Committed, _) => self.memory.marks.committed = Some(payload.clone()),
            (Kind::Truncate, last_kept) => {
                self.memory.truncate(last_kept);
                let last = self.memory.marks.last.map(|last| last.index);
                self.before = self.before.min(last);
            }
            (Kind::Purge, Some(upto)) => self.memory.purge(upto),
            _ => return Err("a record lacks its index"),
        }
        self.stream.apply(header, &payload);
        Ok(())
    }
}
