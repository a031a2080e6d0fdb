//! Reading the rows of a checkpoint, with every check on the way.

use std::{path::PathBuf, sync::Arc};

use bytes::{Buf, Bytes};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Checkpoint,
    format::{
        BLOCK_HEAD_BYTES, CRC_BYTES, FOOTER_BYTES, Footer, ROW_HEAD_BYTES, block_crc, corrupt,
        decode_block_head, read,
    },
};
use crate::{
    disk::File,
    engine::Row,
    error::{Error, Result},
};

/// The rows of a checkpoint: see [`Checkpoint::rows`]. Nothing comes after an error.
pub struct CheckpointRows {
    file: Arc<dyn File>,
    path: PathBuf,
    expected: Footer,
    /// Where the footer begins.
    footer_offset: u64,
    /// Where the next block begins.
    offset: u64,
    header_bytes: u64,
    digest: Xxh3,
    seen: Footer,
    /// What is left of the current block, and where that began.
    block: Bytes,
    block_rows: u32,
    block_offset: u64,
    last_key: Option<Bytes>,
    ended: bool,
}

impl std::fmt::Debug for CheckpointRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointRows").field("path", &self.path).field("offset", &self.offset).finish()
    }
}

impl CheckpointRows {
    pub(super) fn new(checkpoint: &Checkpoint) -> Self {
        let footer_bytes = u64::try_from(FOOTER_BYTES).unwrap_or(u64::MAX);
        Self {
            file: Arc::clone(&checkpoint.file),
            path: checkpoint.path.clone(),
            expected: checkpoint.footer,
            footer_offset: checkpoint.size_bytes.saturating_sub(footer_bytes),
            offset: 0,
            header_bytes: checkpoint.header_bytes,
            digest: Xxh3::new(),
            seen: Footer::default(),
            block: Bytes::new(),
            block_rows: 0,
            block_offset: 0,
            last_key: None,
            ended: false,
        }
    }

    fn corrupt(&self, offset: u64, what: impl Into<String>) -> Error {
        corrupt(&self.path, offset, what)
    }

    /// Reads bytes before the footer and moves behind them. What is too long for the file is never set aside.
    fn take(&mut self, length: usize) -> Result<Bytes> {
        let end = u64::try_from(length).ok().and_then(|length| self.offset.checked_add(length));
        let Some(end) = end.filter(|end| *end <= self.footer_offset) else {
            return Err(self.corrupt(self.offset, format!("{length} bytes from here reach into the footer")));
        };
        let bytes = read(self.file.as_ref(), &self.path, self.offset, length)?;
        self.digest.update(&bytes);
        self.offset = end;
        Ok(bytes)
    }

    /// Makes the next block the current one. False: there is none, and the file is as it was written.
    fn next_block(&mut self) -> Result<bool> {
        if self.offset == 0 {
            // The header was checked when the file was opened; it still belongs to the digest.
            let header_bytes = usize::try_from(self.header_bytes).unwrap_or(usize::MAX);
            self.take(header_bytes)?;
        }
        if self.offset == self.footer_offset {
            return self.check_footer().map(|()| false);
        }
        let offset = self.offset;
        let head_bytes = self.take(BLOCK_HEAD_BYTES)?;
        let head = decode_block_head(&head_bytes).map_err(|what| self.corrupt(offset, what))?;
        let mut stored = self.take(head.stored_bytes + CRC_BYTES)?;
        let mut crc = stored.split_off(head.stored_bytes);
        let checked = [head_bytes, stored.clone()].concat();
        if block_crc(self.seen.blocks, &checked) != crc.get_u32_le() {
            return Err(self.corrupt(offset, "the block fails its checksum"));
        }
        let mut raw = vec![0; head.raw_bytes];
        match lz4_flex::block::decompress_into(&stored, &mut raw) {
            Ok(length) if length == head.raw_bytes => {}
            _ => return Err(self.corrupt(offset, "the block does not decompress to its length")),
        }
        self.block = Bytes::from(raw);
        self.block_rows = head.rows;
        self.block_offset = offset;
        self.seen.blocks += 1;
        self.seen.rows += u64::from(head.rows);
        self.seen.raw_bytes += u64::try_from(head.raw_bytes).unwrap_or(u64::MAX);
        Ok(true)
    }

    fn check_footer(&mut self) -> Result<()> {
        self.seen.digest = self.digest.digest();
        if self.seen == self.expected {
            return Ok(());
        }
        let what = format!("the file should be {:x?} but is {:x?}", self.expected, self.seen);
        Err(self.corrupt(self.footer_offset, what))
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        if self.block.is_empty() {
            if self.block_rows != 0 {
                return Err(self.corrupt(self.block_offset, "the block has fewer rows than it says"));
            }
            if !self.next_block()? {
                return Ok(None);
            }
        }
        let row = self
            .split_row()
            .ok_or_else(|| self.corrupt(self.block_offset, "a row is not within its block"))?;
        if self.last_key.as_ref().is_some_and(|last| *last >= row.0) {
            return Err(self.corrupt(self.block_offset, "the rows do not ascend"));
        }
        self.last_key = Some(row.0.clone());
        Ok(Some(row))
    }

    /// Splits the first row off the current block.
    fn split_row(&mut self) -> Option<Row> {
        self.block_rows = self.block_rows.checked_sub(1)?;
        if self.block.len() < ROW_HEAD_BYTES {
            return None;
        }
        let key_bytes = usize::try_from(self.block.get_u32_le()).ok()?;
        let value_bytes = usize::try_from(self.block.get_u32_le()).ok()?;
        if key_bytes.checked_add(value_bytes)? > self.block.len() {
            return None;
        }
        Some((self.block.split_to(key_bytes), self.block.split_to(value_bytes)))
    }
}

impl Iterator for CheckpointRows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if self.ended {
            return None;
        }
        let row = self.next_row().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}
