//! The cluster itself: nodes, placements, the ring's specification, and the commands that change them.
//!
//! All of it is the state of the meta group. Its rules, such as that a replica id is never reused, are the meta
//! machine's; these are only the words.

use serde::{Deserialize, Serialize};

use crate::{
    ClusterId, GroupId, Incarnation, NodeId, ReplicaId, RingEpoch, ShardId,
    limits::{HISTORY_BYTES_MAX_DEFAULT, HISTORY_RETENTION_DEFAULT_MS},
};

/// Where a node can be reached, each as `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Addresses {
    /// gRPC for clients.
    pub client: String,
    /// gRPC between nodes.
    pub peer: String,
    /// REST, health and metrics.
    pub http: String,
}

/// What a node says of itself when it joins or starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProfile {
    /// Where it can be reached.
    pub addresses: Addresses,
    /// The failure domain that it stands in; empty: none.
    pub zone: String,
    /// Its share of replicas and leaders, relative to the other nodes'.
    pub weight: u32,
}

/// Whether a node should be given work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Holds replicas and leads.
    #[default]
    Active,
    /// Keeps its replicas; leadership moves away.
    Draining,
}

/// A node in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The random number under which it asked to join, so that asking twice makes one node.
    pub join_nonce: u128,
    /// What it says of itself.
    pub profile: NodeProfile,
    /// Whether it should be given work.
    pub state: NodeState,
    /// How often it has started, as last announced.
    pub incarnation: Incarnation,
    /// The random number of that start: two processes on copies of one disk have the same incarnation, but not this.
    pub start_nonce: u128,
}

/// A replica and the node that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    /// The replica's id, which is its Raft node id.
    pub id: ReplicaId,
    /// Where it is.
    pub node: NodeId,
}

/// Which replicas a group should have. The group's leader makes its Raft membership so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The group.
    pub group: GroupId,
    /// The replicas that should vote. The first `founders` of history are those that the group was created with.
    pub voters: Vec<Replica>,
    /// The replicas that should follow without a vote (of the meta group only, so far).
    pub learners: Vec<Replica>,
    /// Replicas that have been replaced and may still be members: once the leader has taken them out they are dropped from
    /// here, and their nodes discard them. Their nodes may have been replaced themselves, and be in the registry no more.
    pub retiring: Vec<Replica>,
    /// The voters that the group was created with: they start it, and nobody else may.
    pub founders: Vec<Replica>,
    /// The replica that should lead when it can.
    pub preferred_leader: ReplicaId,
}

impl Placement {
    /// All replicas that should exist, retiring ones included.
    pub fn replicas(&self) -> impl Iterator<Item = Replica> + '_ {
        self.voters.iter().chain(&self.learners).chain(&self.retiring).copied()
    }

    /// The replica on a node, if there is one that isn't retiring.
    #[must_use]
    pub fn on_node(&self, node: NodeId) -> Option<Replica> {
        self.voters.iter().chain(&self.learners).copied().find(|replica| replica.node == node)
    }
}

/// Where each shard's part of the ring comes from. The ring itself is computed from this, alike on every node and client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingSpec {
    /// The version of the hash and of how vnodes are placed; a reader that doesn't know it must refuse.
    pub format: u32,
    /// Grows with each change.
    pub epoch: RingEpoch,
    /// The shards, by id.
    pub shards: Vec<RingShard>,
}

/// A shard's claim on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingShard {
    /// The shard.
    pub id: ShardId,
    /// Its share of the ring, relative to the other shards'.
    pub weight: u32,
}

/// What is decided when a cluster is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Replicas of each shard.
    pub replication_factor: u32,
    /// Shards that the cluster is created with.
    pub shards: u32,
    /// Shards are first placed once this many nodes have joined.
    pub initial_nodes: u32,
    /// How shards keep and serve their data.
    pub data: DataSettings,
}

/// How shards keep and serve their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSettings {
    /// What was replaced or deleted can be read for so long, by the time that the shard is led.
    pub history_retention_ms: u64,
    /// More bytes of it than this are not kept that long by a shard.
    pub history_bytes_max: u64,
    /// Reads may rely on a leader's lease.
    pub lease_reads: bool,
}

impl Default for DataSettings {
    fn default() -> Self {
        Self {
            history_retention_ms: HISTORY_RETENTION_DEFAULT_MS,
            history_bytes_max: HISTORY_BYTES_MAX_DEFAULT,
            lease_reads: false,
        }
    }
}

/// A change of the cluster, as a value in the meta group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaCommand {
    /// Found the cluster: the first entry of its life. The founder is node 1, with replica 1 of the meta group.
    CreateCluster {
        /// The cluster's id.
        cluster: ClusterId,
        /// Decided once.
        settings: Settings,
        /// The founder's join nonce.
        join_nonce: u128,
        /// The founder.
        profile: NodeProfile,
    },
    /// Give a new node its id and a replica of the meta group. Asked again with the same nonce: the same answer.
    RegisterNode {
        /// Chosen by the node, once.
        join_nonce: u128,
        /// What it says of itself.
        profile: NodeProfile,
        /// The node that had its addresses and has lost its disk, if it comes in place of one: it gets a successor of each
        /// of that node's replicas, and that node leaves the cluster for good. Only a node that has seen the new one
        /// answer at the address may say so; never the new one itself.
        replaces: Option<NodeId>,
    },
    /// A node has started.
    AnnounceStart {
        /// The node.
        node: NodeId,
        /// How often it has started, this time included.
        incarnation: Incarnation,
        /// The random number of this start.
        start_nonce: u128,
        /// What it says of itself now.
        profile: NodeProfile,
    },
    /// Say whether a node should be given work.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Its new state.
        state: NodeState,
    },
    /// Place shards for the first time. Replica ids are minted in the order given; a shard that is placed already is left alone.
    PlaceShards {
        /// For each shard the nodes of its voters, the preferred leader's first.
        shards: Vec<(ShardId, Vec<NodeId>)>,
    },
    /// Say which nodes should vote in the meta group; the others learn.
    SetMetaVoters {
        /// The nodes, each with a replica of the meta group.
        nodes: Vec<NodeId>,
    },
    /// Say which replica of a group should lead.
    PreferLeader {
        /// The group.
        group: GroupId,
        /// One of its voters.
        replica: ReplicaId,
    },
    /// A replica's data is lost or damaged: it retires, and a new replica on the given node takes its place.
    ReplaceReplica {
        /// The group.
        group: GroupId,
        /// The lost replica.
        lost: ReplicaId,
        /// Where its successor should be.
        node: NodeId,
    },
    /// The group's leader has taken these replicas out of its membership: they may be discarded.
    DropRetired {
        /// The group.
        group: GroupId,
        /// Replicas that were retiring.
        replicas: Vec<ReplicaId>,
    },
}

/// What came of a change of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaOutcome {
    /// It was made, or stood already.
    Done,
    /// A node has its id and its replica of the meta group.
    NodeRegistered {
        /// The node.
        node: NodeId,
        /// Its replica of the meta group.
        meta_replica: ReplicaId,
    },
    /// A lost replica has this successor.
    ReplicaReplaced {
        /// The new replica.
        successor: ReplicaId,
    },
    /// It was refused; nothing changed. The text says why and what to do.
    Refused(String),
}
