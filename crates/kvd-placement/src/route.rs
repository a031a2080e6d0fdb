//! From what a request names to the shards that it concerns.
//!
//! # The problem
//! A key has one shard. A lease, a transaction and a range of keys have none by themselves, and client and server must give
//! each the same one.
//!
//! # The approach
//! - A lease's *home* is the shard that owns the hash XXH3-64, seed 0, of these 17 bytes: `kvd-lease` in ASCII, then the
//!   lease's id, big-endian. This is part of the protocol and of the data format: the tests keep golden values.
//! - A transaction's shard is the one of all its keys. Keys of several shards are refused with two of them by name.
//! - A range of keys concerns all shards, unless every key that can lie in it has the same partition key: when the range is
//!   a single key, or when it lies within a prefix that has a whole hash tag.
//!
//! # What it deliberately does not do
//! It doesn't look at data: a range concerns a shard that has no key in it.

use bytes::Bytes;
use kvd_types::{Error, Key, LeaseId, Result, ShardId, Target, WriteOp, key::partition_key};
use xxhash_rust::xxh3::xxh3_64;

use crate::Ring;

const LEASE_LABEL: &[u8; 9] = b"kvd-lease";

impl Ring {
    /// The shard that is a lease's home.
    #[must_use]
    pub fn shard_of_lease(&self, lease: LeaseId) -> ShardId {
        let mut label = [0; 17];
        label[..9].copy_from_slice(LEASE_LABEL);
        label[9..].copy_from_slice(&lease.get().to_be_bytes());
        self.shard_of_hash(xxh3_64(&label))
    }

    /// The one shard that owns all these keys.
    ///
    /// # Errors
    /// Invalid argument: there are no keys, or two of them belong to different shards, both named.
    pub fn shard_of_all<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) -> Result<ShardId> {
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or_else(|| Error::invalid("no key is named, so no shard is"))?;
        let shard = self.shard_of(first);
        for key in keys {
            let other = self.shard_of(key);
            if other != shard {
                return Err(Error::invalid(format!(
                    "key {first} is in shard {shard} and key {key} in shard {other}; all keys of a transaction must be in \
                     one shard: give them the same hash tag, as in {{tag}}a and {{tag}}b"
                )));
            }
        }
        Ok(shard)
    }

    /// The shard that a write goes to.
    ///
    /// # Errors
    /// Invalid argument: it is a transaction without a key, or with keys of several shards.
    pub fn shard_of_write(&self, op: &WriteOp) -> Result<ShardId> {
        if let WriteOp::Txn(txn) = op {
            return self.shard_of_all(txn.keys());
        }
        Ok(match op.target() {
            Some(Target::Key(key)) => self.shard_of(key),
            Some(Target::Lease(lease)) => self.shard_of_lease(lease),
            Some(Target::Shard(shard)) => shard,
            None => return Err(Error::invalid("the write names no key, so no shard")),
        })
    }

    /// The shards that may have keys from `start` on, before `end` (empty: to the last one), ascending. None if no key can
    /// lie there.
    #[must_use]
    pub fn shards_of_range(&self, start: &[u8], end: &[u8]) -> Vec<ShardId> {
        if !end.is_empty() && start >= end {
            return Vec::new();
        }
        match fixed_partition_key(start, end) {
            Some(partition_key) => vec![self.shard_of_hash(xxh3_64(partition_key))],
            None => self.shards().to_vec(),
        }
    }
}

/// The partition key of every key in a range that isn't empty, if all have the same.
fn fixed_partition_key<'a>(start: &'a [u8], end: &[u8]) -> Option<&'a [u8]> {
    let partition_key = partition_key(start);
    let common = if partition_key.len() == start.len() {
        // No tag: only the very same key has that partition key.
        return (*end == *after_key(start) && !start.is_empty()).then_some(partition_key);
    } else {
        let open = start.iter().position(|&byte| byte == b'{')?;
        start.get(..open + partition_key.len() + 2)?
    };
    let limit = prefix_end(common);
    (limit.is_empty() || (!end.is_empty() && *end <= *limit)).then_some(partition_key)
}

/// The key after a key: the lowest one that is higher.
#[must_use]
pub fn after_key(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The first key after all those that begin with a prefix; empty if there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end.into()
}

#[cfg(test)]
mod tests;
