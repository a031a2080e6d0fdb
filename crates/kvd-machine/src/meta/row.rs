//! The state of the cluster as a row's value. Persisted, keep stable.
//!
//! 128-bit numbers are 16 bytes, big-endian. Groups, nodes and shards come in ascending order of their ids, replicas in
//! the order that the placement has them.

use bytes::Bytes;
use kvd_types::{
    ClusterId, GroupId, Incarnation, MetaEpoch, NodeId, ReplicaId, RingEpoch, ShardId,
    cluster::{
        Addresses, DataSettings, Node, NodeProfile, NodeState, Placement, Replica, RingShard, RingSpec,
        Settings,
    },
};
use prost::{Enumeration, Message};

use super::{Founding, MetaState, ReplacedNode};
use crate::{Error, rows};

/// The state of the cluster.
#[derive(Clone, PartialEq, Message)]
struct StateRow {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(message, optional, tag = "2")]
    founding: Option<FoundingRow>,
    #[prost(message, repeated, tag = "3")]
    nodes: Vec<NodeRow>,
    #[prost(message, repeated, tag = "4")]
    placements: Vec<PlacementRow>,
    #[prost(uint64, tag = "5")]
    next_node: u64,
    #[prost(uint64, tag = "6")]
    next_replica: u64,
    #[prost(message, repeated, tag = "7")]
    replaced: Vec<ReplacedRow>,
}

#[derive(Clone, PartialEq, Message)]
struct ReplacedRow {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(bytes = "vec", tag = "2")]
    join_nonce: Vec<u8>,
    #[prost(uint64, tag = "3")]
    successor: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FoundingRow {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint32, tag = "2")]
    replication_factor: u32,
    #[prost(uint32, tag = "3")]
    shards: u32,
    #[prost(uint32, tag = "4")]
    initial_nodes: u32,
    /// Zero: the default.
    #[prost(uint64, tag = "8")]
    history_retention_ms: u64,
    /// Zero: the default.
    #[prost(uint64, tag = "9")]
    history_bytes_max: u64,
    #[prost(bool, tag = "10")]
    lease_reads: bool,
    #[prost(uint32, tag = "5")]
    ring_format: u32,
    #[prost(uint64, tag = "6")]
    ring_epoch: u64,
    #[prost(message, repeated, tag = "7")]
    ring_shards: Vec<RingShardRow>,
}

#[derive(Clone, PartialEq, Message)]
struct RingShardRow {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, tag = "2")]
    weight: u32,
}

#[derive(Clone, PartialEq, Message)]
struct NodeRow {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    join_nonce: Vec<u8>,
    #[prost(string, tag = "3")]
    client_address: String,
    #[prost(string, tag = "4")]
    peer_address: String,
    #[prost(string, tag = "5")]
    http_address: String,
    #[prost(string, tag = "6")]
    zone: String,
    #[prost(uint32, tag = "7")]
    weight: u32,
    #[prost(enumeration = "NodeStateRow", tag = "8")]
    state: i32,
    #[prost(uint64, tag = "9")]
    incarnation: u64,
    #[prost(bytes = "vec", tag = "10")]
    start_nonce: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
enum NodeStateRow {
    Missing = 0,
    Active = 1,
    Draining = 2,
}

#[derive(Clone, PartialEq, Message)]
struct PlacementRow {
    #[prost(uint32, tag = "1")]
    group: u32,
    #[prost(message, repeated, tag = "2")]
    voters: Vec<ReplicaRow>,
    #[prost(message, repeated, tag = "3")]
    learners: Vec<ReplicaRow>,
    #[prost(message, repeated, tag = "4")]
    retiring: Vec<ReplicaRow>,
    #[prost(message, repeated, tag = "5")]
    founders: Vec<ReplicaRow>,
    #[prost(uint64, tag = "6")]
    preferred_leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ReplicaRow {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
}

/// The row's value that holds a state.
pub(super) fn encode(state: &MetaState) -> Bytes {
    let row = StateRow {
        epoch: state.epoch.get(),
        founding: state.founding.as_ref().map(FoundingRow::from),
        nodes: state.nodes.values().map(NodeRow::from).collect(),
        placements: state.placements.values().map(PlacementRow::from).collect(),
        next_node: state.next_node.get(),
        next_replica: state.next_replica.get(),
        replaced: state
            .replaced
            .iter()
            .map(|(node, replaced)| ReplacedRow {
                node: node.get(),
                join_nonce: replaced.join_nonce.to_be_bytes().to_vec(),
                successor: replaced.successor.get(),
            })
            .collect(),
    };
    row.encode_to_vec().into()
}

/// The state in a row's value.
pub(super) fn decode(value: Bytes) -> Result<MetaState, Error> {
    let row = StateRow::decode(value).map_err(|error| Error::corrupt(rows::META_STATE, error))?;
    row.into_state().map_err(|detail| Error::corrupt(rows::META_STATE, detail))
}

impl StateRow {
    fn into_state(self) -> Result<MetaState, &'static str> {
        let nodes = self
            .nodes
            .into_iter()
            .map(|row| row.into_node().map(|node| (node.id, node)))
            .collect::<Result<_, _>>()?;
        let replaced = self.replaced.iter().map(ReplacedRow::to_replaced).collect::<Result<_, _>>()?;
        let placements = self.placements.into_iter().map(|row| (GroupId(row.group), row.into())).collect();
        Ok(MetaState {
            epoch: MetaEpoch(self.epoch),
            founding: self.founding.map(FoundingRow::into_founding).transpose()?,
            nodes,
            placements,
            replaced,
            next_node: NodeId(self.next_node),
            next_replica: ReplicaId(self.next_replica),
        })
    }
}

impl ReplacedRow {
    fn to_replaced(&self) -> Result<(NodeId, ReplacedNode), &'static str> {
        let join_nonce = number(&self.join_nonce)?;
        Ok((NodeId(self.node), ReplacedNode { join_nonce, successor: NodeId(self.successor) }))
    }
}

