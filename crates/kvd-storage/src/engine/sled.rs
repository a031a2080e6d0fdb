//! The engine on disk: sled, kept away from its traps. The only file that names the crate.
//!
//! What was measured of this pre-release decides the code:
//!
//! - **One writer per tree.** A `remove` that races a batch on the same tree can deadlock: a lock per tree keeps
//!   writers apart. Readers hold one leaf at a time and are safe.
//! - **Deletes.** A delete within a batch leaves empty leaves for ever; only `remove` merges them away, and it is not part
//!   of any batch. So a batch writes a *tombstone* in place of the row, which is what makes the delete atomic, and once
//!   the batch is applied the tombstone is removed. To everybody outside, a tombstone is an absent row, so it does not
//!   matter when it goes: a crash between the two leaves tombstones behind, and a scan that meets one notes it for the
//!   next writer, who looks again and removes it if it is one still. To tell the two apart, each stored value starts
//!   with [`LIVE`], and a tombstone is the empty value.
//! - **Flushes** happen only when [`Engine::flush`] is called. With no flush interval at all every dropped iterator would
//!   flush, so there is one, of centuries. After a failed flush sled goes on accepting batches, and the next flush hangs:
//!   so the first failure is remembered and fails everything after it, and the database is never closed.
//! - **Closing** flushes. A failure there aborts the process, which is sled's own doing and what we want.
//! - **Trees** are never dropped, which makes the next open panic; they are cleared and keep their name.
//! - **Handles** are `Send` but not `Sync`, and cloning one costs a microsecond: each tree keeps a few to lend.
//! - **Scans** with an end bound walk on to the end of the tree looking for more: only the start is given to sled. Backwards
//!   they stop where they should, and need the end to know where to begin: there both bounds are.
//! - **Damage** can make an open panic, and what the panic unwinds then waits for ever for a thread that was never
//!   started: see [`super::opening`].

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use sled::InlineArray;

use super::{Batch, Direction, Engine, Row, Rows, Tree, is_beyond, is_empty_range, opening::survive_panics};
use crate::error::{Error, Result};

/// Rows of a leaf. The default of 1024 costs twenty times the CPU and writes.
const FANOUT: usize = 64;
/// Starts every stored value; a tombstone has no bytes at all.
const LIVE: u8 = 1;
/// Never, near enough; and still a time that an operating system can wait for.
const FLUSH_INTERVAL_MS: usize = usize::MAX / 1_000_000;
/// Handles that a tree keeps to lend. More readers than these at once pay for a clone.
const HANDLES_MAX: usize = 64;
/// Tombstones left by a crash that a tree notes at a time; what is beyond is found by a later scan.
const LITTER_MAX: usize = 4096;

type Database = sled::Db<FANOUT>;
type Handle = sled::Tree<FANOUT>;

/// How to open a [`SledEngine`].
#[derive(Clone, Copy, Debug)]
pub struct SledOptions {
    /// What sled is told of its cache, in bytes. It keeps changed leaves in memory beyond this until it is reopened.
    pub cache_bytes: usize,
    /// The level of zstd compression.
    pub zstd_level: i32,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: 512 << 20, zstd_level: 1 }
    }
}

/// An engine on disk.
pub struct SledEngine {
    path: PathBuf,
    database: Mutex<Database>,
    trees: Mutex<BTreeMap<String, Arc<SledTree>>>,
    /// Serializes flushes, without keeping anybody from opening trees meanwhile.
    flusher: Mutex<Handle>,
    health: Arc<Health>,
}

/// Whether a flush has failed.
#[derive(Debug)]
struct Health {
    path: PathBuf,
    failed: AtomicBool,
}

struct SledTree {
    name: String,
    handles: Mutex<Vec<Handle>>,
    /// Never lent: what handles are cloned from.
    origin: Mutex<Handle>,
    /// Held by whoever changes the tree.
    writer: Mutex<()>,
    /// Keys at which scans have met tombstones.
    litter: Mutex<Vec<InlineArray>>,
    health: Arc<Health>,
}

impl SledEngine {
    /// Opens the database in a directory, making it if there is none. It is closed, which flushes it, once the engine and all
    /// of its trees are dropped.
    ///
    /// # Errors
    /// [`Error::Engine`] if the directory can't be used or its content is damaged: remove the directory and rebuild the
    /// state from checkpoints and the log.
    pub fn open(dir: &Path, options: SledOptions) -> Result<Self> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity_bytes(options.cache_bytes)
            .zstd_compression_level(options.zstd_level)
            .flush_every_ms(Some(FLUSH_INTERVAL_MS));
        let database = survive_panics("sled", move || config.open::<FANOUT>())
            .map_err(|source| Error::Engine { context: "open its database", source })?;
        let flusher = Mutex::new(Handle::clone(&database));
        let health = Arc::new(Health { path: dir.to_owned(), failed: AtomicBool::new(false) });
        Ok(Self {
            path: dir.to_owned(),
            database: Mutex::new(database),
            trees: Mutex::default(),
            flusher,
            health,
        })
    }
}

