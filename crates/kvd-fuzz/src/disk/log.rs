//! The log's segments.
//!
//! An input either edits a log that was written by the log itself, or says record by record what stands in one. In both
//! cases the checksums are made good again, unless the input says otherwise: the log then says things that were never
//! written, such as entries out of order, and recovery must tell what it believes. Only the log's own counters are what a
//! log can reach in its life, from one to some very high number: under a good checksum nobody else can have set them.
//!
//! Whatever a log recovers to must be a working log: what it holds can be read or is said to be damaged, it takes more,
//! and opened again it holds the same and that.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use bytes::{BufMut as _, Bytes};
use kvd_storage::{
    disk::SimDisk,
    log::{Entry, EntryId, Error, Log, Options, Recovery, ReplicaLog, ReplicaState, Writer},
};
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};

use super::disk_with;
use crate::input::Input;

const DIR: &str = "/node/log";
const SEGMENT_BYTES: usize = 32 << 10;
const RECORDS_START: usize = 8192;
const HEADER_BYTES: usize = 84;
const RECORD_BYTES: usize = 72;

/// The counters of a log stay below this.
const COUNTER_MAX: u64 = u64::MAX >> 8;

/// Edit a log that was written, or say one record by record.
const MODE_SAY: u8 = 1;
/// Leave the checksums of records as they are.
const MODE_ROTTEN: u8 = 2;

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES as u64,
        cache_bytes_per_replica: 0,
        writer: Writer::Inline,
        ..Options::default()
    }
}

fn open(disk: &Arc<SimDisk>) -> Result<(Log, Recovery), Error> {
    Log::open(Arc::<SimDisk>::clone(disk), Path::new(DIR), options())
}

/// The segments of a log that was written by the log itself, by their paths.
static WRITTEN: LazyLock<BTreeMap<PathBuf, Vec<u8>>> = LazyLock::new(|| {
    use kvd_storage::disk::Disk as _;

    let disk = disk_with([]);
    let (log, _) = open(&disk).expect("an empty directory");
    let done = || Box::new(|result: std::io::Result<()>| result.expect("a disk that works"));
    let entry = |index, term, bytes: usize| Entry {
        index: LogIndex(index),
        term: Term(term),
        payload: Bytes::from(vec![7; bytes]),
    };
    let one = log.replica(GroupId(1), ReplicaId(1)).expect("a new replica");
    let two = log.replica(GroupId(2), ReplicaId(2)).expect("a new replica");
    one.save_vote(Bytes::from_static(b"vote"), done());
    one.append((0..6).map(|index| entry(index, 1, 40)).collect(), done());
    two.append((5..8).map(|index| entry(index, 2, 9000)).collect(), done());
    one.truncate_after(Some(EntryId { index: LogIndex(3), term: Term(1) })).expect("a log that works");
    one.append(vec![entry(4, 3, 10)], done());
    one.purge(EntryId { index: LogIndex(1), term: Term(1) }).expect("a log that works");
    two.save_committed(Bytes::from_static(b"committed")).expect("a log that works");
    let gone = log.replica(GroupId(3), ReplicaId(3)).expect("a new replica");
    gone.append(vec![entry(0, 1, 8)], done());
    log.remove(ReplicaId(3), done());
    // The last segment is not closed, so it has a tail.
    two.append(vec![entry(8, 2, 9000), entry(9, 2, 100)], done());
    let files = disk.list(Path::new(DIR)).expect("a disk that works").into_iter();
    let written = files.map(|path| (path.clone(), disk.bytes(&path).expect("a file of the list"))).collect();
    drop(log);
    written
});

/// See the module.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mode = input.byte();
    let mut segments = if mode & MODE_SAY == 0 { WRITTEN.clone() } else { say(&mut input) };
    if mode & MODE_SAY == 0 || mode & MODE_ROTTEN != 0 {
        edit(&mut segments, &mut input);
    }
    if mode & MODE_ROTTEN == 0 {
        segments.values_mut().for_each(|image| mend(image));
    }
    let disk = disk_with(segments.iter().map(|(path, image)| (path.as_path(), image.as_slice())));
    let Ok((log, recovery)) = open(&disk) else { return };
    check(&disk, log, &recovery);
}

/// Changes bytes of records and headers, here and there.
fn edit(segments: &mut BTreeMap<PathBuf, Vec<u8>>, input: &mut Input<'_>) {
    let mut images: Vec<&mut Vec<u8>> = segments.values_mut().collect();
    for _ in 0..32 {
        if input.is_empty() || images.is_empty() {
            return;
        }
        let segment = usize::from(input.byte()) % images.len();
        let at = usize::from(input.u16()) % SEGMENT_BYTES;
        let value = input.byte();
        // Of the header's copies only the first has anything in it.
        let at = if at >= RECORDS_START { at } else { at % HEADER_BYTES };
        if let Some(byte) = images[segment].get_mut(at) {
            *byte = value;
        }
    }
}

