//! The rows of a replica, as an engine gives them back.
//!
//! An input says which tree is the replica's, and the rows in it: each with a byte whose lowest bits say what is wrong
//! with it, its key and its value. A row whose checksum is good is read as it is; any other is corruption, by whatever way
//! it is read; and replacing all rows mends the table.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use kvd_storage::{
    engine::{Batch, Engine as _, MemoryEngine},
    table::Table,
};
use kvd_types::ReplicaId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::input::{Input, put_sized};

const REPLICA: u64 = 5;
const ROWS_MAX: usize = 64;

fn stored(key: &[u8], value: &[u8], wrong: u8) -> Bytes {
    let checksum = xxh3_64_with_seed(value, xxh3_64_with_seed(key, REPLICA));
    let mut row = BytesMut::new();
    match wrong % 8 {
        // Another checksum, no room for one, and that of a row of another replica.
        1 => row.put_u64_le(checksum ^ 1),
        2 => return Bytes::copy_from_slice(value),
        3 => row.put_u64_le(xxh3_64_with_seed(value, xxh3_64_with_seed(key, REPLICA + 1))),
        _ => row.put_u64_le(checksum),
    }
    row.put_slice(value);
    row.freeze()
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let engine = Arc::new(MemoryEngine::new());
    let pointer_key = [b"r".as_slice(), &REPLICA.to_be_bytes()].concat();
    let pointer = input.byte();
    let wrong = input.byte();
    let mut name = "r5.a";
    let mut batch = Batch::default();
    match pointer % 4 {
        0 => {}
        1 => batch.put(pointer_key.clone().into(), stored(&pointer_key, &[1, b'a'], wrong)),
        2 => {
            name = "r5.b";
            batch.put(pointer_key.clone().into(), stored(&pointer_key, &[1, b'b'], wrong));
        }
        _ => batch.put(pointer_key.clone().into(), stored(&pointer_key, input.sized(), wrong)),
    }
    engine.tree("meta").expect("a tree").apply(batch).expect("memory");

    let mut batch = Batch::default();
    let mut expected = BTreeMap::new();
    let mut is_whole = true;
    while !input.is_empty() && expected.len() < ROWS_MAX {
        let wrong = input.byte();
        let (key, value) = (Bytes::copy_from_slice(input.sized()), Bytes::copy_from_slice(input.sized()));
        batch.put(key.clone(), stored(&key, &value, wrong));
        expected.insert(key, (value, wrong));
    }
    engine.tree(name).expect("a tree").apply(batch).expect("memory");
    let Ok(table) = Table::open(Arc::<MemoryEngine>::clone(&engine), ReplicaId(REPLICA)) else {
        let table = Table::recreate(Arc::<MemoryEngine>::clone(&engine), ReplicaId(REPLICA)).expect("memory");
        assert_eq!(table.scan(Unbounded, Unbounded, 1, 1).expect("an empty table"), []);
        return;
    };
    if pointer % 4 == 3 {
        return;
    }
    for (key, (value, wrong)) in &expected {
        match table.get(key) {
            Ok(found) => assert_eq!((found.as_ref(), *wrong % 8 != 1), (Some(value), true)),
            Err(error) => {
                assert!(error.is_corruption() && (1..=3).contains(&(wrong % 8)), "{error}");
                is_whole = false;
            }
        }
    }
    check_scans(&table, &expected, is_whole);
    table.replace([Ok((Bytes::from_static(b"k"), Bytes::from_static(b"v")))]).expect("memory");
    let rows = table.scan(Unbounded, Unbounded, usize::MAX, usize::MAX).expect("rows just written");
    assert_eq!(rows, [(Bytes::from_static(b"k"), Bytes::from_static(b"v"))]);
}

fn check_scans(table: &Table, expected: &BTreeMap<Bytes, (Bytes, u8)>, is_whole: bool) {
    let scanned = table.scan(Unbounded, Unbounded, usize::MAX, usize::MAX);
    assert_eq!(scanned.is_ok(), is_whole, "a scan finds what gets find");
    let Ok(rows) = scanned else { return };
    assert!(rows.iter().map(|(key, _)| key).eq(expected.keys()));
    // In pages of one row, all the same.
    let mut paged = Vec::new();
    while let Some(row) = {
        let start = paged.last().map_or(Unbounded, |(key, _): &(Bytes, Bytes)| Excluded(&**key));
        table.scan(start, Unbounded, 1, 1).expect("a scan has read it").pop()
    } {
        paged.push(row);
    }
    assert_eq!(paged, rows);
    if let [(first, _), .., (last, _)] = rows.as_slice() {
        let backwards = table.scan(Included(last), Included(first), usize::MAX, usize::MAX);
        assert_eq!(backwards.expect("an empty range"), []);
    }
}

/// Tables, whole and damaged.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for pointer in 0..4 {
        for wrong in 0..4 {
            let mut seed = vec![pointer, if pointer == 3 { wrong } else { 0 }];
            if pointer == 3 {
                put_sized(&mut seed, b"\x01a");
            }
            for (key, wrong) in [("a", 0), ("b", wrong), ("c", 0)] {
                seed.push(wrong);
                put_sized(&mut seed, key.as_bytes());
                put_sized(&mut seed, b"value");
            }
            seeds.push(seed);
        }
    }
    seeds
}
