//! The engine on disk: sled, kept away from its traps. The only file that names the crate.
//!
//! What was measured of this pre-release decides the code:
//!
//! - **One writer per tree.** A `remove` that races a batch on the same tree can deadlock: a lock per tree keeps
//!   writers apart. Readers hold one leaf at a time and are safe.
//! - **What one flush writes is atomic**, over all trees, and nothing is durable but by a flush. So a batch is whole after
//!   a crash if no flush begins in its midst, or if a record of it is there ([`record`]). Then a batch can go in by small
//!   parts, each of which keeps others from its leaves for a moment only: sled's own batch holds all of its leaves at
//!   once, for seconds if it is large and the machine is busy, longer still beside a flush, as it has to compress what
//!   the flush has not come to. Who fails in the midst of a batch sees to it that nothing is ever flushed again.
//! - **Deletes.** A delete within sled's batch leaves empty leaves for ever; only `remove` merges them away.
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
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;

use self::record::{Changes, FlushGate};
use super::{Batch, Direction, Engine, Row, Rows, Tree, is_beyond, is_empty_range, opening::survive_panics};
use crate::error::{Error, Result};

mod record;

/// Rows of a leaf. The default of 1024 costs twenty times the CPU and writes.
const FANOUT: usize = 64;
/// Never, near enough; and still a time that an operating system can wait for.
const FLUSH_INTERVAL_MS: usize = usize::MAX / 1_000_000;
/// Handles that a tree keeps to lend. More readers than these at once pay for a clone.
const HANDLES_MAX: usize = 64;
/// Rows that a part of a batch puts.
const PART_ROWS: usize = 256;

type Database = sled::Db<FANOUT>;
type Handle = sled::Tree<FANOUT>;

/// How to open a [`SledEngine`].
#[derive(Clone, Copy, Debug)]
pub struct SledOptions {
    /// What sled is told of its cache, in bytes. It keeps changed leaves in memory beyond this until it is reopened.
    pub cache_bytes: usize,
    /// The level of zstd compression; the quicker ones are below zero.
    pub zstd_level: i32,
    /// A batch waits for a flush up to so long after that began; then it goes in beside it, which costs both more.
    pub flush_patience: Duration,
}

impl Default for SledOptions {
    fn default() -> Self {
        // Level 1 cost a put a fourteenth more CPU, as measured; level -5 no less than this one.
        Self { cache_bytes: 512 << 20, zstd_level: -1, flush_patience: Duration::from_secs(2) }
    }
}

/// An engine on disk.
pub struct SledEngine {
    path: PathBuf,
    database: Mutex<Database>,
    trees: Mutex<BTreeMap<String, Arc<SledTree>>>,
    /// Serializes flushes, without keeping anybody from opening trees meanwhile.
    flusher: Mutex<Handle>,
    shared: Arc<Shared>,
}

/// What all trees of an engine share.
struct Shared {
    gate: FlushGate,
    /// The tree of the records of batches.
    records: Mutex<Handle>,
    health: Health,
}

/// Whether a flush or a batch has failed.
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
    shared: Arc<Shared>,
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
        let open = move || {
            let database = config.open::<FANOUT>()?;
            let records = database.open_tree(record::TREE)?;
            finish_batches(&database, &records)?;
            Ok((database, records))
        };
        let (database, records) = survive_panics("sled", open)
            .map_err(|source| Error::Engine { context: "open its database", source })?;
        let flusher = Mutex::new(Handle::clone(&database));
        let health = Health { path: dir.to_owned(), failed: AtomicBool::new(false) };
        let gate = FlushGate::new(options.flush_patience);
        let shared = Shared { gate, records: Mutex::new(records), health };
        Ok(Self {
            path: dir.to_owned(),
            database: Mutex::new(database),
            trees: Mutex::default(),
            flusher,
            shared: Arc::new(shared),
        })
    }
}

/// Puts in all of what was going in when the last flush before a crash began.
fn finish_batches(database: &Database, records: &Handle) -> io::Result<()> {
    for row in records.iter() {
        let (name, encoded) = row?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the record of a batch is damaged");
        let changes = record::decode(&encoded).ok_or_else(damaged)?;
        if !changes.is_empty() {
            apply_changes(&database.open_tree(&name)?, changes)?;
            records.insert(name, [])?;
        }
    }
    Ok(())
}

