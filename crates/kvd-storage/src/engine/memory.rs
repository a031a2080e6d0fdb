//! An engine in memory, for simulations and tests.
//!
//! It behaves as the real one does, its crash included: [`MemoryEngine::after_crash`] is an engine with what the last
//! flush made durable, for which each tree remembers what its changed rows were at that flush. Memory is thereby at most
//! twice the rows, however long nobody flushes.
//!
//! It deliberately has no thread, clock or randomness, so that a simulation with it replays from its seed.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{Batch, Direction, Engine, Row, Rows, Tree, is_empty_range};
use crate::error::Result;

/// Rows that a scan takes at a time: between two takes batches may be applied, as with the real engine.
const SCAN_CHUNK_ROWS: usize = 64;

/// An engine in memory.
#[derive(Default)]
pub struct MemoryEngine {
    trees: Mutex<BTreeMap<String, Arc<MemoryTree>>>,
}

#[derive(Default)]
struct MemoryTree {
    content: RwLock<Content>,
}

#[derive(Default)]
struct Content {
    rows: BTreeMap<Bytes, Bytes>,
    /// What the rows changed since the last flush were at that flush.
    flushed: BTreeMap<Bytes, Option<Bytes>>,
}

impl MemoryEngine {
    /// An engine without trees.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An engine with the same rows, all of them as if flushed: what a crash leaves if every batch has reached the disk.
    #[must_use]
    pub fn copy(&self) -> Self {
        let trees = self.trees.lock();
        let copies = trees.iter().map(|(name, tree)| {
            let rows = tree.content.read().rows.clone();
            let content = RwLock::new(Content { rows, flushed: BTreeMap::new() });
            (name.clone(), Arc::new(MemoryTree { content }))
        });
        Self { trees: Mutex::new(copies.collect()) }
    }

    /// What a crash at this moment would leave: the trees as they were at the last flush. This engine stays as it is.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        let trees = self.trees.lock();
        let survivors = trees.iter().map(|(name, tree)| {
            let content = tree.content.read();
            let mut rows = content.rows.clone();
            for (key, value) in &content.flushed {
                match value {
                    Some(value) => drop(rows.insert(key.clone(), value.clone())),
                    None => drop(rows.remove(key)),
                }
            }
            let content = RwLock::new(Content { rows, flushed: BTreeMap::new() });
            (name.clone(), Arc::new(MemoryTree { content }))
        });
        Self { trees: Mutex::new(survivors.collect()) }
    }
}

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEngine").field("trees", &self.trees.lock().len()).finish()
    }
}

impl Engine for MemoryEngine {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>> {
        let mut trees = self.trees.lock();
        let tree = trees.entry(name.to_owned()).or_default();
        Ok(Arc::clone(tree) as Arc<dyn Tree>)
    }

    fn tree_names(&self) -> Result<Vec<String>> {
        Ok(self.trees.lock().keys().cloned().collect())
    }

    fn flush(&self) -> Result<()> {
        fail::fail_point!(crate::failpoints::FLUSH_BEFORE);
        for tree in self.trees.lock().values() {
            tree.content.write().flushed.clear();
        }
        fail::fail_point!(crate::failpoints::FLUSH_AFTER);
        Ok(())
    }
}

impl Content {
    fn change(&mut self, key: Bytes, value: Option<Bytes>) {
        let before = match value {
            Some(value) => self.rows.insert(key.clone(), value),
            None => self.rows.remove(&key),
        };
        self.flushed.entry(key).or_insert(before);
    }
}

impl MemoryTree {
    fn take_chunk(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> VecDeque<Row> {
        if is_empty_range(start, end) {
            return VecDeque::new();
        }
        let content = self.content.read();
        let rows = direction.over(content.rows.range::<[u8], _>((start, end)));
        rows.take(SCAN_CHUNK_ROWS).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl fmt::Debug for MemoryTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTree").field("rows", &self.content.read().rows.len()).finish()
    }
}

impl Tree for MemoryTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.content.read().rows.get(key).cloned())
    }

    fn apply(&self, batch: Batch) -> Result<()> {
        let mut content = self.content.write();
        for (key, value) in batch.into_changes() {
            content.change(key, value);
        }
        Ok(())
    }

    fn scan<'a>(&'a self, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> Rows<'a> {
        let mut chunk = self.take_chunk(start, end, direction);
        let (mut start, mut end) = (start.map(Bytes::copy_from_slice), end.map(Bytes::copy_from_slice));
        Box::new(std::iter::from_fn(move || {
            let (key, value) = chunk.pop_front()?;
            if chunk.is_empty() {
                match direction {
                    Direction::Ascending => start = Bound::Excluded(key.clone()),
                    Direction::Descending => end = Bound::Excluded(key.clone()),
                }
                let bounds = (start.as_ref().map(Bytes::as_ref), end.as_ref().map(Bytes::as_ref));
                chunk = self.take_chunk(bounds.0, bounds.1, direction);
            }
            Some(Ok((key, value)))
        }))
    }

    fn snapshot(&self) -> Option<Rows<'_>> {
        let rows = self.content.read().rows.clone();
        Some(Box::new(rows.into_iter().map(Ok)))
    }

    fn reads_wait(&self) -> bool {
        // They don't. But so simulations run what runs on a disk.
        true
    }

    fn clear(&self) -> Result<()> {
        let mut content = self.content.write();
        for (key, value) in std::mem::take(&mut content.rows) {
            content.flushed.entry(key).or_insert(Some(value));
        }
        Ok(())
    }
}
