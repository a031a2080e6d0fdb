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
//! | `20` ESCAPED-KEY REVISION | a version that was replaced or deleted, and until when it was current | shard machine |
//! | `28` REVISION | the changes of an entry, or some of them, by the revision of the last one | shard machine |
//! | `30` SESSION | a session: its last use and floor | shard machine |
//! | `30` SESSION CHUNK | its outcomes of the 64 sequence numbers from 64 x CHUNK | shard machine |
//! | `40` … | *reserved:* locks and intents of transactions over several shards | shard machine |
//! | `50` LEASE | a lease whose home this is | shard machine |
//! | `51` LEASE | the same lease ends: shards still have to be told | shard machine |
//! | `52` LEASE | what this shard was told of a lease: it lives, or has ended | shard machine |
//! | `54` LEASE KEY | the key is attached to the lease | shard machine |
//! | `56` AGE KIND … | what is due at that age: a key, a lease, an ended lease to be forgotten | shard machine |
//!
//! KEY is the key's bytes as they are: it ends where the row's key ends, and so sorts bytewise. SESSION and CHUNK are 8
//! bytes each, so a session's own row comes first, then its outcomes in order. Families leave gaps so that a new one can
//! be put where it should sort.
//!
//! # History
//! In a row of a replaced version REVISION is the 8 bytes of the complement of the revision that the version had, so that a
//! key's versions come newest first, and the one as of a revision R is the first row at or after (key, R), if it was current
//! for longer. For rows to sort by (key, revision) no key may be a prefix of another: in ESCAPED-KEY each `00` byte is
//! written as `00 ff`, and `00 01` ends it. In a row of changes REVISION is as it is: they come in the order in which they were
//! made. The writes of one transaction share a revision and a row, and no two of them are of one key.

use bytes::{BufMut, Bytes, BytesMut};
use kvd_types::{Key, LeaseId, Revision, SessionId};

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
/// The first byte of the rows with versions that were replaced.
pub(crate) const HISTORY: u8 = 0x20;
/// The first byte of the rows with changes.
pub(crate) const CHANGES: u8 = 0x28;
/// The first byte of the rows of leases, at their home.
pub(crate) const LEASES: u8 = 0x50;
/// The first byte of the rows of leases that end, at their home.
pub(crate) const ENDING: u8 = 0x51;
/// The first byte of the rows of what a shard was told of leases.
pub(crate) const ATTACHMENTS: u8 = 0x52;
/// The first byte of the rows of keys that are attached to leases.
pub(crate) const LEASE_KEYS: u8 = 0x54;
/// The first byte of the rows of what is due.
pub(crate) const DUE: u8 = 0x56;
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

/// The row of a version of a key that was replaced.
pub(crate) fn history(key: &[u8], revision: Revision) -> Bytes {
    let mut row = escaped(key);
    row.put_u64(!revision.get());
    row.freeze()
}

/// Where the rows of a key's replaced versions begin; of any bytes, as a bound of a range of such rows.
pub(crate) fn history_start(key: &[u8]) -> Bytes {
    escaped(key).freeze()
}

/// The end, exclusive, of the rows of a key's replaced versions.
pub(crate) fn history_end(key: &[u8]) -> Bytes {
    let mut row = escaped(key);
    row.truncate(row.len() - ESCAPE_END.len());
    row.put_slice(&[0x00, 0x02]);
    row.freeze()
}

/// The end, exclusive, of the rows of all replaced versions.
pub(crate) const fn histories_end() -> Bytes {
    Bytes::from_static(&[HISTORY + 1])
}

/// What ends an escaped key.
const ESCAPE_END: &[u8] = &[0x00, 0x01];

fn escaped(key: &[u8]) -> BytesMut {
    let zeros = key.iter().filter(|byte| **byte == 0).count();
    let mut row = BytesMut::with_capacity(1 + key.len() + zeros + ESCAPE_END.len() + 8);
    row.put_u8(HISTORY);
    for &byte in key {
        row.put_u8(byte);
        if byte == 0 {
            row.put_u8(0xff);
        }
    }
    row.put_slice(ESCAPE_END);
    row
}

/// The key and the revision of a row of a replaced version.
pub(crate) fn parse_history(row: &[u8]) -> Result<(Key, Revision), Error> {
    let parsed = || {
        let rest = row.strip_prefix(&[HISTORY])?;
        let (escaped, revision) = rest.split_last_chunk::<8>()?;
        let mut key = Vec::with_capacity(escaped.len());
        let mut bytes = escaped.strip_suffix(ESCAPE_END)?.iter();
        while let Some(&byte) = bytes.next() {
            if byte == 0 && bytes.next() != Some(&0xff) {
                return None;
            }
            key.push(byte);
        }
        Some((Key::new(key).ok()?, Revision(!u64::from_be_bytes(*revision))))
    };
    parsed().ok_or_else(|| Error::corrupt(row, "its key is not that of a version that was replaced"))
}

