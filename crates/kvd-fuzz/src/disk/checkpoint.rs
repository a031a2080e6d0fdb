//! Checkpoint files.
//!
//! An input is either a whole file as it is, or says what is in one: a state header, and blocks of bytes that are or are
//! not rows, compressed here or given compressed; then edits; then, unless it says otherwise, all checksums are made good.
//!
//! A file that passes its own verification must give the same rows when they are written anew, and must arrive at another
//! node as it is.

use std::{path::Path, sync::Arc};

use bytes::{BufMut as _, Bytes};
use kvd_storage::{
    checkpoint::{Checkpoint, CheckpointStore, Manifest},
    disk::SimDisk,
};
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};
use xxhash_rust::xxh3::xxh3_64;

use super::{disk_with, edit};
use crate::input::{Input, put_sized};

const FILE: &str = "/node/checkpoints/00000000000000000009-00000000000000000003.checkpoint";
const FOOTER_BYTES: usize = 48;
const HEAD_BYTES: usize = 16;
/// So many blocks can an input say.
const BLOCKS_MAX: usize = 16;

/// The input is the file.
const MODE_RAW: u8 = 1;
/// Leave checksums as the edits have left them.
const MODE_ROTTEN: u8 = 2;

/// See the module.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mode = input.byte();
    let file =
        if mode & MODE_RAW == 0 { say(&mut input, mode & MODE_ROTTEN == 0) } else { input.rest().to_vec() };
    let disk = disk_with([(Path::new(FILE), file.as_slice())]);
    let Ok(checkpoint) = Checkpoint::open(disk.as_ref(), Path::new(FILE)) else { return };
    let rows: Result<Vec<_>, _> = checkpoint.rows().collect();
    assert_eq!(rows.is_ok(), checkpoint.verify().is_ok());
    let Ok(rows) = rows else { return };
    assert_eq!(u64::try_from(rows.len()).expect("a size"), checkpoint.row_count());
    assert!(rows.is_sorted_by(|one, other| one.0 < other.0));

    let manifest = checkpoint.manifest().clone();
    let again = write(&disk, &manifest, &rows);
    assert_eq!(again.manifest(), &manifest);
    assert_eq!(again.rows().collect::<Result<Vec<_>, _>>().expect("it was just written"), rows);
    check_sent(&disk, &checkpoint);
}

fn write(disk: &Arc<SimDisk>, manifest: &Manifest, rows: &[(Bytes, Bytes)]) -> Checkpoint {
    let store =
        CheckpointStore::open(Arc::<SimDisk>::clone(disk), Path::new("/node/written")).expect("a disk");
    let mut writer = store.writer(manifest).expect("a manifest that was read");
    for (key, value) in rows {
        writer.append(key, value).expect("rows that ascend");
    }
    writer.finish().expect("a disk that works")
}

fn check_sent(disk: &Arc<SimDisk>, checkpoint: &Checkpoint) {
    let store =
        CheckpointStore::open(Arc::<SimDisk>::clone(disk), Path::new("/node/received")).expect("a disk");
    let receiver = store.receive("sent", checkpoint.size_bytes()).expect("a disk that works");
    while receiver.next_offset() < checkpoint.size_bytes() {
        let offset = receiver.next_offset();
        let piece = checkpoint.read_chunk(offset, 1000).expect("a disk that works");
        receiver.write(offset, &piece).expect("the next piece");
    }
    let received = receiver.finish().expect("it was verified before it was sent");
    assert_eq!((received.manifest(), received.digest()), (checkpoint.manifest(), checkpoint.digest()));
}

