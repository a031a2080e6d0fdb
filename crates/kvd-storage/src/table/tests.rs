//! The table against a map, against crashes, and against readers that look at the wrong moment.

use std::{collections::BTreeMap, ops::Bound, path::Path, sync::Arc};

use bytes::Bytes;
use kvd_types::ReplicaId;

use super::{DELETIONS_PASSED_MAX, Table};
use crate::{
    Error,
    engine::{
        Batch, Direction, Engine, FjallEngine, FjallOptions, MemoryEngine, Row, SledEngine, SledOptions,
    },
    testing::copy_dir,
};

mod concurrent;
mod cut;
mod install;
mod model;
mod moments;

type Model = BTreeMap<Bytes, Bytes>;

const REPLICA: ReplicaId = ReplicaId(7);

/// An engine that can be brought back as a crash would leave it.
trait Crashable {
    /// Whether what was applied and not flushed is there after the crash too.
    fn keeps_unflushed(&self) -> bool;
    fn engine(&self) -> Arc<dyn Engine>;
    fn crash(&mut self);
}

impl Crashable for Arc<MemoryEngine> {
    fn keeps_unflushed(&self) -> bool {
        false
    }

    fn engine(&self) -> Arc<dyn Engine> {
        Self::clone(self)
    }

    fn crash(&mut self) {
        *self = Self::new(self.after_crash());
    }
}

/// A real engine, in a directory that is copied away under its feet: what a killed process leaves.
struct OnDisk {
    dir: tempfile::TempDir,
    open: fn(&Path) -> Arc<dyn Engine>,
    engine: Arc<dyn Engine>,
    /// Whether the system has each batch at once, though perhaps not its disk.
    has_journal: bool,
    crashes: u32,
}

impl OnDisk {
    fn new(has_journal: bool, open: fn(&Path) -> Arc<dyn Engine>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir.path().join("0"));
        Self { dir, open, engine, has_journal, crashes: 0 }
    }

    fn sled() -> Self {
        Self::new(false, |dir| Arc::new(SledEngine::open(dir, SledOptions::default()).unwrap()))
    }

    fn fjall() -> Self {
        Self::new(true, |dir| Arc::new(FjallEngine::open(dir, FjallOptions::default()).unwrap()))
    }
}

impl Crashable for OnDisk {
    fn keeps_unflushed(&self) -> bool {
        self.has_journal
    }

    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine)
    }

    fn crash(&mut self) {
        let from = self.dir.path().join(self.crashes.to_string());
        self.crashes += 1;
        let to = self.dir.path().join(self.crashes.to_string());
        copy_dir(&from, &to);
        self.engine = (self.open)(&to);
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> (Bytes, Option<Bytes>) {
    (bytes(key), Some(bytes(value)))
}

fn open(engine: Arc<dyn Engine>) -> Table {
    Table::open(engine, REPLICA).unwrap()
}

fn in_memory() -> (Arc<MemoryEngine>, Table) {
    let engine = Arc::new(MemoryEngine::new());
    let table = open(engine.engine());
    (engine, table)
}

fn scan_all(table: &Table) -> Vec<Row> {
    scan_all_in(table, Direction::Ascending)
}

fn scan_all_in(table: &Table, direction: Direction) -> Vec<Row> {
    table.scan_in(direction, Bound::Unbounded, Bound::Unbounded, usize::MAX, usize::MAX).unwrap()
}

fn content(table: &Table) -> Model {
    scan_all(table).into_iter().collect()
}

fn rows(model: &Model) -> Vec<crate::Result<Row>> {
    model.iter().map(|(key, value)| Ok((key.clone(), value.clone()))).collect()
}

fn drain_all(table: &Table) {
    table.drain().unwrap();
    table.freeze();
    table.drain().unwrap();
}

#[test]
fn a_scan_with_many_deletions_in_memory_to_pass_over_asks_for_a_drain() {
    let (_, table) = in_memory();
    let rows = |value: Option<&'static str>| {
        (0..=DELETIONS_PASSED_MAX).map(move |key| (bytes(&format!("{key:06}")), value.map(bytes)))
    };
    table.write(rows(Some("value")));
    drain_all(&table);
    table.write(rows(None).skip(1));
    assert_eq!(scan_all(&table).len(), 1);
    assert!(!table.wants_drain(), "these are not many");
    table.write(rows(None).take(1));
    assert_eq!(scan_all(&table), []);
    assert!(table.wants_drain());
    table.freeze();
    assert_eq!(scan_all(&table), []);
    assert!(!table.wants_drain(), "they are on their way");
    table.drain().unwrap();
    assert_eq!(scan_all(&table), []);
    assert!(!table.wants_drain());
}

