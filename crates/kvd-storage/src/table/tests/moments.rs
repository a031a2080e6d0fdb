//! The awkward moments, one by one: an engine that lets something else happen in the middle of a read or a batch.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Model, REPLICA, Table, bytes, drain_all, put, rows, scan_all, scan_all_in};
use crate::{
    Result,
    engine::{Batch, Direction, Engine, MemoryEngine, Rows, Tree},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeGet,
    AfterFirstRow,
    BeforeApply,
    AfterApply,
}

const BOTH: [Direction; 2] = [Direction::Ascending, Direction::Descending];

type Action = Box<dyn FnMut(Moment) + Send>;

/// What happens at the moments. Not while it happens: what the action does is an ordinary use of the engine.
#[derive(Clone, Default)]
struct Hook(Arc<Mutex<Option<Action>>>);

impl Hook {
    fn set(&self, action: impl FnMut(Moment) + Send + 'static) {
        *self.0.lock() = Some(Box::new(action));
    }

    fn run(&self, moment: Moment) {
        let Some(mut action) = self.0.lock().take() else { return };
        action(moment);
        *self.0.lock() = Some(action);
    }
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

/// An engine that can't show its rows as they were.
#[derive(Debug, Default)]
pub(super) struct Hooked {
    inner: MemoryEngine,
    hook: Hook,
}

#[derive(Debug)]
struct HookedTree {
    inner: Arc<dyn Tree>,
    hook: Hook,
}

impl Engine for Hooked {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>> {
        Ok(Arc::new(HookedTree { inner: self.inner.tree(name)?, hook: self.hook.clone() }))
    }

    fn tree_names(&self) -> Result<Vec<String>> {
        self.inner.tree_names()
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }
}

impl Tree for HookedTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.hook.run(Moment::BeforeGet);
        self.inner.get(key)
    }

    fn apply(&self, batch: Batch) -> Result<()> {
        self.hook.run(Moment::BeforeApply);
        self.inner.apply(batch)?;
        self.hook.run(Moment::AfterApply);
        Ok(())
    }

    fn scan<'a>(&'a self, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> Rows<'a> {
        let mut first = self.inner.scan(start, end, direction);
        let Some(Ok(row)) = first.next() else { return first };
        // What follows is read only after the moment.
        let at = Bound::Excluded(row.0.clone());
        let (start, end) = match direction {
            Direction::Ascending => (at, end.map(Bytes::copy_from_slice)),
            Direction::Descending => (start.map(Bytes::copy_from_slice), at),
        };
        let mut rest = None;
        let mut head = Some(row);
        Box::new(std::iter::from_fn(move || {
            if let Some(row) = head.take() {
                return Some(Ok(row));
            }
            let rest = rest.get_or_insert_with(|| {
                self.hook.run(Moment::AfterFirstRow);
                let bounds = (start.as_ref().map(Bytes::as_ref), end.as_ref().map(Bytes::as_ref));
                self.inner.scan(bounds.0, bounds.1, direction)
            });
            rest.next()
        }))
    }

    fn snapshot(&self) -> Option<Rows<'_>> {
        None
    }

    fn reads_wait(&self) -> bool {
        self.inner.reads_wait()
    }

    fn clear(&self) -> Result<()> {
        self.inner.clear()
    }
}

/// A table whose rows `a` to `d` have all the value `old`, in the engine.
fn drained_table() -> (Arc<Table>, Hook) {
    let engine = Hooked::default();
    let hook = engine.hook.clone();
    let table = Table::open(Arc::new(engine), REPLICA).unwrap();
    write_all(&table, "old");
    drain_all(&table);
    (Arc::new(table), hook)
}

fn write_all(table: &Table, value: &str) {
    table.write(["a", "b", "c", "d"].map(|key| put(key, value)));
}

fn replace_all(table: &Table, value: &str) {
    let model = ["a", "b", "c", "d"].map(|key| (bytes(key), bytes(value)));
    table.replace(rows(&Model::from(model))).unwrap();
}