/// The row of the changes whose last one has a revision.
pub(crate) fn changes(last: Revision) -> Bytes {
    let mut row = BytesMut::with_capacity(9);
    row.put_u8(CHANGES);
    row.put_u64(last.get());
    row.freeze()
}

/// The end, exclusive, of the rows of all changes.
pub(crate) const fn changes_end() -> Bytes {
    Bytes::from_static(&[CHANGES + 1])
}

/// The last revision of a row of changes.
pub(crate) fn parse_changes(row: &[u8]) -> Result<Revision, Error> {
    number(row, CHANGES).map(Revision).ok_or_else(|| Error::corrupt(row, "its key is not that of changes"))
}

/// The row of a lease, at its home.
pub(crate) fn lease(id: LeaseId) -> Bytes {
    numbered(LEASES, id.get())
}

/// The row that says that a lease ends, at its home.
pub(crate) fn ending(id: LeaseId) -> Bytes {
    numbered(ENDING, id.get())
}

/// The row that says what a shard was told of a lease.
pub(crate) fn attachment(id: LeaseId) -> Bytes {
    numbered(ATTACHMENTS, id.get())
}

/// The row that says that a key is attached to a lease.
pub(crate) fn lease_key(id: LeaseId, key: &[u8]) -> Bytes {
    let mut row = BytesMut::with_capacity(9 + key.len());
    row.put_u8(LEASE_KEYS);
    row.put_u64(id.get());
    row.put_slice(key);
    row.freeze()
}

/// The end, exclusive, of the rows of the keys that are attached to a lease.
pub(crate) fn lease_keys_end(id: LeaseId) -> Bytes {
    match id.get().checked_add(1) {
        Some(next) => numbered(LEASE_KEYS, next),
        None => Bytes::from_static(&[LEASE_KEYS + 1]),
    }
}

/// The key in a row of one that is attached to a lease.
pub(crate) fn parse_lease_key(row: &Bytes) -> Result<Key, Error> {
    let key = || (row.first() == Some(&LEASE_KEYS) && row.len() > 9).then(|| row.slice(9..));
    let key = key().ok_or_else(|| Error::corrupt(row, "its key is not that of a key of a lease"))?;
    Key::new(key).map_err(|error| Error::corrupt(row, error))
}

/// The lease that a row of leases, or of such that end, is of.
pub(crate) fn parse_lease(row: &[u8], family: u8) -> Result<LeaseId, Error> {
    number(row, family).map(LeaseId).ok_or_else(|| Error::corrupt(row, "its key is not that of a lease"))
}

/// What has its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// A key lapses.
    Key(Key),
    /// A lease may lapse: unless it was kept alive, which moves its row only now.
    Lease(LeaseId),
    /// That a lease has ended may be forgotten.
    Attachment(LeaseId),
}

/// The row that says what is due at an age of the shard.
pub(crate) fn due(at_age_ms: u64, what: &Due) -> Bytes {
    let mut row = BytesMut::with_capacity(18);
    row.put_u8(DUE);
    row.put_u64(at_age_ms);
    match what {
        Due::Key(key) => {
            row.put_u8(0);
            row.put_slice(key.as_bytes());
        }
        Due::Lease(id) => {
            row.put_u8(1);
            row.put_u64(id.get());
        }
        Due::Attachment(id) => {
            row.put_u8(2);
            row.put_u64(id.get());
        }
    }
    row.freeze()
}

/// Where the rows of what is due at an age or later begin.
pub(crate) fn due_start(at_age_ms: u64) -> Bytes {
    numbered(DUE, at_age_ms)
}

/// The end, exclusive, of the rows of what is due.
pub(crate) const fn due_end() -> Bytes {
    Bytes::from_static(&[DUE + 1])
}

/// What is due, and at which age.
pub(crate) fn parse_due(row: &Bytes) -> Result<(u64, Due), Error> {
    let parsed = || {
        let (at, rest) = row.strip_prefix(&[DUE])?.split_first_chunk::<8>()?;
        let id = |bytes: &[u8]| Some(LeaseId(u64::from_be_bytes(bytes.try_into().ok()?)));
        let what = match rest.split_first()? {
            (0, _) => Due::Key(Key::new(row.slice(10..)).ok()?),
            (1, lease) => Due::Lease(id(lease)?),
            (2, lease) => Due::Attachment(id(lease)?),
            _ => return None,
        };
        Some((u64::from_be_bytes(*at), what))
    };
    parsed().ok_or_else(|| Error::corrupt(row, "its key does not say what is due"))
}

fn numbered(family: u8, number: u64) -> Bytes {
    let mut row = BytesMut::with_capacity(9);
    row.put_u8(family);
    row.put_u64(number);
    row.freeze()
}

fn number(row: &[u8], family: u8) -> Option<u64> {
    Some(u64::from_be_bytes(row.strip_prefix(&[family])?.try_into().ok()?))
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
