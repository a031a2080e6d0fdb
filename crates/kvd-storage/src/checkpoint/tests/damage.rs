//! The format: stable, and sensitive to everything.

use std::fs;

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    super::format::{
        BLOCK_HEAD_BYTES, BLOCK_RAW_TARGET, FOOTER_BYTES, Footer, ROW_BYTES_MAX, decode_block_head,
        encode_block, encode_footer, encode_header,
    },
    Checkpoint, Sample, manifest, numbered_rows, open_store, read, sample_rows, verify_bytes, write,
};
use crate::{Error, disk::RealDisk};

#[test]
fn the_format_is_stable() {
    let sample = Sample::new();
    assert_eq!(sample.bytes.escape_ascii().to_string(), GOLDEN.escape_ascii().to_string());
    verify_bytes(GOLDEN).unwrap();
    assert_eq!(sample.path.file_name().unwrap(), "00000000000000000042-00000000000000000002.checkpoint");
    let checkpoint = Checkpoint::open(&RealDisk, &sample.path).unwrap();
    assert_eq!(checkpoint.manifest(), &manifest(42));
    assert_eq!((checkpoint.row_count(), checkpoint.raw_bytes()), (4, 52));
    assert_eq!(checkpoint.size_bytes(), u64::try_from(sample.bytes.len()).unwrap());
    assert_eq!(read(&checkpoint), sample_rows());
}

/// Persisted by version 1: this must be readable for ever.
const GOLDEN: &[u8] = b"\
    KVDCKPT\x00\x01\x00\x00\x00&\x00\x00\x00\x03\x00\x00\x00\x11\x00\x00\x00\x00\x00\x00\x00*\x00\
    \x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00membership>\x17N\xda\
    \x01\x00\x00\x004\x00\x00\x005\x00\x00\x00\x04\x00\x00\x00\xf0\x03\x00\x00\x00\x00\t\x00\x00\x00\
    empty key\x01\x12\x00@\x00\x00\x00a\t\x00\xf0\x07\x05\x00\x00\x00bvalue\x02\x00\x00\x00\x02\x00\
    \x00\x00bb\x00\xff\x82_\xca\xb7\
    \x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x004\x00\x00\x00\
    \x00\x00\x00\x00\x9e;\x106_\xf8\xae\xe6O|^\xcaKVDCEND\x00\
    ";

#[test]
fn every_flipped_bit_is_found() {
    let sample = Sample::new();
    for position in 0..sample.bytes.len() {
        for bit in 0..8 {
            let mut damaged = sample.bytes.clone();
            damaged[position] ^= 1 << bit;
            let error = verify_bytes(&damaged).expect_err(&format!("bit {bit} of byte {position}"));
            // A bit of the version too: one that is rotten must not pass for newer.
            let Error::Corruption { ref place, .. } = error else {
                panic!("bit {bit} of byte {position}: {error}")
            };
            assert!(place.contains(".checkpoint, offset "), "{error}");
        }
    }
    verify_bytes(&sample.bytes).unwrap();
}

#[test]
fn every_missing_or_added_byte_is_found() {
    let sample = Sample::new();
    for length in 0..sample.bytes.len() {
        let cut = verify_bytes(&sample.bytes[..length]);
        assert!(cut.is_err_and(|error| error.is_corruption()), "cut to {length} bytes");
        let lost = [&sample.bytes[..length], &sample.bytes[length + 1..]].concat();
        assert!(verify_bytes(&lost).is_err(), "without byte {length}");
        let zeroed = [&sample.bytes[..length], &vec![0; sample.bytes.len() - length]].concat();
        if zeroed != sample.bytes {
            assert!(verify_bytes(&zeroed).is_err(), "zeros from {length}");
        }
    }
    for position in 0..=sample.bytes.len() {
        let added = [&sample.bytes[..position], &[0], &sample.bytes[position..]].concat();
        assert!(verify_bytes(&added).is_err(), "a zero byte at {position}");
    }
}

#[test]
fn a_block_in_another_s_place_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let value = Bytes::from(vec![1; BLOCK_RAW_TARGET - 100]);
    let rows = ["a", "b", "c"].map(|key| (Bytes::from(key), value.clone()));
    let checkpoint = write(&open_store(dir.path()), &manifest(1), &rows).unwrap();
    let bytes = fs::read(checkpoint.path()).unwrap();
    let header_bytes = usize::try_from(checkpoint.header_bytes).unwrap();
    let block_bytes = (bytes.len() - FOOTER_BYTES - header_bytes) / 3;
    let (header, rest) = bytes.split_at(header_bytes);
    let (first, rest) = rest.split_at(block_bytes);
    let (second, rest) = rest.split_at(block_bytes);
    assert_eq!(first[..BLOCK_HEAD_BYTES], second[..BLOCK_HEAD_BYTES], "as long as each other");
    let swapped = [header, second, first, rest].concat();
    let error = verify_bytes(&swapped).unwrap_err();
    assert!(error.to_string().contains("the block fails its checksum"), "{error}");
}

