//! A row's share of a shard's content digest.
//!
//! The digest is the wrapping sum of its rows' hashes, so that a write updates it with what it has at hand: minus the
//! old row's hash, plus the new one's. Replicas at equal log index compare digests to find rot and bugs. A sum of
//! 64-bit hashes is no protection against somebody who crafts rows, and isn't meant to be.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The hash of a row: its value's, seeded with its key's. Persisted in sums, keep stable.
pub(crate) fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_hashes_are_stable() {
        assert_eq!(row_hash(b"\x10key", b"value"), 12_937_912_647_924_334_308);
        assert_ne!(row_hash(b"ab", b"c"), row_hash(b"a", b"bc"));
    }
}