#[test]
fn rows_move_from_memory_to_the_engine() {
    let (_, table) = in_memory();
    table.write([put("a", "1"), put("b", "2")]);
    assert_eq!(table.active_rows(), 2);
    assert!(table.active_bytes() > 4);
    assert!(table.freeze());
    assert!(table.is_frozen());
    assert_eq!((table.active_rows(), table.active_bytes()), (0, 0));
    table.write([put("a", "3"), (bytes("b"), None)]);
    assert!(!table.freeze(), "the frozen generation has not been drained");
    assert_eq!(table.get(b"a").unwrap(), Some(bytes("3")));
    assert_eq!(table.get(b"b").unwrap(), None);
    table.drain().unwrap();
    assert!(!table.is_frozen());
    assert_eq!(content(&table), Model::from([(bytes("a"), bytes("3"))]));
    assert!(table.freeze());
    table.drain().unwrap();
    assert_eq!(content(&table), Model::from([(bytes("a"), bytes("3"))]));
    assert!(!table.freeze(), "an empty generation is nothing to freeze");
    table.drain().unwrap();
}

#[test]
fn active_bytes_count_what_is_there() {
    let (_, table) = in_memory();
    table.write([put("key", "a long value"), put("other", "")]);
    let full = table.active_bytes();
    table.write([put("key", "a")]);
    assert_eq!(table.active_bytes(), full - "a long value".len() + 1);
    table.write([(bytes("key"), None)]);
    assert_eq!(table.active_bytes(), full - "a long value".len());
}

#[test]
fn a_scan_keeps_to_its_limits() {
    let (_, table) = in_memory();
    // "a" and "d" drained, "b" frozen, "c" active, "d" deleted in memory, "e" active over drained.
    table.write([put("a", "1"), put("d", "4"), put("e", "old")]);
    table.freeze();
    table.drain().unwrap();
    table.write([put("b", "2"), (bytes("d"), None)]);
    table.freeze();
    table.write([put("c", "3"), put("e", "5")]);
    let keys_in = |direction, start, end, limit_rows, limit_bytes| {
        let rows = table.scan_in(direction, start, end, limit_rows, limit_bytes).unwrap();
        rows.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect::<String>()
    };
    let keys = |start, end, limit_rows, limit_bytes| {
        keys_in(Direction::Ascending, start, end, limit_rows, limit_bytes)
    };
    let back = |start, end, limit_rows, limit_bytes| {
        keys_in(Direction::Descending, start, end, limit_rows, limit_bytes)
    };
    use Bound::{Excluded, Included, Unbounded};
    assert_eq!(keys(Unbounded, Unbounded, 100, 100), "abce");
    assert_eq!(keys(Unbounded, Unbounded, 0, 100), "");
    assert_eq!(keys(Unbounded, Unbounded, 3, 100), "abc");
    assert_eq!(keys(Unbounded, Unbounded, 100, 4), "ab");
    assert_eq!(keys(Unbounded, Unbounded, 100, 5), "ab");
    assert_eq!(keys(Unbounded, Unbounded, 100, 0), "a", "a first row is returned whatever its size");
    assert_eq!(keys(Excluded(b"a"), Excluded(b"e"), 100, 100), "bc");
    assert_eq!(keys(Included(b"b"), Included(b"c"), 100, 100), "bc");
    assert_eq!(keys(Included(b"c"), Included(b"b"), 100, 100), "");
    assert_eq!(keys(Excluded(b"c"), Excluded(b"c"), 100, 100), "");
    assert_eq!(back(Unbounded, Unbounded, 100, 100), "ecba");
    assert_eq!(back(Unbounded, Unbounded, 3, 100), "ecb");
    assert_eq!(back(Unbounded, Unbounded, 100, 5), "ec");
    assert_eq!(back(Unbounded, Unbounded, 100, 0), "e", "a first row is returned whatever its size");
    assert_eq!(back(Unbounded, Included(b"d"), 2, 100), "cb");
    assert_eq!(back(Excluded(b"a"), Excluded(b"e"), 100, 100), "cb");
    assert_eq!(back(Included(b"c"), Included(b"b"), 100, 100), "");
}

#[test]
fn replicas_of_one_engine_are_apart() {
    let (engine, table) = in_memory();
    let other = Table::open(engine.engine(), ReplicaId(8)).unwrap();
    table.write([put("a", "1")]);
    other.write([put("a", "2")]);
    drain_all(&table);
    drain_all(&other);
    other.destroy().unwrap();
    assert_eq!(content(&table), Model::from([(bytes("a"), bytes("1"))]));
    assert_eq!(content(&open(engine.engine())), Model::from([(bytes("a"), bytes("1"))]));
    assert_eq!(content(&Table::open(engine.engine(), ReplicaId(8)).unwrap()), Model::new());
}

