//! What each command of the meta group does, and when it is refused.
//!
//! These functions change the state as they go and may give up half-way: they run on a copy that is dropped when the
//! command is refused.

use std::collections::BTreeSet;

use kvd_types::{
    ClusterId, GroupId, Incarnation, NodeId, ReplicaId, RingEpoch, ShardId,
    cluster::{
        MetaCommand, MetaOutcome, Node, NodeProfile, NodeState, Placement, Replica, RingShard, RingSpec,
        Settings,
    },
    limits::{META_VOTERS_MAX, NODES_MAX, REPLACED_NODES_MAX, RETIRING_REPLICAS_MAX, WEIGHT_DEFAULT},
};

use super::{
    Founding, MetaState, ReplacedNode,
    check::{self, Refusal},
};

/// The version of the ring's hash and vnodes that a new cluster uses.
const RING_FORMAT: u32 = 1;

/// What a rule comes to.
type Ruling = Result<MetaOutcome, Refusal>;

impl MetaState {
    /// Runs a command. If it is refused, the state is left in shambles.
    pub(super) fn run(&mut self, command: &MetaCommand) -> Ruling {
        match command {
            MetaCommand::CreateCluster { cluster, settings, join_nonce, profile } => {
                self.create_cluster(*cluster, settings, *join_nonce, profile)
            }
            _ if self.founding.is_none() => Err("there is no cluster yet: create it first".to_owned()),
            MetaCommand::RegisterNode { join_nonce, profile, replaces } => {
                self.register_node(*join_nonce, profile, *replaces)
            }
            MetaCommand::AnnounceStart { node, incarnation, start_nonce, profile } => {
                self.announce_start(*node, *incarnation, *start_nonce, profile)
            }
            MetaCommand::SetNodeState { node, state } => self.set_node_state(*node, *state),
            MetaCommand::PlaceShards { shards } => self.place_shards(shards),
            MetaCommand::SetMetaVoters { nodes } => self.set_meta_voters(nodes),
            MetaCommand::PreferLeader { group, replica } => self.prefer_leader(*group, *replica),
            MetaCommand::ReplaceReplica { group, lost, node } => self.replace_replica(*group, *lost, *node),
            MetaCommand::DropRetired { group, replicas } => self.drop_retired(*group, replicas),
        }
    }
}

/// Founding, nodes.
impl MetaState {
    fn create_cluster(
        &mut self,
        cluster: ClusterId,
        settings: &Settings,
        join_nonce: u128,
        profile: &NodeProfile,
    ) -> Ruling {
        if let Some(founding) = &self.founding {
            return Err(format!(
                "this is cluster {} already: a cluster is created once; use it, or a fresh data directory for another",
                founding.cluster
            ));
        }
        check::settings(settings)?;
        check::profile(profile)?;
        let shards =
            (1..=settings.shards).map(|id| RingShard { id: ShardId(id), weight: WEIGHT_DEFAULT }).collect();
        let ring = RingSpec { format: RING_FORMAT, epoch: RingEpoch(1), shards };
        self.founding = Some(Founding { cluster, settings: settings.clone(), ring });
        let node = self.add_node(join_nonce, profile);
        let founder = self.mint_replica(node);
        self.placements.insert(
            GroupId::META,
            Placement {
                group: GroupId::META,
                voters: vec![founder],
                learners: Vec::new(),
                retiring: Vec::new(),
                founders: vec![founder],
                preferred_leader: founder.id,
            },
        );
        Ok(MetaOutcome::NodeRegistered { node, meta_replica: founder.id })
    }

    fn register_node(&mut self, join_nonce: u128, profile: &NodeProfile, replaces: Option<NodeId>) -> Ruling {
        if let Some(node) = self.nodes.values().find(|node| node.join_nonce == join_nonce).map(|node| node.id)
        {
            let replica = self.placement(GroupId::META)?.on_node(node);
            return match replica {
                Some(replica) => Ok(MetaOutcome::NodeRegistered { node, meta_replica: replica.id }),
                None => {
                    Err(format!("node {node} is registered, but has no replica of the meta group any more"))
                }
            };
        }
        if let Some((&node, _)) = self.replaced.iter().find(|(_, replaced)| replaced.join_nonce == join_nonce)
        {
            return Err(check::unknown_node(self, node));
        }
        check::profile(profile)?;
        check::addresses_are_free(self, &profile.addresses, replaces)?;
        let node = match replaces {
            Some(lost) => self.replace_node(lost, join_nonce, profile)?,
            None if self.nodes.len() >= NODES_MAX => {
                return Err(format!("the cluster has {NODES_MAX} nodes, which is the most that it can have"));
            }
            None => self.add_node(join_nonce, profile),
        };
        let meta_replica = if let Some(successor) = self.placement(GroupId::META)?.on_node(node) {
            successor
        } else {
            let replica = self.mint_replica(node);
            self.placement_mut(GroupId::META)?.learners.push(replica);
            replica
        };
        Ok(MetaOutcome::NodeRegistered { node, meta_replica: meta_replica.id })
    }

