//! What stops a replica, and what its rows look like. The bytes here are persisted: keep them stable.

use std::sync::Arc;

use bytes::Bytes;
use kvd_types::{Command, GroupId, Proposal, Revision, SessionId};

use super::{NOW_MS, Replica, SHARD, at, delete, in_session, once, put};
use crate::{Error, Machine, rows};

#[test]
fn entries_come_in_order_and_once() {
    let mut replica = Replica::new(SHARD);
    let entry = Proposal { commands: vec![once(put("k", "v"))], ..Proposal::default() };
    replica.machine.apply(at(5), &entry).unwrap();
    let digest = replica.machine.digest();
    for index in [5, 4] {
        assert!(matches!(replica.machine.apply(at(index), &entry), Err(Error::OutOfOrder { .. })));
        assert!(matches!(replica.machine.skip(at(index)), Err(Error::OutOfOrder { .. })));
    }
    let earlier_term = crate::Position { term: kvd_types::Term(0), ..at(6) };
    assert!(matches!(replica.machine.skip(earlier_term), Err(Error::OutOfOrder { .. })));
    assert_eq!((replica.machine.applied(), replica.machine.digest()), (Some(at(5)), digest));
    replica.save();
    let mut replica = replica.crash();
    assert!(matches!(replica.machine.skip(at(5)), Err(Error::OutOfOrder { .. })));
    replica.machine.skip(at(6)).unwrap();
}

fn reopened(group: GroupId, changes: &[(&[u8], Option<&[u8]>)]) -> Error {
    let mut replica = Replica::new(SHARD);
    let session = replica.open_session();
    replica.apply(in_session(session, 1, 1, put("k", "v")));
    replica.machine.prepare_freeze();
    let owned = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    replica.table.write(changes.iter().map(|(row, value)| (owned(row), value.map(owned))));
    Machine::open(group, Arc::clone(&replica.table)).expect_err("it should not open")
}

#[test]
fn rows_that_are_not_ours_are_refused() {
    let session = |id: u64, rest: &[u8]| [&[0x30][..], &id.to_be_bytes(), rest].concat();
    assert!(matches!(reopened(GroupId(8), &[]), Error::WrongGroup { .. }));
    assert!(matches!(reopened(GroupId::META, &[]), Error::WrongGroup { .. }));
    assert!(matches!(
        reopened(SHARD, &[(rows::BOOKS, Some(b"\x08\x02\x10\x07"))]),
        Error::FormatUnknown { .. }
    ));
    for changes in [
        // No books, cut books, books of no format.
        (rows::BOOKS, None),
        (rows::BOOKS, Some(&b"\x08"[..])),
        (rows::BOOKS, Some(b"")),
        // A session row with a strange key, or a cut value; outcomes without a session.
        (b"\x30\x01", Some(b"")),
        (&session(1, b""), Some(b"\x08")),
        (&session(1, &0_u64.to_be_bytes()), Some(b"")),
        // A session with an id that is yet to be minted.
        (&session(u64::MAX, b""), Some(b"")),
    ] {
        let error = reopened(SHARD, &[changes]);
        assert!(matches!(error, Error::Corrupt { .. }), "{changes:?}: {error}");
    }
    for outcomes in [
        // Of no kind, of another chunk, twice the same number, below the floor.
        &b"\x0a\x02\x08\x05"[..],
        b"\x0a\x04\x08\x40\x22\x00",
        b"\x0a\x04\x08\x05\x22\x00\x0a\x04\x08\x05\x22\x00",
        b"\x0a\x04\x08\x01\x22\x00",
    ] {
        let changes =
            [(&session(9, b"")[..], Some(&b"\x10\x02"[..])), (&session(9, &[0; 8]), Some(outcomes))];
        let error = reopened(SHARD, &changes);
        assert!(matches!(error, Error::Corrupt { .. }), "{outcomes:?}: {error}");
    }
}

#[test]
fn a_corrupt_record_stops_writes_and_reads_of_its_key() {
    let mut replica = Replica::new(SHARD);
    let row = Bytes::from_static(b"\x10k");
    replica.table.write([(row, Some(Bytes::from_static(b"\xff")))]);
    let reader = replica.shard().reader();
    let entry = Proposal { commands: vec![once(put("k", "v"))], ..Proposal::default() };
    for error in [
        reader.get(&super::key("k")).map(drop).unwrap_err(),
        reader.page(&super::pages::everything()).map(drop).unwrap_err(),
        replica.machine.apply(at(0), &entry).map(drop).unwrap_err(),
    ] {
        assert!(error.to_string().contains("\\x10k"), "{error}");
        assert_eq!(kvd_types::Error::from(error).kind, kvd_types::ErrorKind::Corruption);
    }
}

