//! Who should be asked: the ring, the nodes, and who leads which shard.
//!
//! # The approach
//! The ring and the nodes come from any node's topology. A shard's leader is a guess, learned from whatever was heard
//! last: a reply's header, a redirect, or a change in a topology. A wrong guess costs a detour and no more, as every node
//! serves every request, so there is nothing to keep consistent here.
//!
//! # Invariants
//! - A topology of another cluster, or an older one, is never taken.
//! - A topology that tells of a leader what it told before does not replace what was learned since.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use kvd_placement::Ring;
use kvd_types::{Error, ErrorKind, NodeId, Result, ShardId, cluster::RingSpec};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::topology::{Node, Topology};

/// Who should be asked.
#[derive(Debug)]
pub(crate) struct Router {
    map: ArcSwap<Map>,
    leaders: RwLock<HashMap<ShardId, Arc<str>>>,
    /// Counts the changes of leaders and ring, for those who wait for one.
    changes: watch::Sender<u64>,
    /// One topology is taken at a time.
    taking: Mutex<()>,
}

/// A topology, made ready for routing.
#[derive(Debug, Default)]
struct Map {
    topology: Option<Arc<Topology>>,
    ring: Option<Arc<Ring>>,
    addresses: HashMap<NodeId, Arc<str>>,
    /// The nodes that hold a replica of each shard.
    holders: HashMap<ShardId, Vec<Arc<str>>>,
    /// All nodes, the reachable ones first.
    nodes: Vec<Arc<str>>,
    /// The zone of each node.
    zones: HashMap<Arc<str>, String>,
}

impl Router {
    pub(crate) fn new() -> Self {
        Self {
            map: ArcSwap::default(),
            leaders: RwLock::default(),
            changes: watch::Sender::new(0),
            taking: Mutex::default(),
        }
    }

    /// Takes a topology that a node has told.
    ///
    /// # Errors
    /// Failed precondition, for one of another cluster; invalid argument, for a ring that this version can't compute.
    pub(crate) fn take(&self, topology: Topology) -> Result<()> {
        let _taking = self.taking.lock();
        let old = self.map.load_full();
        if let Some(known) = old.topology.as_ref().filter(|known| !known.cluster_id.is_empty()) {
            if topology.cluster_id.is_empty() {
                // Of a node that is in no cluster yet: it knows nothing that we don't.
                return Ok(());
            }
            if known.cluster_id != topology.cluster_id {
                return Err(Error::new(
                    ErrorKind::FailedPrecondition,
                    format!(
                        "an endpoint belongs to cluster {}, another one to {}: name nodes of one cluster only",
                        topology.cluster_id, known.cluster_id
                    ),
                ));
            }
            if topology.epoch < known.epoch {
                return Ok(());
            }
        }
        let map = Map::new(&old, topology)?;
        let new_ring =
            map.ring.as_ref().map(|ring| ring.epoch()) != old.ring.as_ref().map(|ring| ring.epoch());
        let new_leader = self.learn_from(&old, &map);
        self.map.store(Arc::new(map));
        if new_ring || new_leader {
            self.changed();
        }
        Ok(())
    }

    /// Whether the topology tells of a new leader.
    fn learn_from(&self, old: &Map, new: &Map) -> bool {
        let Some(topology) = &new.topology else { return false };
        let mut news = false;
        let mut leaders = self.leaders.write();
        leaders.retain(|&shard, _| topology.shard(shard).is_some());
        for shard in &topology.shards {
            let before =
                old.topology.as_ref().and_then(|old| old.shard(shard.id)).and_then(|shard| shard.leader);
            let Some(address) = shard.leader.and_then(|leader| new.addresses.get(&leader)) else { continue };
            if shard.leader != before || !leaders.contains_key(&shard.id) {
                leaders.insert(shard.id, Arc::clone(address));
                news = true;
            }
        }
        news
    }

    /// The last topology taken.
    pub(crate) fn topology(&self) -> Option<Arc<Topology>> {
        self.map.load().topology.clone()
    }

    /// The ring; `None` while the cluster has no shards yet.
    pub(crate) fn ring(&self) -> Option<Arc<Ring>> {
        self.map.load().ring.clone()
    }

    /// A node's client address.
    pub(crate) fn address_of(&self, node: NodeId) -> Option<Arc<str>> {
        self.map.load().addresses.get(&node).cloned()
    }

    /// Where a shard's leader is thought to be.
    pub(crate) fn leader(&self, shard: ShardId) -> Option<Arc<str>> {
        self.leaders.read().get(&shard).cloned()
    }

    /// The nodes that hold a shard.
    pub(crate) fn holders(&self, shard: ShardId) -> Vec<Arc<str>> {
        self.map.load().holders.get(&shard).cloned().unwrap_or_default()
    }

    /// All nodes, the reachable ones first.
    pub(crate) fn nodes(&self) -> Vec<Arc<str>> {
        self.map.load().nodes.clone()
    }

    /// Whether a node is in a zone.
    pub(crate) fn is_in_zone(&self, address: &str, zone: &str) -> bool {
        self.map.load().zones.get(address).is_some_and(|of| of == zone)
    }

    /// A reply or a redirect says that the shard's leader is there.
    pub(crate) fn learn_leader(&self, shard: ShardId, address: &str) {
        if address.is_empty() || self.leaders.read().get(&shard).is_some_and(|known| **known == *address) {
            return;
        }
        if self.map.load().topology.as_ref().is_some_and(|topology| topology.shard(shard).is_none()) {
            return;
        }
        tracing::debug!(%shard, address, "the shard's leader is there");
        self.leaders.write().insert(shard, Arc::from(address));
        self.changed();
    }

