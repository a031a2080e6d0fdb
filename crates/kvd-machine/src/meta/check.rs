//! What a command may carry: checks of its values that need no state, or only look at it.
//!
//! A refusal's text is for the person or the node that asked: it names what is wrong, the limit, and what to do.

use std::collections::BTreeSet;

use kvd_types::{
    NodeId,
    cluster::{Addresses, NodeProfile, Settings},
    limits::{
        HISTORY_BYTES_MAX_RANGE, HISTORY_RETENTION_RANGE_MS, LABEL_BYTES_MAX, NODES_MAX, REPLICATION_FACTORS,
        SHARDS_MAX, WEIGHT_RANGE,
    },
};

use super::MetaState;

/// Why a command was refused, and what to do.
pub(super) type Refusal = String;

/// What was decided for a new cluster.
pub(super) fn settings(settings: &Settings) -> Result<(), Refusal> {
    let Settings { replication_factor, shards, initial_nodes, data } = *settings;
    if !REPLICATION_FACTORS.contains(&replication_factor) {
        return Err(format!(
            "the replication factor is {replication_factor}: use one of {REPLICATION_FACTORS:?}"
        ));
    }
    if !(1..=SHARDS_MAX).contains(&shards) {
        return Err(format!("{shards} shards are asked for: a cluster has 1 to {SHARDS_MAX}"));
    }
    if !HISTORY_RETENTION_RANGE_MS.contains(&data.history_retention_ms) {
        return Err(format!(
            "history is to be kept for {} ms: use {HISTORY_RETENTION_RANGE_MS:?}",
            data.history_retention_ms
        ));
    }
    if !HISTORY_BYTES_MAX_RANGE.contains(&data.history_bytes_max) {
        return Err(format!(
            "{} bytes of history are to be kept: use {HISTORY_BYTES_MAX_RANGE:?}",
            data.history_bytes_max
        ));
    }
    if initial_nodes < replication_factor {
        return Err(format!(
            "{initial_nodes} initial nodes can't hold {replication_factor} replicas of each shard: \
             wait for at least {replication_factor} initial nodes, or lower the replication factor"
        ));
    }
    if usize::try_from(initial_nodes).is_ok_and(|nodes| nodes <= NODES_MAX) {
        Ok(())
    } else {
        Err(format!("{initial_nodes} initial nodes are asked for: a cluster has at most {NODES_MAX} nodes"))
    }
}

/// What a node says of itself.
pub(super) fn profile(profile: &NodeProfile) -> Result<(), Refusal> {
    for (name, address) in named(&profile.addresses) {
        self::address(name, address)?;
    }
    let zone_bytes = profile.zone.len();
    if zone_bytes > LABEL_BYTES_MAX {
        return Err(format!("the zone's name has {zone_bytes} bytes: it may have {LABEL_BYTES_MAX}"));
    }
    if !WEIGHT_RANGE.contains(&profile.weight) {
        let (low, high) = (WEIGHT_RANGE.start(), WEIGHT_RANGE.end());
        return Err(format!("the node's weight is {}: it must be from {low} to {high}", profile.weight));
    }
    Ok(())
}

fn address(name: &str, address: &str) -> Result<(), Refusal> {
    let bytes = address.len();
    if bytes > LABEL_BYTES_MAX {
        return Err(format!("the {name} address has {bytes} bytes: it may have {LABEL_BYTES_MAX}"));
    }
    let well_formed = address.rsplit_once(':').is_some_and(|(host, port)| {
        let port_ok =
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0);
        let host_ok = !host.is_empty() && !host.chars().any(|char| char.is_whitespace() || char.is_control());
        port_ok && host_ok
    });
    if well_formed {
        Ok(())
    } else {
        let shown = address.escape_debug();
        Err(format!(
            "the {name} address \"{shown}\" is none: write it as host:port, with a port from 1 to 65535"
        ))
    }
}

/// That no other node has one of these addresses.
pub(super) fn addresses_are_free(
    state: &MetaState,
    addresses: &Addresses,
    but: Option<NodeId>,
) -> Result<(), Refusal> {
    for node in state.nodes.values().filter(|node| Some(node.id) != but) {
        let theirs = named(&node.profile.addresses);
        for (name, address) in named(addresses) {
            if let Some((their_name, _)) = theirs.iter().find(|(_, their_address)| *their_address == address)
            {
                return Err(format!(
                    "the {name} address {address} is already the {their_name} address of node {id}: give this node \
                     another address, or, if it is that node, start it with that node's data directory. If that \
                     directory is lost, stop whatever still runs as node {id}, and start a node with an empty directory \
                     at all of its addresses: it takes its place",
                    id = node.id
                ));
            }
        }
    }
    Ok(())
}

const fn named(addresses: &Addresses) -> [(&'static str, &String); 3] {
    [("client", &addresses.client), ("peer", &addresses.peer), ("http", &addresses.http)]
}

/// That nodes are known, named once each, and at least one.
pub(super) fn nodes(state: &MetaState, nodes: &[NodeId]) -> Result<(), Refusal> {
    if nodes.is_empty() {
        return Err("no node is named: name at least one".to_owned());
    }
    let mut seen = BTreeSet::new();
    for node in nodes {
        node_is_known(state, *node)?;
        if !seen.insert(node) {
            return Err(format!("node {node} is named twice: name each node once"));
        }
    }
    Ok(())
}

/// That a node is known.
pub(super) fn node_is_known(state: &MetaState, node: NodeId) -> Result<(), Refusal> {
    if state.nodes.contains_key(&node) { Ok(()) } else { Err(unknown_node(state, node)) }
}

/// What to say of a node that isn't known.
pub(super) fn unknown_node(state: &MetaState, node: NodeId) -> Refusal {
    state.farewell(node).unwrap_or_else(|| {
        format!("there is no node {node} in this cluster: list the nodes and name one of them")
    })
}
