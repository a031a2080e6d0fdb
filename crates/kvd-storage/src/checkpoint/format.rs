//! The bytes of the header, the blocks and the footer. Persisted: see [`super`] for the layout, and change it only with
//! a new version.

use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};

use super::Manifest;
use crate::{
    disk::File,
    error::{Error, Result},
};

/// The newest version of the format.
pub const FORMAT_VERSION: u32 = 1;
/// Longest state header, in bytes.
pub const STATE_HEADER_BYTES_MAX: usize = 1 << 20;
/// Longest row, in bytes: its key, its value and 8 bytes.
pub const ROW_BYTES_MAX: usize = 64 << 20;

/// A block is written once its rows are this long, in bytes.
pub(super) const BLOCK_RAW_TARGET: usize = 1 << 20;
pub(super) const BLOCK_HEAD_BYTES: usize = 16;
pub(super) const CRC_BYTES: usize = 4;
pub(super) const ROW_HEAD_BYTES: usize = 8;
pub(super) const FOOTER_BYTES: usize = 48;

const MAGIC: [u8; 8] = *b"KVDCKPT\0";
const END_MAGIC: [u8; 8] = *b"KVDCEND\0";
const HEADER_HEAD_BYTES: usize = 16;
const BODY_FIXED_BYTES: usize = 28;
const BLOCK_TAG: u32 = 1;
const FOOTER_TAG: u32 = 2;

const _: () = {
    assert!(BLOCK_RAW_TARGET <= ROW_BYTES_MAX);
    // Every length fits the 4 bytes that it is written in, compressed at worst included.
    assert!(ROW_BYTES_MAX < (u32::MAX / 2) as usize);
};

/// The length of a buffer that the format bounds far below 4 GiB.
pub(super) fn length_u32(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|_| Error::Misuse(format!("{length} bytes do not fit a checkpoint")))
}

pub(super) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Error {
    Error::corruption(format!("{}, offset {offset}", path.display()), what)
}

/// Reads bytes whose number has been bounded.
pub(super) fn read(file: &dyn File, path: &Path, offset: u64, length: usize) -> Result<Bytes> {
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, offset).map_err(Error::io("read", path))?;
    Ok(Bytes::from(buffer))
}

pub(super) fn encode_header(manifest: &Manifest) -> Result<Bytes> {
    let state_header_bytes = manifest.state_header.len();
    if state_header_bytes > STATE_HEADER_BYTES_MAX {
        return Err(Error::Misuse(format!(
            "a state header of {state_header_bytes} bytes is beyond the {STATE_HEADER_BYTES_MAX} of a checkpoint"
        )));
    }
    let body_bytes = BODY_FIXED_BYTES + state_header_bytes;
    let mut header = BytesMut::with_capacity(HEADER_HEAD_BYTES + body_bytes + CRC_BYTES);
    header.put_slice(&MAGIC);
    header.put_u32_le(FORMAT_VERSION);
    header.put_u32_le(length_u32(body_bytes)?);
    header.put_u32_le(manifest.group.get());
    header.put_u64_le(manifest.replica.get());
    header.put_u64_le(manifest.applied_index.get());
    header.put_u64_le(manifest.applied_term.get());
    header.put_slice(&manifest.state_header);
    header.put_u32_le(crc32fast::hash(&header));
    Ok(header.freeze())
}

/// The manifest and the header's length in bytes.
pub(super) fn read_header(file: &dyn File, path: &Path, size_bytes: u64) -> Result<(Manifest, u64)> {
    let too_short = || corrupt(path, size_bytes, "the file ends within its header");
    let fits = |length: usize| u64::try_from(length).is_ok_and(|length| length <= size_bytes);
    if !fits(HEADER_HEAD_BYTES) {
        return Err(too_short());
    }
    let mut head = read(file, path, 0, HEADER_HEAD_BYTES)?;
    if head.split_to(MAGIC.len()) != MAGIC.as_slice() {
        return Err(corrupt(path, 0, "this is no checkpoint"));
    }
    let version = head.get_u32_le();
    let body_bytes = usize::try_from(head.get_u32_le()).unwrap_or(usize::MAX);
    if !(BODY_FIXED_BYTES..=BODY_FIXED_BYTES + STATE_HEADER_BYTES_MAX).contains(&body_bytes) {
        return Err(corrupt(path, 12, format!("a header of {body_bytes} bytes is out of bounds")));
    }
    let header_bytes = HEADER_HEAD_BYTES + body_bytes + CRC_BYTES;
    if !fits(header_bytes) {
        return Err(too_short());
    }
    let header = read(file, path, 0, header_bytes)?;
    let (checked, mut crc) = header.split_at(HEADER_HEAD_BYTES + body_bytes);
    if crc32fast::hash(checked) != crc.get_u32_le() {
        return Err(corrupt(path, 0, "the header fails its checksum"));
    }
    // Only now: a rotten bit must not pass for a newer version, which would be for a person to deal with. So all versions
    // have magic, version, length and checksum of the header where this one has them.
    if version > FORMAT_VERSION {
        return Err(Error::NewerFormat { path: path.to_owned(), found: version, supported: FORMAT_VERSION });
    }
    if version != FORMAT_VERSION {
        return Err(corrupt(path, 8, format!("version {version} never was")));
    }
    let mut body = header.slice(HEADER_HEAD_BYTES..HEADER_HEAD_BYTES + body_bytes);
    let manifest = Manifest {
        group: GroupId(body.get_u32_le()),
        replica: ReplicaId(body.get_u64_le()),
        applied_index: LogIndex(body.get_u64_le()),
        applied_term: Term(body.get_u64_le()),
        state_header: body,
    };
    Ok((manifest, u64::try_from(header_bytes).unwrap_or(u64::MAX)))
}

