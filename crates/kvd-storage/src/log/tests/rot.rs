//! Bits flip on disk: what they touched is said by replica, or it didn't matter. Never silence.

use super::{
    model::{Step, models, submit},
    *,
};
use format::{Kind, RECORD_HEADER_BYTES, RECORDS_START, RecordHeader};

fn segment(sequence: u64) -> PathBuf {
    pool::segment_path(Path::new(DIR), sequence)
}

fn recover(disk: &SimDisk) -> Recovered {
    recovery::recover(disk, Path::new(DIR)).unwrap()
}

/// What recovery makes of the replicas, in a form that can be compared.
fn view(recovered: &Recovered) -> BTreeMap<ReplicaId, String> {
    recovered.streams.iter().map(|(id, (stream, memory))| (*id, format!("{stream:?} {memory:?}"))).collect()
}

/// The records of a segment.
fn records(disk: &SimDisk, sequence: u64) -> Vec<(u64, RecordHeader)> {
    let image = disk.bytes(&segment(sequence)).unwrap();
    let mut records = Vec::new();
    let mut at = usize::try_from(RECORDS_START).unwrap();
    while let Some(header) = image.get(at..).and_then(|bytes| RecordHeader::decode(bytes, sequence)) {
        records.push((at as u64, header));
        at += usize::try_from(header.total_bytes()).unwrap();
    }
    records
}

/// Three replicas over three segments, everything of each kind, closed.
fn closed_log() -> SimDisk {
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    let replicas: Vec<_> = (1..=3).map(|id| log.create(GroupId(1), ReplicaId(id)).unwrap()).collect();
    for round in 0..6 {
        let index = round;
        for replica in &replicas {
            vote(replica, &format!("vote {round}")).unwrap();
            let payload = "x".repeat(if round % 2 == 0 { 3000 } else { 300 });
            append(replica, vec![entry(index, 1, &payload), entry(index + 1, 1, "short")]).unwrap();
            replica.save_committed(Bytes::from(format!("committed {round}"))).unwrap();
            replica.truncate_after(Some(id(index, 1))).unwrap();
            if round == 3 {
                replica.purge(id(1, 1)).unwrap();
            }
        }
    }
    submit(&log, GroupId(1), ReplicaId(4), &Step::Vote(Bytes::from_static(b"v")), Box::new(drop));
    log.remove(ReplicaId(4), Box::new(drop));
    log.close().unwrap();
    disk
}

/// What flips may be about: nothing, headers only, or replicas.
#[derive(Debug, Default)]
struct Tally {
    harmless: usize,
    attributed: usize,
    doubted: usize,
    headers: usize,
    torn: usize,
}

#[test]
fn a_flipped_bit_anywhere_is_reported_or_harmless() {
    let disk = closed_log();
    let sound = recover(&disk.crash(Crash::Killed));
    assert_eq!(sound.report.torn_tail, None);
    assert!(sound.report.damaged.is_empty() && sound.chain.len() == 2, "{:?}", sound.report);
    let expected = view(&sound);
    let mut tally = Tally::default();
    for (sequence, _) in &sound.chain {
        for copy in [0, format::HEADER_COPY_BYTES as u64] {
            for offset in copy..copy + 84 {
                flip(&disk, *sequence, offset, None, &expected, &mut tally);
            }
        }
        for (at, header) in records(&disk, *sequence) {
            let header_end = at + RECORD_HEADER_BYTES as u64;
            // Every byte of the headers, and some of the payloads' and the padding's.
            let step = usize::try_from(header.payload_bytes / 8).unwrap().max(1);
            let last = sequence == &sound.chain.last().unwrap().0;
            for offset in (at..header_end).chain((header_end..at + header.total_bytes()).step_by(step)) {
                flip(&disk, *sequence, offset, Some((at, header, last)), &expected, &mut tally);
            }
        }
    }
    let enough = tally.attributed > 100 && tally.doubted > 1000 && tally.headers == 2 * 2 * 84;
    assert!(enough && tally.torn > 50 && tally.harmless < tally.doubted, "{tally:?}");
}