/// Changes rows, by parts.
fn apply_changes(handle: &Handle, changes: Changes) -> io::Result<()> {
    let mut part = sled::Batch::default();
    let mut rows = 0;
    for (key, value) in changes {
        if let Some(value) = value {
            part.insert(key.as_ref(), value.as_ref());
            rows += 1;
            if rows == PART_ROWS {
                handle.apply_batch(std::mem::take(&mut part))?;
                rows = 0;
            }
        } else {
            if part.get(&key).is_some() {
                handle.apply_batch(std::mem::take(&mut part))?;
                rows = 0;
            }
            handle.remove(&key)?;
        }
    }
    handle.apply_batch(part)
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
            shared: Arc::clone(&self.shared),
        });
        trees.insert(name.to_owned(), Arc::clone(&tree));
        Ok(tree)
    }

    fn tree_names(&self) -> Result<Vec<String>> {
        // The only listing that there is. Its iterators over the trees' rows are lazy, and dropped unused.
        let database = self.database.lock();
        let names =
            database.export().into_iter().map(|(_, name, _)| String::from_utf8_lossy(&name).into_owned());
        let mut names = names.filter(|name| name != record::TREE).collect::<Vec<_>>();
        names.sort_unstable();
        Ok(names)
    }

    fn flush(&self) -> Result<()> {
        let flusher = self.flusher.lock();
        let Shared { gate, health, .. } = self.shared.as_ref();
        let _flushing = gate.flush();
        health.check()?;
        fail::fail_point!(crate::failpoints::FLUSH_BEFORE);
        if let Err(source) = flusher.flush() {
            health.fail(&flusher);
            return Err(Error::Fatal { context: "flush the engine in", path: self.path.clone(), source });
        }
        fail::fail_point!(crate::failpoints::FLUSH_AFTER);
        Ok(())
    }
}

impl Health {
    fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::SeqCst) {
            let source = io::Error::other("an earlier flush or batch failed");
            return Err(Error::Fatal { context: "use the engine in", path: self.path.clone(), source });
        }
        Ok(())
    }

    /// Nothing is written or flushed from now on. Closing would flush: with one handle leaked it is never closed.
    fn fail(&self, handle: &Handle) {
        if !self.failed.swap(true, Ordering::SeqCst) {
            Box::leak(Box::new(handle.clone()));
        }
    }
}

/// A batch that is under way. If it ends before it is whole, the engine must never be flushed.
struct Underway<'a> {
    health: &'a Health,
    handle: &'a Handle,
    is_whole: bool,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            self.health.fail(self.handle);
        }
    }
}

fn failed(context: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Engine { context, source }
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

    /// Applies a batch so that a crash leaves all of it or nothing.
    fn apply_whole(&self, handle: &Handle, changes: Changes) -> Result<()> {
        let Shared { gate, health, .. } = self.shared.as_ref();
        let unrecorded = gate.batch(record::has_room(&changes));
        health.check()?;
        let mut underway = Underway { health, handle, is_whole: false };
        let applied = match unrecorded {
            Some(_) => apply_changes(handle, changes),
            None => self.apply_recorded(handle, changes),
        };
        applied.map_err(failed("apply a batch"))?;
        underway.is_whole = true;
        Ok(())
    }

    fn apply_recorded(&self, handle: &Handle, changes: Changes) -> io::Result<()> {
        self.record(record::encode(&changes))?;
        apply_changes(handle, changes)?;
        self.record(Vec::new())
    }

    /// Puts a record in the place of the one before.
    fn record(&self, encoded: Vec<u8>) -> io::Result<()> {
        self.shared.records.lock().insert(&self.name, encoded).map(drop)
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
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn apply(&self, batch: Batch) -> Result<()> {
        let _writer = self.writer.lock();
        let changes = batch.into_changes();
        self.with_handle(|handle| self.apply_whole(handle, changes))
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
            let row = next_row(rows.as_mut()?, direction, end.as_ref().map(Bytes::as_ref));
            if !matches!(row, Some(Ok(_))) {
                rows = None;
            }
            row
        }))
    }

    fn snapshot(&self) -> Option<Rows<'_>> {
        // Its scans meet what batches change meanwhile, and it has nothing else.
        None
    }

    fn reads_wait(&self) -> bool {
        // What was touched stays in memory.
        false
    }

    fn clear(&self) -> Result<()> {
        let _writer = self.writer.lock();
        self.shared.health.check()?;
        self.with_handle(Handle::clear).map_err(failed("clear a tree"))
    }
}

