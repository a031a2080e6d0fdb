//! A replica's whole state at one log index, as one checksummed file.
//!
//! # The problem
//! The log can't grow for ever, and the engine is not believed. So before the log is purged up to an index, everything
//! that it did up to there must be in a file that is durable, complete, and known to be so.
//!
//! # The approach
//! One format for three uses: the restart point of this replica, the Raft snapshot for another one, and a backup. A
//! [`CheckpointWriter`] takes ascending rows, cuts them into compressed blocks, and publishes the file by writing it under
//! a temporary name, syncing it, reading it back with all checks, renaming it, and syncing the directory. A peer's
//! checkpoint arrives through a [`Receiver`] and is published by the same steps. A [`CheckpointStore`] is the directory
//! of one replica: it keeps the newest two.
//!
//! # The format, version 1
//! Integers are little-endian. CRC is CRC-32 (IEEE). Nothing may stand before, between or behind these:
//!
//! | header: bytes | content |
//! |---|---|
//! | 8 | `KVDCKPT` and a zero byte |
//! | 4 | version: 1 |
//! | 4 | length of the next five together: 28 up to 28 + 1 MiB |
//! | 4 | group |
//! | 8 | replica that wrote it |
//! | 8 | log index applied last |
//! | 8 | term of that entry |
//! | rest | the state header: whatever the layer above needs beside the rows (log id and membership) |
//! | 4 | CRC of the header up to here |
//!
//! | each block: bytes | content |
//! |---|---|
//! | 4 | 1: a block |
//! | 4 | length of its rows uncompressed: 1 to 64 MiB; beyond 1 MiB only for a single row |
//! | 4 | length of its rows compressed |
//! | 4 | number of rows: at least 1 |
//! | rest | the rows, compressed as an LZ4 block |
//! | 4 | CRC of the block's number in the file (8 bytes, from 0) and of the block up to here |
//!
//! A row is 4 bytes of key length, 4 bytes of value length, the key, the value. Rows ascend strictly by key over the whole
//! file, and none is split over blocks.
//!
//! | footer: bytes | content |
//! |---|---|
//! | 4 | 2: the footer |
//! | 8 | number of blocks |
//! | 8 | number of rows |
//! | 8 | length of all rows uncompressed |
//! | 8 | XXH3-64 of everything before the footer |
//! | 4 | CRC of the footer up to here |
//! | 8 | `KVDCEND` and a zero byte |
//!
//! # Invariants
//! - A flipped bit or a missing byte anywhere is found: by [`Checkpoint::verify`], and by whoever reads
//!   [`Checkpoint::rows`] to the end. Rows before the end may be used only if the end is awaited.
//! - Every length that is read is checked against a bound and against the file before memory is set aside for it.
//! - A file of the final name was durable and verified before it got it. A crash leaves temporary names, which the next
//!   open removes.
//!
//! # What is deliberately absent
//! Where the rows come from and go to ([`crate::table`]), what the state header means, and when to make one: rarely, for
//! the disk is shared with the log.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};

use crate::{
    disk::{Disk, File},
    error::{Error, Result},
};

mod format;
mod receive;
mod rows;
mod store;
mod writer;

#[cfg(test)]
mod tests;

pub use self::{
    format::{FORMAT_VERSION, ROW_BYTES_MAX, STATE_HEADER_BYTES_MAX},
    receive::Receiver,
    rows::CheckpointRows,
    store::CheckpointStore,
    writer::CheckpointWriter,
};

/// Longest piece that [`Checkpoint::read_chunk`] gives, in bytes.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;

/// What a checkpoint is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The group whose state it is.
    pub group: GroupId,
    /// The replica that wrote it; not the one that received it.
    pub replica: ReplicaId,
    /// The log index applied last.
    pub applied_index: LogIndex,
    /// The term of that entry.
    pub applied_term: Term,
    /// What the layer above needs beside the rows, up to [`STATE_HEADER_BYTES_MAX`] bytes. Opaque here.
    pub state_header: Bytes,
}

/// A published checkpoint. It stays readable while this lives, even once newer ones have taken its place.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    file: Arc<dyn File>,
    path: PathBuf,
    manifest: Manifest,
    header_bytes: u64,
    footer: format::Footer,
    size_bytes: u64,
}

impl Checkpoint {
    /// Opens a checkpoint file, checking its header and footer but not what is between: see [`Checkpoint::verify`].
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corruption`] with file and offset; [`Error::NewerFormat`].
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let file = disk.open(path).map_err(Error::io("open", path))?;
        Self::from_file(Arc::from(file), path)
    }

    fn from_file(file: Arc<dyn File>, path: &Path) -> Result<Self> {
        let size_bytes = file.size_bytes().map_err(Error::io("read the size of", path))?;
        let (manifest, header_bytes) = format::read_header(file.as_ref(), path, size_bytes)?;
        let footer = format::read_footer(file.as_ref(), path, header_bytes, size_bytes)?;
        Ok(Self { file, path: path.to_owned(), manifest, header_bytes, footer, size_bytes })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is of.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How many rows it has.
    #[must_use]
    pub const fn row_count(&self) -> u64 {
        self.footer.rows
    }

    /// The length of its rows uncompressed, in bytes.
    #[must_use]
    pub const fn raw_bytes(&self) -> u64 {
        self.footer.raw_bytes
    }

    /// The length of the file, in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The XXH3-64 of everything before the footer.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.footer.digest
    }

    /// The rows, ascending. The last item is an error if anything in the file is not as it was written, so what was read
    /// before counts only once the end has come without one.
    #[must_use]
    pub fn rows(&self) -> CheckpointRows {
        CheckpointRows::new(self)
    }

    /// Reads the whole file and checks everything that can be checked.
    ///
    /// # Errors
    /// [`Error::Corruption`] with file and offset; [`Error::Io`].
    pub fn verify(&self) -> Result<()> {
        self.rows().try_for_each(|row| row.map(drop))
    }

    /// A piece of the file, to be sent to a [`Receiver`]: up to `length` and [`CHUNK_BYTES_MAX`] bytes, fewer at the end
    /// of the file, none behind it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read_chunk(&self, offset: u64, length: usize) -> Result<Bytes> {
        let left = self.size_bytes.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(length).min(CHUNK_BYTES_MAX);
        let mut chunk = vec![0; length];
        self.file.read_exact_at(&mut chunk, offset).map_err(Error::io("read", &self.path))?;
        Ok(Bytes::from(chunk))
    }
}