/// Flips one bit and checks what recovery says of it.
fn flip(
    base: &SimDisk,
    sequence: u64,
    offset: u64,
    record: Option<(u64, RecordHeader, bool)>,
    expected: &BTreeMap<ReplicaId, String>,
    tally: &mut Tally,
) {
    let disk = base.crash(Crash::Killed);
    disk.flip(&segment(sequence), offset, u8::try_from(offset % 8).unwrap()).unwrap();
    let recovered = recover(&disk);
    let report = &recovered.report;
    let place = format!("segment {sequence} offset {offset}: {report:?}");
    let found = view(&recovered);
    for (replica, expected) in expected {
        match found.get(replica) {
            Some(_) if report.damaged.contains_key(replica) => {}
            Some(found) => assert_eq!(found, expected, "{place}"),
            None => assert!(report.unattributed.is_some(), "replica {replica} is gone silently: {place}"),
        }
    }
    for replica in found.keys() {
        assert!(expected.contains_key(replica) || report.damaged.contains_key(replica), "{place}");
    }
    let Some((at, header, last)) = record else {
        assert_eq!(report.bad_headers, [segment(sequence)], "{place}");
        assert!(report.damaged.is_empty() && report.unattributed.is_none(), "{place}");
        tally.headers += 1;
        return;
    };
    let named: Vec<_> = report.damaged.keys().copied().collect();
    let header_end = at + RECORD_HEADER_BYTES as u64;
    let removed = header.replica == ReplicaId(4);
    if offset >= header_end + u64::from(header.payload_bytes) {
        assert_eq!(*report, recover(&base.crash(Crash::Killed)).report, "padding: {place}");
        tally.harmless += 1;
    } else if header.kind == Kind::Close {
        // Nothing after it says that it was synced. It only says so of others, and they are all there.
        assert!(report.torn_tail.is_some() && named.is_empty(), "{place}");
        tally.torn += 1;
    } else if offset >= header_end && removed {
        assert!(named.is_empty(), "{place}");
        tally.harmless += 1;
    } else if offset >= header_end {
        assert_eq!(named, [header.replica], "{place}");
        assert_eq!(report.damaged[&header.replica].offset, at, "{place}");
        assert_eq!(report.damaged[&header.replica].file, segment(sequence), "{place}");
        tally.attributed += 1;
    } else {
        // The header names nobody. Its replica has a gap, the others go on; the last ones of the log can't be told.
        assert_eq!(report.torn_tail, None, "{place}");
        let own = matches!(header.kind, Kind::Start | Kind::State | Kind::Remove);
        assert!(own || removed || named.contains(&header.replica), "{place}");
        assert!(last || removed || named.iter().all(|named| *named == header.replica), "{place}");
        assert!(!last || report.unattributed.is_some(), "{place}");
        tally.doubted += 1;
    }
}

#[test]
fn a_damaged_replica_stays_closed_until_it_is_removed_and_hurts_nobody_else() {
    let disk = closed_log();
    let (at, victim) = records(&disk, 1)
        .into_iter()
        .find(|(_, header)| header.kind == Kind::Entry && header.replica == ReplicaId(2))
        .unwrap();
    disk.flip(&segment(1), at + RECORD_HEADER_BYTES as u64, 0).unwrap();
    assert!(victim.payload_bytes > 0);
    let mut noted = None;
    for _ in 0..4 {
        let (log, recovery) = open(&disk).unwrap();
        assert_eq!(recovery.damaged.keys().copied().collect::<Vec<_>>(), [ReplicaId(2)]);
        assert!(recovery.damaged[&ReplicaId(2)].to_string().contains(&format!("{at}: the payload")));
        let Err(Error::Damaged { replica, damage }) = log.replica(GroupId(1), ReplicaId(2)) else {
            panic!("a damaged replica was opened");
        };
        // Noted at the head of each segment, it outlives the bad bytes.
        assert_eq!((replica, &damage.to_string()), (ReplicaId(2), &*noted.get_or_insert(damage.to_string())));
        for other in [1, 3] {
            let replica = log.replica(GroupId(1), ReplicaId(other)).unwrap();
            let last = replica.state().last.unwrap().index.get();
            append(&replica, vec![entry(last + 1, 2, "more")]).unwrap();
            replica.purge(id(last, 2)).unwrap();
            vote(&replica, "more").unwrap();
        }
        assert_eq!(log.replicas().len(), 3);
    }
    let (log, recovery) = open(&disk).unwrap();
    assert!(noted.unwrap().contains("kvdlog at offset"));
    assert_eq!(recovery.damaged[&ReplicaId(2)].file, PathBuf::new(), "the bad bytes are still there");
    let (done, waiting) = waiter();
    log.remove(ReplicaId(2), done);
    waiting.recv().unwrap().unwrap();
    assert!(log.damaged().is_empty());
    drop(log);
    let (log, recovery) = open(&disk.crash(Crash::Synced)).unwrap();
    assert!(recovery.damaged.is_empty(), "{recovery:?}");
    assert_eq!(models(&log).into_keys().collect::<Vec<_>>(), [ReplicaId(1), ReplicaId(3)]);
}

