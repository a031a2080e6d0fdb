//! Counts on disk that no writer has made, under sound checksums: nothing overflows, and nothing is silent.

use super::*;
use format::{
    COUNT_MAX, HEADER_COPY_BYTES, HeaderCopy, RECORD_HEADER_BYTES, RECORDS_START, RecordHeader, SegmentHeader,
};

fn segment(sequence: u64) -> PathBuf {
    pool::segment_path(Path::new(DIR), sequence)
}

/// Two replicas with all kinds of records in two segments, not closed.
fn log() -> SimDisk {
    let disk = sim_disk(1);
    for _ in 0..2 {
        let (log, _) = open(&disk).unwrap();
        for id in 1..=2 {
            use_replica(&log.replica(GroupId(1), ReplicaId(id)).unwrap()).unwrap();
        }
    }
    disk.crash(Crash::Killed)
}

/// Does everything with a replica that counts.
fn use_replica(replica: &ReplicaLog) -> io::Result<()> {
    let next = || replica.state().last.map_or(0, |last| last.index.get() + 1);
    let first = next();
    append(replica, (first..first + 3).map(|index| entry(index, 1, "payload")).collect())?;
    vote(replica, "vote")?;
    replica.save_committed(Bytes::from_static(b"committed"))?;
    replica.truncate_after(Some(id(first + 1, 1)))?;
    replica.purge(id(first, 1))?;
    replica.read(LogIndex(0)..LogIndex(u64::MAX), usize::MAX).map_err(io::Error::other)?;
    append(replica, vec![entry(next(), 1, "more")])
}

/// Opens the log, and uses what can be used. Says how many replicas could not be.
fn use_log(disk: &SimDisk) -> usize {
    let (log, _) = match open(disk) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(error.to_string().contains("used up"), "{error}");
            return 2;
        }
    };
    let is_used = |id: u64| match log.replica(GroupId(1), ReplicaId(id)) {
        Ok(replica) => use_replica(&replica).is_ok(),
        Err(error) => {
            assert!(matches!(error, Error::Damaged { .. } | Error::MayBeDamaged { .. }), "{error}");
            false
        }
    };
    [1, 2].into_iter().filter(|&id| !is_used(id)).count()
}

/// Overwrites a field and makes the checksum of what surrounds it right again.
fn overwrite(disk: &SimDisk, sequence: u64, field: u64, value: u64, summed: std::ops::Range<u64>, crc: u64) {
    let path = segment(sequence);
    disk.overwrite(&path, field, &value.to_le_bytes()).unwrap();
    let bytes = disk.bytes(&path).unwrap();
    let summed = usize::try_from(summed.start).unwrap()..usize::try_from(summed.end).unwrap();
    disk.overwrite(&path, crc, &crc32fast::hash(&bytes[summed]).to_le_bytes()).unwrap();
}

#[test]
fn no_count_of_a_record_makes_anything_overflow() {
    let sound = log();
    assert_eq!(use_log(&sound.crash(Crash::Killed)), 0);
    let mut unusable = 0;
    for sequence in 1..=2 {
        let image = sound.bytes(&segment(sequence)).unwrap();
        let mut at = RECORDS_START;
        while let Some(header) = RecordHeader::decode(&image[usize::try_from(at).unwrap()..], sequence) {
            // The write, the record's number, the entry's index.
            for field in [24, 48, 56] {
                for count in [u64::MAX, COUNT_MAX + 1, COUNT_MAX, COUNT_MAX - 1] {
                    let disk = sound.crash(Crash::Killed);
                    let summed = at + 4..at + RECORD_HEADER_BYTES as u64;
                    overwrite(&disk, sequence, at + field, count, summed, at);
                    unusable += use_log(&disk);
                    use_log(&disk.crash(Crash::Killed));
                }
            }
            at += header.total_bytes();
        }
    }
    assert!(unusable > 100, "{unusable}");
}

#[test]
fn no_count_of_a_segment_makes_anything_overflow() {
    let sound = log();
    for sequence in 1..=2 {
        // The segment before it and its end, the oldest one, the first write, the number of streams.
        for field in [24, 32, 40, 48, 72] {
            for count in [u64::MAX, COUNT_MAX + 1, COUNT_MAX] {
                let disk = sound.crash(Crash::Killed);
                for copy in [0, HEADER_COPY_BYTES as u64] {
                    overwrite(&disk, sequence, copy + field, count, copy + 12..copy + 84, copy + 8);
                }
                use_log(&disk);
                use_log(&disk.crash(Crash::Killed));
            }
        }
    }
}

#[test]
fn a_count_beyond_the_last_one_is_not_believed() {
    let disk = log();
    let image = disk.bytes(&segment(2)).unwrap();
    let HeaderCopy::Good(good) = SegmentHeader::decode(&image) else { panic!() };
    let decode = |header: SegmentHeader| {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        SegmentHeader::decode(&bytes)
    };
    let highest = SegmentHeader { first_write: COUNT_MAX, ..good };
    assert_eq!(decode(highest), HeaderCopy::Good(highest));
    assert_eq!(decode(SegmentHeader { first_write: COUNT_MAX + 1, ..good }), HeaderCopy::Bad);
    assert_eq!(decode(SegmentHeader { previous_end: u64::MAX, ..good }), HeaderCopy::Bad);

    let start = RecordHeader::decode(&image[usize::try_from(RECORDS_START).unwrap()..], 2).unwrap();
    for (write, number, index) in [(COUNT_MAX + 1, 0, 0), (0, COUNT_MAX + 1, 0), (0, 0, COUNT_MAX + 1)] {
        let mut bytes = Vec::new();
        RecordHeader { write, number, id: Some(id(index, 1)), ..start }.encode(&[], &mut bytes);
        assert_eq!(RecordHeader::decode(&bytes, 2), None);
    }
}

#[test]
fn a_file_that_has_the_last_of_all_names_is_none_of_the_logs() {
    let disk = log();
    disk.create(&segment(u64::MAX)).unwrap();
    for _ in 0..2 {
        assert_eq!(use_log(&disk), 0);
    }
}

#[test]
fn an_index_that_no_log_gets_to_is_refused_and_changes_nothing() {
    let (log, _) = open(&sim_disk(1)).unwrap();
    let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    let refused = append(&replica, vec![entry(COUNT_MAX + 1, 1, "x")]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
    for refused in [replica.purge(id(u64::MAX, 1)), replica.truncate_after(Some(id(u64::MAX, 1)))] {
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    use_replica(&replica).unwrap();
}
