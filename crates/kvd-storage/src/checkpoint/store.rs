//! The directory of one replica's checkpoints.
//!
//! Names are `index-term.checkpoint`, both with twenty digits, so that their order is the order of what they hold.
//! Temporary names end in `.tmp` (being written) or `.part` (being received).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Checkpoint, CheckpointWriter, Manifest, Receiver, receive::Incoming};
use crate::{
    disk::{Disk, File},
    error::{Error, Result},
    files,
};

/// Checkpoints that are kept: the newest, and the one before should the newest prove damaged.
const KEPT: usize = 2;
const SUFFIX: &str = ".checkpoint";
const TEMPORARY_SUFFIXES: [&str; 2] = [".tmp", ".part"];

/// The checkpoints of one replica. Clones are handles of the same store.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Numbers temporary names.
    next_temporary: AtomicU64,
    /// Held while names change.
    known: Mutex<Known>,
    incoming: Mutex<Option<Arc<Mutex<Incoming>>>>,
}

/// What has been found out about files.
#[derive(Debug, Default)]
struct Known {
    verified: BTreeMap<PathBuf, Checkpoint>,
    /// With the reason.
    damaged: BTreeMap<PathBuf, String>,
}

impl CheckpointStore {
    /// Opens the directory, making it if there is none, and removes what a crash left under temporary names. The names
    /// that are there are durable when this returns: a process that was killed may not have come to that, and the log
    /// is purged on the strength of what is seen here. One store at a time may be open on a directory.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Fatal`].
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self> {
        files::create_dir(disk.as_ref(), dir)?;
        for path in disk.list(dir).map_err(Error::io("list", dir))? {
            let name = path.to_string_lossy();
            if TEMPORARY_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
                files::remove_if_present(disk.as_ref(), &path)?;
            }
        }
        files::sync_dir(disk.as_ref(), dir)?;
        let shared = Shared {
            disk,
            dir: dir.to_owned(),
            next_temporary: AtomicU64::new(0),
            known: Mutex::default(),
            incoming: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts a checkpoint.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the state header is too long; [`Error::Io`].
    pub fn writer(&self, manifest: &Manifest) -> Result<CheckpointWriter> {
        CheckpointWriter::new(self.clone(), manifest)
    }

    /// Receives a checkpoint of `size_bytes` from a peer. Asked again with the same `id` (any text that names the sender's
    /// checkpoint) and size, it goes on where the last receiver stopped; with another, what had arrived is forgotten.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn receive(&self, id: &str, size_bytes: u64) -> Result<Receiver> {
        let mut current = self.shared.incoming.lock();
        if let Some(incoming) = current.as_ref().filter(|incoming| incoming.lock().is_of(id, size_bytes)) {
            return Ok(Receiver::new(self.clone(), Arc::clone(incoming)));
        }
        if let Some(superseded) = current.take() {
            let mut superseded = superseded.lock();
            superseded.close();
            self.discard(superseded.path());
        }
        let (path, file) = self.create(".part")?;
        let incoming = Arc::new(Mutex::new(Incoming::new(id, size_bytes, path, file)));
        *current = Some(Arc::clone(&incoming));
        Ok(Receiver::new(self.clone(), incoming))
    }

    /// Bytes of the newest checkpoint that this store has written, received or read through; zero: there is none.
    #[must_use]
    pub fn newest_bytes(&self) -> u64 {
        let known = self.shared.known.lock();
        known.verified.last_key_value().map_or(0, |(_, newest)| newest.size_bytes())
    }