/// The next row, if it lies within the bound.
fn next_row(rows: &mut sled::Iter<FANOUT>, direction: Direction, end: Bound<&[u8]>) -> Option<Result<Row>> {
    let next = match direction {
        Direction::Ascending => rows.next(),
        Direction::Descending => rows.next_back(),
    };
    match next? {
        Ok((key, _)) if is_beyond(&key, end) => None,
        Ok((key, value)) => Some(Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))),
        Err(source) => Some(Err(failed("scan a tree")(source))),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;
    use crate::testing::copy_dir;

    /// More than fit in a part.
    const ROWS: usize = 3 * PART_ROWS + 1;

    /// One in which batches wait for no flush.
    fn opened(dir: &Path) -> (SledEngine, Arc<dyn Tree>) {
        let options = SledOptions { flush_patience: Duration::ZERO, ..SledOptions::default() };
        let engine = SledEngine::open(dir, options).unwrap();
        let tree = engine.tree("t").unwrap();
        (engine, tree)
    }

    fn key(number: usize) -> Bytes {
        Bytes::from(format!("key-{number:05}"))
    }

    /// Every other row goes and comes back, round by round; all others have the round's number.
    fn round(number: u8) -> Batch {
        let mut batch = Batch::with_capacity(ROWS);
        for row in 0..ROWS {
            if (row % 2 == 1) == number.is_multiple_of(2) {
                batch.delete(key(row));
            } else {
                batch.put(key(row), Bytes::copy_from_slice(&[number]));
            }
        }
        batch
    }

    /// Whether the last flush met a batch in its midst.
    fn has_record(dir: &Path) -> bool {
        let database = sled::Config::new().path(dir).open::<FANOUT>().unwrap();
        let record = database.open_tree::<&str>(record::TREE).unwrap().get("t").unwrap();
        record.is_some_and(|encoded| !encoded.is_empty())
    }

    fn rows(tree: &dyn Tree) -> Vec<Row> {
        tree.scan(Bound::Unbounded, Bound::Unbounded, Direction::Ascending).map(Result::unwrap).collect()
    }

    #[test]
    fn a_delete_leaves_nothing_in_sled() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, tree) = opened(dir.path());
        tree.apply(round(1)).unwrap();
        let mut batch = Batch::default();
        for row in 0..ROWS {
            batch.delete(key(row));
        }
        batch.delete(Bytes::from("never there"));
        tree.apply(batch).unwrap();
        assert_eq!(engine.database.lock().open_tree("t").unwrap().len(), 0);
    }

    #[test]
    fn a_flush_has_all_of_a_batch_or_nothing_however_large_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
        let (engine, tree) = opened(&live);
        // Ends the thread beside, also where something here panics.
        let (going_on, ended) = mpsc::channel::<()>();
        let mut survivors = Vec::new();
        let mut in_the_midst = 0;
        thread::scope(|scope| {
            let _going_on = going_on;
            let tree = &tree;
            scope.spawn(move || {
                let goes_on = |_: &u8| ended.try_recv() == Err(mpsc::TryRecvError::Empty);
                for number in (1..u8::MAX).cycle().take_while(goes_on) {
                    tree.apply(round(number)).unwrap();
                }
            });
            // A batch that has begun beside one flush may be in its midst when the next one begins.
            while in_the_midst < 12 && survivors.len() < 200 {
                engine.flush().unwrap();
                engine.flush().unwrap();
                // Nothing but a flush writes, so this is what a crash would leave.
                let killed = killed.join(survivors.len().to_string());
                copy_dir(&live, &killed);
                in_the_midst += usize::from(has_record(&killed));
                survivors.push(rows(opened(&killed).1.as_ref()));
            }
        });
        for rows in &survivors {
            let Some((_, value)) = rows.first() else { continue };
            let number = *value.first().unwrap();
            let whole = (0..ROWS).filter(|row| (row % 2 == 1) != number.is_multiple_of(2));
            let whole = whole.map(|row| (key(row), value.clone()));
            assert_eq!(*rows, whole.collect::<Vec<_>>(), "round {number}");
        }
        assert!(in_the_midst > 0, "no flush met a batch in its midst");
    }

    #[test]
    fn a_batch_beside_a_flush_leaves_an_empty_record() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, tree) = opened(dir.path());
        tree.apply(round(1)).unwrap();
        assert!(engine.shared.records.lock().is_empty().unwrap(), "nothing was flushed");
        let flushing = engine.shared.gate.flush();
        tree.apply(round(2)).unwrap();
        drop(flushing);
        assert_eq!(engine.shared.records.lock().get("t").unwrap().unwrap().len(), 0);
        assert_eq!(engine.tree_names().unwrap(), ["t"]);
    }

    #[test]
    fn a_batch_that_a_crash_ends_beside_a_flush_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let (engine, tree) = opened(&live);
        tree.apply(round(1)).unwrap();
        let changes = round(2).into_changes();
        for done in [0, 1, PART_ROWS, ROWS - 1, ROWS] {
            let handle = engine.flusher.lock().clone();
            let records = engine.shared.records.lock();
            records.insert("t", record::encode(&changes)).unwrap();
            apply_changes(&engine.database.lock().open_tree("t").unwrap(), changes[..done].to_vec()).unwrap();
            handle.flush().unwrap();
            let [killed, again] =
                ["killed", "again"].map(|name| dir.path().join(format!("{name} after {done}")));
            copy_dir(&live, &killed);
            let survivor = opened(&killed);
            let whole: Vec<Row> =
                changes.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect();
            assert_eq!(rows(survivor.1.as_ref()), whole, "after {done} changes");
            // Before anything is flushed it ends again: nothing of the record is lost.
            copy_dir(&killed, &again);
            assert_eq!(rows(opened(&again).1.as_ref()), whole, "after {done} changes, once more");
            // Once more is enough: what comes after the batch stays.
            survivor.1.apply(round(3)).unwrap();
            let expected = rows(survivor.1.as_ref());
            drop(survivor);
            assert_eq!(rows(opened(&killed).1.as_ref()), expected);
        }
    }

    #[test]
    fn a_damaged_record_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, tree) = opened(dir.path());
        let mut damaged = record::encode(&round(1).into_changes());
        *damaged.last_mut().unwrap() ^= 1;
        engine.shared.records.lock().insert("t", damaged).unwrap();
        drop((tree, engine));
        let error = SledEngine::open(dir.path(), SledOptions::default()).unwrap_err();
        assert!(error.to_string().contains("the record of a batch is damaged"), "{error}");
    }

    #[test]
    fn a_batch_that_ends_halfway_is_never_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
        let (engine, tree) = opened(&live);
        tree.apply(round(1)).unwrap();
        engine.flush().unwrap();
        let handle = engine.flusher.lock().clone();
        {
            let _underway = Underway { health: &engine.shared.health, handle: &handle, is_whole: false };
            engine.database.lock().open_tree("t").unwrap().insert("half", "a batch").unwrap();
        }
        assert!(tree.apply(Batch::default()).is_err_and(|error| error.is_fatal()));
        assert!(engine.flush().is_err_and(|error| error.is_fatal()));
        drop((tree, engine, handle));
        copy_dir(&live, &killed);
        let (_engine, survivor) = opened(&killed);
        assert!(rows(survivor.as_ref()).iter().all(|(_, value)| value.as_ref() == [1]));
    }

    #[test]
    fn after_a_failed_flush_nothing_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, tree) = opened(dir.path());
        engine.shared.health.fail(&engine.flusher.lock());
        assert!(tree.apply(Batch::default()).is_err_and(|error| error.is_fatal()));
        assert!(tree.clear().is_err_and(|error| error.is_fatal()));
        assert!(engine.flush().is_err_and(|error| error.is_fatal()));
    }
}
