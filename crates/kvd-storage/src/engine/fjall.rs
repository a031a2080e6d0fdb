//! The engine for a state larger than memory: fjall, an LSM tree, kept away from its traps. The only file that names the
//! crate.
//!
//! # Why this one
//! Measured through [`Tree`] on two cores that others used too: 256 B values under random keys, batches of 2,000 rows, a
//! flush every 250,000, 64 MiB of cache. CPU in seconds per million. *Cold*: two million keys, and the system's file cache
//! emptied five times a second, as if the state were many times larger than memory (sled keeps it all, redb had 600,000).
//!
//! | | fjall 3.1, as here | redb 4.4 | sled |
//! |---|---|---|---|
//! | puts/s of a million new keys; CPU | 212k; 3.0 | 84k; 8.6 | 90k; 10.0 |
//! | puts/s over them; CPU | 146k; 3.4 | 61k; 9.8 | 64k; 14.2 |
//! | bytes written per byte put, in both | 4.2, 5.2 | 5.1, 5.9 | 3.1, 4.6 |
//! | longest flush | 74 ms | 786 ms | 2,349 ms |
//! | CPU of gets; of rows scanned | 6.4; 0.5 | 3.0; 0.3 | 4.5; 0.4 |
//! | most memory, writing and with reads | 63, 119 MB | 79, 85 MB | 664 MB |
//! | cold: puts/s; CPU; bytes written per byte put | 204k; 3.7; 5.1 | 20k; 24.7; 12.5 | – |
//! | cold: CPU of gets; bytes read for one | 29; 7.2 KB | 23; 3.0 KB | – |
//!
//! Cold puts decide: once the state is larger than memory, a B-tree reads a leaf for every put, an LSM tree none. redb is
//! the simpler one, and quicker to read; but it does not check what it reads, and fjall checks every block.
//!
//! # Invariants, and why they hold
//! - **Prefix.** All trees share one journal, to which batches are appended in order, each with a checksum over all of it;
//!   recovery ends at the first that is torn. A tree's rows also rest in files of its own, which outlive what the journal
//!   lost: so no file may hold a row that is not in the *synced* journal. fjall syncs the journal before it writes a file,
//!   but with several worker threads another may seal more rows in between. Here it has one, and rows are sealed by nobody
//!   else than [`Shared::seal`], which syncs first and lets no batch in before it has sealed.
//! - **Half a batch** is what fjall's plain reads see: they look beyond what is published. All reads are of a snapshot's moment.
//! - **The last change of a key counts.** The changes of a batch have one sequence number, so two of one key would be in no
//!   order: only the last is passed on.
//! - **A failure** of a sync, or of the worker, poisons the database, and is final. It is remembered, and told as
//!   [`Error::Fatal`]. What the worker met is not told, only that it failed: if the disk isn't full it is taken for damage.
//!
//! A process with five trees was killed 28 times each in three ways: as it stood, with nothing left but what was synced
//! (names in directories too), and with each page that was not synced kept or lost by chance. What opened was a prefix with
//! all that was flushed, every time.
//!
//! # More that was found in its source and reports
//! - A full queue of messages stops the worker for ever, for it posts to the queue that it alone reads. Writers that find a
//!   tree's buffer full post one each time. So no buffer is ever full by fjall's own measure, nor the journal too long: it
//!   is [`buffers`] that says what is sealed when, which bounds the sum over all trees as fjall does not.
//! - Of several workers the first only writes buffers to files. While merges wait for the others it takes their messages from
//!   the queue and puts them back, without pause: a core for nothing. So one it is, and what is sealed waits for its merge.
//! - A writer that finds four sealed buffers or thirty files waits for the worker without looking whether there is one. So
//!   waiting is done here, before the batch, and ends when the worker has failed or done nothing for [`STALL_MAX`].
//! - `clear` reaches the disk before the batches that went before, and leaves a journal that is never removed. So a tree is
//!   cleared by deleting it, after a sync, and making it again under its name.
//! - A journal is removed once its trees' files hold its highest sequence number: a delete's, which compaction drops with
//!   the row, would keep it for ever. Every batch writes [`BATCH_KEY`] too.
//! - The names of trees' directories are not synced. We do it.
//! - While a snapshot is open no tree lets go of what it has had in memory since, though it is in files: a checkpoint of minutes
//!   kept all that was put meanwhile, and a node with 1 GiB was killed for it. So one is open while a scan begins, and no longer.
//!   From then on the scan itself holds what it reads: files, and the buffers of that moment.
//! - Keys may not be empty: [`ROW_MARK`] precedes each. A batch takes keys of at most 64 KiB or panics: we refuse.
//! - Opening reads the journal, and panics at some kinds of damage: see [`super::opening`]. What is damaged inside the
//!   journal reads as its end: batches are missing then, up to where the tree was last sealed.
//!
//! # What is deliberately absent
//! No transactions, no key-value separation (values are at most 1 MiB and most are small), no tuning by settings: the cache
//! is the one number, and a quarter of it again is for buffers.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fjall::{
    AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable as _,
};
use lsm_tree::Guard as _;
use parking_lot::{Mutex, MutexGuard, RwLock};

