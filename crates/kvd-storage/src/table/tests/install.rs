//! Installations that fail or are cut short at every step: the replica has the old rows or the new.

use std::{
    io,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use super::{Crashable, Model, REPLICA, Table, content, drain_all, in_memory, open, put, rows};
use crate::{
    Error, Result,
    engine::{Batch, Direction, Engine, MemoryEngine, Rows, Tree},
};

/// An engine that fails at the n-th change or flush and ever after; a clear that fails has removed half of the rows.
#[derive(Debug)]
struct Failing {
    inner: Arc<MemoryEngine>,
    steps_left: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct FailingTree {
    inner: Arc<dyn Tree>,
    steps_left: Arc<AtomicUsize>,
}

fn step(steps_left: &AtomicUsize) -> Result<()> {
    let took = steps_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    took.map(drop).map_err(|_| Error::Engine { context: "go on", source: io::Error::other("injected") })
}

impl Engine for Failing {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>> {
        let inner = self.inner.tree(name)?;
        Ok(Arc::new(FailingTree { inner, steps_left: Arc::clone(&self.steps_left) }))
    }

    fn tree_names(&self) -> Result<Vec<String>> {
        self.inner.tree_names()
    }

    fn flush(&self) -> Result<()> {
        step(&self.steps_left)?;
        self.inner.flush()
    }
}

impl Tree for FailingTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(key)
    }

    fn apply(&self, batch: Batch) -> Result<()> {
        step(&self.steps_left)?;
        self.inner.apply(batch)
    }

    fn scan<'a>(&'a self, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> Rows<'a> {
        self.inner.scan(start, end, direction)
    }

    fn snapshot(&self) -> Option<Rows<'_>> {
        self.inner.snapshot()
    }

    fn reads_wait(&self) -> bool {
        self.inner.reads_wait()
    }

    fn clear(&self) -> Result<()> {
        let Err(error) = step(&self.steps_left) else { return self.inner.clear() };
        let keys = self.inner.scan(Bound::Unbounded, Bound::Unbounded, Direction::Ascending);
        let keys = keys.map(|row| row.unwrap().0);
        let mut batch = Batch::default();
        keys.step_by(2).for_each(|key| batch.delete(key));
        self.inner.apply(batch)?;
        Err(error)
    }
}

fn numbered(range: std::ops::Range<u32>, value: &str) -> Model {
    range
        .map(|number| (Bytes::from(format!("{number:05}")), Bytes::copy_from_slice(value.as_bytes())))
        .collect()
}

/// Runs `work` on a table with the rows of `old`, failing at each of its steps in turn. After each, `check` gets what is
/// there: for the running process, for one that starts after a crash, and for one that starts after a crash before which
/// the engine had flushed everything.
fn at_every_step(old: &Model, work: impl Fn(Table) -> (Option<Table>, Result<()>), check: impl Fn(&Model)) {
    for steps in 0.. {
        let inner = Arc::new(MemoryEngine::new());
        let before = open(inner.engine());
        before.replace(rows(old)).unwrap();
        let steps_left = Arc::new(AtomicUsize::new(usize::MAX));
        let failing = Failing { inner: Arc::clone(&inner), steps_left: Arc::clone(&steps_left) };
        let table = open(Arc::new(failing));
        steps_left.store(steps, Ordering::SeqCst);
        let (survivor, result) = work(table);
        // Reads don't fail, and what they show holds in the running process as well.
        if let Some(table) = survivor {
            check(&content(&table));
        }
        check(&content(&open(inner.after_crash_engine())));
        check(&content(&open(inner.engine())));
        if result.is_ok() && steps_left.load(Ordering::SeqCst) > 0 {
            return;
        }
    }
}

fn keeping(work: impl Fn(&Table) -> Result<()>) -> impl Fn(Table) -> (Option<Table>, Result<()>) {
    move |table| {
        let result = work(&table);
        (Some(table), result)
    }
}

impl MemoryEngine {
    fn after_crash_engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.after_crash())
    }
}

#[test]
fn an_installation_cut_short_leaves_old_or_new() {
    let (old, new) = (numbered(0..50, "old"), numbered(25..3000, "new"));
    at_every_step(&old, keeping(|table| table.replace(rows(&new))), |found| {
        assert!(*found == old || *found == new);
    });
}

#[test]
fn a_clear_cut_short_leaves_all_or_nothing() {
    let old = numbered(0..50, "old");
    at_every_step(&old, keeping(Table::clear), |found| assert!(*found == old || found.is_empty()));
    at_every_step(&old, keeping(Table::destroy), |found| assert!(*found == old || found.is_empty()));
}

#[test]
fn starting_again_cut_short_leaves_all_or_nothing() {
    let old = numbered(0..50, "old");
    let work = |table: Table| {
        let engine = Arc::clone(&table.engine);
        drop(table);
        let (table, result) =
            Table::recreate(engine, REPLICA).map_or_else(|e| (None, Err(e)), |t| (Some(t), Ok(())));
        (table, result)
    };
    at_every_step(&old, work, |found| assert!(*found == old || found.is_empty()));
}

#[test]
fn rows_that_fail_leave_the_old_ones() {
    let (engine, table) = in_memory();
    table.write([put("a", "1")]);
    drain_all(&table);
    table.write([put("b", "2")]);
    let old = content(&table);
    let damaged = || Err(Error::corruption("a file", "a check"));
    let broken = rows(&numbered(0..1500, "new")).into_iter().chain([damaged()]);
    assert!(table.replace(broken).is_err_and(|error| error.is_corruption()));
    let mut unsorted = rows(&numbered(0..10, "new"));
    unsorted.reverse();
    assert!(matches!(table.replace(unsorted), Err(Error::Misuse(_))));
    let twice = rows(&numbered(0..1, "new")).into_iter().chain(rows(&numbered(0..1, "new")));
    assert!(matches!(table.replace(twice), Err(Error::Misuse(_))));
    assert_eq!(content(&table), old);
    drain_all(&table);
    assert_eq!(content(&table), old);
    assert_eq!(content(&open(engine.engine())), old, "what the attempts left is not seen");
}

#[test]
fn a_failed_drain_leaves_the_rows_in_memory() {
    let inner = Arc::new(MemoryEngine::new());
    let steps_left = Arc::new(AtomicUsize::new(usize::MAX));
    let failing = Failing { inner, steps_left: Arc::clone(&steps_left) };
    let table = open(Arc::new(failing));
    table.write([put("a", "1")]);
    table.freeze();
    steps_left.store(0, Ordering::SeqCst);
    assert!(table.drain().is_err());
    assert_eq!(content(&table), Model::from([(Bytes::from("a"), Bytes::from("1"))]));
    steps_left.store(1, Ordering::SeqCst);
    table.drain().unwrap();
    assert!(!table.is_frozen());
    assert_eq!(content(&table), Model::from([(Bytes::from("a"), Bytes::from("1"))]));
}
