//! The meta group's commands and outcomes, between wire and domain.

use super::{
    Addresses, ClusterId, Error, GroupId, Incarnation, MetaCommand, MetaOutcome, Node, NodeId, NodeProfile,
    NodeState, ReplicaId, Result, Settings, ShardId, nonce_from_wire, nonce_to_wire, p,
};
use kvd_types::cluster::DataSettings;

fn data_settings_from_wire(wire: &p::Settings) -> DataSettings {
    let default = DataSettings::default();
    let or = |number: u64, default: u64| if number == 0 { default } else { number };
    DataSettings {
        history_retention_ms: or(wire.history_retention_ms, default.history_retention_ms),
        history_bytes_max: or(wire.history_bytes_max, default.history_bytes_max),
        lease_reads: wire.lease_reads,
    }
}

/// A meta command as it goes over the wire and into the log.
#[must_use]
pub fn meta_command_to_wire(command: MetaCommand) -> p::MetaCommand {
    use p::meta_command::Kind;
    let kind = match command {
        MetaCommand::CreateCluster { cluster, settings, join_nonce, profile } => {
            Kind::CreateCluster(p::CreateCluster {
                cluster: Some(nonce_to_wire(cluster.0)),
                settings: Some(p::Settings {
                    replication_factor: settings.replication_factor,
                    shards: settings.shards,
                    initial_nodes: settings.initial_nodes,
                    history_retention_ms: settings.data.history_retention_ms,
                    history_bytes_max: settings.data.history_bytes_max,
                    lease_reads: settings.data.lease_reads,
                }),
                join_nonce: Some(nonce_to_wire(join_nonce)),
                profile: Some(profile_to_wire(profile)),
            })
        }
        MetaCommand::RegisterNode { join_nonce, profile, replaces } => Kind::RegisterNode(p::RegisterNode {
            join_nonce: Some(nonce_to_wire(join_nonce)),
            profile: Some(profile_to_wire(profile)),
            replaces: replaces.map_or(0, NodeId::get),
        }),
        MetaCommand::AnnounceStart { node, incarnation, start_nonce, profile } => {
            Kind::AnnounceStart(p::AnnounceStart {
                node: node.get(),
                incarnation: incarnation.get(),
                start_nonce: Some(nonce_to_wire(start_nonce)),
                profile: Some(profile_to_wire(profile)),
            })
        }
        MetaCommand::SetNodeState { node, state } => {
            let state = match state {
                NodeState::Active => p::NodeState::Active,
                NodeState::Draining => p::NodeState::Draining,
            };
            Kind::SetNodeState(p::SetNodeState { node: node.get(), state: state.into() })
        }
        MetaCommand::PlaceShards { shards } => Kind::PlaceShards(p::PlaceShards {
            shards: shards
                .into_iter()
                .map(|(shard, nodes)| p::ShardNodes {
                    shard: shard.get(),
                    nodes: nodes.into_iter().map(NodeId::get).collect(),
                })
                .collect(),
        }),
        MetaCommand::SetMetaVoters { nodes } => {
            Kind::SetMetaVoters(p::SetMetaVoters { nodes: nodes.into_iter().map(NodeId::get).collect() })
        }
        MetaCommand::PreferLeader { group, replica } => {
            Kind::PreferLeader(p::PreferLeader { group: group.get(), replica: replica.get() })
        }
        MetaCommand::ReplaceReplica { group, lost, node } => {
            Kind::ReplaceReplica(p::ReplaceReplica { group: group.get(), lost: lost.get(), node: node.get() })
        }
        MetaCommand::DropRetired { group, replicas } => Kind::DropRetired(p::DropRetired {
            group: group.get(),
            replicas: replicas.into_iter().map(ReplicaId::get).collect(),
        }),
    };
    p::MetaCommand { kind: Some(kind) }
}

