//! The cluster as a node tells it: nodes, shards, who leads.

use std::time::Duration;

use kvd_proto::{topology::ring_from_wire, v1};
use kvd_types::{GroupId, LogIndex, MetaEpoch, NodeId, ReplicaId, Result, ShardId, Term, cluster::RingSpec};

/// The cluster as one of its nodes sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// The cluster's id, as 32 hexadecimal digits.
    pub cluster_id: String,
    /// Grows with each change of the cluster's make-up.
    pub epoch: MetaEpoch,
    /// Replicas that each shard should have.
    pub replication_factor: u32,
    /// What the ring is computed from; `None` while the cluster has no shards yet.
    pub ring: Option<RingSpec>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The shards.
    pub shards: Vec<Shard>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Where clients reach it, `host:port`.
    pub client_address: String,
    /// Where the other nodes reach it.
    pub peer_address: String,
    /// Where its REST interface, health and metrics are.
    pub http_address: String,
    /// The failure domain that it stands in; empty: none.
    pub zone: String,
    /// Its share of replicas and leaders, relative to the other nodes'.
    pub weight: u32,
    /// `active` or `draining`; a newer server may know more.
    pub state: String,
    /// How often it has started.
    pub incarnation: u64,
    /// Whether the node that answered has heard from it within the last seconds.
    pub reachable: bool,
}

/// A shard and its replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// Its id.
    pub id: ShardId,
    /// Its part of the keyspace, from 0 to 1.
    pub share: f64,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// The node that leads it, as far as the node that answered knows.
    pub leader: Option<NodeId>,
    /// The node that leads it when it can.
    pub preferred_leader: Option<NodeId>,
}

/// A replica of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its id.
    pub id: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
    /// `voter`, `learner` or `retiring`; a newer server may know more.
    pub role: String,
}

/// What one node says of the cluster and of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The cluster as it sees it.
    pub topology: Topology,
    /// Its id.
    pub node: NodeId,
    /// Its version.
    pub version: String,
    /// How long ago it started.
    pub uptime: Duration,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica of the node that tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its group: the meta group or a shard's.
    pub group: GroupId,
    /// Its id.
    pub id: ReplicaId,
    /// `leader`, `follower`, `candidate`, `learner`, `starting`, `rebuilding` or `failed`; a newer server may know more.
    pub role: String,
    /// Its Raft term.
    pub term: Term,
    /// The replica that it takes for the leader.
    pub leader: Option<ReplicaId>,
    /// The last entry in its log.
    pub last_log_index: LogIndex,
    /// The last entry that it knows to be committed.
    pub committed_index: LogIndex,
    /// The last entry that it has applied.
    pub applied_index: LogIndex,
    /// The last entry that its newest checkpoint covers.
    pub checkpoint_index: LogIndex,
    /// What its log takes on disk.
    pub log_bytes: u64,
    /// A hash over its rows at the applied index; equal among replicas at an equal index.
    pub digest: u64,
    /// Its group's voters are being changed: two sets of them decide together.
    pub changes_voters: bool,
}

/// Where a key lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// The shard that owns it.
    pub shard: Shard,
    /// Its place on the ring.
    pub hash: u64,
}

impl Topology {
    /// A node by its id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// A shard by its id.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.id == id)
    }

    pub(crate) fn from_wire(wire: v1::Topology) -> Result<Self> {
        let ring = wire.ring.as_ref().map(ring_from_wire).transpose()?;
        Ok(Self {
            cluster_id: wire.cluster_id,
            epoch: MetaEpoch(wire.epoch),
            replication_factor: wire.replication_factor,
            ring: ring.filter(|ring| !ring.shards.is_empty()),
            nodes: wire.nodes.into_iter().map(node_from_wire).collect(),
            shards: wire.shards.into_iter().map(shard_from_wire).collect(),
        })
    }
}

fn node_from_wire(wire: v1::Node) -> Node {
    Node {
        id: NodeId(wire.id),
        client_address: wire.client_address,
        peer_address: wire.peer_address,
        http_address: wire.http_address,
        zone: wire.zone,
        weight: wire.weight,
        state: wire.state,
        incarnation: wire.incarnation,
        reachable: wire.reachable,
    }
}

fn node_id(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

pub(crate) fn shard_from_wire(wire: v1::Shard) -> Shard {
    let replica =
        |wire: v1::Replica| Replica { id: ReplicaId(wire.id), node: NodeId(wire.node), role: wire.role };
    Shard {
        id: ShardId(wire.id),
        share: wire.share,
        replicas: wire.replicas.into_iter().map(replica).collect(),
        leader: node_id(wire.leader_node),
        preferred_leader: node_id(wire.preferred_leader_node),
    }
}

impl Status {
    pub(crate) fn from_wire(wire: v1::StatusResponse) -> Result<Self> {
        Ok(Self {
            topology: Topology::from_wire(wire.topology.unwrap_or_default())?,
            node: NodeId(wire.node),
            version: wire.version,
            uptime: Duration::from_millis(wire.uptime_ms),
            replicas: wire.replicas.into_iter().map(replica_status_from_wire).collect(),
        })
    }
}

fn replica_status_from_wire(wire: v1::ReplicaStatus) -> ReplicaStatus {
    ReplicaStatus {
        group: GroupId(wire.group),
        id: ReplicaId(wire.replica),
        role: wire.role,
        term: Term(wire.term),
        leader: (wire.leader_replica != 0).then_some(ReplicaId(wire.leader_replica)),
        last_log_index: LogIndex(wire.last_log_index),
        committed_index: LogIndex(wire.committed_index),
        applied_index: LogIndex(wire.applied_index),
        checkpoint_index: LogIndex(wire.checkpoint_index),
        log_bytes: wire.log_bytes,
        digest: wire.digest,
        changes_voters: wire.changes_voters,
    }
}
