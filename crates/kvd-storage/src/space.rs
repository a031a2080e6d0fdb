//! Whether there is room on the disk, and a little that is kept for when there is none.
//!
//! # The problem
//! A full disk must not cost more than what grows: reads, deletes and changes of members go on, and a node starts on it.
//! But even a start replaces a small file, and an engine that is flushed with no room left fails for good.
//!
//! # The approach
//! [`Space::look`], asked now and then, compares what the file system has left with two marks. Below the lower one room is
//! *low*, and whoever proposes refuses what grows; above the upper one it is *enough* again; between the two it stays what
//! it was, so that it doesn't flap. A *ballast* file of a few megabytes lies in the data directory. When next to nothing
//! is left, it is removed, and those few megabytes see the node through a start. Once there is room, it is made again.
//!
//! The log has a reserve of its own, in whole segments: see [`crate::log::Options::reserve_segments`].
//!
//! # What is deliberately absent
//! No thread and no clock: the caller decides when to look. No quota: other processes may fill the disk at any time, and
//! all that this does is to stop early.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    disk::Disk,
    error::{Error, Result},
    files,
};

/// The ballast's name in the data directory.
const FILE: &str = "BALLAST";
/// Written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// How much room is how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceOptions {
    /// Below so many bytes room is low.
    pub low_bytes: u64,
    /// From so many bytes on there is enough again.
    pub enough_bytes: u64,
    /// Size of the ballast, in bytes.
    pub ballast_bytes: u64,
}

impl Default for SpaceOptions {
    fn default() -> Self {
        Self { low_bytes: 64 << 20, enough_bytes: 96 << 20, ballast_bytes: 4 << 20 }
    }
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Enough for anything.
    Enough,
    /// Refuse what grows.
    Low,
    /// Not even enough for the ballast: postpone what can wait, the flush of an engine say.
    None,
}

/// The room on a data directory's disk.
#[derive(Debug)]
pub struct Space {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: SpaceOptions,
    low: AtomicBool,
    exhausted: AtomicBool,
    /// Held while the ballast is made or removed.
    ballast: Mutex<()>,
}

impl Space {
    /// The room in a data directory, which exists.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, data_dir: &Path, options: SpaceOptions) -> Self {
        let dir = data_dir.to_owned();
        let (low, exhausted) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { disk, dir, options, low, exhausted, ballast: Mutex::new(()) }
    }

    /// How much room there was when it was last looked at; enough if it never was.
    #[must_use]
    pub fn room(&self) -> Room {
        match (self.exhausted.load(Ordering::Relaxed), self.low.load(Ordering::Relaxed)) {
            (true, _) => Room::None,
            (false, true) => Room::Low,
            (false, false) => Room::Enough,
        }
    }

    /// Looks how much room there is, and makes the ballast if it is missing and there is enough. Asks the file system, and
    /// may write the ballast: blocks.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system doesn't say; then everything stays as it was. A ballast that can't be made is no
    /// error: there is none, until a later look.
    pub fn look(&self) -> Result<Room> {
        let available = self.available()?;
        let low = available < self.options.low_bytes
            || (available < self.options.enough_bytes && self.low.load(Ordering::Relaxed));
        self.low.store(low, Ordering::Relaxed);
        self.exhausted.store(available < self.options.ballast_bytes, Ordering::Relaxed);
        if !low && available >= self.options.enough_bytes.saturating_add(self.options.ballast_bytes) {
            let _one = self.ballast.lock();
            if !self.has_ballast()
                && let Err(error) = self.make_ballast()
            {
                tracing::warn!(%error, dir = %self.dir.display(), "no ballast can be kept for a full disk");
                files::remove_if_present(self.disk.as_ref(), &self.path())?;
            }
        }
        Ok(self.room())
    }

    /// Makes room by removing the ballast if next to none is left. To be called before what must not fail for a few
    /// kilobytes, a start above all. Says whether it did.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn make_room(&self) -> Result<bool> {
        if self.available()? >= self.options.ballast_bytes {
            return Ok(false);
        }
        let _one = self.ballast.lock();
        let path = self.path();
        match self.disk.remove(&path) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), "the disk is full; the ballast is given up for room to start");
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove", &path)(error)),
        }
    }

    /// Looks whether so many bytes more would leave at least what the ballast takes. Asks the file system: blocks.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system doesn't say.
    pub fn has_room_for(&self, bytes: u64) -> Result<bool> {
        Ok(self.available()? >= bytes.saturating_add(self.options.ballast_bytes))
    }

    fn available(&self) -> Result<u64> {
        self.disk.available_bytes(&self.dir).map_err(Error::io("read the free space of", &self.dir))
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    fn has_ballast(&self) -> bool {
        let size = self.disk.open(&self.path()).and_then(|file| file.size_bytes());
        size.is_ok_and(|bytes| bytes >= self.options.ballast_bytes)
    }

    fn make_ballast(&self) -> Result<()> {
        let path = self.path();
        files::remove_if_present(self.disk.as_ref(), &path)?;
        let file = self.disk.create(&path).map_err(Error::io("create", &path))?;
        let zeros = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        while offset < self.options.ballast_bytes {
            let left = usize::try_from(self.options.ballast_bytes - offset).unwrap_or(CHUNK_BYTES);
            let chunk = zeros.get(..left).unwrap_or(&zeros);
            file.write_all_at(chunk, offset).map_err(Error::io("write", &path))?;
            offset += chunk.len() as u64;
        }
        // Not that it had to survive anything: but blocks that are not allocated yet are no ballast.
        file.sync_data().map_err(Error::io("sync", &path))
    }
}

#[cfg(test)]
mod tests;