use self::buffers::Buffers;
use super::{Batch, Direction, Engine, Row, Rows, Tree, is_empty_range, opening::survive_panics};
use crate::{
    disk::{Disk as _, RealDisk},
    error::{Error, Result},
};

mod buffers;

#[cfg(test)]
mod tests;

/// Precedes the key of every row.
const ROW_MARK: u8 = 1;
/// A row that every batch writes, below all others.
const BATCH_KEY: [u8; 1] = [0];
/// The longest key of a row, in bytes.
const KEY_BYTES_MAX: usize = (u16::MAX - 1) as usize;
/// The longest name of a tree, in bytes.
const NAME_BYTES_MAX: usize = u8::MAX as usize;
/// Rows that all trees together have in memory before some are sealed, at least. Smaller files cost more to merge.
const BUFFER_BYTES_MIN: u64 = 16 << 20;
/// What a row is believed to cost in memory beyond its key and value, in bytes.
const ROW_OVERHEAD_BYTES: usize = 96;
/// What is replayed when the database is opened, at most, near enough.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;
/// Files that are kept open.
const FILES_MAX: usize = 256;
/// Files that wait for being merged before writers wait too. fjall itself makes them wait at twenty, and does not look.
const MERGING_FILES_MAX: usize = 16;
/// Sealed buffers of a tree, of which fjall makes writers wait at four.
const SEALED_MAX: usize = 3;
/// Between two looks at what the worker has done.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// A worker that has not done what is waited for is dead.
const STALL_MAX: Duration = Duration::from_secs(300);
/// With less room than this the worker's failure is a full disk's.
const FULL_BYTES: u64 = 64 << 20;
/// fjall's name for the directory of the trees' directories.
const TREES_DIR: &str = "keyspaces";

