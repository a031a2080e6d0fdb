//! The ring: which shard owns a key.
//!
//! # The problem
//! Clients and nodes must agree on the owner of every key without asking anybody, a shard that is added must take keys
//! from the others without moving any other key, and shares must follow weights.
//!
//! # The approach
//! Consistent hashing (Karger et al., 1997). Hashes form a circle of 2^64 positions. Each shard places
//! [`VNODES_PER_WEIGHT`] virtual nodes on it per unit of weight; a key belongs to the vnode at its hash or, if there is
//! none, to the next one clockwise, that is upwards, with 0 after `u64::MAX`.
//!
//! # Format 1
//! The whole ring follows from the [`RingSpec`], so how it is computed is part of the data format: whoever computes it
//! otherwise reads and writes the wrong shards. The tests keep golden values. In format 1:
//!
//! - A key's hash is XXH3-64, seed 0, of its partition key (see [`kvd_types::key`]).
//! - A shard of weight `w` has the vnodes numbered `0..w * 10`.
//! - A vnode's position is XXH3-64, seed 0, of these 21 bytes:
//!
//!   | offset | bytes | what |
//!   |---|---|---|
//!   | 0 | 9 | `kvd-vnode`, in ASCII, so that no short key hashes to a vnode's position by design |
//!   | 9 | 4 | the format, 1, little-endian |
//!   | 13 | 4 | the shard's id, little-endian |
//!   | 17 | 4 | the vnode's number, little-endian |
//!
//! - Where two vnodes have one position, that of the lower shard id has it, and the other one owns nothing.
//!
//! # Invariants
//! - A vnode's position depends on nothing but the format, its shard and its number. So adding a shard, or raising its
//!   weight, moves keys only to that shard; removing it, or lowering its weight, moves only keys that were its own.
//! - Every hash has exactly one owner.
//!
//! # Why ten vnodes per unit of weight
//! The share of a shard with `v` vnodes strays from the ideal by about `1 / sqrt(v)`. At the usual weight of 100 that is
//! 1000 vnodes and 3 percent: the largest of twelve shards stays well below 1.15 times the mean. A ring of twelve shards
//! is 200 KiB, the largest allowed one some 30 MiB.
//!
//! # What it deliberately does not do
//! It knows no nodes and no replicas ([`crate::planner`] does), and it does not plan how data moves from one ring to the
//! next.

use std::ops::RangeInclusive;

use kvd_types::{
    Key, RingEpoch, ShardId,
    cluster::{RingShard, RingSpec},
    limits::{SHARDS_MAX, WEIGHT_DEFAULT, WEIGHT_RANGE},
};
use xxhash_rust::xxh3::xxh3_64;

/// The only format so far. Written into every [`RingSpec`].
pub const FORMAT: u32 = 1;

/// Vnodes that a shard has for each unit of its weight. Part of format 1.
pub const VNODES_PER_WEIGHT: u32 = 10;

/// Most vnodes of a ring, all shards together: it bounds the memory that each client and node gives to a ring.
pub const VNODES_MAX: u32 = 1 << 21;

const _: () = assert!(SHARDS_MAX * WEIGHT_DEFAULT * VNODES_PER_WEIGHT <= VNODES_MAX);
const _: () = assert!(*WEIGHT_RANGE.end() <= VNODES_MAX / VNODES_PER_WEIGHT);

const VNODE_LABEL: &[u8; 9] = b"kvd-vnode";