    /// A new node in place of one that has lost its disk, with a successor of each of its replicas.
    fn replace_node(
        &mut self,
        lost: NodeId,
        join_nonce: u128,
        profile: &NodeProfile,
    ) -> Result<NodeId, Refusal> {
        let gone = self.nodes.remove(&lost).ok_or_else(|| check::unknown_node(self, lost))?;
        let (theirs, ours) = (&gone.profile.addresses.peer, &profile.addresses.peer);
        if theirs != ours {
            return Err(format!(
                "node {lost} is at the peer address {theirs}, the node that would replace it at {ours}: start the new \
                 one at the addresses of the one that it replaces"
            ));
        }
        let node = self.add_node(join_nonce, profile);
        let held: Vec<(GroupId, ReplicaId)> = self
            .placements
            .values()
            .filter_map(|placement| Some((placement.group, placement.on_node(lost)?.id)))
            .collect();
        for (group, replica) in held {
            self.succeed(group, replica, node)?;
        }
        self.replaced.insert(lost, ReplacedNode { join_nonce: gone.join_nonce, successor: node });
        while self.replaced.len() > REPLACED_NODES_MAX {
            self.replaced.pop_first();
        }
        Ok(node)
    }

    fn announce_start(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        start_nonce: u128,
        profile: &NodeProfile,
    ) -> Ruling {
        let node = self.nodes.get(&id).ok_or_else(|| check::unknown_node(self, id))?;
        if incarnation == Incarnation(0) {
            return Err(format!("node {id} announces start number 0: starts are counted from 1"));
        }
        if incarnation < node.incarnation
            || (incarnation == node.incarnation && start_nonce != node.start_nonce)
        {
            return Err(format!(
                "node {id} announces start number {incarnation}, but its start number {} is known already: another \
                 process uses a copy of this data directory, or an old copy was put back. Leave the other one running \
                 and let this one join as a new node, with an empty data directory",
                node.incarnation
            ));
        }
        check::profile(profile)?;
        check::addresses_are_free(self, &profile.addresses, Some(id))?;
        let Some(node) = self.nodes.get_mut(&id) else { return Err(check::unknown_node(self, id)) };
        node.incarnation = incarnation;
        node.start_nonce = start_nonce;
        node.profile = profile.clone();
        Ok(MetaOutcome::Done)
    }

    fn set_node_state(&mut self, id: NodeId, state: NodeState) -> Ruling {
        let Some(node) = self.nodes.get_mut(&id) else { return Err(check::unknown_node(self, id)) };
        node.state = state;
        Ok(MetaOutcome::Done)
    }

    fn add_node(&mut self, join_nonce: u128, profile: &NodeProfile) -> NodeId {
        let id = self.next_node;
        self.next_node = NodeId(id.get().saturating_add(1));
        let node = Node {
            id,
            join_nonce,
            profile: profile.clone(),
            state: NodeState::Active,
            incarnation: Incarnation(0),
            start_nonce: 0,
        };
        self.nodes.insert(id, node);
        id
    }

    fn mint_replica(&mut self, node: NodeId) -> Replica {
        let id = self.next_replica;
        self.next_replica = ReplicaId(id.get().saturating_add(1));
        Replica { id, node }
    }
}

/// Placements.
impl MetaState {
    fn place_shards(&mut self, shards: &[(ShardId, Vec<NodeId>)]) -> Ruling {
        let mut seen = BTreeSet::new();
        for (shard, nodes) in shards {
            if !seen.insert(*shard) {
                return Err(format!("shard {shard} is named twice: name each shard once"));
            }
            self.check_founders(*shard, nodes)?;
        }
        for (shard, nodes) in shards {
            let group = GroupId::from(*shard);
            if self.placements.contains_key(&group) {
                continue;
            }
            let voters: Vec<Replica> = nodes.iter().map(|&node| self.mint_replica(node)).collect();
            let Some(preferred_leader) = voters.first().map(|replica| replica.id) else { continue };
            let placement = Placement {
                group,
                founders: voters.clone(),
                voters,
                learners: Vec::new(),
                retiring: Vec::new(),
                preferred_leader,
            };
            self.placements.insert(group, placement);
        }
        Ok(MetaOutcome::Done)
    }

    fn check_founders(&self, shard: ShardId, nodes: &[NodeId]) -> Result<(), Refusal> {
        let Some(Founding { settings, ring, .. }) = &self.founding else {
            return Err("there is no cluster yet: create it first".to_owned());
        };
        if !ring.shards.iter().any(|ring_shard| ring_shard.id == shard) {
            return Err(format!(
                "there is no shard {shard} on the ring: it has {} shards",
                ring.shards.len()
            ));
        }
        check::nodes(self, nodes).map_err(|refusal| format!("shard {shard} can't be placed: {refusal}"))?;
        let factor = settings.replication_factor;
        if usize::try_from(factor).is_ok_and(|factor| factor == nodes.len()) {
            Ok(())
        } else {
            let count = nodes.len();
            Err(format!(
                "shard {shard} is given {count} nodes: give it {factor}, the cluster's replication factor"
            ))
        }
    }

