//! The planner: which nodes should hold what.
//!
//! # The problem
//! Replicas of one shard must not fail together, so they stand on distinct nodes and, where there are several, in
//! distinct zones. Apart from that every node should carry replicas and leaders in proportion to its weight. And two
//! nodes that plan from the same registry must come to the same plan.
//!
//! # The approach
//! Three questions, three pure functions over [`NodeView`]s:
//!
//! - [`initial_placement`]: where the replicas of new shards go. Exact rather than greedy; see the `initial` module.
//! - [`meta_voters`]: which nodes vote in the meta group. An odd number of them, with as little change as possible.
//! - [`replacement_node`]: where the successor of a lost replica goes.
//!
//! A node whose zone is empty is a failure domain of its own.
//!
//! # Invariants
//! - The answer depends on nothing but the input, and not on its order.
//! - Zones go before weights: a shard stands in as many zones as it can even if that burdens a small zone.
//! - Nothing is moved for balance alone.
//!
//! # What it deliberately does not do
//! It doesn't judge whether a node is alive: the caller knows the clock and the heartbeats, and says so in the view.

mod initial;

use std::collections::{BTreeMap, BTreeSet};

use kvd_types::{
    NodeId, ReplicaId, ShardId,
    cluster::{Node, NodeState, Placement},
    limits::REPLICATION_FACTORS,
};

/// What the planner knows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeView<'a> {
    /// Its id.
    pub id: NodeId,
    /// The failure domain that it stands in; empty: one of its own.
    pub zone: &'a str,
    /// Its share of replicas and leaders, relative to the other nodes'.
    pub weight: u32,
    /// Whether it should be given work.
    pub state: NodeState,
    /// Whether the caller holds it to be alive. Not for a judgement that flickers: a node that restarts is alive, one
    /// that is gone for so long that it should be replaced is not.
    pub alive: bool,
}

impl<'a> NodeView<'a> {
    /// A node of the registry, with the caller's judgement of it.
    #[must_use]
    pub fn new(node: &'a Node, alive: bool) -> Self {
        let profile = &node.profile;
        Self { id: node.id, zone: &profile.zone, weight: profile.weight, state: node.state, alive }
    }

    fn may_be_given_work(&self) -> bool {
        self.alive && self.state == NodeState::Active
    }

    fn domain(&self) -> Domain<'a> {
        if self.zone.is_empty() { Domain::Node(self.id) } else { Domain::Zone(self.zone) }
    }
}

/// What fails together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Domain<'a> {
    Zone(&'a str),
    Node(NodeId),
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A shard's replicas need distinct nodes.
    #[error(
        "{replication_factor} replicas of a shard need as many active nodes, there are {active}: \
         start {} more or end their draining",
        replication_factor - active
    )]
    TooFewNodes {
        /// Nodes that are alive and active.
        active: u32,
        /// Nodes that are needed.
        replication_factor: u32,
    },
    /// Not one of [`REPLICATION_FACTORS`].
    #[error("a replication factor of {0} is not allowed; the allowed ones are {REPLICATION_FACTORS:?}")]
    ReplicationFactor(u32),
    /// A node is there twice.
    #[error("node {0} is given twice")]
    DuplicateNode(NodeId),
}

/// Where the replicas of new shards go: for each shard, by ascending id, its nodes, the preferred leader's first.
///
/// Only nodes that are alive and active are used. The nodes of a shard are distinct; its zones are as many as possible,
/// and it has as equal a number of replicas in each as possible; with that given, replicas and then leaders are spread by
/// the weight of the nodes. With equal weights and zones of one size no node is off its ideal share by one replica or
/// one leader or more.
///
/// # Errors
/// A replication factor that isn't allowed, fewer active nodes than that, a node that is given twice.
pub fn initial_placement(
    nodes: &[NodeView<'_>],
    shards: &[ShardId],
    replication_factor: u32,
) -> Result<Vec<(ShardId, Vec<NodeId>)>, PlanError> {
    if !REPLICATION_FACTORS.contains(&replication_factor) {
        return Err(PlanError::ReplicationFactor(replication_factor));
    }
    let mut usable = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.may_be_given_work()) {
        if usable.insert(node.id, *node).is_some() {
            return Err(PlanError::DuplicateNode(node.id));
        }
    }
    let active = u32::try_from(usable.len()).unwrap_or(u32::MAX);
    if active < replication_factor {
        return Err(PlanError::TooFewNodes { active, replication_factor });
    }
    let usable: Vec<_> = usable.into_values().collect();
    let shards: BTreeSet<_> = shards.iter().copied().collect();
    let lists =
        initial::plan(&usable, shards.len(), usize::try_from(replication_factor).unwrap_or(usize::MAX));
    Ok(shards.into_iter().zip(lists).collect())
}