    /// The shard's leader is not there, or doesn't answer.
    pub(crate) fn forget_leader(&self, shard: ShardId, address: &str) {
        let mut leaders = self.leaders.write();
        if leaders.get(&shard).is_some_and(|known| **known == *address) {
            leaders.remove(&shard);
        }
    }

    /// Tells of changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Map {
    fn new(old: &Self, topology: Topology) -> Result<Self> {
        let ring = topology.ring.as_ref().map(|spec| ring_of(old, spec)).transpose()?;
        let addresses: HashMap<NodeId, Arc<str>> = topology
            .nodes
            .iter()
            .filter(|node| !node.client_address.is_empty())
            .map(|node| (node.id, Arc::from(node.client_address.as_str())))
            .collect();
        let reachable = |&id: &NodeId| topology.node(id).is_some_and(|node| node.reachable);
        let holders = topology.shards.iter().map(|shard| {
            let nodes = shard.replicas.iter().map(|replica| replica.node).filter(reachable);
            (shard.id, nodes.filter_map(|node| addresses.get(&node).cloned()).collect())
        });
        let holders = holders.collect();
        let (near, far): (Vec<_>, Vec<_>) = topology.nodes.iter().map(|node| node.id).partition(reachable);
        let nodes = near.into_iter().chain(far).filter_map(|node| addresses.get(&node).cloned()).collect();
        let zone = |node: &Node| Some((addresses.get(&node.id).cloned()?, node.zone.clone()));
        let zones = topology.nodes.iter().filter_map(zone).collect();
        Ok(Self { topology: Some(Arc::new(topology)), ring, addresses, holders, nodes, zones })
    }
}

/// The ring of a specification: computed only if it is a new one.
fn ring_of(old: &Map, spec: &RingSpec) -> Result<Arc<Ring>> {
    match &old.ring {
        Some(ring) if ring.spec() == spec => Ok(Arc::clone(ring)),
        _ => Ring::build(spec).map(Arc::new).map_err(|error| {
            Error::new(ErrorKind::FailedPrecondition, format!("the cluster's ring can't be used: {error}"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use kvd_types::{MetaEpoch, ReplicaId};

    use super::*;
    use crate::topology::{Replica, Shard};

    fn topology(epoch: u64, leader: u64) -> Topology {
        let node = |id: u64| Node {
            id: NodeId(id),
            client_address: format!("n{id}:1"),
            peer_address: String::new(),
            http_address: String::new(),
            zone: String::new(),
            weight: 100,
            state: "active".into(),
            incarnation: 1,
            reachable: id != 3,
        };
        let replica = |id: u64| Replica { id: ReplicaId(id), node: NodeId(id), role: "voter".into() };
        Topology {
            cluster_id: "c".into(),
            epoch: MetaEpoch(epoch),
            replication_factor: 3,
            ring: Some(kvd_placement::uniform(1)),
            nodes: (1..=3).map(node).collect(),
            shards: vec![Shard {
                id: ShardId(1),
                share: 1.0,
                replicas: (1..=3).map(replica).collect(),
                leader: (leader != 0).then_some(NodeId(leader)),
                preferred_leader: None,
            }],
        }
    }

    fn leader(router: &Router) -> Option<String> {
        router.leader(ShardId(1)).map(|address| address.to_string())
    }

    #[test]
    fn what_was_learned_outlives_a_topology_that_says_nothing_new() {
        let router = Router::new();
        router.take(topology(1, 1)).unwrap();
        assert_eq!(leader(&router).as_deref(), Some("n1:1"));
        router.learn_leader(ShardId(1), "n2:1");
        router.take(topology(2, 1)).unwrap();
        assert_eq!(leader(&router).as_deref(), Some("n2:1"));
        router.take(topology(2, 3)).unwrap();
        assert_eq!(leader(&router).as_deref(), Some("n3:1"), "a change is news");
        router.forget_leader(ShardId(1), "n2:1");
        assert_eq!(leader(&router).as_deref(), Some("n3:1"), "somebody else's failure");
        router.forget_leader(ShardId(1), "n3:1");
        assert_eq!(leader(&router), None);
    }

    #[test]
    fn older_and_foreign_topologies_are_not_taken() {
        let router = Router::new();
        router.take(topology(5, 1)).unwrap();
        router.take(topology(4, 2)).unwrap();
        assert_eq!(leader(&router).as_deref(), Some("n1:1"));
        let foreign = Topology { cluster_id: "d".into(), ..topology(9, 2) };
        assert!(router.take(foreign).is_err());
        assert_eq!(router.topology().unwrap().epoch, MetaEpoch(5));
    }

    #[test]
    fn nodes_that_are_in_no_cluster_yet_say_nothing_of_it() {
        let router = Router::new();
        let unfounded = || Topology { cluster_id: String::new(), nodes: Vec::new(), ..topology(0, 0) };
        router.take(unfounded()).unwrap();
        router.take(topology(5, 1)).unwrap();
        assert_eq!(leader(&router).as_deref(), Some("n1:1"), "the cluster was founded");
        router.take(unfounded()).unwrap();
        assert_eq!(router.topology().unwrap().epoch, MetaEpoch(5), "one of its nodes has yet to join");
    }

    #[test]
    fn unreachable_nodes_come_last_and_unknown_shards_are_not_learned() {
        let router = Router::new();
        router.take(topology(1, 0)).unwrap();
        assert_eq!(router.holders(ShardId(1)).len(), 2);
        assert_eq!(router.nodes().last().map(ToString::to_string).as_deref(), Some("n3:1"));
        router.learn_leader(ShardId(7), "n1:1");
        assert_eq!(router.leader(ShardId(7)), None);
    }
}