/// A file as an input says.
fn say(input: &mut Input<'_>, mends: bool) -> Vec<u8> {
    let mut file = Vec::new();
    let state_header = input.sized().to_vec();
    file.put_slice(b"KVDCKPT\0");
    file.put_u32_le(1);
    file.put_u32_le(u32::try_from(28 + state_header.len()).expect("a short header"));
    file.put_u32_le(7);
    file.put_u64_le(1);
    file.put_u64_le(9);
    file.put_u64_le(3);
    file.put_slice(&state_header);
    file.put_u32_le(crc32fast::hash(&file));
    let mut ends = vec![file.len()];
    let (mut blocks, mut rows, mut raw_bytes) = (0_u64, 0_u64, 0_u64);
    for _ in 0..usize::from(input.byte()) % BLOCKS_MAX {
        let is_compressed = input.byte() & 1 == 1;
        let count = u32::from(input.u16());
        let content = input.sized();
        let (raw, stored) = if is_compressed {
            (input.u32(), content.to_vec())
        } else {
            (u32::try_from(content.len()).expect("a short piece"), lz4_flex::block::compress(content))
        };
        file.put_u32_le(1);
        file.put_u32_le(raw);
        file.put_u32_le(u32::try_from(stored.len()).expect("a short piece"));
        file.put_u32_le(count);
        file.put_slice(&stored);
        file.put_u32_le(0);
        ends.push(file.len());
        blocks += 1;
        rows += u64::from(count);
        raw_bytes += u64::from(raw);
    }
    edit(&mut file, input, 8);
    if mends {
        mend(&mut file, &ends);
    }
    let footer_at = file.len();
    file.put_u32_le(2);
    file.put_u64_le(blocks);
    file.put_u64_le(rows);
    file.put_u64_le(raw_bytes);
    file.put_u64_le(xxh3_64(&file[..footer_at]));
    file.put_u32_le(crc32fast::hash(&file[footer_at..]));
    file.put_slice(b"KVDCEND\0");
    file
}

/// Makes the checksums of the header and of the blocks good, given where each of them ends.
fn mend(mut file: &mut [u8], ends: &[usize]) {
    let mut at = 0;
    for (number, &end) in (0_u64..).zip(ends) {
        let (part, rest) = file.split_at_mut(end - at);
        let (checked, crc) = part.split_at_mut(part.len() - 4);
        let mut hasher = crc32fast::Hasher::new();
        if let Some(block) = number.checked_sub(1) {
            hasher.update(&block.to_le_bytes());
        }
        hasher.update(checked);
        crc.copy_from_slice(&hasher.finalize().to_le_bytes());
        (file, at) = (rest, end);
    }
}

/// Files that were written, whole; and said ones.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let manifest = Manifest {
        group: GroupId(7),
        replica: ReplicaId(1),
        applied_index: LogIndex(9),
        applied_term: Term(3),
        state_header: Bytes::from_static(b"state"),
    };
    let row = |number: u8| (Bytes::from(vec![b'k', number]), Bytes::from(vec![number; 20]));
    let mut seeds = Vec::new();
    for count in [0, 1, 5] {
        let disk = disk_with([]);
        let rows: Vec<_> = (0..count).map(row).collect();
        let written = write(&disk, &manifest, &rows);
        let file = disk.bytes(written.path()).expect("it was just written");
        assert!(file.len() > HEAD_BYTES + FOOTER_BYTES);
        seeds.push([&[MODE_RAW], &*file].concat());

        let mut block = Vec::new();
        for (key, value) in &rows {
            block.put_u32_le(u32::try_from(key.len()).expect("a short key"));
            block.put_u32_le(u32::try_from(value.len()).expect("a short value"));
            block.put_slice(key);
            block.put_slice(value);
        }
        for mode in [0, MODE_ROTTEN] {
            for is_compressed in [0, 1] {
                let mut said = vec![mode];
                put_sized(&mut said, b"state");
                said.extend([u8::from(count > 0), is_compressed, count, 0]);
                if is_compressed == 0 {
                    put_sized(&mut said, &block);
                } else {
                    put_sized(&mut said, &lz4_flex::block::compress(&block));
                    said.put_u32_le(u32::try_from(block.len()).expect("a short block"));
                }
                seeds.push(said);
            }
        }
    }
    seeds
}