#[test]
fn nothing_comes_after_an_error() {
    let sample = Sample::new();
    let mut damaged = sample.bytes.clone();
    let in_block = damaged.len() - FOOTER_BYTES - 10;
    damaged[in_block] ^= 1;
    fs::write(&sample.path, damaged).unwrap();
    let mut rows = Checkpoint::open(&RealDisk, &sample.path).unwrap().rows();
    assert!(rows.next().unwrap().is_err());
    assert!(rows.next().is_none());
}

#[test]
fn lengths_are_bounded_before_they_are_believed() {
    let head = |tag: u32, raw: usize, stored: usize, rows: u32| {
        let raw = u32::try_from(raw).unwrap().to_le_bytes();
        let stored = u32::try_from(stored).unwrap().to_le_bytes();
        decode_block_head(&[tag.to_le_bytes(), raw, stored, rows.to_le_bytes()].concat())
    };
    assert!(head(1, 8, 10, 1).is_ok());
    assert!(head(1, ROW_BYTES_MAX, 100, 1).is_ok());
    assert!(head(2, 8, 10, 1).is_err());
    assert!(head(1, 7, 10, 1).is_err());
    assert!(head(1, ROW_BYTES_MAX + 1, 10, 1).is_err());
    assert!(head(1, 8, 1000, 1).is_err());
    assert!(head(1, 8, 10, 0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_goes_in_comes_out(
        rows in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 0..20),
            (any::<u8>(), 0..200_000_usize),
            0..30,
        ),
        index in any::<u64>(),
        state_header in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = manifest(index);
        manifest.state_header = Bytes::from(state_header);
        let rows = rows.into_iter()
            .map(|(key, (byte, length))| (Bytes::from(key), Bytes::from(vec![byte; length])))
            .collect::<Vec<_>>();
        let checkpoint = write(&open_store(dir.path()), &manifest, &rows).unwrap();
        prop_assert_eq!(read(&checkpoint), rows.clone());
        let reopened = open_store(dir.path()).latest().unwrap().unwrap();
        prop_assert_eq!(reopened.manifest(), &manifest);
        prop_assert_eq!(read(&reopened), rows);
    }

    #[test]
    fn garbage_is_refused_without_a_panic(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let sample = Sample::new();
        let mut damaged = sample.bytes.clone();
        for (position, byte) in edits {
            damaged[position.index(sample.bytes.len())] = byte;
        }
        prop_assert_eq!(verify_bytes(&damaged).is_ok(), damaged == sample.bytes);
    }
}

/// A file whose checksums and digest are all as they should be, of one block with these rows, said to be so many.
fn sound_file(rows: &[(&[u8], &[u8])], said: u32) -> Vec<u8> {
    let mut raw = Vec::new();
    for (key, value) in rows {
        raw.put_u32_le(u32::try_from(key.len()).unwrap());
        raw.put_u32_le(u32::try_from(value.len()).unwrap());
        raw.put_slice(key);
        raw.put_slice(value);
    }
    let header = encode_header(&manifest(1)).unwrap();
    let mut file = [header, encode_block(0, said, &raw).unwrap()].concat();
    let raw_bytes = u64::try_from(raw.len()).unwrap();
    let footer = Footer { blocks: 1, rows: u64::from(said), raw_bytes, digest: xxh3_64(&file) };
    file.extend_from_slice(&encode_footer(footer));
    file
}

#[test]
fn rows_that_no_writer_would_write_are_refused() {
    let (a, b): (&[u8], &[u8]) = (b"a", b"b");
    verify_bytes(&sound_file(&[(a, b), (b, a)], 2)).unwrap();
    let refused = |file: &[u8], expected: &str| {
        let error = verify_bytes(file).unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains(expected), "{error}");
    };
    refused(&sound_file(&[(b, a), (a, b)], 2), "the rows do not ascend");
    refused(&sound_file(&[(a, b), (a, b)], 2), "the rows do not ascend");
    refused(&sound_file(&[(a, b), (b, a)], 1), "a row is not within its block");
    refused(&sound_file(&[(a, b), (b, a)], 3), "the block has fewer rows than it says");
    let row = b"\x01\0\0\0\xff\xff\xff\xffa";
    let header = encode_header(&manifest(1)).unwrap();
    let mut file = [header, encode_block(0, 1, row).unwrap()].concat();
    let footer = Footer { blocks: 1, rows: 1, raw_bytes: 9, digest: xxh3_64(&file) };
    file.extend_from_slice(&encode_footer(footer));
    refused(&file, "a row is not within its block");
}

#[test]
fn a_row_larger_than_a_block_is_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = numbered_rows(3, 100);
    rows[1].1 = Bytes::from(vec![9; 3 * BLOCK_RAW_TARGET]);
    let checkpoint = write(&open_store(dir.path()), &manifest(1), &rows).unwrap();
    assert_eq!(read(&checkpoint), rows);
}