/// Why a [`RingSpec`] makes no ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Written by a newer version. Guessing would send keys to the wrong shards.
    #[error("the ring has format {0}, this version knows only format {FORMAT}: upgrade this program")]
    UnknownFormat(u32),
    /// No shard could own a key.
    #[error("the ring has no shards; it needs at least one")]
    NoShards,
    /// More than [`SHARDS_MAX`].
    #[error("the ring has {0} shards; at most {SHARDS_MAX} are allowed")]
    TooManyShards(usize),
    /// Zero is the meta group, never a shard.
    #[error("the ring names shard 0, which is the meta group; shard ids start at 1")]
    ShardZero,
    /// A shard is there twice.
    #[error("the ring names shard {0} twice")]
    DuplicateShard(ShardId),
    /// A weight outside [`WEIGHT_RANGE`].
    #[error(
        "shard {shard} has weight {weight}; the range is {} to {}",
        WEIGHT_RANGE.start(),
        WEIGHT_RANGE.end()
    )]
    Weight {
        /// The shard.
        shard: ShardId,
        /// Its weight.
        weight: u32,
    },
    /// More than [`VNODES_MAX`].
    #[error(
        "the weights of the ring's shards add up to {0}; at most {max} are allowed: lower them all in proportion",
        max = VNODES_MAX / VNODES_PER_WEIGHT
    )]
    TooManyVnodes(u64),
}

/// The specification of a new cluster's ring: shards 1 to `shards`, all of the usual weight, at epoch 1.
///
/// Whether there may be that many is [`Ring::build`]'s to say.
#[must_use]
pub fn uniform(shards: u32) -> RingSpec {
    let shards = (1..=shards).map(|id| RingShard { id: ShardId(id), weight: WEIGHT_DEFAULT }).collect();
    RingSpec { format: FORMAT, epoch: RingEpoch(1), shards }
}

/// A computed ring. Immutable: a change of the cluster makes a new one.
#[derive(Clone, Debug)]
pub struct Ring {
    spec: RingSpec,
    shards: Vec<ShardId>,
    /// The vnodes' positions, ascending, each once; never empty.
    positions: Vec<u64>,
    /// The shard of each position.
    owners: Vec<ShardId>,
    /// How far a hash is shifted right to give its bucket.
    bucket_shift: u32,
    /// For each bucket the number of positions below it; one more entry at the end counts them all. With about one
    /// position per bucket, a lookup needs a comparison or two.
    bucket_starts: Vec<u32>,
}

impl Ring {
    /// Computes the ring of a specification. The order of its shards doesn't matter.
    ///
    /// # Errors
    /// An unknown format, no shards or too many, shard 0, a shard that is named twice, a weight out of range.
    pub fn build(spec: &RingSpec) -> Result<Self, RingError> {
        check(spec)?;
        let vnodes = spec.shards.iter().flat_map(|shard| {
            let numbers = 0..shard.weight * VNODES_PER_WEIGHT;
            numbers.map(|number| (vnode_position(shard.id, number), shard.id))
        });
        let (positions, owners) = settle(vnodes.collect());
        let mut shards: Vec<_> = spec.shards.iter().map(|shard| shard.id).collect();
        shards.sort_unstable();
        let (bucket_shift, bucket_starts) = buckets(&positions);
        Ok(Self { spec: spec.clone(), shards, positions, owners, bucket_shift, bucket_starts })
    }

    /// The shard that owns a key.
    #[must_use]
    pub fn shard_of(&self, key: &Key) -> ShardId {
        self.shard_of_hash(self.hash_of(key))
    }

    /// Where on the ring a key is.
    #[must_use]
    pub fn hash_of(&self, key: &Key) -> u64 {
        xxh3_64(key.partition_key())
    }

    /// The shard that owns the keys of a hash.
    #[must_use]
    pub fn shard_of_hash(&self, hash: u64) -> ShardId {
        let bucket = index(hash >> self.bucket_shift);
        let (start, end) = (index(self.bucket_starts[bucket]), index(self.bucket_starts[bucket + 1]));
        let next = start + self.positions[start..end].partition_point(|&position| position < hash);
        // Above the last position the circle begins anew.
        self.owners[if next == self.owners.len() { 0 } else { next }]
    }

    /// The version of the ring.
    #[must_use]
    pub const fn epoch(&self) -> RingEpoch {
        self.spec.epoch
    }

    /// What the ring was computed from.
    #[must_use]
    pub const fn spec(&self) -> &RingSpec {
        &self.spec
    }

