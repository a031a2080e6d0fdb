//! The node's engine, watched for damage.
//!
//! # The problem
//! An engine whose files have rotted may well open, and fail later: when a row is read, or when a flush comes upon a leaf
//! that it has to move. A replica that is rebuilt *within* it doesn't help then, for the next flush fails again, and with
//! it the node, at each start anew.
//!
//! # The approach
//! All calls pass through a [`WatchedEngine`]. The first error that speaks of damage is noted in the engine's own directory,
//! durably, and the node stops. The next start finds the note and puts the whole directory aside, as one that can't be
//! opened at all: what it holds is in log and checkpoints too, from which all replicas are rebuilt.
//!
//! Rot can also make a call go on for ever. Such a call is found by what it uses of the processor ([`calls`]), noted in the
//! same way, and the process ends at once: the thread can't be stopped, and what was acknowledged is in the log.
//!
//! # Another engine than before
//! The directory says in a note of its own whose it is. If that is not the engine of the settings, the directory is
//! removed, for the other one can't read it, and all replicas are rebuilt in the same way. It is not kept for the day on
//! which the settings change back: the log would not reach back to it.
//!
//! # What it deliberately does not do
//! It does not take a full disk for damage: the rows are good, and rebuilding would need even more room.

use std::{
    fs, io,
    io::Write as _,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use kvd_storage::engine::{
    Batch, Direction, Engine, FjallEngine, FjallOptions, MemoryEngine, Rows, SledEngine, SledOptions, Tree,
};
use kvd_types::{Error, Result};

use self::calls::Calls;
use super::disk::refuse;
use crate::config;

mod calls;
mod owner;

/// The note in a damaged engine's directory: why it is not to be opened any more.
const NOTE: &str = "DAMAGED";
/// Of a process that ends for a call that does not come back: that of any failure.
const EXIT_CODE: i32 = 1;

/// The damage that was met, if any.
#[derive(Debug)]
pub(super) struct Damage {
    dir: PathBuf,
    what: OnceLock<String>,
}

impl Damage {
    /// What was met first.
    pub(super) fn what(&self) -> Option<&str> {
        self.what.get().map(String::as_str)
    }

    /// Looks at an error on its way to the caller.
    fn see(&self, error: kvd_storage::Error) -> kvd_storage::Error {
        if speaks_of_damage(&error) {
            self.meet(&error.to_string());
        }
        error
    }

    /// Notes damage, if it is the first that was met.
    fn meet(&self, what: &str) {
        self.what.get_or_init(|| {
            if let Err(io) = self.note(what) {
                tracing::error!(dir = %self.dir.display(), error = %io, "the engine's damage can't be noted");
            }
            what.to_owned()
        });
    }

    fn note(&self, what: &str) -> io::Result<()> {
        let mut note = fs::File::create(self.dir.join(NOTE))?;
        note.write_all(what.as_bytes())?;
        note.sync_all()?;
        fs::File::open(&self.dir)?.sync_all()
    }
}

/// Whether an error comes from bytes that are not what was written, or that the device can't read.
fn speaks_of_damage(error: &kvd_storage::Error) -> bool {
    let (kvd_storage::Error::Engine { source, .. } | kvd_storage::Error::Fatal { source, .. }) = error else {
        return false;
    };
    matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn is_of_a_full_disk(error: &kvd_storage::Error) -> bool {
    let (kvd_storage::Error::Engine { source, .. } | kvd_storage::Error::Fatal { source, .. }) = error else {
        return false;
    };
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Opens the engine. One that is damaged holds nothing that log and checkpoints don't: it is put aside.
pub(super) fn open(
    given: Option<Arc<dyn Engine>>,
    config: &config::Config,
    dir: &Path,
) -> Result<(Arc<dyn Engine>, Arc<Damage>)> {
    let damage = Arc::new(Damage { dir: dir.to_owned(), what: OnceLock::new() });
    if let Some(engine) = given {
        return Ok((engine, damage));
    }
    let kind = config.storage.engine;
    if kind == config::Engine::Memory {
        return Ok((Arc::new(MemoryEngine::new()), damage));
    }
    owner::claim(dir, kind)?;
    let opened = match fs::read_to_string(dir.join(NOTE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match open_on_disk(config, dir) {
            Err(error) if is_of_a_full_disk(&error) => return Err(refuse(error)),
            opened => opened.map_err(|error| error.to_string()),
        },
        Ok(what) => Err(format!("its damage was met before: {what}")),
        Err(error) => Err(error.to_string()),
    };
    let engine = match opened {
        Ok(engine) => engine,
        Err(why) => {
            put_aside(dir, &why)?;
            owner::claim(dir, kind)?;
            open_on_disk(config, dir).map_err(refuse)?
        }
    };
    let calls = Calls::new();
    let met = Arc::clone(&damage);
    calls.watch(move |what| end_process(&met, what)).map_err(|error| Error::internal(error.to_string()))?;
    Ok((Arc::new(WatchedEngine { engine, damage: Arc::clone(&damage), calls }), damage))
}

/// Opens the engine of the settings.
fn open_on_disk(config: &config::Config, dir: &Path) -> kvd_storage::Result<Arc<dyn Engine>> {
    let cache_bytes = config.storage.cache_bytes;
    Ok(match config.storage.engine {
        config::Engine::Sled => {
            let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
            Arc::new(SledEngine::open(dir, SledOptions { cache_bytes, ..SledOptions::default() })?)
        }
        config::Engine::Fjall => Arc::new(FjallEngine::open(dir, FjallOptions { cache_bytes })?),
        config::Engine::Memory => Arc::new(MemoryEngine::new()),
    })
}

/// Notes the damage behind a call that does not come back, and ends the process, for nothing else ends the call.
#[expect(clippy::exit, reason = "no error can be returned from a call that does not return")]
fn end_process(damage: &Damage, what: &str) {
    damage.meet(what);
    tracing::error!(
        dir = %damage.dir.display(),
        what,
        "the engine's files are damaged, and the node ends at once. Start it again: it rebuilds them from its checkpoints and log"
    );
    std::process::exit(EXIT_CODE);
}

fn put_aside(dir: &Path, why: &str) -> Result<()> {
    let aside = dir.with_extension("damaged");
    tracing::error!(dir = %dir.display(), aside = %aside.display(), why, "the engine can't be opened; it is put aside and rebuilt");
    let put_aside = || -> io::Result<()> {
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::rename(dir, &aside)
    };
    put_aside()
        .map_err(|io| Error::corruption(format!("{why}; and {} can't be put aside: {io}", dir.display())))
}

/// An engine whose errors are looked at.
#[derive(Debug)]
struct WatchedEngine {
    engine: Arc<dyn Engine>,
    damage: Arc<Damage>,
    calls: Arc<Calls>,
}

impl Engine for WatchedEngine {
    fn tree(&self, name: &str) -> kvd_storage::Result<Arc<dyn Tree>> {
        let tree = self.engine.tree(name).map_err(|error| self.damage.see(error))?;
        let (damage, calls) = (Arc::clone(&self.damage), Arc::clone(&self.calls));
        Ok(Arc::new(WatchedTree { tree, damage, calls }))
    }

    fn tree_names(&self) -> kvd_storage::Result<Vec<String>> {
        self.engine.tree_names().map_err(|error| self.damage.see(error))
    }

    fn flush(&self) -> kvd_storage::Result<()> {
        self.engine.flush().map_err(|error| self.damage.see(error))
    }
}

/// A tree of such an engine.
#[derive(Debug)]
struct WatchedTree {
    tree: Arc<dyn Tree>,
    damage: Arc<Damage>,
    calls: Arc<Calls>,
}

impl WatchedTree {
    fn watched<'a>(&'a self, mut rows: Rows<'a>) -> Rows<'a> {
        let next = move || {
            let _call = self.calls.begin();
            rows.next()
        };
        Box::new(std::iter::from_fn(next).map(|row| row.map_err(|error| self.damage.see(error))))
    }
}

impl Tree for WatchedTree {
    fn get(&self, key: &[u8]) -> kvd_storage::Result<Option<Bytes>> {
        let _call = self.calls.begin();
        self.tree.get(key).map_err(|error| self.damage.see(error))
    }

    fn apply(&self, batch: Batch) -> kvd_storage::Result<()> {
        let _call = self.calls.begin();
        self.tree.apply(batch).map_err(|error| self.damage.see(error))
    }

    fn scan<'a>(&'a self, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> Rows<'a> {
        self.watched(self.tree.scan(start, end, direction))
    }

    fn snapshot(&self) -> Option<Rows<'_>> {
        Some(self.watched(self.tree.snapshot()?))
    }

    fn reads_wait(&self) -> bool {
        self.tree.reads_wait()
    }

    fn clear(&self) -> kvd_storage::Result<()> {
        self.tree.clear().map_err(|error| self.damage.see(error))
    }
}

#[cfg(test)]
mod tests {
    use kvd_storage::Error as Failure;

    use super::*;

    /// An engine that fails with errors of this kind.
    #[derive(Debug)]
    struct Failing(io::ErrorKind);

    impl Failing {
        fn error(&self) -> Failure {
            Failure::Engine { context: "read a row", source: self.0.into() }
        }
    }

    impl Engine for Failing {
        fn tree(&self, _name: &str) -> kvd_storage::Result<Arc<dyn Tree>> {
            Ok(Arc::new(Self(self.0)))
        }

        fn tree_names(&self) -> kvd_storage::Result<Vec<String>> {
            Err(self.error())
        }

        fn flush(&self) -> kvd_storage::Result<()> {
            Err(Failure::Fatal { context: "flush", path: PathBuf::new(), source: self.0.into() })
        }
    }

    impl Tree for Failing {
        fn get(&self, _key: &[u8]) -> kvd_storage::Result<Option<Bytes>> {
            Err(self.error())
        }

        fn apply(&self, _batch: Batch) -> kvd_storage::Result<()> {
            Err(self.error())
        }

        fn scan<'a>(&'a self, _start: Bound<&[u8]>, _end: Bound<&[u8]>, _direction: Direction) -> Rows<'a> {
            Box::new(std::iter::once(Err(self.error())))
        }

        fn snapshot(&self) -> Option<Rows<'_>> {
            Some(Box::new(std::iter::once(Err(self.error()))))
        }

        fn reads_wait(&self) -> bool {
            false
        }

        fn clear(&self) -> kvd_storage::Result<()> {
            Err(self.error())
        }
    }

    /// Whether a call that fails so is noted, and the note in the directory if there is one.
    fn noted(kind: io::ErrorKind, call: impl FnOnce(&dyn Engine)) -> (bool, Option<String>) {
        let dir = tempfile::tempdir().unwrap();
        let damage = Arc::new(Damage { dir: dir.path().to_owned(), what: OnceLock::new() });
        let engine = Arc::new(Failing(kind));
        call(&WatchedEngine { engine, damage: Arc::clone(&damage), calls: Calls::new() });
        (damage.what().is_some(), fs::read_to_string(dir.path().join(NOTE)).ok())
    }

    #[test]
    fn damage_is_noted_wherever_it_is_met() {
        let calls: [fn(&dyn Engine); 6] = [
            |engine| assert!(engine.tree_names().is_err()),
            |engine| assert!(engine.flush().is_err()),
            |engine| assert!(engine.tree("t").unwrap().get(b"k").is_err()),
            |engine| assert!(engine.tree("t").unwrap().apply(Batch::default()).is_err()),
            |engine| {
                let tree = engine.tree("t").unwrap();
                assert!(
                    tree.scan(Bound::Unbounded, Bound::Unbounded, Direction::Ascending)
                        .any(|row| row.is_err())
                );
            },
            |engine| assert!(engine.tree("t").unwrap().clear().is_err()),
        ];
        for call in calls {
            let (met, note) = noted(io::ErrorKind::InvalidData, call);
            assert!(met && note.is_some_and(|note| note.contains("can't ")), "it is noted");
            assert_eq!(noted(io::ErrorKind::StorageFull, call), (false, None), "a full disk is no damage");
        }
    }

    /// An engine on disk with a row, and whether it has one already.
    fn with_a_row(kind: config::Engine, state: &Path) -> (Arc<dyn Engine>, Arc<Damage>, bool) {
        let mut config = config::Config::default();
        config.storage.engine = kind;
        let (engine, damage) = open(None, &config, state).unwrap();
        let tree = engine.tree("t").unwrap();
        let had_one = tree.get(b"k").unwrap().is_some();
        let mut batch = Batch::default();
        batch.put("k".into(), "v".into());
        tree.apply(batch).unwrap();
        engine.flush().unwrap();
        (engine, damage, had_one)
    }

    #[test]
    fn an_engine_with_a_note_is_put_aside() {
        for kind in [config::Engine::Sled, config::Engine::Fjall] {
            let dir = tempfile::tempdir().unwrap();
            let state = dir.path().join("state");
            let (_, damage, _) = with_a_row(kind, &state);
            damage.note("it was seen").unwrap();

            let (_, damage, had_one) = with_a_row(kind, &state);
            assert!(!had_one, "all rows are rebuilt");
            assert!(damage.what().is_none() && dir.path().join("state.damaged").join(NOTE).exists());
            assert!(with_a_row(kind, &state).2 && !state.join(NOTE).exists());
        }
    }

    #[test]
    fn what_an_engine_says_of_itself_is_passed_on() {
        for (kind, is_larger_than_memory) in [(config::Engine::Sled, false), (config::Engine::Fjall, true)] {
            let dir = tempfile::tempdir().unwrap();
            let (engine, _, _) = with_a_row(kind, &dir.path().join("state"));
            let tree = engine.tree("t").unwrap();
            assert_eq!(tree.reads_wait(), is_larger_than_memory);
        }
    }

    #[test]
    fn another_engine_starts_with_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        for kind in [config::Engine::Sled, config::Engine::Fjall, config::Engine::Sled] {
            assert!(!with_a_row(kind, &state).2, "{kind:?}");
            assert!(with_a_row(kind, &state).2, "{kind:?}");
        }
        // As a version left it that knew of no other engine, and whose rows were of another format.
        for kind in [config::Engine::Sled, config::Engine::Fjall] {
            fs::remove_file(state.join("ENGINE")).unwrap();
            assert!(!with_a_row(kind, &state).2, "{kind:?}");
        }
        // As a crash left it that came between: there is still something to remove.
        fs::create_dir(dir.path().join("state.replaced")).unwrap();
        assert!(with_a_row(config::Engine::Fjall, &state).2);
        assert!(!dir.path().join("state.replaced").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