impl From<&Founding> for FoundingRow {
    fn from(founding: &Founding) -> Self {
        let Founding { cluster, settings, ring } = founding;
        Self {
            cluster: cluster.0.to_be_bytes().to_vec(),
            replication_factor: settings.replication_factor,
            shards: settings.shards,
            initial_nodes: settings.initial_nodes,
            history_retention_ms: settings.data.history_retention_ms,
            history_bytes_max: settings.data.history_bytes_max,
            lease_reads: settings.data.lease_reads,
            ring_format: ring.format,
            ring_epoch: ring.epoch.get(),
            ring_shards: ring
                .shards
                .iter()
                .map(|shard| RingShardRow { id: shard.id.get(), weight: shard.weight })
                .collect(),
        }
    }
}

impl FoundingRow {
    fn into_founding(self) -> Result<Founding, &'static str> {
        let shards = self
            .ring_shards
            .iter()
            .map(|row| RingShard { id: ShardId(row.id), weight: row.weight })
            .collect();
        let default = DataSettings::default();
        let or = |number: u64, default: u64| if number == 0 { default } else { number };
        let data = DataSettings {
            history_retention_ms: or(self.history_retention_ms, default.history_retention_ms),
            history_bytes_max: or(self.history_bytes_max, default.history_bytes_max),
            lease_reads: self.lease_reads,
        };
        Ok(Founding {
            cluster: ClusterId(number(&self.cluster)?),
            settings: Settings {
                replication_factor: self.replication_factor,
                shards: self.shards,
                initial_nodes: self.initial_nodes,
                data,
            },
            ring: RingSpec { format: self.ring_format, epoch: RingEpoch(self.ring_epoch), shards },
        })
    }
}

impl From<&Node> for NodeRow {
    fn from(node: &Node) -> Self {
        let NodeProfile { addresses, zone, weight } = node.profile.clone();
        let state = match node.state {
            NodeState::Active => NodeStateRow::Active,
            NodeState::Draining => NodeStateRow::Draining,
        };
        Self {
            id: node.id.get(),
            join_nonce: node.join_nonce.to_be_bytes().to_vec(),
            client_address: addresses.client,
            peer_address: addresses.peer,
            http_address: addresses.http,
            zone,
            weight,
            state: state.into(),
            incarnation: node.incarnation.get(),
            start_nonce: node.start_nonce.to_be_bytes().to_vec(),
        }
    }
}

impl NodeRow {
    fn into_node(self) -> Result<Node, &'static str> {
        let state = match self.state() {
            NodeStateRow::Active => NodeState::Active,
            NodeStateRow::Draining => NodeState::Draining,
            NodeStateRow::Missing => {
                return Err("a node is in no state, or in one that this kvd doesn't know");
            }
        };
        Ok(Node {
            id: NodeId(self.id),
            join_nonce: number(&self.join_nonce)?,
            profile: NodeProfile {
                addresses: Addresses {
                    client: self.client_address,
                    peer: self.peer_address,
                    http: self.http_address,
                },
                zone: self.zone,
                weight: self.weight,
            },
            state,
            incarnation: Incarnation(self.incarnation),
            start_nonce: number(&self.start_nonce)?,
        })
    }
}

impl From<&Placement> for PlacementRow {
    fn from(placement: &Placement) -> Self {
        let rows = |replicas: &[Replica]| {
            replicas
                .iter()
                .map(|replica| ReplicaRow { id: replica.id.get(), node: replica.node.get() })
                .collect()
        };
        Self {
            group: placement.group.get(),
            voters: rows(&placement.voters),
            learners: rows(&placement.learners),
            retiring: rows(&placement.retiring),
            founders: rows(&placement.founders),
            preferred_leader: placement.preferred_leader.get(),
        }
    }
}

impl From<PlacementRow> for Placement {
    fn from(row: PlacementRow) -> Self {
        let replicas = |rows: &[ReplicaRow]| {
            rows.iter().map(|row| Replica { id: ReplicaId(row.id), node: NodeId(row.node) }).collect()
        };
        Self {
            group: GroupId(row.group),
            voters: replicas(&row.voters),
            learners: replicas(&row.learners),
            retiring: replicas(&row.retiring),
            founders: replicas(&row.founders),
            preferred_leader: ReplicaId(row.preferred_leader),
        }
    }
}

/// A 128-bit number.
fn number(bytes: &[u8]) -> Result<u128, &'static str> {
    let bytes = bytes.try_into().map_err(|_| "a 128-bit number has not 16 bytes")?;
    Ok(u128::from_be_bytes(bytes))
}
