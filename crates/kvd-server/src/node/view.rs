//! The cluster as this node sees it, for clients and people.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kvd_machine::MetaState;
use kvd_proto::{topology::ring_to_wire, v1};
use kvd_raft::Role;
use kvd_types::{
    GroupId, LogIndex, NodeId, ReplicaId, ShardId,
    cluster::{NodeState, Placement},
};

use super::Node;

/// How often the view is made anew, even if nothing is known to have changed.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);

impl Node {
    /// Keeps the published topology up to date.
    pub(super) async fn topology_loop(&self) {
        let mut changes = self.meta.subscribe();
        loop {
            let state = changes.borrow_and_update().clone();
            let topology = self.make_topology(&state);
            self.topology.send_if_modified(|known| {
                let changed = **known != topology;
                if changed {
                    *known = Arc::new(topology);
                }
                changed
            });
            tokio::select! {
                () = self.stopping.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(REFRESH_INTERVAL) => {}
            }
        }
    }

    fn make_topology(&self, state: &MetaState) -> v1::Topology {
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
            reachable: self.is_self(node.id)
                || self.network().is_ok_and(|network| network.is_connected(node.id)),
        });
        let shards = founding.ring.shards.iter().map(|shard| self.shard_view(state, shard.id));
        v1::Topology {
            cluster_id: founding.cluster.to_string(),
            epoch: state.epoch.get(),
            replication_factor: founding.settings.replication_factor,
            ring: Some(ring_to_wire(&founding.ring)),
            nodes: nodes.collect(),
            shards: shards.collect(),
        }
    }

    pub(super) fn shard_view(&self, state: &MetaState, shard: ShardId) -> v1::Shard {
        let share = self.routing.load().as_ref().map_or(0.0, |routing| routing.ring.share(shard));
        let Some(placement) = state.placements.get(&GroupId::from(shard)) else {
            return v1::Shard { id: shard.get(), share, ..v1::Shard::default() };
        };
        let node_of =
            |id: ReplicaId| placement.voters.iter().find(|voter| voter.id == id).map(|voter| voter.node);
        v1::Shard {
            id: shard.get(),
            share,
            replicas: replica_views(placement),
            leader_node: self.leader_node(shard).map_or(0, NodeId::get),
            preferred_leader_node: node_of(placement.preferred_leader).map_or(0, NodeId::get),
        }
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