    /// The newest checkpoint that is as it was written. Reads it through, unless this store has done so before. A damaged
    /// one is logged, remembered for [`CheckpointStore::damaged`], and passed over.
    ///
    /// # Errors
    /// [`Error::NewerFormat`]: a newer version of kvd wrote it, and an older one may not suffice for the log that is left.
    /// [`Error::Io`] if the directory can't be read.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        let mut known = self.shared.known.lock();
        for path in self.paths_newest_first()? {
            if let Some(checkpoint) = known.verified.get(&path) {
                return Ok(Some(checkpoint.clone()));
            }
            match self.open_named(&path).and_then(|checkpoint| checkpoint.verify().map(|()| checkpoint)) {
                Ok(checkpoint) => {
                    known.verified.insert(path, checkpoint.clone());
                    return Ok(Some(checkpoint));
                }
                Err(error) if error.is_corruption() => known.note_damage(path, &error),
                // A newer format, or a file that can't be read just now: neither is damage.
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// All checkpoints, newest first, their headers and footers checked but not what is between. Damaged ones are logged,
    /// remembered and left out.
    ///
    /// # Errors
    /// As [`CheckpointStore::latest`].
    pub fn list(&self) -> Result<Vec<Checkpoint>> {
        let mut known = self.shared.known.lock();
        let mut checkpoints = Vec::new();
        for path in self.paths_newest_first()? {
            match self.open_named(&path) {
                Ok(checkpoint) => checkpoints.push(checkpoint),
                Err(error) if error.is_corruption() => known.note_damage(path, &error),
                // A newer format, or a file that can't be read just now: neither is damage.
                Err(error) => return Err(error),
            }
        }
        Ok(checkpoints)
    }

    /// The files found damaged so far, with the reasons.
    #[must_use]
    pub fn damaged(&self) -> Vec<(PathBuf, String)> {
        let known = self.shared.known.lock();
        known.damaged.iter().map(|(path, reason)| (path.clone(), reason.clone())).collect()
    }

    /// Removes all checkpoints and the directory, of a retired replica.
    ///
    /// # Errors
    /// [`Error::Io`], such as when something of others lies in the directory; [`Error::Fatal`].
    pub fn destroy(self) -> Result<()> {
        let Shared { disk, dir, .. } = self.shared.as_ref();
        for path in disk.list(dir).map_err(Error::io("list", dir))? {
            files::remove_if_present(disk.as_ref(), &path)?;
        }
        disk.remove_dir(dir).map_err(Error::io("remove the directory", dir))?;
        dir.parent().map_or(Ok(()), |parent| files::sync_dir(disk.as_ref(), parent))
    }

    pub(super) fn create_temporary(&self) -> Result<(PathBuf, Arc<dyn File>)> {
        self.create(".tmp")
    }

    fn create(&self, suffix: &str) -> Result<(PathBuf, Arc<dyn File>)> {
        let number = self.shared.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.shared.dir.join(format!("{number}{suffix}"));
        let file = self.shared.disk.create(&path).map_err(Error::io("create", &path))?;
        Ok((path, Arc::from(file)))
    }

    /// Removes a temporary file, as far as that goes: what is left, the next open removes.
    pub(super) fn discard(&self, temporary: &Path) {
        if let Err(error) = files::remove_if_present(self.shared.disk.as_ref(), temporary) {
            tracing::warn!(%error, "a temporary file stays behind");
        }
    }

    /// Forgets the checkpoint that is being received, if it is this one.
    pub(super) fn forget_incoming(&self, incoming: &Arc<Mutex<Incoming>>) {
        let mut current = self.shared.incoming.lock();
        current.take_if(|current| Arc::ptr_eq(current, incoming));
    }

    /// Gives a completely written file its name: see the invariants in [`super`].
    pub(super) fn publish(&self, file: Arc<dyn File>, temporary: &Path) -> Result<Checkpoint> {
        let Shared { disk, dir, .. } = self.shared.as_ref();
        fail::fail_point!(crate::failpoints::CHECKPOINT_BEFORE_SYNC);
        files::sync_data(file.as_ref(), temporary)?;
        let mut checkpoint = Checkpoint::from_file(file, temporary)?;
        checkpoint.verify()?;
        let path = dir.join(file_name(&checkpoint.manifest));
        let mut known = self.shared.known.lock();
        fail::fail_point!(crate::failpoints::CHECKPOINT_BEFORE_RENAME);
        disk.rename(temporary, &path).map_err(Error::io("rename a checkpoint to", &path))?;
        fail::fail_point!(crate::failpoints::CHECKPOINT_AFTER_RENAME);
        files::sync_dir(disk.as_ref(), dir)?;
        fail::fail_point!(crate::failpoints::CHECKPOINT_AFTER_DIR_SYNC);
        checkpoint.path.clone_from(&path);
        known.damaged.remove(&path);
        known.verified.insert(path.clone(), checkpoint.clone());
        self.prune(&mut known, &path)?;
        Ok(checkpoint)
    }

    /// Removes all but the newest ones that aren't known to be damaged, and the one just published.
    fn prune(&self, known: &mut Known, published: &Path) -> Result<()> {
        let paths = self.paths_newest_first()?;
        let sound = paths.iter().filter(|path| !known.damaged.contains_key(*path));
        let kept = sound.take(KEPT).cloned().collect::<Vec<_>>();
        for path in paths.iter().filter(|path| !kept.contains(path) && path.as_path() != published) {
            known.verified.remove(path);
            known.damaged.remove(path);
            self.discard(path);
        }
        Ok(())
    }

    fn paths_newest_first(&self) -> Result<Vec<PathBuf>> {
        let Shared { disk, dir, .. } = self.shared.as_ref();
        let mut paths = disk.list(dir).map_err(Error::io("list", dir))?;
        paths.retain(|path| path.to_string_lossy().ends_with(SUFFIX));
        paths.sort_unstable_by(|a, b| b.cmp(a));
        Ok(paths)
    }

    fn open_named(&self, path: &Path) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::open(self.shared.disk.as_ref(), path)?;
        let name = file_name(&checkpoint.manifest);
        if path.file_name().is_some_and(|found| found == name.as_str()) {
            return Ok(checkpoint);
        }
        Err(Error::corruption(path.display().to_string(), format!("by its content the file is {name}")))
    }
}

impl Known {
    fn note_damage(&mut self, path: PathBuf, error: &Error) {
        tracing::error!(path = %path.display(), %error, "a checkpoint is damaged and passed over");
        self.damaged.insert(path, error.to_string());
    }
}

fn file_name(manifest: &Manifest) -> String {
    format!("{:020}-{:020}{SUFFIX}", manifest.applied_index.get(), manifest.applied_term.get())
}