/// Changes the stored bytes of a row behind the table's back.
fn tamper(engine: &dyn Engine, tree: &str, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
    let tree = engine.tree(tree).unwrap();
    let mut stored = tree.get(key).unwrap().unwrap().to_vec();
    change(&mut stored);
    let mut batch = Batch::default();
    batch.put(Bytes::copy_from_slice(key), Bytes::from(stored));
    tree.apply(batch).unwrap();
}

#[test]
fn a_damaged_row_is_never_returned() {
    for byte in 0..13 {
        let (engine, table) = in_memory();
        table.write([put("sound", "value"), put("torn\n", "value")]);
        drain_all(&table);
        tamper(engine.as_ref(), "r7.a", b"torn\n", |stored| stored[byte] ^= 0x10);
        assert_eq!(table.get(b"sound").unwrap(), Some(bytes("value")));
        let error = table.get(b"torn\n").unwrap_err();
        assert!(error.is_corruption(), "{error}");
        let expected = r#"damaged data in tree r7.a of the engine, key "torn\n": the row fails its checksum"#;
        assert_eq!(error.to_string(), expected);
        assert!(
            table.scan(Bound::Unbounded, Bound::Unbounded, 9, 99).is_err_and(|error| error.is_corruption())
        );
        assert!(table.hold_drains().rows().any(|row| row.is_err_and(|error| error.is_corruption())));
        table.write([put("torn\n", "mended")]);
        drain_all(&table);
        assert_eq!(table.get(b"torn\n").unwrap(), Some(bytes("mended")));
    }
}

#[test]
fn a_row_under_another_key_or_of_another_replica_is_damage() {
    let (engine, table) = in_memory();
    table.write([put("a", "1"), put("b", "1")]);
    drain_all(&table);
    let stored = engine.tree("r7.a").unwrap().get(b"a").unwrap().unwrap();
    tamper(engine.as_ref(), "r7.a", b"b", |row| *row = stored.to_vec());
    assert!(table.get(b"b").is_err_and(|error| error.is_corruption()));
    let other = Table::open(engine.engine(), ReplicaId(8)).unwrap();
    other.write([put("a", "1")]);
    drain_all(&other);
    tamper(engine.as_ref(), "r8.a", b"a", |row| *row = stored.to_vec());
    assert!(other.get(b"a").is_err_and(|error| error.is_corruption()));
}

#[test]
fn how_a_row_rests_is_stable() {
    let (engine, table) = in_memory();
    table.write([put("key", "value")]);
    drain_all(&table);
    table.replace(rows(&content(&table))).unwrap();
    let stored = engine.tree("r7.b").unwrap().get(b"key").unwrap().unwrap();
    assert_eq!(stored.escape_ascii().to_string(), r"\xd6\x00j\xc4\x0f\xfd\xf1\xa3value");
    let pointer = engine.tree("meta").unwrap().get(b"r\0\0\0\0\0\0\0\x07").unwrap().unwrap();
    assert_eq!(pointer.escape_ascii().to_string(), r"\xd5!\xa96\xa6\xa7\x05\x1f\x01b");
}

#[test]
fn a_damaged_pointer_is_told_and_mended_by_starting_again() {
    let (engine, table) = in_memory();
    table.write([put("a", "1")]);
    drain_all(&table);
    table.replace(rows(&content(&table))).unwrap();
    drop(table);
    let pointer = [b"r".as_slice(), &REPLICA.get().to_be_bytes()].concat();
    tamper(engine.as_ref(), "meta", &pointer, |stored| stored[9] ^= 1);
    let error = Table::open(engine.engine(), REPLICA).unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("tree meta"), "{error}");
    let table = Table::recreate(engine.engine(), REPLICA).unwrap();
    assert_eq!(content(&table), Model::new());
    assert_eq!(content(&open(engine.engine())), Model::new());
}

#[test]
fn a_hold_shows_the_drained_cut_while_writes_go_on() {
    let (_, table) = in_memory();
    table.write([put("a", "1"), put("applied", "1")]);
    drain_all(&table);
    let hold = table.hold_drains();
    table.write([put("a", "2"), put("b", "2"), put("applied", "2")]);
    table.freeze();
    table.write([put("a", "3"), put("applied", "3")]);
    assert_eq!(hold.get(b"applied").unwrap(), Some(bytes("1")));
    assert_eq!(hold.get(b"b").unwrap(), None);
    let cut = hold.rows().collect::<Result<Model, Error>>().unwrap();
    assert_eq!(cut, Model::from([(bytes("a"), bytes("1")), (bytes("applied"), bytes("1"))]));
    assert_eq!(table.get(b"a").unwrap(), Some(bytes("3")));
    drop(hold);
    table.drain().unwrap();
    let hold = table.hold_drains();
    assert_eq!(hold.get(b"applied").unwrap(), Some(bytes("2")));
}
