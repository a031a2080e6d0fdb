//! Writing a checkpoint.

use std::{path::PathBuf, sync::Arc};

use bytes::BufMut;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Checkpoint, CheckpointStore, Manifest,
    format::{
        BLOCK_RAW_TARGET, Footer, ROW_BYTES_MAX, ROW_HEAD_BYTES, encode_block, encode_footer, encode_header,
        length_u32,
    },
};
use crate::{
    disk::File,
    error::{Error, Result},
    files,
};

/// So many bytes are written before they are synced: all at once at the end would keep the log's syncs waiting for seconds.
const SYNC_BYTES: u64 = 16 << 20;

/// A checkpoint in the making. Dropped unfinished, it leaves nothing.
pub struct CheckpointWriter {
    store: CheckpointStore,
    /// `None` once the store has it.
    file: Option<Arc<dyn File>>,
    temporary: PathBuf,
    offset: u64,
    synced: u64,
    digest: Xxh3,
    totals: Footer,
    block: Vec<u8>,
    block_rows: u32,
    last_key: Option<Vec<u8>>,
}

impl std::fmt::Debug for CheckpointWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointWriter").field("temporary", &self.temporary).finish_non_exhaustive()
    }
}

impl CheckpointWriter {
    pub(super) fn new(store: CheckpointStore, manifest: &Manifest) -> Result<Self> {
        let header = encode_header(manifest)?;
        let (temporary, file) = store.create_temporary()?;
        let mut writer = Self {
            store,
            file: Some(file),
            temporary,
            offset: 0,
            synced: 0,
            digest: Xxh3::new(),
            totals: Footer::default(),
            block: Vec::with_capacity(BLOCK_RAW_TARGET),
            block_rows: 0,
            last_key: None,
        };
        writer.write(&header)?;
        Ok(writer)
    }

    /// Adds a row. Keys ascend strictly.
    ///
    /// # Errors
    /// [`Error::Misuse`] if they don't, or if the row is longer than [`ROW_BYTES_MAX`]; [`Error::Io`], such as a full
    /// disk; [`Error::Fatal`] if a sync fails. After one, drop the writer.
    pub fn append(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let row_bytes = ROW_HEAD_BYTES.saturating_add(key.len()).saturating_add(value.len());
        if row_bytes > ROW_BYTES_MAX {
            let message = format!("a row of {row_bytes} bytes is beyond the {ROW_BYTES_MAX} of a checkpoint");
            return Err(Error::Misuse(message));
        }
        match &mut self.last_key {
            Some(last) if last.as_slice() >= key => {
                return Err(Error::Misuse("the rows of a checkpoint must ascend".to_owned()));
            }
            Some(last) => {
                last.clear();
                last.extend_from_slice(key);
            }
            None => self.last_key = Some(key.to_vec()),
        }
        if self.block.len() + row_bytes > BLOCK_RAW_TARGET {
            self.flush_block()?;
        }
        self.block.put_u32_le(length_u32(key.len())?);
        self.block.put_u32_le(length_u32(value.len())?);
        self.block.put_slice(key);
        self.block.put_slice(value);
        self.block_rows += 1;
        Ok(())
    }

    /// How many bytes have been written, for whoever paces the writing.
    #[must_use]
    pub const fn written_bytes(&self) -> u64 {
        self.offset
    }

    /// Publishes the checkpoint: syncs it, reads it back with all checks, gives it its name, durably, and removes those
    /// that it makes superfluous.
    ///
    /// # Errors
    /// [`Error::Fatal`] if a sync fails; [`Error::Corruption`] if what is read back is not what was written;
    /// [`Error::Io`]. After one that isn't fatal, nothing was published.
    pub fn finish(mut self) -> Result<Checkpoint> {
        self.flush_block()?;
        self.totals.digest = self.digest.digest();
        self.write(&encode_footer(self.totals))?;
        let Some(file) = self.file.take() else {
            return Err(Error::Misuse("the checkpoint is finished already".to_owned()));
        };
        let published = self.store.publish(file, &self.temporary);
        if published.is_err() {
            self.store.discard(&self.temporary);
        }
        published
    }

    fn flush_block(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = encode_block(self.totals.blocks, self.block_rows, &self.block)?;
        self.write(&block)?;
        self.totals.blocks += 1;
        self.totals.rows += u64::from(self.block_rows);
        self.totals.raw_bytes += u64::from(length_u32(self.block.len())?);
        self.block.clear();
        self.block_rows = 0;
        self.sync_now_and_then()
    }

    fn sync_now_and_then(&mut self) -> Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| self.offset - self.synced >= SYNC_BYTES) {
            files::sync_data(file.as_ref(), &self.temporary)?;
            self.synced = self.offset;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(file) = &self.file {
            fail::fail_point!(crate::failpoints::CHECKPOINT_BEFORE_WRITE);
            file.write_all_at(bytes, self.offset).map_err(Error::io("write", &self.temporary))?;
        }
        self.digest.update(bytes);
        self.offset += u64::from(length_u32(bytes.len())?);
        Ok(())
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            self.store.discard(&self.temporary);
        }
    }
}
