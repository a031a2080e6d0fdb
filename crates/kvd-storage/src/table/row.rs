//! How a row rests in the engine.
//!
//! A stored value is 8 bytes of checksum, little-endian, and the value. The checksum is XXH3-64 of the value, seeded with
//! the XXH3-64 of the key, itself seeded with the replica's id: so a value under another key, or a row of another
//! replica, fails it too. Persisted: keep it stable, or raise [`POINTER_FORMAT`].
//!
//! In the `meta` tree, the row `r` + replica id (big-endian) says which tree is the replica's: one byte of format and the
//! letter `a` or `b`, stored like any row.

use bytes::{BufMut, Bytes, BytesMut};
use kvd_types::ReplicaId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{META_TREE, Slot};
use crate::error::{Error, Result};

/// The format of a replica's rows and of what points to them.
const POINTER_FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// Longest part of a key that an error shows, in bytes.
const SHOWN_KEY_BYTES_MAX: usize = 64;

/// Encodes the rows of one replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codec {
    replica: ReplicaId,
}

impl Codec {
    pub(super) const fn new(replica: ReplicaId) -> Self {
        Self { replica }
    }

    pub(super) fn tree_name(self, slot: Slot) -> String {
        format!("r{}.{}", self.replica, slot.letter())
    }

    pub(super) fn checksum(self, key: &[u8], value: &[u8]) -> u64 {
        xxh3_64_with_seed(value, xxh3_64_with_seed(key, self.replica.get()))
    }

    pub(super) fn encode(self, key: &[u8], value: &[u8]) -> Bytes {
        let mut stored = BytesMut::with_capacity(CHECKSUM_BYTES + value.len());
        stored.put_u64_le(self.checksum(key, value));
        stored.put_slice(value);
        stored.freeze()
    }

    pub(super) fn decode(self, slot: Slot, key: &[u8], stored: Bytes) -> Result<Bytes> {
        self.verified(key, stored).ok_or_else(|| damaged(&self.tree_name(slot), key))
    }

    fn verified(self, key: &[u8], mut stored: Bytes) -> Option<Bytes> {
        let checksum = *stored.first_chunk::<CHECKSUM_BYTES>()?;
        let value = stored.split_off(CHECKSUM_BYTES);
        (u64::from_le_bytes(checksum) == self.checksum(key, &value)).then_some(value)
    }

    pub(super) fn pointer_key(self) -> Bytes {
        let mut key = BytesMut::with_capacity(9);
        key.put_u8(b'r');
        key.put_u64(self.replica.get());
        key.freeze()
    }

    pub(super) fn encode_pointer(self, slot: Slot) -> Bytes {
        let letter = match slot {
            Slot::A => b'a',
            Slot::B => b'b',
        };
        self.encode(&self.pointer_key(), &[POINTER_FORMAT, letter])
    }

    pub(super) fn decode_pointer(self, stored: Bytes) -> Result<Slot> {
        let key = self.pointer_key();
        let value = self.verified(&key, stored);
        match value.as_deref() {
            Some([POINTER_FORMAT, b'a']) => Ok(Slot::A),
            Some([POINTER_FORMAT, b'b']) => Ok(Slot::B),
            Some(_) => {
                let what =
                    "the rows are in a format that this version doesn't know; rebuild the replica's state";
                Err(Error::corruption(place(META_TREE, &key), what))
            }
            None => Err(damaged(META_TREE, &key)),
        }
    }
}

fn damaged(tree: &str, key: &[u8]) -> Error {
    Error::corruption(place(tree, key), "the row fails its checksum")
}

fn place(tree: &str, key: &[u8]) -> String {
    let shown = key.get(..SHOWN_KEY_BYTES_MAX).unwrap_or(key).escape_ascii();
    let cut = if key.len() > SHOWN_KEY_BYTES_MAX { "…" } else { "" };
    format!("tree {tree} of the engine, key \"{shown}\"{cut}")
}