    /// The shards, ascending.
    #[must_use]
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// The part of all hashes that a shard owns, 0 to 1; 0 for a shard that isn't on the ring.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share for people to read; the ring itself is exact")]
    pub fn share(&self, shard: ShardId) -> f64 {
        const CIRCLE: f64 = (u64::MAX as f64) + 1.0;
        self.ranges(shard).iter().map(|range| (range.end() - range.start()) as f64 + 1.0).sum::<f64>()
            / CIRCLE
    }

    /// The hashes that a shard owns: ascending, disjoint, joined where they touch, and cut in two where the circle
    /// begins anew, so that no range wraps. Empty for a shard that isn't on the ring.
    #[must_use]
    pub fn ranges(&self, shard: ShardId) -> Vec<RangeInclusive<u64>> {
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        let mut own = |start: u64, end: u64| match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(start) => *last = *last.start()..=end,
            _ => ranges.push(start..=end),
        };
        let mut start = Some(0);
        for (&position, &owner) in self.positions.iter().zip(&self.owners) {
            if let Some(start) = start
                && owner == shard
            {
                own(start, position);
            }
            start = position.checked_add(1);
        }
        if let Some(start) = start
            && self.owners.first() == Some(&shard)
        {
            own(start, u64::MAX);
        }
        ranges
    }
}

/// Whether a specification makes a ring.
fn check(spec: &RingSpec) -> Result<(), RingError> {
    if spec.format != FORMAT {
        return Err(RingError::UnknownFormat(spec.format));
    }
    if spec.shards.is_empty() {
        return Err(RingError::NoShards);
    }
    if spec.shards.len() > index(SHARDS_MAX) {
        return Err(RingError::TooManyShards(spec.shards.len()));
    }
    let mut seen = std::collections::BTreeSet::new();
    for &RingShard { id, weight } in &spec.shards {
        if id == ShardId(0) {
            return Err(RingError::ShardZero);
        }
        if !seen.insert(id) {
            return Err(RingError::DuplicateShard(id));
        }
        if !WEIGHT_RANGE.contains(&weight) {
            return Err(RingError::Weight { shard: id, weight });
        }
    }
    let weights: u64 = spec.shards.iter().map(|shard| u64::from(shard.weight)).sum();
    if weights * u64::from(VNODES_PER_WEIGHT) > u64::from(VNODES_MAX) {
        return Err(RingError::TooManyVnodes(weights));
    }
    Ok(())
}

/// Where a vnode stands. Part of the data format: see the module's documentation.
fn vnode_position(shard: ShardId, number: u32) -> u64 {
    let mut label = [0; 21];
    label[..9].copy_from_slice(VNODE_LABEL);
    label[9..13].copy_from_slice(&FORMAT.to_le_bytes());
    label[13..17].copy_from_slice(&shard.get().to_le_bytes());
    label[17..].copy_from_slice(&number.to_le_bytes());
    xxh3_64(&label)
}

/// The vnodes' positions, ascending and each once, with their owners: the lowest shard where several claim one.
fn settle(mut vnodes: Vec<(u64, ShardId)>) -> (Vec<u64>, Vec<ShardId>) {
    vnodes.sort_unstable();
    vnodes.dedup_by_key(|vnode| vnode.0);
    vnodes.into_iter().unzip()
}

/// The first-level index over ascending positions: the shift from hash to bucket, and where each bucket starts.
fn buckets(positions: &[u64]) -> (u32, Vec<u32>) {
    // At least two buckets, as a shift by all 64 bits is not defined.
    let bits = positions.len().next_power_of_two().ilog2().max(1);
    let shift = u64::BITS - bits;
    let mut starts = Vec::with_capacity((1 << bits) + 1);
    let mut below = 0;
    for bucket in 0..1_u64 << bits {
        while positions.get(index(below)).is_some_and(|&position| position >> shift < bucket) {
            below += 1;
        }
        starts.push(below);
    }
    starts.push(positions.len().try_into().unwrap_or(VNODES_MAX));
    (shift, starts)
}

/// A number as an index. All those used here are below [`VNODES_MAX`]; any other finds nothing.
fn index(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