/// How to open a [`FjallEngine`].
#[derive(Clone, Copy, Debug)]
pub struct FjallOptions {
    /// What is kept in memory of the files, in bytes. A quarter of it again, and at least 16 MiB, is for rows that are not
    /// in files yet, twice while they are being written; the files' newest indexes and filters come on top.
    pub cache_bytes: u64,
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// An engine on disk that holds more than fits in memory.
pub struct FjallEngine {
    shared: Arc<Shared>,
    trees: Mutex<BTreeMap<String, Arc<FjallTree>>>,
}

struct Shared {
    path: PathBuf,
    database: Database,
    buffer_bytes: u64,
    journal_bytes: u64,
    writer: Mutex<Writer>,
    /// Whether a flush has failed, or the worker.
    failed: AtomicBool,
}

/// Held by whoever changes anything, in whichever tree.
#[derive(Default)]
struct Writer {
    buffers: Buffers,
    /// What the worker is writing to a file.
    sealed: Option<Keyspace>,
}

struct FjallTree {
    name: String,
    /// Another one after the tree has been cleared.
    keyspace: RwLock<Keyspace>,
    shared: Arc<Shared>,
}

impl FjallEngine {
    /// Opens the database in a directory, making it if there is none. It is closed once the engine and all of its trees are
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Engine`] if the directory can't be used or its content is damaged: remove the directory and rebuild the
    /// state from checkpoints and the log.
    pub fn open(dir: &Path, options: FjallOptions) -> Result<Self> {
        let buffer_bytes = (options.cache_bytes / 4).max(BUFFER_BYTES_MIN);
        Self::open_with(dir, options, buffer_bytes, JOURNAL_BYTES_MAX)
    }

    fn open_with(dir: &Path, options: FjallOptions, buffer_bytes: u64, journal_bytes: u64) -> Result<Self> {
        let builder = Database::builder(dir)
            .cache_size(options.cache_bytes)
            .worker_threads(1)
            .max_cached_files(Some(FILES_MAX))
            .max_journaling_size(u64::MAX);
        let database = survive_panics("fjall", move || builder.open().map_err(io_error))
            .map_err(|source| Error::Engine { context: "open its database", source })?;
        let writer = Writer { buffers: recovered(&database)?, sealed: None };
        let shared = Arc::new(Shared {
            path: dir.to_owned(),
            database,
            buffer_bytes,
            journal_bytes,
            writer: Mutex::new(writer),
            failed: AtomicBool::new(false),
        });
        Ok(Self { shared, trees: Mutex::default() })
    }
}

/// No buffer is full by this measure: see the module's docs.
fn tree_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(u64::MAX)
}

/// What the trees have in memory of the journal that was replayed.
fn recovered(database: &Database) -> Result<Buffers> {
    let mut buffers = Buffers::default();
    for name in database.list_keyspace_names() {
        let keyspace = database.keyspace(&name, tree_options).map_err(failed("open a tree"))?;
        let bytes = keyspace.tree.active_memtable().size();
        if bytes > 0 {
            buffers.note(&name, bytes);
        }
    }
    Ok(buffers)
}

impl fmt::Debug for FjallEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallEngine").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Engine for FjallEngine {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>> {
        let mut trees = self.trees.lock();
        if let Some(tree) = trees.get(name) {
            return Ok(Arc::clone(tree) as Arc<dyn Tree>);
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let told =
                format!("the name of a tree must have 1 to {NAME_BYTES_MAX} bytes, not {}", name.len());
            return Err(Error::Misuse(told));
        }
        let keyspace = self.shared.keyspace(name).map_err(|source| failed("open a tree")(source))?;
        let tree = Arc::new(FjallTree {
            name: name.to_owned(),
            keyspace: RwLock::new(keyspace),
            shared: Arc::clone(&self.shared),
        });
        trees.insert(name.to_owned(), Arc::clone(&tree));
        Ok(tree)
    }

    fn tree_names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> =
            self.shared.database.list_keyspace_names().iter().map(ToString::to_string).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn flush(&self) -> Result<()> {
        self.shared.check()?;
        fail::fail_point!(crate::failpoints::FLUSH_BEFORE);
        self.shared.sync()?;
        fail::fail_point!(crate::failpoints::FLUSH_AFTER);
        Ok(())
    }
}

impl Shared {
    fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::SeqCst) {
            let source = io::Error::other("an earlier flush or write failed");
            return Err(Error::Fatal { context: "use the engine in", path: self.path.clone(), source });
        }
        Ok(())
    }

    /// Remembers a failure after which nothing is known any more.
    fn fail(&self, context: &'static str, error: fjall::Error) -> Error {
        self.failed.store(true, Ordering::SeqCst);
        let source = match error {
            fjall::Error::Poisoned if self.is_full() => {
                io::Error::new(io::ErrorKind::StorageFull, "its worker failed, and the disk is full")
            }
            fjall::Error::Poisoned => {
                io::Error::new(io::ErrorKind::InvalidData, "its worker failed, and the disk is not full")
            }
            error => io_error(error),
        };
        Error::Fatal { context, path: self.path.clone(), source }
    }

    fn is_full(&self) -> bool {
        RealDisk.available_bytes(&self.path).is_ok_and(|bytes| bytes < FULL_BYTES)
    }

    /// Makes the journal durable, and with it all batches.
    fn sync(&self) -> Result<()> {
        let synced = self.database.persist(PersistMode::SyncAll);
        synced.map_err(|error| self.fail("flush the engine in", error))
    }

    /// The tree of a name, which is durable when this returns.
    fn keyspace(&self, name: &str) -> fjall::Result<Keyspace> {
        let is_new = !self.database.keyspace_exists(name);
        let keyspace = self.database.keyspace(name, tree_options)?;
        if is_new {
            fs::File::open(self.path.join(TREES_DIR))?.sync_all()?;
        }
        Ok(keyspace)
    }

    /// Waits until the worker has done something.
    fn wait_until(&self, done: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done() {
            // It writes nothing that isn't written; but it tells whether the worker has failed.
            let alive = self.database.persist(PersistMode::Buffer);
            alive.map_err(|error| self.fail("write to the engine in", error))?;
            if begun.elapsed() > STALL_MAX {
                return Err(self.fail("write to the engine in", fjall::Error::Poisoned));
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Makes room for a batch for a tree: in memory, in the journal, and in what fjall lets the tree have before it waits.
    fn make_room(&self, writer: &mut MutexGuard<'_, Writer>, tree: &Keyspace) -> Result<()> {
        while let Some(name) = writer.buffers.next(self.buffer_bytes, self.journal_bytes) {
            let name = name.to_owned();
            self.seal(writer, &name)?;
        }
        self.wait_until(|| {
            tree.sealed_memtable_count() <= SEALED_MAX && tree.l0_table_count() <= MERGING_FILES_MAX
        })
    }

    /// Has a tree's buffer written to a file. There is one such at a time, so that memory stays bounded.
    fn seal(&self, writer: &mut MutexGuard<'_, Writer>, name: &str) -> Result<()> {
        if let Some(sealed) = &writer.sealed {
            self.wait_until(|| sealed.sealed_memtable_count() == 0)?;
        }
        // What is in a file must be in the synced journal, and all before it: see "Prefix".
        self.sync()?;
        let failed = |error| self.fail("write to the engine in", error);
        let keyspace = self.database.keyspace(name, tree_options).map_err(failed)?;
        keyspace.rotate_memtable().map_err(failed)?;
        writer.buffers.forget(name);
        writer.sealed = Some(keyspace);
        Ok(())
    }
}

/// What the file system says, if it is that which failed; else the engine's files are not what was written.
fn io_error(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => source,
        fjall::Error::Locked => io::Error::new(io::ErrorKind::ResourceBusy, "another process has it open"),
        error @ (fjall::Error::Poisoned | fjall::Error::KeyspaceDeleted) => io::Error::other(error),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

fn failed(context: &'static str) -> impl Fn(fjall::Error) -> Error {
    move |error| Error::Engine { context, source: io_error(error) }
}

fn stored_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(ROW_MARK);
    stored.extend_from_slice(key);
    stored
}

/// The last change of each key.
fn last_changes(changes: Vec<(Bytes, Option<Bytes>)>) -> Vec<(Bytes, Option<Bytes>)> {
    if changes.is_sorted_by(|(one, _), (other, _)| one < other) {
        return changes;
    }
    changes.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()
}

impl FjallTree {
    fn keyspace(&self) -> Keyspace {
        self.keyspace.read().clone()
    }

    /// A batch as fjall takes it, and about how much memory it will take.
    fn prepare(&self, keyspace: &Keyspace, batch: Batch) -> Result<(OwnedWriteBatch, u64)> {
        let changes = last_changes(batch.into_changes());
        let mut prepared = OwnedWriteBatch::with_capacity(self.shared.database.clone(), changes.len() + 1)
            .durability(Some(PersistMode::Buffer));
        let mut bytes = 0;
        prepared.insert(keyspace, BATCH_KEY, Vec::new());
        for (key, value) in changes {
            if key.len() > KEY_BYTES_MAX {
                let told = format!("a key of {} bytes; {KEY_BYTES_MAX} are possible", key.len());
                let source = io::Error::new(io::ErrorKind::InvalidInput, told);
                return Err(Error::Engine { context: "apply a batch", source });
            }
            bytes += ROW_OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len);
            match value {
                Some(value) => prepared.insert(keyspace, stored_key(&key), value.as_ref()),
                None => prepared.remove(keyspace, stored_key(&key)),
            }
        }
        Ok((prepared, bytes as u64))
    }
}

impl fmt::Debug for FjallTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallTree").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tree for FjallTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let keyspace = self.keyspace();
        let found = self.shared.database.snapshot().get(&keyspace, stored_key(key));
        Ok(found.map_err(failed("read a row"))?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn apply(&self, batch: Batch) -> Result<()> {
        let mut writer = self.shared.writer.lock();
        self.shared.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        let keyspace = self.keyspace();
        let (prepared, bytes) = self.prepare(&keyspace, batch)?;
        self.shared.make_room(&mut writer, &keyspace)?;
        prepared.commit().map_err(|error| self.shared.fail("write to the engine in", error))?;
        writer.buffers.note(&self.name, bytes);
        Ok(())
    }

    fn scan<'a>(&'a self, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> Rows<'a> {
        let start = match start {
            Bound::Unbounded => Bound::Included(vec![ROW_MARK]),
            bound => bound.map(stored_key),
        };
        let end = end.map(stored_key);
        if is_empty_range(start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice)) {
            return Box::new(std::iter::empty());
        }
        // Held for as long as its files are read: the tree may be cleared meanwhile.
        let keyspace = self.keyspace();
        // The rows hold what they are read from, and need no snapshot any more: see the module's docs.
        let moment = self.shared.database.snapshot();
        let mut rows = Some(keyspace.tree.range::<Vec<u8>, _>((start, end), moment.seqno(), None));
        drop(moment);
        Box::new(std::iter::from_fn(move || {
            let _files = &keyspace;
            let next = match direction {
                Direction::Ascending => rows.as_mut()?.next(),
                Direction::Descending => rows.as_mut()?.next_back(),
            };
            let row = next.map(|row| row.into_inner().map(unstored));
            let row = row.map(|row| row.map_err(|error| failed("scan a tree")(error.into())));
            if !matches!(row, Some(Ok(_))) {
                rows = None;
            }
            row
        }))
    }

    fn snapshot(&self) -> Option<Rows<'_>> {
        // Its rows are of the moment in which it begins.
        Some(self.scan(Bound::Unbounded, Bound::Unbounded, Direction::Ascending))
    }

    fn reads_wait(&self) -> bool {
        true
    }

    fn clear(&self) -> Result<()> {
        let mut writer = self.shared.writer.lock();
        self.shared.check()?;
        let mut keyspace = self.keyspace.write();
        let rows = (Bound::Included(vec![ROW_MARK]), Bound::Unbounded);
        if self.shared.database.snapshot().range::<Vec<u8>, _>(&*keyspace, rows).next().is_none() {
            return Ok(());
        }
        // It is durable at once, and must not outlive what was applied before.
        self.shared.sync()?;
        self.shared.database.delete_keyspace(keyspace.clone()).map_err(failed("clear a tree"))?;
        writer.buffers.forget(&self.name);
        // Without one, batches would go to the deleted one and be lost.
        let made = self.shared.keyspace(&self.name);
        *keyspace = made.map_err(|error| self.shared.fail("make a tree again in", error))?;
        Ok(())
    }
}

fn unstored((key, value): fjall::KvPair) -> Row {
    (Bytes::copy_from_slice(key.get(1..).unwrap_or_default()), Bytes::copy_from_slice(&value))
}
