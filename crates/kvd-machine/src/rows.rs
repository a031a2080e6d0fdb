//! The rows of a replica: which there are, and how their keys sort. Persisted, keep stable.
//!
//! The first byte of a row's key is its family. Integers in keys are big-endian, so that rows sort as numbers do. Row
//! values are protobuf messages (which skip what they don't know and take a missing field as zero) unless said
//! otherwise; their `Row` structs stand next to the code that uses them.
//!
//! | key | value | of |
//! |---|---|---|
//! | `00 00` | [books](crate::Position): format, group, applied position, counters | both machines |
//! | `00 01` | the header: opaque bytes of `kvd-raft`, stored with the state that they belong to | both machines |
//! | `00 02` | the state of the cluster | meta machine |
//! | `10` KEY | the key's current version | shard machine |
//! | `20` ESCAPED-KEY REVISION | *reserved:* a version that was replaced, tombstones included | shard machine |
//! | `30` SESSION | a session: its last use and floor | shard machine |
//! | `30` SESSION CHUNK | its outcomes of the 64 sequence numbers from 64 x CHUNK | shard machine |
//! | `40` … | *reserved:* locks and intents of transactions | shard machine |
//!
//! KEY is the key's bytes as they are: it ends where the row's key ends, and so sorts bytewise. SESSION and CHUNK are 8
//! bytes each, so a session's own row comes first, then its outcomes in order. Families leave gaps so that a new one can
//! be put where it should sort.
//!
//! # History, when it comes
//! REVISION is the 8 bytes of the complement of the revision that the version had, so that a key's versions come newest
//! first and the one as of a revision R is the first row at or after (key, R). For rows to sort by (key, revision) no
//! key may be a prefix of another: in ESCAPED-KEY each `00` byte is written as `00 ff`, and `00 01` ends it. A version
//! that was a tombstone is a record without a value field. None of this is written yet.

use bytes::{BufMut, Bytes, BytesMut};
use kvd_types::{Key, SessionId};

use crate::Error;

/// The latest format of rows that this build reads and writes.
pub const FORMAT: u32 = 1;

/// The key of the bookkeeping row.
pub(crate) const BOOKS: &[u8] = &[0x00, 0x00];
/// The key of the header's row, to read it from a drained cut or a checkpoint, which no machine is open on.
pub const HEADER: &[u8] = &[0x00, 0x01];
/// The key of the row with the state of the cluster.
pub(crate) const META_STATE: &[u8] = &[0x00, 0x02];
/// The first byte of the rows with keys' current versions.
pub(crate) const LATEST: u8 = 0x10;
/// The first byte of the rows of sessions.
pub(crate) const SESSIONS: u8 = 0x30;

/// The row of a key's current version; of any bytes, as a bound of a range of such rows.
pub(crate) fn latest(key: &[u8]) -> Bytes {
    let mut row = BytesMut::with_capacity(1 + key.len());
    row.put_u8(LATEST);
    row.put_slice(key);
    row.freeze()
}

/// The end, exclusive, of the rows of keys' current versions.
pub(crate) fn latest_end() -> Bytes {
    Bytes::from_static(&[LATEST + 1])
}

/// The key whose current version a row holds.
pub(crate) fn latest_key(row: &Bytes) -> Result<Key, Error> {
    if row.first() != Some(&LATEST) {
        return Err(Error::corrupt(row, "it stands among the keys' current versions and is none"));
    }
    Key::new(row.slice(1..)).map_err(|error| Error::corrupt(row, error))
}

/// The row of a session.
pub(crate) fn session(id: SessionId) -> Bytes {
    let mut row = BytesMut::with_capacity(9);
    row.put_u8(SESSIONS);
    row.put_u64(id.get());
    row.freeze()
}

/// The row of a chunk of a session's outcomes.
pub(crate) fn session_chunk(id: SessionId, chunk: u64) -> Bytes {
    let mut row = BytesMut::with_capacity(17);
    row.put_u8(SESSIONS);
    row.put_u64(id.get());
    row.put_u64(chunk);
    row.freeze()
}

/// What a row of the session family holds: the session itself, or a chunk of its outcomes.
pub(crate) fn parse_session(row: &[u8]) -> Result<(SessionId, Option<u64>), Error> {
    let parsed = || {
        let rest = row.strip_prefix(&[SESSIONS])?;
        let (session, rest) = rest.split_first_chunk::<8>()?;
        let session = SessionId(u64::from_be_bytes(*session));
        match rest.len() {
            0 => Some((session, None)),
            _ => Some((session, Some(u64::from_be_bytes(rest.try_into().ok()?)))),
        }
    };
    parsed()
        .ok_or_else(|| Error::corrupt(row, "its key is neither a session's nor one of a chunk of outcomes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_keys_are_stable() {
        assert_eq!(latest(b"k\x00"), &b"\x10k\x00"[..]);
        assert_eq!(session(SessionId(0x0102)), &b"\x30\0\0\0\0\0\0\x01\x02"[..]);
        assert_eq!(session_chunk(SessionId(1), 2), &b"\x30\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02"[..]);
    }

    #[test]
    fn row_keys_are_read_back() {
        assert_eq!(latest_key(&latest(b"k")).unwrap().as_bytes(), b"k");
        assert_eq!(parse_session(&session(SessionId(7))).unwrap(), (SessionId(7), None));
        assert_eq!(parse_session(&session_chunk(SessionId(7), 9)).unwrap(), (SessionId(7), Some(9)));
    }

    #[test]
    fn strange_row_keys_are_corruption() {
        for row in [&b"\x10"[..], b"\x20k", b""] {
            assert!(
                matches!(latest_key(&Bytes::copy_from_slice(row)), Err(Error::Corrupt { .. })),
                "{row:?}"
            );
        }
        for row in [&b"\x30\0\0"[..], b"\x30\0\0\0\0\0\0\0\x01\x02", b"\x10\0\0\0\0\0\0\0\x01", b""] {
            assert!(matches!(parse_session(row), Err(Error::Corrupt { .. })), "{row:?}");
        }
        let long = [session_chunk(SessionId(1), 2).as_ref(), b"\0"].concat();
        assert!(matches!(parse_session(&long), Err(Error::Corrupt { .. })));
    }
}
