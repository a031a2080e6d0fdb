//! What shards tell each other of leases, between wire and domain. Persisted: keep stable.

use kvd_types::{Error, LeaseCommand, LeaseId, Result, ShardId};

use crate::peer::v1 as p;

pub(super) fn lease_to_wire(command: &LeaseCommand) -> p::LeaseCommand {
    use p::lease_command::Kind;
    let (lease, kind) = match *command {
        LeaseCommand::KeepAlive(lease) => (lease, Kind::KeepAlive(true)),
        LeaseCommand::Expect { lease, shard } => (lease, Kind::Expect(shard.get())),
        LeaseCommand::Attach { lease, not_after_ms } => (lease, Kind::AttachNotAfterMs(not_after_ms)),
        LeaseCommand::Detach { lease, limit } => (lease, Kind::DetachLimit(limit)),
        LeaseCommand::Detached { lease, shard } => (lease, Kind::Detached(shard.get())),
    };
    p::LeaseCommand { lease: lease.get(), kind: Some(kind) }
}

pub(super) fn lease_from_wire(wire: p::LeaseCommand) -> Result<LeaseCommand> {
    use p::lease_command::Kind;
    let lease = LeaseId(wire.lease);
    Ok(match wire.kind.ok_or_else(|| Error::invalid("a command of a lease of an unknown kind"))? {
        Kind::KeepAlive(_) => LeaseCommand::KeepAlive(lease),
        Kind::Expect(shard) => LeaseCommand::Expect { lease, shard: ShardId(shard) },
        Kind::AttachNotAfterMs(not_after_ms) => LeaseCommand::Attach { lease, not_after_ms },
        Kind::DetachLimit(limit) => LeaseCommand::Detach { lease, limit },
        Kind::Detached(shard) => LeaseCommand::Detached { lease, shard: ShardId(shard) },
    })
}