/// What stands before a block's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub(super) raw_bytes: usize,
    pub(super) stored_bytes: usize,
    pub(super) rows: u32,
}

pub(super) fn encode_block(number: u64, rows: u32, raw: &[u8]) -> Result<Bytes> {
    let stored = lz4_flex::block::compress(raw);
    let mut block = BytesMut::with_capacity(BLOCK_HEAD_BYTES + stored.len() + CRC_BYTES);
    block.put_u32_le(BLOCK_TAG);
    block.put_u32_le(length_u32(raw.len())?);
    block.put_u32_le(length_u32(stored.len())?);
    block.put_u32_le(rows);
    block.put_slice(&stored);
    block.put_u32_le(block_crc(number, &block));
    Ok(block.freeze())
}

/// The bounds that a block's head must keep before anything else is believed.
pub(super) fn decode_block_head(mut head: &[u8]) -> Result<BlockHead, String> {
    if head.get_u32_le() != BLOCK_TAG {
        return Err("here should be a block".to_owned());
    }
    let mut length = || usize::try_from(head.get_u32_le()).unwrap_or(usize::MAX);
    let (raw_bytes, stored_bytes) = (length(), length());
    let rows = head.get_u32_le();
    if !(ROW_HEAD_BYTES..=ROW_BYTES_MAX).contains(&raw_bytes) {
        return Err(format!("a block of {raw_bytes} bytes is out of bounds"));
    }
    if stored_bytes > lz4_flex::block::get_maximum_output_size(raw_bytes) {
        return Err(format!("{stored_bytes} bytes are too many for a block of {raw_bytes}"));
    }
    if rows == 0 {
        return Err("a block has no rows".to_owned());
    }
    Ok(BlockHead { raw_bytes, stored_bytes, rows })
}

pub(super) fn block_crc(number: u64, checked: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(checked);
    hasher.finalize()
}

/// What the file as a whole must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) blocks: u64,
    pub(super) rows: u64,
    pub(super) raw_bytes: u64,
    pub(super) digest: u64,
}

pub(super) fn encode_footer(footer: Footer) -> Bytes {
    let mut bytes = BytesMut::with_capacity(FOOTER_BYTES);
    bytes.put_u32_le(FOOTER_TAG);
    bytes.put_u64_le(footer.blocks);
    bytes.put_u64_le(footer.rows);
    bytes.put_u64_le(footer.raw_bytes);
    bytes.put_u64_le(footer.digest);
    bytes.put_u32_le(crc32fast::hash(&bytes));
    bytes.put_slice(&END_MAGIC);
    bytes.freeze()
}

pub(super) fn read_footer(
    file: &dyn File,
    path: &Path,
    header_bytes: u64,
    size_bytes: u64,
) -> Result<Footer> {
    let footer_bytes = u64::try_from(FOOTER_BYTES).unwrap_or(u64::MAX);
    let offset = match size_bytes.checked_sub(footer_bytes) {
        Some(offset) if offset >= header_bytes => offset,
        _ => return Err(corrupt(path, size_bytes, "the file ends before its footer")),
    };
    let mut bytes = read(file, path, offset, FOOTER_BYTES)?;
    let checked = bytes.split_to(FOOTER_BYTES - CRC_BYTES - END_MAGIC.len());
    if bytes.get_u32_le() != crc32fast::hash(&checked) || bytes != END_MAGIC.as_slice() {
        return Err(corrupt(
            path,
            offset,
            "the file does not end in a sound footer: it is cut off or damaged",
        ));
    }
    let mut fields = checked;
    if fields.get_u32_le() != FOOTER_TAG {
        return Err(corrupt(path, offset, "here should be a footer"));
    }
    Ok(Footer {
        blocks: fields.get_u64_le(),
        rows: fields.get_u64_le(),
        raw_bytes: fields.get_u64_le(),
        digest: fields.get_u64_le(),
    })
}