/// Makes all checksums of a segment good, as far as one record follows on another.
fn mend(image: &mut [u8]) {
    if image.len() < RECORDS_START {
        return;
    }
    // The sequence number, and that of the first write.
    (image[23], image[55]) = (0, 0);
    let crc = crc32fast::hash(&image[12..HEADER_BYTES]);
    image[8..12].copy_from_slice(&crc.to_le_bytes());
    let (first, second) = image.split_at_mut(4096);
    second[..HEADER_BYTES].copy_from_slice(&first[..HEADER_BYTES]);
    let segment: [u8; 8] = image[16..24].try_into().expect("eight bytes");

    let mut at = RECORDS_START;
    while image.len() >= at + RECORD_BYTES && image[at + 16..at + 24] == segment {
        // The number of the write, and that of the record.
        (image[at + 31], image[at + 55]) = (0, 0);
        // A replica's records are numbered from one.
        if (1..=7).contains(&image[at + 12]) && image[at + 48..at + 56] == [0; 8] {
            image[at + 48] = 1;
        }
        let length = u32::from_le_bytes(image[at + 4..at + 8].try_into().expect("four bytes"));
        let end = usize::try_from(length).expect("a size").saturating_add(at + RECORD_BYTES);
        if end <= image.len() {
            let crc = crc32fast::hash(&image[at + RECORD_BYTES..end]);
            image[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32fast::hash(&image[at + 4..at + RECORD_BYTES]);
        image[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        at = end.saturating_add(7) & !7;
    }
}

/// Segments as an input says.
fn say(input: &mut Input<'_>) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut segments = BTreeMap::new();
    let mut write = 1;
    let mut numbers = BTreeMap::new();
    let mut end = 0;
    let mut previous = 0;
    for _ in 0..=input.byte() % 3 {
        let sequence = previous + 1 + u64::from(input.byte() % 2);
        let mut image = Vec::new();
        let header =
            [sequence, previous, end, 1, write, SEGMENT_BYTES as u64, 0, u64::from(input.byte() % 4)];
        put_header(&mut image, header);
        put_record(&mut image, &Said { kind: 8, segment: sequence, write, ..Said::default() });
        write += 1;
        for _ in 0..input.byte() {
            if input.is_empty() {
                break;
            }
            let said = Said::read(input, sequence, &mut write, &mut numbers);
            put_record(&mut image, &said);
        }
        end = image.len() as u64;
        image.resize(SEGMENT_BYTES, 0);
        segments.insert(Path::new(DIR).join(format!("{sequence:016x}.kvdlog")), image);
        previous = sequence;
    }
    segments
}

fn put_header(image: &mut Vec<u8>, fields: [u64; 8]) {
    image.put_slice(b"kvdlog\r\n");
    image.put_u32_le(0);
    image.put_u32_le(1);
    fields.into_iter().for_each(|field| image.put_u64_le(field));
    image.resize(RECORDS_START, 0);
}

/// A record, in the words of the format.
#[derive(Debug, Default)]
struct Said {
    kind: u8,
    flags: u8,
    segment: u64,
    write: u64,
    unsynced: u32,
    group: u32,
    replica: u64,
    number: u64,
    index: u64,
    term: u64,
    payload: Vec<u8>,
}

impl Said {
    /// Numbers go on by themselves unless the input says otherwise.
    fn read(input: &mut Input<'_>, segment: u64, write: &mut u64, numbers: &mut BTreeMap<u64, u64>) -> Self {
        let kind = input.byte();
        let flags = input.byte();
        let replica = u64::from(input.byte() % 4);
        let number = numbers.entry(replica).or_insert(0);
        *number =
            if flags & 0x80 == 0 { number.saturating_add(1) } else { (input.number() & COUNTER_MAX).max(1) };
        let said = Self {
            kind: 1 + kind % 10,
            flags: flags & 3,
            segment,
            write: *write,
            unsynced: if flags & 0x40 == 0 { 0 } else { input.u32() },
            group: u32::try_from(replica).expect("a small number"),
            replica,
            number: *number,
            index: input.number(),
            term: input.number(),
            payload: input.sized().to_vec(),
        };
        *write = if flags & 0x20 == 0 { *write + u64::from(flags & 1) } else { input.number() & COUNTER_MAX };
        said
    }
}

fn put_record(image: &mut Vec<u8>, said: &Said) {
    let at = image.len();
    image.put_u32_le(0);
    image.put_u32_le(u32::try_from(said.payload.len()).expect("a short payload"));
    image.put_u32_le(crc32fast::hash(&said.payload));
    image.put_u8(said.kind);
    image.put_u8(said.flags);
    image.put_u16_le(0);
    image.put_u64_le(said.segment);
    image.put_u64_le(said.write);
    image.put_u32_le(said.unsynced);
    image.put_u32_le(said.group);
    image.put_u64_le(said.replica);
    image.put_u64_le(said.number);
    image.put_u64_le(said.index);
    image.put_u64_le(said.term);
    let crc = crc32fast::hash(&image[at + 4..]);
    image[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    image.put_slice(&said.payload);
    image.resize(image.len().next_multiple_of(8), 0);
}

/// What a replica's log holds.
type Held = (ReplicaState, Vec<Entry>);

/// What can be read of the replicas that are not damaged.
fn read_all(log: &Log) -> BTreeMap<ReplicaId, Held> {
    let damaged = log.damaged();
    let mut all = BTreeMap::new();
    for (group, id) in log.replicas() {
        if damaged.contains_key(&id) {
            assert!(
                matches!(log.replica(group, id), Err(Error::Damaged { .. })),
                "a damaged replica is open"
            );
            continue;
        }
        let replica = log.replica(group, id).expect("it is known and whole");
        all.insert(id, (replica.state(), read(&replica)));
    }
    all
}

fn read(replica: &ReplicaLog) -> Vec<Entry> {
    let Some(first) = replica.first() else { return Vec::new() };
    let entries = replica.read(first..LogIndex(u64::MAX), usize::MAX).expect("recovery has read them");
    // A range has no place for an entry at the last index that there is.
    let beyond = usize::from(replica.id(LogIndex(u64::MAX)).is_some());
    assert_eq!(entries.len() + beyond, replica.entries());
    for (entry, next) in entries.iter().zip(entries.iter().skip(1)) {
        assert_eq!(entry.index.get() + 1, next.index.get(), "entries follow on each other");
    }
    entries
}

fn check(disk: &Arc<SimDisk>, log: Log, recovery: &Recovery) {
    let mut expected = read_all(&log);
    for (&id, (state, entries)) in &mut expected {
        // At the end of all indexes there is nothing to add.
        let Some(index) = state.last.map_or(Some(0), |last| last.index.get().checked_add(1)) else {
            continue;
        };
        let Some((group, _)) = log.replicas().into_iter().find(|(_, known)| *known == id) else { continue };
        let entry =
            Entry { index: LogIndex(index), term: Term(u64::MAX), payload: Bytes::from_static(b"more") };
        let replica = log.replica(group, id).expect("it is known and whole");
        let (sender, said) = std::sync::mpsc::channel();
        replica.append(vec![entry.clone()], Box::new(move |result| drop(sender.send(result))));
        said.recv().expect("an answer").expect("a disk that works");
        state.last = Some(EntryId { index: entry.index, term: entry.term });
        entries.push(entry);
    }
    log.close().expect("a disk that works");
    let (again, reopened) = open(disk).expect("it was open a moment ago");
    assert_eq!(read_all(&again), expected, "what was recovered is recovered again");
    assert!(reopened.torn_tail.is_none(), "a log that was closed has no torn tail: {reopened:?}");
    let damaged = |recovery: &Recovery| recovery.damaged.keys().copied().collect::<Vec<_>>();
    assert_eq!(damaged(&reopened), damaged(recovery), "damage is neither forgotten nor made");
    assert_eq!(reopened.unattributed.is_some(), recovery.unattributed.is_some());
    again.close().expect("a disk that works");
}

/// Edits of a log, and logs that are said.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![MODE_ROTTEN], vec![MODE_SAY]];
    // A byte of each field of the first records, mended and not.
    let place = |at: usize| u16::try_from(at).expect("a place in the first segment").to_le_bytes();
    for field in [4, 12, 13, 24, 32, 36, 40, 48, 56, 64] {
        let at = place(RECORDS_START + field);
        let next = place(RECORDS_START + RECORD_BYTES + field);
        for mode in [0, MODE_ROTTEN] {
            seeds.push(vec![mode, 0, at[0], at[1], 9, 0, next[0], next[1], 3]);
        }
    }
    // Entries, a vote, a truncation, a purge and a removal of two replicas in one segment; then another one.
    let record = |kind: u8, replica: u8, index: u8, payload: &[u8]| {
        let mut record = vec![kind - 1, 3, replica, index, 1];
        crate::input::put_sized(&mut record, payload);
        record
    };
    let records = [
        record(1, 1, 0, b"a"),
        record(1, 1, 1, b"b"),
        record(2, 1, 0, b"vote"),
        record(1, 2, 5, b"c"),
        record(4, 1, 0, b""),
        record(5, 2, 5, b""),
        record(3, 2, 0, b"committed"),
        record(6, 1, 0, b""),
    ];
    let count = u8::try_from(records.len()).expect("a few");
    let said = [&[MODE_SAY, 0, 0, 2, count][..], &records.concat()].concat();
    seeds.push([&said[..], &[0, 0, 0]].concat());
    seeds.push(said);
    seeds
}