impl fmt::Debug for SledEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledEngine").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Engine for SledEngine {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>> {
        let mut trees = self.trees.lock();
        if let Some(tree) = trees.get(name) {
            return Ok(Arc::clone(tree) as Arc<dyn Tree>);
        }
        let opened = self.database.lock().open_tree(name);
        let origin = opened.map_err(|source| Error::Engine { context: "open a tree", source })?;
        let tree = Arc::new(SledTree {
            name: name.to_owned(),
            handles: Mutex::default(),
            origin: Mutex::new(origin),
            writer: Mutex::default(),
            litter: Mutex::default(),
            health: Arc::clone(&self.health),
        });
        trees.insert(name.to_owned(), Arc::clone(&tree));
        Ok(tree)
    }

    fn tree_names(&self) -> Result<Vec<String>> {
        // The only listing that there is. Its iterators over the trees' rows are lazy, and dropped unused.
        let database = self.database.lock();
        let names =
            database.export().into_iter().map(|(_, name, _)| String::from_utf8_lossy(&name).into_owned());
        let mut names = names.collect::<Vec<_>>();
        names.sort_unstable();
        Ok(names)
    }

    fn flush(&self) -> Result<()> {
        let flusher = self.flusher.lock();
        self.health.check()?;
        fail::fail_point!(crate::failpoints::FLUSH_BEFORE);
        if let Err(source) = flusher.flush() {
            self.health.failed.store(true, Ordering::SeqCst);
            // Closing would flush once more, which hangs: with one handle leaked it is never closed.
            Box::leak(Box::new(flusher.clone()));
            return Err(Error::Fatal { context: "flush the engine in", path: self.path.clone(), source });
        }
        fail::fail_point!(crate::failpoints::FLUSH_AFTER);
        Ok(())
    }
}

impl Health {
    fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::SeqCst) {
            let source = io::Error::other("an earlier flush failed");
            return Err(Error::Fatal { context: "use the engine in", path: self.path.clone(), source });
        }
        Ok(())
    }
}

fn failed(context: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Engine { context, source }
}

fn stored(value: &[u8], buffer: &mut Vec<u8>) -> InlineArray {
    buffer.clear();
    buffer.push(LIVE);
    buffer.extend_from_slice(value);
    InlineArray::from(buffer.as_slice())
}

/// The value that is stored; `None` for a tombstone.
fn live(stored: &[u8]) -> Option<Bytes> {
    stored.split_first().map(|(_, value)| Bytes::copy_from_slice(value))
}

impl SledTree {
    /// Lends a handle to `work`.
    fn with_handle<T>(&self, work: impl FnOnce(&Handle) -> T) -> T {
        let kept = self.handles.lock().pop();
        let handle = kept.unwrap_or_else(|| self.origin.lock().clone());
        let result = work(&handle);
        let mut handles = self.handles.lock();
        if handles.len() < HANDLES_MAX {
            handles.push(handle);
        }
        result
    }

    /// Notes a tombstone for the next writer.
    fn note_litter(&self, key: InlineArray) {
        let mut litter = self.litter.lock();
        if litter.len() < LITTER_MAX {
            litter.push(key);
        }
    }

    /// Removes what is a tombstone at these keys, and the leaves that are empty without them. Only for the writer: what is a
    /// tombstone when it looks is one still when it removes.
    fn sweep(handle: &Handle, keys: impl IntoIterator<Item = InlineArray>) -> io::Result<()> {
        for key in keys {
            if handle.get(&key)?.is_some_and(|stored| stored.is_empty()) {
                handle.remove(&key)?;
            }
        }
        Ok(())
    }

    fn apply_changes(&self, handle: &Handle, changes: Vec<(Bytes, Option<Bytes>)>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        let mut deleted = Vec::new();
        let mut buffer = Vec::new();
        for (key, value) in changes {
            let key = InlineArray::from(key.as_ref());
            if let Some(value) = value {
                batch.insert(key, stored(&value, &mut buffer));
            } else {
                batch.insert(key.clone(), InlineArray::default());
                deleted.push(key);
            }
        }
        // Those that the batch puts again after all are none.
        deleted.retain(|key| batch.get(key).flatten().is_some_and(|stored| stored.is_empty()));
        handle.apply_batch(batch)?;
        // No look is needed: nobody else writes.
        for key in deleted {
            handle.remove(&key)?;
        }
        let litter = std::mem::take(&mut *self.litter.lock());
        Self::sweep(handle, litter)
    }
}

