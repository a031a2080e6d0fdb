//! The state of the cluster, as a value.

use std::collections::BTreeMap;

use kvd_types::{
    ClusterId, GroupId, MetaEpoch, NodeId, ReplicaId,
    cluster::{Node, Placement, RingSpec, Settings},
};

/// The state of the cluster: who is in it, which shards there are, and which replicas each group should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaState {
    /// Grows with each change; zero is before the first one.
    pub epoch: MetaEpoch,
    /// What was decided when the cluster was created; `None`: it has not been.
    pub founding: Option<Founding>,
    /// The nodes, by id.
    pub nodes: BTreeMap<NodeId, Node>,
    /// The placements of the meta group and of all shards that have been placed, by group.
    pub placements: BTreeMap<GroupId, Placement>,
    /// Nodes that were replaced and must not come back, by id: at most [`REPLACED_NODES_MAX`] of them.
    ///
    /// [`REPLACED_NODES_MAX`]: kvd_types::limits::REPLACED_NODES_MAX
    pub replaced: BTreeMap<NodeId, ReplacedNode>,
    /// The id that the next node gets.
    pub next_node: NodeId,
    /// The id that the next replica, of whichever group, gets.
    pub next_replica: ReplicaId,
}

/// A node that has lost its disk and was replaced by a new one at its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplacedNode {
    /// The random number under which it had asked to join.
    pub join_nonce: u128,
    /// The node in its place.
    pub successor: NodeId,
}

/// What was decided when the cluster was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Its settings.
    pub settings: Settings,
    /// Its ring.
    pub ring: RingSpec,
}

impl Default for MetaState {
    /// Before the cluster is created.
    fn default() -> Self {
        Self {
            epoch: MetaEpoch(0),
            founding: None,
            nodes: BTreeMap::new(),
            placements: BTreeMap::new(),
            replaced: BTreeMap::new(),
            next_node: NodeId(1),
            next_replica: ReplicaId(1),
        }
    }
}

impl MetaState {
    /// The cluster's id; `None`: it has not been created.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.founding.as_ref().map(|founding| founding.cluster)
    }

    /// The cluster's settings; `None`: it has not been created.
    #[must_use]
    pub fn settings(&self) -> Option<&Settings> {
        self.founding.as_ref().map(|founding| &founding.settings)
    }

    /// The cluster's ring; `None`: it has not been created.
    #[must_use]
    pub fn ring(&self) -> Option<&RingSpec> {
        self.founding.as_ref().map(|founding| &founding.ring)
    }

    /// Whether a node was in this cluster and was replaced. Once true, always true.
    #[must_use]
    pub fn is_replaced(&self, node: NodeId) -> bool {
        node != NodeId(0) && node < self.next_node && !self.nodes.contains_key(&node)
    }

    /// What to tell a node that was replaced; `None`: it was not.
    #[must_use]
    pub fn farewell(&self, node: NodeId) -> Option<String> {
        let by = match self.replaced.get(&node) {
            Some(replaced) => format!("node {}, which took over its address", replaced.successor),
            None if self.is_replaced(node) => "a node that took over its address".to_owned(),
            None => return None,
        };
        Some(format!(
            "node {node} was replaced by {by}, and must not come back: start this one with an empty data directory; it \
             joins as a new node"
        ))
    }
}
