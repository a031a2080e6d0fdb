//! Looks at leases, and what shards tell each other of them, between wire and domain.

use kvd_types::{
    Error, Key, LeaseId, Result, ShardId,
    operation::{LeaseInfo, Request, Tell},
};

use super::read::saturating;
use crate::v1;

pub(super) fn list_to_wire(shard: ShardId, from: LeaseId, limit: usize) -> v1::ListLeasesRequest {
    v1::ListLeasesRequest { shard: shard.get(), from: from.get(), limit: saturating(limit) }
}

pub(super) const fn list_from_wire(wire: &v1::ListLeasesRequest) -> Request {
    Request::ListLeases { shard: ShardId(wire.shard), from: LeaseId(wire.from), limit: wire.limit as usize }
}

pub(super) fn keys_to_wire(
    shard: ShardId,
    lease: LeaseId,
    after: Option<Key>,
    limit: usize,
) -> v1::LeaseKeysRequest {
    v1::LeaseKeysRequest {
        shard: shard.get(),
        lease: lease.get(),
        after: after.map(Key::into_bytes).unwrap_or_default(),
        limit: saturating(limit),
    }
}

pub(super) fn keys_from_wire(wire: v1::LeaseKeysRequest) -> Result<Request> {
    Ok(Request::LeaseKeys {
        shard: ShardId(wire.shard),
        lease: LeaseId(wire.lease),
        after: if wire.after.is_empty() { None } else { Some(Key::new(wire.after)?) },
        limit: wire.limit as usize,
    })
}

pub(super) fn info_to_wire(info: LeaseInfo) -> v1::Lease {
    v1::Lease {
        id: info.id.get(),
        ttl_ms: info.ttl_ms,
        remaining_ms: info.remaining_ms,
        shards: info.shards.into_iter().map(ShardId::get).collect(),
    }
}

pub(super) fn info_from_wire(wire: v1::Lease) -> LeaseInfo {
    LeaseInfo {
        id: LeaseId(wire.id),
        ttl_ms: wire.ttl_ms,
        remaining_ms: wire.remaining_ms,
        shards: wire.shards.into_iter().map(ShardId).collect(),
    }
}

pub(super) const fn tell_to_wire(shard: ShardId, lease: LeaseId, what: Tell) -> v1::TellRequest {
    use v1::tell_request::What;
    let what = match what {
        Tell::Expect(shard) => What::Expect(shard.get()),
        Tell::Detach(limit) => What::DetachLimit(limit),
        Tell::Detached(shard) => What::Detached(shard.get()),
    };
    v1::TellRequest { shard: shard.get(), lease: lease.get(), what: Some(what) }
}

pub(super) fn tell_from_wire(wire: &v1::TellRequest) -> Result<Request> {
    use v1::tell_request::What;
    let what = match wire.what.ok_or_else(|| Error::invalid("nothing is told of the lease"))? {
        What::Expect(shard) => Tell::Expect(ShardId(shard)),
        What::DetachLimit(limit) => Tell::Detach(limit),
        What::Detached(shard) => Tell::Detached(ShardId(shard)),
    };
    Ok(Request::Tell(ShardId(wire.shard), LeaseId(wire.lease), what))
}
