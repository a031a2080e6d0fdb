//! The cluster as clients see it, between wire and domain.

use kvd_types::{
    Error, Result, RingEpoch, ShardId,
    cluster::{RingShard, RingSpec},
    limits::SHARDS_MAX,
};

use crate::v1;

/// A ring's specification as it goes over the wire.
#[must_use]
pub fn ring_to_wire(spec: &RingSpec) -> v1::Ring {
    v1::Ring {
        format: spec.format,
        epoch: spec.epoch.get(),
        shards: spec
            .shards
            .iter()
            .map(|shard| v1::RingShard { id: shard.id.get(), weight: shard.weight })
            .collect(),
    }
}

/// A ring's specification as it came over the wire.
///
/// # Errors
/// Invalid argument, for more shards than a cluster has. Whether the format is known is the ring's to say.
pub fn ring_from_wire(wire: &v1::Ring) -> Result<RingSpec> {
    if wire.shards.len() > SHARDS_MAX as usize {
        return Err(Error::invalid(format!(
            "the ring has {} shards; a cluster has at most {SHARDS_MAX}",
            wire.shards.len()
        )));
    }
    Ok(RingSpec {
        format: wire.format,
        epoch: RingEpoch(wire.epoch),
        shards: wire
            .shards
            .iter()
            .map(|shard| RingShard { id: ShardId(shard.id), weight: shard.weight })
            .collect(),
    })
}