#[test]
fn a_replica_whose_only_record_is_lost_is_not_taken_for_a_new_one() {
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    let old = log.create(GroupId(1), ReplicaId(1)).unwrap();
    vote(&old, "a").unwrap();
    vote(&log.create(GroupId(1), ReplicaId(2)).unwrap(), "only").unwrap();
    vote(&old, "b").unwrap();
    drop(old);
    drop(log);
    let (at, _) = records(&disk, 1).into_iter().find(|(_, header)| header.replica == ReplicaId(2)).unwrap();
    disk.flip(&segment(1), at + 40, 0).unwrap();
    for _ in 0..3 {
        let (log, recovery) = open(&disk).unwrap();
        assert!(recovery.unattributed.is_some() && recovery.damaged.is_empty(), "{recovery:?}");
        assert!(matches!(log.replica(GroupId(1), ReplicaId(2)), Err(Error::MayBeDamaged { .. })));
        assert_eq!(log.replica(GroupId(1), ReplicaId(1)).unwrap().state().vote.as_deref(), Some(&b"b"[..]));
        log.create(GroupId(1), ReplicaId(3)).unwrap();
    }
}

#[test]
fn a_lost_segment_is_noticed_by_those_it_concerns() {
    let disk = closed_log();
    let chain: Vec<u64> =
        recover(&disk.crash(Crash::Killed)).chain.iter().map(|(sequence, _)| *sequence).collect();
    for sequence in &chain {
        // The file is gone, or both copies of its header are.
        let gone = disk.crash(Crash::Killed);
        gone.remove(&segment(*sequence)).unwrap();
        let headless = disk.crash(Crash::Killed);
        headless.flip(&segment(*sequence), 30, 0).unwrap();
        headless.flip(&segment(*sequence), 30 + format::HEADER_COPY_BYTES as u64, 0).unwrap();
        let is_last = chain.last() == Some(sequence);
        for disk in [gone, headless.clone()] {
            let report = recover(&disk).report;
            // Without its last segment a log can't know what was in it; that takes losing a whole synced file.
            if !is_last || disk.bytes(&segment(*sequence)).is_ok() {
                assert_eq!(report.damaged.len(), 3, "segment {sequence}: {report:?}");
            }
        }
    }
    for sequence in &chain {
        for copy in [0, format::HEADER_COPY_BYTES as u64] {
            disk.flip(&segment(*sequence), copy + 30, 0).unwrap();
        }
    }
    let report = recover(&disk).report;
    assert!(report.unattributed.is_some(), "{report:?}");
}

/// A log that was not closed: votes 0 to 4 of replica 1 in five writes, then three votes in one.
fn crashed_log() -> SimDisk {
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    let log = Arc::new(log);
    let replica = log.create(GroupId(1), ReplicaId(1)).unwrap();
    for round in 0..5 {
        vote(&replica, &format!("{round}")).unwrap();
    }
    let inner = replica.clone();
    replica.append(
        Vec::new(),
        Box::new(move |_| {
            for round in 5..8 {
                inner.save_vote(Bytes::from(format!("{round}")), Box::new(|result| result.unwrap()));
            }
        }),
    );
    disk.crash(Crash::Synced)
}