#[test]
fn the_rows_of_a_shard_are_stable() {
    let mut replica = Replica::new(SHARD);
    replica.machine.set_header(Bytes::from_static(b"header"));
    let opened = replica.apply_at(NOW_MS, vec![Command::OpenSession]);
    let id = Revision::from_unix_ms(NOW_MS).get();
    assert_eq!(opened, [kvd_types::Outcome::SessionOpened(SessionId(id))]);
    let session = SessionId(id);
    replica.apply_at(
        NOW_MS + 1000,
        vec![
            in_session(session, 63, 62, put("k", "v")),
            in_session(session, 64, 62, put("k", "w")),
            in_session(session, 65, 62, super::only_if(kvd_types::Condition::Absent, put("k", "x"))),
            in_session(session, 66, 62, delete("k")),
            in_session(session, 67, 62, delete("k")),
            once(put("left", "")),
        ],
    );
    let rows = replica.rows();
    assert_eq!(replica.machine.digest(), super::model::digest_of(&rows));
    let rows: Vec<String> = rows
        .iter()
        .map(|(row, value)| format!("{} = {}", row.escape_ascii(), value.escape_ascii()))
        .collect();
    assert_eq!(rows, GOLDEN_ROWS);
}

/// Keys and values, escaped: the books, the header, a key; two versions of another one that were replaced, newest first, each
/// with what replaced it (`9`…); the four changes, in one row; a session, and its outcomes in two chunks.
const GOLDEN_ROWS: [&str; 9] = [
    concat!(
        r"\x00\x00 = ",
        r#"\x08\x01\x10\x07\x1a\x04\x08\x01\x10\x01\"6\t\x03\x00\x80>\xc5\x851\x1a\x11\x00\x00\x00"#,
        r"\x00\xc5\x851\x1a\x18\x88\xff6 \xe8\xa7\xf1\xc2\xb14)\xdd\x98\x9aN6bB\x1b0\x018\x04",
        r"Q\xa0\xf3\xde\xe9\xc2\xe8v\x1bX\xc6\x01"
    ),
    concat!(r"\x00\x01 = ", r"header"),
    concat!(r"\x10left = ", r#"\t\x03\x00\x80>\xc5\x851\x1a\x11\x03\x00\x80>\xc5\x851\x1a\x18\x01\"\x00"#),
    concat!(
        r" k\x00\x01\xe5\xcez:\xc1\x7f\xff\xfe = ",
        r#"\t\x00\x00\x80>\xc5\x851\x1a\x11\x01\x00\x80>\xc5\x851\x1a\x18\x02\"\x01w"#,
        r"9\x02\x00\x80>\xc5\x851\x1a"
    ),
    concat!(
        r" k\x00\x01\xe5\xcez:\xc1\x7f\xff\xff = ",
        r#"\t\x00\x00\x80>\xc5\x851\x1a\x11\x00\x00\x80>\xc5\x851\x1a\x18\x01\"\x01v"#,
        r"9\x01\x00\x80>\xc5\x851\x1a"
    ),
    concat!(
        r"(\x1a1\x85\xc5>\x80\x00\x03 = ",
        r"\n\x0c\t\x00\x00\x80>\xc5\x851\x1a\x12\x01k",
        r"\n \t\x01\x00\x80>\xc5\x851\x1a\x12\x01k!\x00\x00\x80>\xc5\x851\x1a)r=h\xda\x0e\xdc\xa1P0,",
        r#"\n\"\t\x02\x00\x80>\xc5\x851\x1a\x12\x01k\x18\x01!\x01\x00\x80>\xc5\x851\x1a"#,
        r")\x03\xfc*#\x16\x87\tC0,",
        r"\n\x0f\t\x03\x00\x80>\xc5\x851\x1a\x12\x04left"
    ),
    concat!(r"0\x1a1\x85\xc5\x00\x00\x00\x00 = ", r"\x08\x85\x07\x10>"),
    concat!(
        r"0\x1a1\x85\xc5\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00 = ",
        r"\n\x18\x08?\x12\x14\t\x00\x00\x80>\xc5\x851\x1a\x11\x00\x00\x80>\xc5\x851\x1a\x18\x01"
    ),
    concat!(
        r"0\x1a1\x85\xc5\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01 = ",
        r#"\n1\x08@\x12-\t\x01\x00\x80>\xc5\x851\x1a\x11\x00\x00\x80>\xc5\x851\x1a\x18\x02\"\x17\t"#,
        r#"\x00\x00\x80>\xc5\x851\x1a\x11\x00\x00\x80>\xc5\x851\x1a\x18\x01\"\x01v\n\x1d\x08A*\x19\n"#,
        r#"\x17\t\x00\x00\x80>\xc5\x851\x1a\x11\x01\x00\x80>\xc5\x851\x1a\x18\x02\"\x01w\n&\x08B\x1a"#,
        r#"\"\t\x02\x00\x80>\xc5\x851\x1a\x12\x17\t\x00\x00\x80>\xc5\x851\x1a\x11\x01\x00\x80>\xc5"#,
        r#"\x851\x1a\x18\x02\"\x01w\n\x04\x08C\"\x00"#
    ),
];