impl fmt::Debug for SledTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledTree").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tree for SledTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.with_handle(|handle| handle.get(key)).map_err(failed("read a row"))?;
        Ok(found.and_then(|stored| live(&stored)))
    }

    fn apply(&self, batch: Batch) -> Result<()> {
        let _writer = self.writer.lock();
        self.health.check()?;
        let changes = batch.into_changes();
        self.with_handle(|handle| self.apply_changes(handle, changes)).map_err(failed("apply a batch"))
    }

    fn scan<'a>(&'a self, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> Rows<'a> {
        if is_empty_range(start, end) {
            return Box::new(std::iter::empty());
        }
        let bounds = match direction {
            Direction::Ascending => (start, Bound::Unbounded),
            Direction::Descending => (start, end),
        };
        let mut rows = Some(self.with_handle(|handle| handle.range::<&[u8], _>(bounds)));
        let end = end.map(Bytes::copy_from_slice);
        Box::new(std::iter::from_fn(move || {
            let row = next_live(rows.as_mut()?, direction, self, end.as_ref().map(Bytes::as_ref));
            if !matches!(row, Some(Ok(_))) {
                rows = None;
            }
            row
        }))
    }

    fn reads_wait(&self) -> bool {
        // What was touched stays in memory.
        false
    }

    fn clear(&self) -> Result<()> {
        let _writer = self.writer.lock();
        self.health.check()?;
        self.litter.lock().clear();
        self.with_handle(Handle::clear).map_err(failed("clear a tree"))
    }
}

/// The next row that isn't a tombstone, if it lies within the bound.
fn next_live(
    rows: &mut sled::Iter<FANOUT>,
    direction: Direction,
    tree: &SledTree,
    end: Bound<&[u8]>,
) -> Option<Result<Row>> {
    loop {
        let next = match direction {
            Direction::Ascending => rows.next(),
            Direction::Descending => rows.next_back(),
        };
        let (key, stored) = match next? {
            Ok(row) => row,
            Err(source) => return Some(Err(failed("scan a tree")(source))),
        };
        if is_beyond(&key, end) {
            return None;
        }
        match live(&stored) {
            Some(value) => return Some(Ok((Bytes::copy_from_slice(&key), value))),
            None => tree.note_litter(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in which a crash has left tombstones, and a look at what sled itself has.
    fn littered(dir: &Path, keys: &[&str]) -> (SledEngine, Arc<dyn Tree>, Handle) {
        let engine = SledEngine::open(dir, SledOptions::default()).unwrap();
        let tree = engine.tree("t").unwrap();
        let raw = engine.database.lock().open_tree("t").unwrap();
        for key in keys {
            raw.insert(key, InlineArray::default()).unwrap();
        }
        (engine, tree, raw)
    }

    fn raw_keys(raw: &Handle) -> Vec<String> {
        raw.iter().map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap()).collect()
    }

    fn put(tree: &dyn Tree, key: &'static str) {
        let mut batch = Batch::default();
        batch.put(Bytes::from(key), Bytes::from("value"));
        tree.apply(batch).unwrap();
    }

    #[test]
    fn tombstones_left_by_a_crash_are_absent_and_removed_once_seen() {
        let dir = tempfile::tempdir().unwrap();
        for (name, direction) in [("up", Direction::Ascending), ("down", Direction::Descending)] {
            let (_engine, tree, raw) = littered(&dir.path().join(name), &["a", "c"]);
            put(tree.as_ref(), "b");
            assert_eq!(tree.get(b"a").unwrap(), None);
            assert_eq!(raw_keys(&raw), ["a", "b", "c"], "nobody has seen them yet");
            let found = tree.scan(Bound::Unbounded, Bound::Unbounded, direction);
            assert_eq!(found.map(|row| row.unwrap().0).collect::<Vec<_>>(), ["b"], "{direction:?}");
            // What a scan has seen as a tombstone may have been written again by the time a writer looks.
            put(tree.as_ref(), "c");
            assert_eq!(raw_keys(&raw), ["b", "c"], "{direction:?}");
            assert_eq!(tree.get(b"c").unwrap(), Some(Bytes::from("value")));
        }
    }

    #[test]
    fn a_delete_leaves_nothing_in_sled() {
        let dir = tempfile::tempdir().unwrap();
        let (_engine, tree, raw) = littered(dir.path(), &[]);
        put(tree.as_ref(), "a");
        let mut batch = Batch::default();
        batch.delete(Bytes::from("a"));
        batch.delete(Bytes::from("never there"));
        tree.apply(batch).unwrap();
        assert_eq!(raw_keys(&raw), [""; 0]);
    }

    #[test]
    fn after_a_failed_flush_nothing_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, tree, _raw) = littered(dir.path(), &[]);
        engine.health.failed.store(true, Ordering::SeqCst);
        assert!(tree.apply(Batch::default()).is_err_and(|error| error.is_fatal()));
        assert!(tree.clear().is_err_and(|error| error.is_fatal()));
        assert!(engine.flush().is_err_and(|error| error.is_fatal()));
    }
}
