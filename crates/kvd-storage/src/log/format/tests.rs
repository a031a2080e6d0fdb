//! The bytes on disk. If one of these fails, old logs can't be read any more: make another format version.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId { index: LogIndex(index), term: Term(term) }
}

fn record() -> RecordHeader {
    RecordHeader {
        kind: Kind::Entry,
        ends_write: true,
        payload_bytes: 5,
        payload_crc: crc32fast::hash(b"hello"),
        segment: 0x0102_0304_0506_0708,
        write: 9,
        unsynced: 2,
        group: GroupId(10),
        replica: ReplicaId(11),
        number: 12,
        id: Some(id(13, 14)),
    }
}

#[test]
fn golden_segment_header() {
    let header = SegmentHeader {
        sequence: 1,
        previous: 2,
        previous_end: 3,
        oldest: 4,
        first_write: 5,
        segment_bytes: 6,
        unattributed: true,
        streams: 7,
    };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    assert_eq!(bytes.len(), 8192);
    assert_eq!(bytes[..4096], bytes[4096..]);
    assert_eq!(
        hex(&bytes[..84]),
        concat!(
            "6b76646c6f670d0aa1deb42101000000010000000000000002000000000000000300000000000000",
            "04000000000000000500000000000000060000000000000001000000000000000700000000000000",
            "00000000"
        )
    );
    assert!(bytes[84..4096].iter().all(|byte| *byte == 0));
    assert_eq!(SegmentHeader::decode(&bytes[4096..]), HeaderCopy::Good(header));
    for bit in 0..84 * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(SegmentHeader::decode(&bytes), HeaderCopy::Bad, "bit {bit}");
    }
    assert_eq!(SegmentHeader::decode(&bytes[..83]), HeaderCopy::Bad);
}

#[test]
fn a_segment_of_another_version_is_not_taken_for_a_bad_one() {
    let mut fields = vec![0; 72];
    fields[0] = 2;
    let mut bytes = MAGIC.to_vec();
    bytes.put_u32_le(crc32fast::hash(&fields));
    bytes.extend(fields);
    assert_eq!(SegmentHeader::decode(&bytes), HeaderCopy::Version(2));
}

#[test]
fn golden_record() {
    let mut bytes = Vec::new();
    record().encode(b"hello", &mut bytes);
    assert_eq!(
        hex(&bytes),
        concat!(
            "79e24c990500000086a610360103000008070605040302010900000000000000020000000a000000",
            "0b000000000000000c000000000000000d000000000000000e0000000000000068656c6c6f000000"
        )
    );
    assert_eq!(bytes.len() as u64, record().total_bytes());
    let decoded = RecordHeader::decode(&bytes, record().segment);
    assert_eq!(decoded, Some(record()));
    assert_eq!(record().synced(), 6);
    assert!(record().matches(b"hello") && !record().matches(b"hellp") && !record().matches(b"hello "));
    for bit in 0..RECORD_HEADER_BYTES * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(RecordHeader::decode(&bytes, record().segment), None, "bit {bit}");
        assert!(RecordHeader::resembles(&bytes, record().segment, record().write), "bit {bit}");
    }
    assert_eq!(RecordHeader::decode(&bytes, record().segment + 1), None);
    assert_eq!(RecordHeader::decode(&bytes[..71], record().segment), None);
}

#[test]
fn the_end_of_a_write_can_be_marked_afterwards() {
    let mut bytes = vec![7; 16];
    RecordHeader { ends_write: false, ..record() }.encode(b"hello", &mut bytes);
    let mut expected = vec![7; 16];
    record().encode(b"hello", &mut expected);
    assert_ne!(bytes, expected);
    end_write(&mut bytes, 16);
    assert_eq!(bytes, expected);
}

#[test]
fn every_kind_has_its_code() {
    for code in 0..=u8::MAX {
        match Kind::of(code) {
            Some(kind) => assert_eq!(kind.code(), code),
            None => assert!(!(1..=9).contains(&code)),
        }
    }
}

#[test]
fn golden_state() {
    let state = StatePayload {
        vote: Some(Bytes::from_static(b"vote")),
        committed: Some(Bytes::new()),
        purged: Some(id(1, 2)),
        last: Some(id(3, 4)),
        damaged: Some(Bytes::from_static(b"bad")),
    };
    assert_eq!(
        hex(&state.encode()),
        concat!(
            "1f04000000766f7465",
            "00000000",
            "01000000000000000200000000000000",
            "03000000000000000400000000000000",
            "03000000626164"
        )
    );
    assert_eq!(StatePayload::decode(&state.encode()), Some(state.clone()));
    assert_eq!(hex(&StatePayload::default().encode()), "00");
    assert_eq!(StatePayload::decode(&[0]), Some(StatePayload::default()));
    for length in 0..state.encode().len() {
        assert_eq!(StatePayload::decode(&state.encode()[..length]), None);
    }
    assert_eq!(StatePayload::decode(&[32]), None);
    assert_eq!(StatePayload::decode(&[0, 0]), None);
}