/// Which nodes should vote in the meta group, by ascending id, given those that do now.
///
/// `nodes` are all registered ones, dead ones too: leaving those out would shrink the group just when it needs its
/// majority. The number of voters is odd, at most `max`: with three or four nodes three, with five or six five. Two nodes
/// make *one* voter: two would tolerate no failure either, and any of them could stop the cluster; the other node has all
/// the data as a learner.
///
/// Nodes that are alive go first, then zones that have fewest of the voters, then those who vote already, then those that
/// are not draining. So a voter is replaced when it is dead and somebody is not, or when that reaches one zone more, and
/// never otherwise. A draining node keeps its vote as it keeps its replicas.
#[must_use]
pub fn meta_voters(nodes: &[NodeView<'_>], current: &[NodeId], max: usize) -> Vec<NodeId> {
    let mut candidates: BTreeMap<_, _> = nodes.iter().map(|node| (node.id, node)).collect();
    let at_most = candidates.len().min(max);
    let count = if at_most.is_multiple_of(2) { at_most.saturating_sub(1) } else { at_most };
    let mut in_domain: BTreeMap<Domain<'_>, usize> = BTreeMap::new();
    let mut voters = BTreeSet::new();
    while voters.len() < count {
        let best = candidates.values().min_by_key(|node| {
            let neighbours = in_domain.get(&node.domain()).copied().unwrap_or(0);
            (!node.alive, neighbours, !current.contains(&node.id), node.state != NodeState::Active, node.id)
        });
        let Some(&best) = best else { break };
        candidates.remove(&best.id);
        *in_domain.entry(best.domain()).or_default() += 1;
        voters.insert(best.id);
    }
    voters.into_iter().collect()
}

/// Where the successor of a group's lost replica should be; `None` if no node is fit for it.
///
/// The same node, if it is alive and active: only its data was lost, and the balance stays. Else the best of the other
/// nodes that are alive, active and without a replica of this group: in the zone with the fewest of its other voters, then
/// with the fewest voters for its weight, counted over `placements` (those of all groups). Else the same node
/// again, if it is alive but draining. A replica that isn't in the placement, or is retiring there already, needs no
/// successor.
#[must_use]
pub fn replacement_node(
    lost: ReplicaId,
    placement: &Placement,
    placements: &[Placement],
    nodes: &[NodeView<'_>],
) -> Option<NodeId> {
    let members = || placement.voters.iter().chain(&placement.learners);
    let home = members().find(|replica| replica.id == lost)?.node;
    let view = |id: NodeId| nodes.iter().find(|node| node.id == id);
    if view(home).is_some_and(NodeView::may_be_given_work) {
        return Some(home);
    }
    let others = placement.voters.iter().filter(|replica| replica.id != lost);
    let domains: Vec<_> = others.filter_map(|replica| view(replica.node)).map(NodeView::domain).collect();
    let best = nodes
        .iter()
        .filter(|node| node.may_be_given_work() && placement.on_node(node.id).is_none())
        .min_by_key(|node| {
            let neighbours = domains.iter().filter(|&&domain| domain == node.domain()).count();
            let votes =
                placements.iter().flat_map(|group| &group.voters).filter(|voter| voter.node == node.id);
            (neighbours, burden(votes.count(), node.weight), node.id)
        });
    match best {
        Some(node) => Some(node.id),
        None => view(home).filter(|node| node.alive).map(|node| node.id),
    }
}

/// How heavily one more of something would burden a node that has `count` of them: what is to be given goes where this is
/// lowest. Sainte-Laguë's method, `(2 * count + 1) / weight`, as a fixed-point number that grows strictly with the count.
fn burden(count: usize, weight: u32) -> u64 {
    let count = u64::try_from(count).unwrap_or(u64::MAX).min(1 << 30);
    ((2 * count + 1) << 32) / u64::from(weight.max(1))
}

#[cfg(test)]
mod tests;