/// The values that a scan shows, and how often each.
fn scanned(table: &Table, direction: Direction) -> BTreeMap<Bytes, usize> {
    let mut values = BTreeMap::new();
    for (_, value) in scan_all_in(table, direction) {
        *values.entry(value).or_default() += 1;
    }
    values
}

/// Runs `action` at the first so many moments of a kind; it is told how often it ran before.
fn at(hook: &Hook, wanted: Moment, times: usize, mut action: impl FnMut(usize) + Send + 'static) {
    let mut ran = 0;
    hook.set(move |moment| {
        if moment == wanted && ran < times {
            action(ran);
            ran += 1;
        }
    });
}

#[test]
fn a_scan_that_drains_overtake_shows_one_moment() {
    // At the fourth attempt it would hold drains, and a drain on this thread would wait for ever: there it is left alone.
    for (overtaken, direction) in (0..=3).flat_map(|times| BOTH.map(|direction| (times, direction))) {
        let (table, hook) = drained_table();
        let writer = Arc::clone(&table);
        at(&hook, Moment::AfterFirstRow, overtaken, move |ran| {
            write_all(&writer, &format!("new {ran}"));
            drain_all(&writer);
        });
        let values = scanned(&table, direction);
        assert_eq!(values.len(), 1, "overtaken {overtaken} times, {direction:?}: {values:?}");
        assert_eq!(values.values().sum::<usize>(), 4);
    }
}

#[test]
fn a_scan_beside_the_drain_of_what_it_has_seen_is_not_disturbed() {
    for direction in BOTH {
        let (table, hook) = drained_table();
        write_all(&table, "frozen");
        table.freeze();
        let writer = Arc::clone(&table);
        at(&hook, Moment::AfterFirstRow, 1, move |_| {
            writer.drain().unwrap();
            write_all(&writer, "active");
        });
        assert_eq!(scanned(&table, direction), BTreeMap::from([(bytes("frozen"), 4)]));
    }
}

#[test]
fn a_scan_that_an_installation_overtakes_shows_the_new_rows() {
    for direction in BOTH {
        let (table, hook) = drained_table();
        let writer = Arc::clone(&table);
        at(&hook, Moment::AfterFirstRow, 1, move |_| replace_all(&writer, "new"));
        assert_eq!(scanned(&table, direction), BTreeMap::from([(bytes("new"), 4)]));
    }
}

#[test]
fn a_look_up_that_an_installation_overtakes_finds_the_new_row() {
    let (table, hook) = drained_table();
    let writer = Arc::clone(&table);
    at(&hook, Moment::BeforeGet, 1, move |_| replace_all(&writer, "new"));
    assert_eq!(table.get(b"c").unwrap(), Some(bytes("new")));
}

#[test]
fn a_look_up_that_drains_overtake_finds_a_row() {
    let (table, hook) = drained_table();
    let writer = Arc::clone(&table);
    at(&hook, Moment::BeforeGet, 1, move |_| {
        write_all(&writer, "new");
        drain_all(&writer);
    });
    assert_eq!(table.get(b"c").unwrap(), Some(bytes("new")));
}

#[test]
fn a_drain_hides_no_row_before_or_after_its_batch() {
    for moment in [Moment::BeforeApply, Moment::AfterApply] {
        let (table, hook) = drained_table();
        table.write([put("a", "new"), put("e", "new"), (bytes("b"), None)]);
        table.freeze();
        let seen = Arc::new(Mutex::new(None));
        let (reader, slot) = (Arc::clone(&table), Arc::clone(&seen));
        at(&hook, moment, 1, move |_| {
            let found = ["a", "b", "c", "e"].map(|key| reader.get(key.as_bytes()).unwrap());
            *slot.lock() = Some((found, scan_all(&reader).len()));
        });
        table.drain().unwrap();
        let expected = [Some(bytes("new")), None, Some(bytes("old")), Some(bytes("new"))];
        assert_eq!(seen.lock().take(), Some((expected, 4)), "{moment:?}");
    }
}
