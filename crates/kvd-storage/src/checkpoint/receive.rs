//! Receiving a checkpoint from a peer, piece by piece.
//!
//! Nothing that arrives is believed before [`Receiver::finish`] has verified all of it. What has arrived is kept while the
//! process lives, so that a broken connection costs only the pieces in flight; a restart begins anew.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Checkpoint, CheckpointStore};
use crate::{
    disk::File,
    error::{Error, Result},
};

/// A checkpoint that is being received. Dropping it keeps what has arrived: see [`CheckpointStore::receive`].
#[derive(Debug)]
pub struct Receiver {
    store: CheckpointStore,
    incoming: Arc<Mutex<Incoming>>,
}

#[derive(Debug)]
pub(super) struct Incoming {
    id: String,
    size_bytes: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    next_offset: u64,
    /// Whether it is being published or has been superseded: nothing is taken any more.
    closed: bool,
}

impl Incoming {
    pub(super) fn new(id: &str, size_bytes: u64, path: PathBuf, file: Arc<dyn File>) -> Self {
        Self { id: id.to_owned(), size_bytes, path, file, next_offset: 0, closed: false }
    }

    pub(super) fn is_of(&self, id: &str, size_bytes: u64) -> bool {
        self.id == id && self.size_bytes == size_bytes && !self.closed
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn close(&mut self) {
        self.closed = true;
    }

    fn check_open(&self) -> Result<()> {
        if self.closed {
            return Err(Error::Misuse(
                "another checkpoint is being received by now, or this one is finished".to_owned(),
            ));
        }
        Ok(())
    }
}

impl Receiver {
    pub(super) const fn new(store: CheckpointStore, incoming: Arc<Mutex<Incoming>>) -> Self {
        Self { store, incoming }
    }

    /// Where the next piece begins, in bytes.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.incoming.lock().next_offset
    }

    /// Takes a piece. One that came before is taken again and what followed it is forgotten, so a sender may go back, to
    /// the beginning too.
    ///
    /// # Errors
    /// [`Error::Misuse`] if another receiver has taken this one's place, or if the piece would leave a gap or is beyond the size: go on at [`Receiver::next_offset`].
    /// [`Error::Io`], such as a full disk.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut incoming = self.incoming.lock();
        incoming.check_open()?;
        let next_offset = incoming.next_offset;
        if offset > next_offset {
            return Err(Error::Misuse(format!(
                "a piece from {offset} would leave a gap after {next_offset}"
            )));
        }
        let end = u64::try_from(bytes.len()).ok().and_then(|length| offset.checked_add(length));
        let Some(end) = end.filter(|end| *end <= incoming.size_bytes) else {
            let size_bytes = incoming.size_bytes;
            return Err(Error::Misuse(format!(
                "a piece from {offset} reaches beyond the {size_bytes} announced"
            )));
        };
        // Should the write fail in part, what is behind the offset is as good as nothing.
        incoming.next_offset = offset;
        incoming.file.write_all_at(bytes, offset).map_err(Error::io("write", &incoming.path))?;
        incoming.next_offset = end;
        Ok(())
    }

    /// Verifies all of it and publishes it, as [`super::CheckpointWriter::finish`] does.
    ///
    /// # Errors
    /// [`Error::Misuse`] if it is not complete: go on. [`Error::Corruption`], [`Error::NewerFormat`]: what had arrived is
    /// forgotten, receive it anew. [`Error::Fatal`], [`Error::Io`].
    pub fn finish(self) -> Result<Checkpoint> {
        let (file, path) = {
            let mut incoming = self.incoming.lock();
            incoming.check_open()?;
            if incoming.next_offset != incoming.size_bytes {
                let Incoming { next_offset, size_bytes, .. } = &*incoming;
                return Err(Error::Misuse(format!("only {next_offset} of {size_bytes} bytes have arrived")));
            }
            incoming.close();
            (Arc::clone(&incoming.file), incoming.path.clone())
        };
        self.store.forget_incoming(&self.incoming);
        let published = self.store.publish(file, &path);
        if published.is_err() {
            self.store.discard(&path);
        }
        published
    }
}