/// A meta command as it came over the wire or out of the log.
///
/// # Errors
/// Invalid argument: a kind or value that this version doesn't know.
pub fn meta_command_from_wire(wire: p::MetaCommand) -> Result<MetaCommand> {
    use p::meta_command::Kind;
    Ok(match wire.kind.ok_or_else(|| Error::invalid("a meta command of an unknown kind"))? {
        Kind::CreateCluster(create) => {
            let settings = create.settings.unwrap_or_default();
            MetaCommand::CreateCluster {
                cluster: ClusterId(nonce_from_wire(create.cluster)),
                settings: Settings {
                    replication_factor: settings.replication_factor,
                    shards: settings.shards,
                    initial_nodes: settings.initial_nodes,
                    data: data_settings_from_wire(&settings),
                },
                join_nonce: nonce_from_wire(create.join_nonce),
                profile: profile_from_wire(create.profile.unwrap_or_default()),
            }
        }
        Kind::RegisterNode(register) => MetaCommand::RegisterNode {
            join_nonce: nonce_from_wire(register.join_nonce),
            profile: profile_from_wire(register.profile.unwrap_or_default()),
            replaces: (register.replaces != 0).then_some(NodeId(register.replaces)),
        },
        Kind::AnnounceStart(announce) => MetaCommand::AnnounceStart {
            node: NodeId(announce.node),
            incarnation: Incarnation(announce.incarnation),
            start_nonce: nonce_from_wire(announce.start_nonce),
            profile: profile_from_wire(announce.profile.unwrap_or_default()),
        },
        Kind::SetNodeState(set) => {
            let state = match set.state() {
                p::NodeState::Active => NodeState::Active,
                p::NodeState::Draining => NodeState::Draining,
                p::NodeState::Unspecified => {
                    return Err(Error::invalid("a node state that this version doesn't know"));
                }
            };
            MetaCommand::SetNodeState { node: NodeId(set.node), state }
        }
        Kind::PlaceShards(place) => MetaCommand::PlaceShards {
            shards: place
                .shards
                .into_iter()
                .map(|placed| (ShardId(placed.shard), placed.nodes.into_iter().map(NodeId).collect()))
                .collect(),
        },
        Kind::SetMetaVoters(set) => {
            MetaCommand::SetMetaVoters { nodes: set.nodes.into_iter().map(NodeId).collect() }
        }
        Kind::PreferLeader(prefer) => {
            MetaCommand::PreferLeader { group: GroupId(prefer.group), replica: ReplicaId(prefer.replica) }
        }
        Kind::ReplaceReplica(replace) => MetaCommand::ReplaceReplica {
            group: GroupId(replace.group),
            lost: ReplicaId(replace.lost),
            node: NodeId(replace.node),
        },
        Kind::DropRetired(dropped) => MetaCommand::DropRetired {
            group: GroupId(dropped.group),
            replicas: dropped.replicas.into_iter().map(ReplicaId).collect(),
        },
    })
}

/// A meta outcome as it goes over the wire.
#[must_use]
pub fn meta_outcome_to_wire(outcome: MetaOutcome) -> p::MetaOutcome {
    use p::meta_outcome::Kind;
    let kind = match outcome {
        MetaOutcome::Done => Kind::Done(true),
        MetaOutcome::NodeRegistered { node, meta_replica } => {
            Kind::NodeRegistered(p::NodeRegistered { node: node.get(), meta_replica: meta_replica.get() })
        }
        MetaOutcome::ReplicaReplaced { successor } => Kind::Successor(successor.get()),
        MetaOutcome::Refused(why) => Kind::Refused(why),
    };
    p::MetaOutcome { kind: Some(kind) }
}

/// A meta outcome as it came over the wire.
///
/// # Errors
/// Internal: a kind that this version doesn't know.
pub fn meta_outcome_from_wire(wire: p::MetaOutcome) -> Result<MetaOutcome> {
    use p::meta_outcome::Kind;
    Ok(match wire.kind.ok_or_else(|| Error::internal("a meta outcome of an unknown kind"))? {
        Kind::Done(_) => MetaOutcome::Done,
        Kind::NodeRegistered(registered) => MetaOutcome::NodeRegistered {
            node: NodeId(registered.node),
            meta_replica: ReplicaId(registered.meta_replica),
        },
        Kind::Successor(successor) => MetaOutcome::ReplicaReplaced { successor: ReplicaId(successor) },
        Kind::Refused(why) => MetaOutcome::Refused(why),
    })
}

/// A node's address card as it goes over the wire.
#[must_use]
pub fn node_to_wire(node: &Node) -> p::NodeRecord {
    p::NodeRecord { id: node.id.get(), profile: Some(profile_to_wire(node.profile.clone())) }
}

/// A node's address card as it came over the wire.
#[must_use]
pub fn node_from_wire(wire: p::NodeRecord) -> (NodeId, NodeProfile) {
    (NodeId(wire.id), profile_from_wire(wire.profile.unwrap_or_default()))
}

fn profile_to_wire(profile: NodeProfile) -> p::NodeProfile {
    p::NodeProfile {
        client_address: profile.addresses.client,
        peer_address: profile.addresses.peer,
        http_address: profile.addresses.http,
        zone: profile.zone,
        weight: profile.weight,
    }
}

fn profile_from_wire(wire: p::NodeProfile) -> NodeProfile {
    NodeProfile {
        addresses: Addresses {
            client: wire.client_address,
            peer: wire.peer_address,
            http: wire.http_address,
        },
        zone: wire.zone,
        weight: wire.weight,
    }
}
