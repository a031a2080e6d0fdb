//! The decoder of what a node says of its cluster, for `kvd-fuzz`.

use bytes::Bytes;
use kvd_placement::Ring;
use kvd_proto::v1;
use kvd_types::{Error, Key, Result, ShardId};
use prost::Message as _;

use crate::Status;

/// A node's status; and if it tells of a ring, the shard that the ring gives a key to.
///
/// # Errors
/// It makes no sense.
pub fn status(bytes: Bytes, key: &Key) -> Result<(Status, Option<ShardId>)> {
    let wire = v1::StatusResponse::decode(bytes).map_err(|error| Error::invalid(error.to_string()))?;
    let status = Status::from_wire(wire)?;
    let ring = status.topology.ring.as_ref().map(Ring::build).transpose();
    let ring = ring.map_err(|error| Error::invalid(error.to_string()))?;
    Ok((status, ring.map(|ring| ring.shard_of(key))))
}