fn vote_of(recovered: &Recovered) -> Option<&[u8]> {
    recovered.streams.get(&ReplicaId(1)).and_then(|(stream, _)| stream.marks.vote.as_deref())
}

#[test]
fn a_bad_last_write_is_a_torn_tail_and_a_bad_earlier_one_is_corruption() {
    let base = crashed_log();
    let votes: Vec<u64> =
        records(&base, 1).iter().filter(|(_, header)| header.kind == Kind::Vote).map(|(at, _)| *at).collect();
    assert_eq!(votes.len(), 8);
    // In the header, and in the payload.
    for byte in [0, 5, 13, 16, 24, 48, 72] {
        for (number, at) in votes.iter().enumerate() {
            let disk = base.crash(Crash::Killed);
            disk.flip(&segment(1), at + byte, 1).unwrap();
            let recovered = recover(&disk);
            if number < 5 {
                assert_eq!(recovered.report.torn_tail, None, "vote {number} byte {byte}");
                assert_eq!(recovered.report.damaged.len(), 1, "vote {number} byte {byte}");
            } else {
                // Of one write that nothing proves to be synced: what is before the bad place counts.
                let tail = recovered.report.torn_tail.as_ref().expect("a torn tail");
                assert_eq!((tail.offset, &tail.file), (*at, &segment(1)));
                assert!(recovered.report.damaged.is_empty());
                assert_eq!(vote_of(&recovered), Some(format!("{}", number - 1).as_bytes()));
            }
        }
    }
}

#[test]
fn what_was_cut_off_stays_off() {
    let disk = crashed_log();
    let at = records(&disk, 1).iter().filter(|(_, header)| header.kind == Kind::Vote).nth(6).unwrap().0;
    disk.flip(&segment(1), at, 1).unwrap();
    let (log, recovery) = open(&disk).unwrap();
    assert!(recovery.torn_tail.is_some());
    drop(log);
    // Even if the bad bits turn out well now.
    disk.flip(&segment(1), at, 1).unwrap();
    let recovered = recover(&disk);
    assert_eq!((vote_of(&recovered), &recovered.report.torn_tail), (Some(&b"5"[..]), &None));
    assert!(recovered.report.damaged.is_empty());
}

#[test]
fn records_of_an_earlier_use_of_a_file_never_pass() {
    let base = crashed_log();
    let end = recover(&base.crash(Crash::Killed)).end;
    let image = base.bytes(&segment(1)).unwrap();
    let (at, header) = records(&base, 1).pop().unwrap();
    let mut record = header;
    let payload =
        &image[usize::try_from(at).unwrap() + RECORD_HEADER_BYTES..][..record.payload_bytes as usize];
    // The very record that would come next, but for its segment.
    record.number += 1;
    record.write += 1;
    for (segment_of_record, passes) in [(1, true), (0, false), (2, false), (1 << 32 | 1, false)] {
        let disk = base.crash(Crash::Killed);
        record.segment = segment_of_record;
        let mut bytes = Vec::new();
        record.encode(payload, &mut bytes);
        disk.open(&segment(1)).unwrap().write_all_at(&bytes, end).unwrap();
        let recovered = recover(&disk);
        let number = recovered.streams[&ReplicaId(1)].0.number;
        assert_eq!(number, if passes { 9 } else { 8 }, "of segment {segment_of_record}");
        assert!(recovered.report.damaged.is_empty());
    }
}

