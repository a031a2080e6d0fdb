//! The seam between kvd and the file system.
//!
//! Everything whose crash behaviour kvd itself answers for (log, checkpoints, identity) goes through [`Disk`] and
//! [`File`]. Production passes [`RealDisk`]; tests pass a disk that forgets what was not synced, tears writes, and
//! fails on demand. The traits promise what POSIX promises and no more:
//!
//! - what was written but not [`File::sync_data`]ed may be lost, in part and in any order, at a power cut;
//! - a created, renamed or removed name may be lost until [`Disk::sync_dir`] of its directory;
//! - after a failed sync nothing is known of what reached the disk: never retry it and go on.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

mod real;
mod sim;

pub use real::RealDisk;
pub use sim::{Crash, Fault, Operation, SimDisk, chance};

/// A file system.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory and those above it, as far as they are missing.
    ///
    /// # Errors
    /// What the file system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes a file that must not exist, for reading and writing.
    ///
    /// # Errors
    /// What the file system says; `AlreadyExists` if there is one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Opens a file that must exist, for reading and writing.
    ///
    /// # Errors
    /// What the file system says; `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// What the file system says; `NotFound` if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Gives a file another name, replacing what had it.
    ///
    /// # Errors
    /// What the file system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the file system says; `NotFound` if there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// What the file system says.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the file system says. After one, nothing is known of what is durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// How many bytes the file system that a directory is on can still take from this process.
    ///
    /// # Errors
    /// What the file system says.
    fn available_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait File: fmt::Debug + Send + Sync {
    /// Fills the buffer from an offset, or fails.
    ///
    /// # Errors
    /// What the file system says; `UnexpectedEof` if the file ends before the buffer is full.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of the buffer at an offset.
    ///
    /// # Errors
    /// What the file system says; a part may have been written.
    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the file's content and length durable.
    ///
    /// # Errors
    /// What the file system says. After one, nothing is known of what is durable: stop, don't retry.
    fn sync_data(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// What the file system says.
    fn size_bytes(&self) -> io::Result<u64>;

    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// What the file system says.
    fn set_len(&self, length: u64) -> io::Result<()>;
}
