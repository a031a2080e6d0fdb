//! The cluster as this node sees it, for clients and people.
//!
//! Clients are told whenever it changes. Some of it changes without a sign (who leads, who can be reached), so it is looked at
//! a few times a second; the whole is only made when what is looked at differs, because with many shards that is work.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kvd_machine::MetaState;
use kvd_proto::{topology::ring_to_wire, v1};
use kvd_raft::Role;
use kvd_types::{
    GroupId, LogIndex, NodeId, ReplicaId, ShardId,
    cluster::{NodeState, Placement},
};

use super::{Node, routing::Routing};

/// How often it is looked whether the view has changed.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);

/// All that the topology is made of.
struct Seen {
    state: Arc<MetaState>,
    routing: Option<Arc<Routing>>,
    reachable: BTreeSet<NodeId>,
    leaders: BTreeMap<ShardId, NodeId>,
}

impl Seen {
    /// Whether nothing differs.
    fn is_same(&self, other: &Self) -> bool {
        let same_routing = match (&self.routing, &other.routing) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same_routing
            && Arc::ptr_eq(&self.state, &other.state)
            && self.reachable == other.reachable
            && self.leaders == other.leaders
    }
}

impl Node {
    /// Keeps the published topology up to date.
    pub(super) async fn topology_loop(&self) {
        let mut changes = self.meta.subscribe();
        let mut made_of = None;
        loop {
            let state = changes.borrow_and_update().clone();
            let seen = self.look(state);
            if made_of.as_ref().is_none_or(|made_of| !seen.is_same(made_of)) {
                self.publish_topology(make_topology(&seen));
                made_of = Some(seen);
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = self.rest(REFRESH_INTERVAL) => {}
            }
        }
    }

    fn publish_topology(&self, topology: v1::Topology) {
        self.topology.send_if_modified(|known| {
            let changed = **known != topology;
            if changed {
                *known = Arc::new(topology);
            }
            changed
        });
    }

    fn look(&self, state: Arc<MetaState>) -> Seen {
        let is_reachable = |node: NodeId| {
            self.is_self(node) || self.network().is_ok_and(|network| network.is_connected(node))
        };
        let reachable = state.nodes.keys().copied().filter(|&node| is_reachable(node)).collect();
        let shards = state.founding.iter().flat_map(|founding| &founding.ring.shards);
        let leaders = shards.filter_map(|shard| Some((shard.id, self.leader_node(shard.id)?))).collect();
        Seen { routing: self.routing.load_full(), reachable, leaders, state }
    }

    pub(super) fn shard_view(&self, state: &MetaState, shard: ShardId) -> v1::Shard {
        shard_view(state, self.routing.load().as_deref(), shard, self.leader_node(shard))
    }

    /// The node that leads a shard, as far as this node's own replica of it knows.
    pub(super) fn leader_node(&self, shard: ShardId) -> Option<NodeId> {
        let group = self.replicas().ok()?.group(shard.into())?;
        group.leadership().leader.map(|leader| leader.node)
    }

    pub(super) fn make_status(&self) -> v1::StatusResponse {
        let mut replicas: BTreeMap<ReplicaId, v1::ReplicaStatus> = BTreeMap::new();
        if let Ok(held) = self.replicas() {
            for group in held.all() {
                replicas.insert(group.replica(), replica_status(&group.status()));
            }
            for (group, replica, _) in held.lost() {
                let status = v1::ReplicaStatus {
                    group: group.get(),
                    replica: replica.get(),
                    role: "failed".to_owned(),
                    ..v1::ReplicaStatus::default()
                };
                replicas.insert(replica, status);
            }
        }
        v1::StatusResponse {
            topology: Some(v1::Topology::clone(&self.topology.borrow())),
            node: self.joined().map_or(0, |joined| joined.node.get()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            replicas: replicas.into_values().collect(),
        }
    }
}

fn make_topology(seen: &Seen) -> v1::Topology {
    let Seen { state, routing, reachable, leaders } = seen;
    let Some(founding) = &state.founding else { return v1::Topology::default() };
    let nodes = state.nodes.values().map(|node| v1::Node {
        id: node.id.get(),
        client_address: node.profile.addresses.client.clone(),
        peer_address: node.profile.addresses.peer.clone(),
        http_address: node.profile.addresses.http.clone(),
        zone: node.profile.zone.clone(),
        weight: node.profile.weight,
        state: match node.state {
            NodeState::Active => "active".to_owned(),
            NodeState::Draining => "draining".to_owned(),
        },
        incarnation: node.incarnation.get(),
        reachable: reachable.contains(&node.id),
    });
    let shards = founding
        .ring
        .shards
        .iter()
        .map(|shard| shard_view(state, routing.as_deref(), shard.id, leaders.get(&shard.id).copied()));
    v1::Topology {
        cluster_id: founding.cluster.to_string(),
        epoch: state.epoch.get(),
        replication_factor: founding.settings.replication_factor,
        ring: Some(ring_to_wire(&founding.ring)),
        nodes: nodes.collect(),
        shards: shards.collect(),
    }
}

fn shard_view(
    state: &MetaState,
    routing: Option<&Routing>,
    shard: ShardId,
    leader: Option<NodeId>,
) -> v1::Shard {
    let share = routing.map_or(0.0, |routing| routing.share(shard));
    let Some(placement) = state.placements.get(&GroupId::from(shard)) else {
        return v1::Shard { id: shard.get(), share, ..v1::Shard::default() };
    };
    let node_of =
        |id: ReplicaId| placement.voters.iter().find(|voter| voter.id == id).map(|voter| voter.node);
    v1::Shard {
        id: shard.get(),
        share,
        replicas: replica_views(placement),
        leader_node: leader.map_or(0, NodeId::get),
        preferred_leader_node: node_of(placement.preferred_leader).map_or(0, NodeId::get),
    }
}

fn replica_views(placement: &Placement) -> Vec<v1::Replica> {
    let with_role = |role: &'static str| {
        move |replica: &kvd_types::cluster::Replica| v1::Replica {
            id: replica.id.get(),
            node: replica.node.get(),
            role: role.to_owned(),
        }
    };
    let voters = placement.voters.iter().map(with_role("voter"));
    let learners = placement.learners.iter().map(with_role("learner"));
    let retiring = placement.retiring.iter().map(with_role("retiring"));
    voters.chain(learners).chain(retiring).collect()
}

fn replica_status(status: &kvd_raft::Status) -> v1::ReplicaStatus {
    let index = |index: Option<LogIndex>| index.map_or(0, LogIndex::get);
    let role = match status.role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped => "failed",
    };
    v1::ReplicaStatus {
        group: status.group.get(),
        replica: status.replica.get(),
        role: role.to_owned(),
        term: status.term.get(),
        leader_replica: status.leader.map_or(0, |leader| leader.id.get()),
        last_log_index: index(status.last_log_index),
        committed_index: index(status.committed_index),
        applied_index: index(status.applied_index),
        checkpoint_index: index(status.checkpoint_index),
        log_bytes: status.log_bytes,
        digest: status.digest.unwrap_or(0),
        changes_voters: status.changes_voters,
    }
}
