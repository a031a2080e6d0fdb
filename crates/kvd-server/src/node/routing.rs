//! What a node knows of where shards are: the ring, and where it looks for a leader that its own replicas don't know.
//!
//! # The approach
//! A leader is where it was last seen, else each of the shard's voters is asked in turn. The search outlives the requests that
//! it is made for: a node whose machine has lost its power says nothing for seconds, until it is known to be silent, and a request
//! that waited for it may be gone by then. If each one began anew it would wait for the same node, and all of them in vain.
//!
//! # What it deliberately does not do
//! It asks nobody, and knows no time: see [`super::route`].

use std::collections::BTreeMap;

use kvd_placement::Ring;
use kvd_types::{NodeId, ShardId, cluster::Placement};
use parking_lot::RwLock;

/// What a request is routed by: the ring, and where leaders are looked for.
#[derive(Debug)]
pub(super) struct Routing {
    pub(super) ring: Ring,
    /// The part of all hashes that each shard owns.
    shares: BTreeMap<ShardId, f64>,
    placements: BTreeMap<ShardId, Placement>,
    searches: RwLock<BTreeMap<ShardId, Search>>,
}

/// Where a shard's leader is looked for. It outlives requests: where one has found nobody, the next one needn't begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Search {
    /// Where it was last seen.
    seen: Option<NodeId>,
    /// The place, after the preferred leader's, of the voter to ask if it was seen nowhere.
    place: usize,
}

impl Routing {
    pub(super) fn new(ring: Ring, placements: BTreeMap<ShardId, Placement>) -> Self {
        let shares = ring.shards().iter().map(|&shard| (shard, ring.share(shard))).collect();
        Self { ring, shares, placements, searches: RwLock::default() }
    }

    /// The part of all hashes that a shard owns, 0 to 1.
    pub(super) fn share(&self, shard: ShardId) -> f64 {
        self.shares.get(&shard).copied().unwrap_or(0.0)
    }

    /// The node to ask for a shard that this node has no replica of, or whose replica knows no leader: where the leader
    /// was last seen, else each voter in turn, the preferred leader's first.
    pub(super) fn guess(&self, shard: ShardId) -> Option<NodeId> {
        let search = self.searches.read().get(&shard).copied().unwrap_or_default();
        search.seen.or_else(|| self.voter(shard, search.place))
    }

    /// A shard's voter in a place after that of the preferred leader.
    fn voter(&self, shard: ShardId, place: usize) -> Option<NodeId> {
        let placement = self.placements.get(&shard)?;
        let preferred = placement.voters.iter().position(|voter| voter.id == placement.preferred_leader)?;
        let voter = placement.voters.get((preferred + place) % placement.voters.len())?;
        Some(voter.node)
    }

    /// Whether nothing has changed about where replicas are.
    pub(super) fn is_placed_as<'a>(
        &'a self,
        placements: impl IntoIterator<Item = (ShardId, &'a Placement)>,
    ) -> bool {
        self.placements.iter().map(|(&shard, placement)| (shard, placement)).eq(placements)
    }

    /// A shard's leader is on a node: it has served, or somebody else who was asked says so.
    pub(super) fn saw_leader(&self, shard: ShardId, node: NodeId) {
        if self.searches.read().get(&shard).is_none_or(|search| search.seen != Some(node)) {
            self.searches.write().entry(shard).or_default().seen = Some(node);
        }
    }

    /// A shard's leader may not be on a node: whoever looks next looks elsewhere.
    pub(super) fn doubt(&self, shard: ShardId, node: NodeId) {
        let mut searches = self.searches.write();
        let search = searches.entry(shard).or_default();
        search.seen = search.seen.filter(|&seen| seen != node);
        // Only the first of many that were asking it.
        if self.voter(shard, search.place) == Some(node) {
            search.place = search.place.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use kvd_placement::uniform;
    use kvd_types::{GroupId, ReplicaId, cluster::Replica};

    use super::*;

    const SHARD: ShardId = ShardId(1);

    /// A shard with voters on these nodes, the second of which is preferred as its leader.
    fn routing(nodes: [u64; 3]) -> Routing {
        let voters: Vec<Replica> =
            nodes.iter().map(|&node| Replica { id: ReplicaId(node * 10), node: NodeId(node) }).collect();
        let placement = Placement {
            group: GroupId::from(SHARD),
            preferred_leader: voters[1].id,
            founders: voters.clone(),
            voters,
            learners: Vec::new(),
            retiring: Vec::new(),
        };
        let ring = Ring::build(&uniform(2)).unwrap();
        Routing::new(ring, BTreeMap::from([(SHARD, placement)]))
    }

    #[test]
    fn each_voter_is_asked_in_turn_the_preferred_one_first() {
        let routing = routing([1, 2, 3]);
        for node in [2, 3, 1, 2, 3].map(NodeId) {
            assert_eq!(routing.guess(SHARD), Some(node));
            routing.doubt(SHARD, node);
        }
        assert_eq!(routing.guess(ShardId(7)), None, "nobody knows where that is");
    }

    #[test]
    fn many_that_have_asked_one_node_in_vain_move_on_by_one() {
        let routing = routing([1, 2, 3]);
        for _ in 0..5 {
            routing.doubt(SHARD, NodeId(2));
        }
        assert_eq!(routing.guess(SHARD), Some(NodeId(3)));
    }

    #[test]
    fn a_leader_is_where_it_was_seen_until_that_is_doubted() {
        let routing = routing([1, 2, 3]);
        routing.saw_leader(SHARD, NodeId(1));
        routing.doubt(SHARD, NodeId(3));
        assert_eq!(routing.guess(SHARD), Some(NodeId(1)), "that another one doesn't lead says nothing of it");
        // It may be where no voter is known yet.
        routing.saw_leader(SHARD, NodeId(9));
        assert_eq!(routing.guess(SHARD), Some(NodeId(9)));
        routing.doubt(SHARD, NodeId(9));
        assert_eq!(routing.guess(SHARD), Some(NodeId(2)));
    }
}