    fn set_meta_voters(&mut self, nodes: &[NodeId]) -> Ruling {
        check::nodes(self, nodes)?;
        if nodes.len() > META_VOTERS_MAX {
            let count = nodes.len();
            return Err(format!("{count} voters are named: the meta group has at most {META_VOTERS_MAX}"));
        }
        let placement = self.placement_mut(GroupId::META)?;
        let mut voters = Vec::with_capacity(nodes.len());
        for &node in nodes {
            voters.push(placement.on_node(node).ok_or_else(|| {
                format!("node {node} has no replica of the meta group: name a node that has one")
            })?);
        }
        let first = voters.first().map(|replica| replica.id);
        let mut learners: Vec<Replica> =
            placement.voters.iter().chain(&placement.learners).copied().collect();
        learners.retain(|replica| !voters.contains(replica));
        // In one order, so that naming the same nodes otherwise is no change.
        learners.sort_unstable();
        voters.sort_unstable();
        placement.voters = voters;
        placement.learners = learners;
        if !placement.voters.iter().any(|replica| replica.id == placement.preferred_leader) {
            placement.preferred_leader = first.unwrap_or(placement.preferred_leader);
        }
        Ok(MetaOutcome::Done)
    }

    fn prefer_leader(&mut self, group: GroupId, replica: ReplicaId) -> Ruling {
        let placement = self.placement_mut(group)?;
        if !placement.voters.iter().any(|voter| voter.id == replica) {
            return Err(format!("replica {replica} is no voter of group {group}: name one of its voters"));
        }
        placement.preferred_leader = replica;
        Ok(MetaOutcome::Done)
    }

    fn replace_replica(&mut self, group: GroupId, lost: ReplicaId, node: NodeId) -> Ruling {
        let placement = self.placement(group)?;
        if placement.retiring.iter().any(|replica| replica.id == lost) {
            return Ok(MetaOutcome::Done);
        }
        if !placement.voters.iter().chain(&placement.learners).any(|replica| replica.id == lost) {
            return Err(no_replica(group, lost));
        }
        check::node_is_known(self, node)?;
        if let Some(other) = placement.on_node(node).filter(|replica| replica.id != lost) {
            return Err(format!(
                "node {node} has replica {} of group {group} already: name a node that has none",
                other.id
            ));
        }
        let successor = self.succeed(group, lost, node)?;
        Ok(MetaOutcome::ReplicaReplaced { successor: successor.id })
    }

    /// Puts a new replica in the place of another one, which retires.
    fn succeed(&mut self, group: GroupId, lost: ReplicaId, node: NodeId) -> Result<Replica, Refusal> {
        let successor = self.mint_replica(node);
        let placement = self.placement_mut(group)?;
        if placement.retiring.len() >= RETIRING_REPLICAS_MAX {
            return Err(format!(
                "group {group} has {RETIRING_REPLICAS_MAX} replicas that wait for their removal: let its leader remove \
                 them first"
            ));
        }
        let place = placement
            .voters
            .iter_mut()
            .chain(&mut placement.learners)
            .find(|replica| replica.id == lost)
            .ok_or_else(|| no_replica(group, lost))?;
        let retired = std::mem::replace(place, successor);
        placement.retiring.push(retired);
        if placement.preferred_leader == lost {
            placement.preferred_leader = successor.id;
        }
        Ok(successor)
    }

    fn drop_retired(&mut self, group: GroupId, replicas: &[ReplicaId]) -> Ruling {
        let placement = self.placement_mut(group)?;
        if let Some(active) =
            placement.voters.iter().chain(&placement.learners).find(|replica| replicas.contains(&replica.id))
        {
            return Err(format!("replica {} of group {group} isn't retiring: replace it first", active.id));
        }
        placement.retiring.retain(|replica| !replicas.contains(&replica.id));
        Ok(MetaOutcome::Done)
    }

    fn placement(&self, group: GroupId) -> Result<&Placement, Refusal> {
        self.placements.get(&group).ok_or_else(|| no_placement(group))
    }

    fn placement_mut(&mut self, group: GroupId) -> Result<&mut Placement, Refusal> {
        self.placements.get_mut(&group).ok_or_else(|| no_placement(group))
    }
}

fn no_replica(group: GroupId, replica: ReplicaId) -> Refusal {
    format!("group {group} has no replica {replica}: list its replicas and name one of them")
}

fn no_placement(group: GroupId) -> Refusal {
    format!("group {group} has no replicas yet: there is no such shard, or it hasn't been placed")
}
