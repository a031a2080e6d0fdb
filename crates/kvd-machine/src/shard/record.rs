//! A record as a row's value, and inside remembered outcomes. Persisted, keep stable.

use bytes::{BufMut as _, Bytes, BytesMut};
use kvd_types::{LeaseId, Record, Revision};
use prost::Message;

use crate::Error;

/// A record. Revisions have the clock in their upper bits, so they are shorter fixed than as varints.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RecordRow {
    #[prost(fixed64, tag = "1")]
    create_revision: u64,
    #[prost(fixed64, tag = "2")]
    revision: u64,
    #[prost(uint64, tag = "3")]
    version: u64,
    /// Always there, even if empty.
    #[prost(bytes = "bytes", optional, tag = "4")]
    value: Option<Bytes>,
    #[prost(uint64, optional, tag = "5")]
    lease: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    expires_at_age_ms: Option<u64>,
    /// Of a version that was replaced or deleted: at which revision.
    #[prost(fixed64, optional, tag = "7")]
    until: Option<u64>,
}

/// What stands before `until` in its encoding: its tag and the type of a fixed number of 8 bytes.
const UNTIL_TAG: u8 = 7 << 3 | 1;

impl From<&Record> for RecordRow {
    fn from(record: &Record) -> Self {
        Self {
            create_revision: record.create_revision.get(),
            revision: record.revision.get(),
            version: record.version,
            value: Some(record.value.clone()),
            lease: record.lease.map(LeaseId::get),
            expires_at_age_ms: record.expires_at_age_ms,
            until: None,
        }
    }
}

impl RecordRow {
    /// The record, or what is wrong with it.
    pub(super) fn into_record(self) -> Result<Record, &'static str> {
        let value = self.value.ok_or("the record has no value")?;
        if self.version == 0 || self.create_revision == 0 || self.revision < self.create_revision {
            return Err("the record's version and revisions contradict each other");
        }
        Ok(Record {
            value,
            create_revision: Revision(self.create_revision),
            revision: Revision(self.revision),
            version: self.version,
            lease: self.lease.map(LeaseId),
            expires_at_age_ms: self.expires_at_age_ms,
        })
    }
}

/// The row's value that holds a record.
pub(super) fn encode(record: &Record) -> Bytes {
    RecordRow::from(record).encode_to_vec().into()
}

/// The value of a current version's row, as that of a version which was replaced at a revision.
pub(super) fn replaced(current: &[u8], until: Revision) -> Bytes {
    let mut row = BytesMut::with_capacity(current.len() + 9);
    row.put_slice(current);
    row.put_u8(UNTIL_TAG);
    row.put_u64_le(until.get());
    row.freeze()
}

/// The version in the row of one that was replaced, and until when it was current.
pub(super) fn decode_replaced(row: &[u8], bytes: &Bytes) -> Result<(Record, Revision), Error> {
    let decoded = RecordRow::decode(bytes.clone()).map_err(|error| Error::corrupt(row, error))?;
    let until = decoded.until;
    let record = decoded.into_record().map_err(|detail| Error::corrupt(row, detail))?;
    match until {
        Some(until) if until > record.revision.get() => Ok((record, Revision(until))),
        _ => Err(Error::corrupt(row, "it does not say until when the version was current")),
    }
}

/// The record in a row's value; it shares the row's memory.
pub(super) fn decode(row: &[u8], bytes: &Bytes) -> Result<Record, Error> {
    let decoded = RecordRow::decode(bytes.clone()).map_err(|error| Error::corrupt(row, error))?;
    decoded.into_record().map_err(|detail| Error::corrupt(row, detail))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_stable() {
        let plain = Record {
            value: Bytes::from_static(b"v"),
            create_revision: Revision(0x0102),
            revision: Revision(0x0304),
            version: 2,
            lease: None,
            expires_at_age_ms: None,
        };
        let golden: &[u8] = b"\x09\x02\x01\0\0\0\0\0\0\x11\x04\x03\0\0\0\0\0\0\x18\x02\x22\x01v";
        assert_eq!(encode(&plain), golden);
        assert_eq!(decode(b"row", &Bytes::from_static(golden)).unwrap(), plain);

        let full =
            Record { lease: Some(LeaseId(5)), expires_at_age_ms: Some(6), value: Bytes::new(), ..plain };
        let golden: &[u8] =
            b"\x09\x02\x01\0\0\0\0\0\0\x11\x04\x03\0\0\0\0\0\0\x18\x02\x22\x00\x28\x05\x30\x06";
        assert_eq!(encode(&full), golden);
        assert_eq!(decode(b"row", &Bytes::from_static(golden)).unwrap(), full);
    }

    #[test]
    fn a_field_of_a_later_build_is_skipped() {
        let record =
            Record { create_revision: Revision(1), revision: Revision(1), version: 1, ..Record::default() };
        let later = [encode(&record).as_ref(), b"\x78\x01"].concat();
        assert_eq!(decode(b"row", &later.into()).unwrap(), record);
    }

    #[test]
    fn damage_is_corruption_and_names_the_row() {
        let record =
            Record { create_revision: Revision(9), revision: Revision(9), version: 1, ..Record::default() };
        let older = Record { revision: Revision(8), ..record.clone() };
        let bytes = encode(&record);
        let cut = bytes.slice(..bytes.len() - 1);
        for damaged in
            [Bytes::new(), cut, Bytes::from_static(b"\xff"), encode(&older), encode(&Record::default())]
        {
            let error = decode(b"\x10key", &damaged).unwrap_err();
            assert!(error.to_string().contains("\\x10key"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn records_are_read_back(
            value in proptest::collection::vec(any::<u8>(), 0..64),
            (create, age, version) in (1_u64.., any::<u64>(), 1_u64..),
            lease in any::<Option<u64>>(),
            expires_at_age_ms in any::<Option<u64>>(),
        ) {
            let record = Record {
                value: value.into(),
                create_revision: Revision(create),
                revision: Revision(create.saturating_add(age)),
                version,
                lease: lease.map(LeaseId),
                expires_at_age_ms,
            };
            prop_assert_eq!(decode(b"row", &encode(&record)).unwrap(), record);
        }
    }
}