#[test]
fn a_torn_beginning_of_the_next_segment_changes_nothing() {
    // Half of the last write is bad. It is cut off, and a new segment begun; of that, the power cut keeps the records
    // and loses the header. They must not be taken for a proof that the write was synced as a whole.
    let disk = crashed_log();
    let at = records(&disk, 1).iter().filter(|(_, header)| header.kind == Kind::Vote).nth(6).unwrap().0;
    disk.flip(&segment(1), at, 1).unwrap();
    for round in 2..5 {
        drop(Log::open(Arc::new(disk.clone()), Path::new(DIR), small()).unwrap());
        assert_eq!(records(&disk, round).iter().filter(|(_, header)| header.kind == Kind::State).count(), 1);
        let torn = disk.crash(Crash::Killed);
        // What closing has written is not there either.
        let head = torn.open(&segment(round)).unwrap();
        head.write_all_at(&vec![0; usize::try_from(RECORDS_START).unwrap()], 0).unwrap();
        let (close, _) = records(&torn, round).pop().unwrap();
        head.write_all_at(&[0; RECORD_HEADER_BYTES], close).unwrap();
        let recovered = recover(&torn);
        assert!(recovered.report.damaged.is_empty() && recovered.report.unattributed.is_none());
        assert_eq!(vote_of(&recovered), Some(&b"5"[..]));
        // Nor is the segment's number used again, for its records would pass.
        assert_eq!(recovered.next_sequence, round + 1);
    }
}

#[test]
fn a_segment_of_which_only_the_header_was_written_was_never_begun() {
    // No entries, so the new segment's header says that no other one is needed; but the votes that its head was to
    // tell again are in no sector that the power cut has kept.
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    for id in 1..4 {
        vote(&log.create(GroupId(1), ReplicaId(id)).unwrap(), &"v".repeat(400)).unwrap();
    }
    let expected = models(&log);
    log.close().unwrap();
    drop(open(&disk).unwrap());
    let head_records = records(&disk, 2);
    assert_eq!(head_records.iter().filter(|(_, header)| header.kind == Kind::State).count(), 3);
    let end = usize::try_from(head_records.last().unwrap().0).unwrap() + RECORD_HEADER_BYTES;
    let whole = disk.bytes(&segment(2)).unwrap();
    for kept in (usize::try_from(RECORDS_START).unwrap()..end).step_by(64) {
        let torn = disk.crash(Crash::Killed);
        torn.open(&segment(2)).unwrap().write_all_at(&vec![0; whole.len() - kept], kept as u64).unwrap();
        for round in 0..3 {
            let (log, recovery) = open(&torn).unwrap();
            assert!(recovery.damaged.is_empty() && recovery.unattributed.is_none(), "{kept}: {recovery:?}");
            assert_eq!(models(&log), expected, "kept {kept} bytes, opening {round}");
        }
    }
}

#[test]
fn what_was_cut_off_stays_off_though_the_next_segment_was_never_begun() {
    // The last write is torn and cut off, and the next segment begun, of which a power cut keeps the header alone.
    let disk = crashed_log();
    let at = records(&disk, 1).iter().filter(|(_, header)| header.kind == Kind::Vote).nth(6).unwrap().0;
    disk.flip(&segment(1), at, 1).unwrap();
    drop(open(&disk).unwrap());
    let rest = disk.bytes(&segment(2)).unwrap().len() - usize::try_from(RECORDS_START).unwrap();
    disk.open(&segment(2)).unwrap().write_all_at(&vec![0; rest], RECORDS_START).unwrap();
    for flipped in 0..2 {
        // Even if the bad bits turn out well now.
        let recovered = recover(&disk.crash(Crash::Killed));
        assert!(recovered.report.damaged.is_empty(), "{:?}", recovered.report);
        assert_eq!(vote_of(&recovered), Some(&b"5"[..]), "flipped back {flipped} times");
        disk.flip(&segment(1), at, 1).unwrap();
    }
}

#[test]
fn a_synced_segment_that_lost_its_header_is_not_taken_for_a_torn_one() {
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    vote(&log.create(GroupId(1), ReplicaId(1)).unwrap(), "a").unwrap();
    log.close().unwrap();
    let (log, _) = open(&disk).unwrap();
    let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    vote(&replica, "b").unwrap();
    vote(&replica, "c").unwrap();
    let disk = disk.crash(Crash::Synced);
    disk.flip(&segment(2), 40, 0).unwrap();
    disk.flip(&segment(2), 40 + format::HEADER_COPY_BYTES as u64, 0).unwrap();
    let report = recover(&disk).report;
    assert!(report.damaged.contains_key(&ReplicaId(1)) && report.unattributed.is_some(), "{report:?}");
}
