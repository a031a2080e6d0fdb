//! Nodes and shards, as cells of tables and as JSON.

use std::time::Duration;

use kvd_client::{Node, NodeId, Shard, Topology};
use serde::Serialize;

/// A table's header and rows.
pub(super) type Cells = (Vec<&'static str>, Vec<Vec<String>>);

/// What a node says of itself, if it answers.
#[derive(Clone, Debug)]
pub(crate) struct NodeReport {
    /// The node.
    pub(crate) node: NodeId,
    /// Its version and how long ago it started.
    pub(crate) said: Option<(String, Duration)>,
}

const NONE: &str = "-";

fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

fn id_or_none(id: Option<NodeId>) -> String {
    id.map_or_else(|| NONE.to_owned(), |id| id.to_string())
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// The two largest units, as in `3d 4h`.
fn uptime(uptime: Duration) -> String {
    let seconds = uptime.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

pub(super) fn nodes(nodes: &[Node]) -> Cells {
    let row = |node: &Node| {
        vec![
            node.id.to_string(),
            or_none(&node.client_address),
            or_none(&node.peer_address),
            or_none(&node.http_address),
            or_none(&node.zone),
            node.weight.to_string(),
            or_none(&node.state),
            yes_or_no(node.reachable),
        ]
    };
    let header = vec!["NODE", "CLIENT", "PEER", "HTTP", "ZONE", "WEIGHT", "STATE", "REACHABLE"];
    (header, nodes.iter().map(row).collect())
}

pub(super) fn status_nodes(topology: &Topology, reports: &[NodeReport]) -> Cells {
    let row = |node: &Node| {
        let said =
            reports.iter().find(|report| report.node == node.id).and_then(|report| report.said.as_ref());
        vec![
            node.id.to_string(),
            or_none(&node.client_address),
            or_none(&node.zone),
            or_none(&node.state),
            yes_or_no(node.reachable),
            said.map_or_else(|| NONE.to_owned(), |(version, _)| version.clone()),
            said.map_or_else(|| NONE.to_owned(), |&(_, up)| uptime(up)),
            count(topology, |shard| shard.leader == Some(node.id)),
            count(topology, |shard| shard.replicas.iter().any(|replica| replica.node == node.id)),
        ]
    };
    let header =
        vec!["NODE", "CLIENT", "ZONE", "STATE", "REACHABLE", "VERSION", "UPTIME", "LEADS", "REPLICAS"];
    (header, topology.nodes.iter().map(row).collect())
}

fn count(topology: &Topology, counts: impl Fn(&Shard) -> bool) -> String {
    topology.shards.iter().filter(|shard| counts(shard)).count().to_string()
}

pub(super) fn shards(shards: &[Shard]) -> Cells {
    let row = |shard: &Shard| {
        let replicas: Vec<String> = shard
            .replicas
            .iter()
            .map(|replica| match replica.role.as_str() {
                "voter" => replica.node.to_string(),
                role => format!("{} ({role})", replica.node),
            })
            .collect();
        vec![
            shard.id.to_string(),
            format!("{:.2}%", shard.share * 100.0),
            id_or_none(shard.leader),
            id_or_none(shard.preferred_leader),
            or_none(&replicas.join(", ")),
        ]
    };
    (vec!["SHARD", "SHARE", "LEADER", "PREFERRED", "REPLICAS ON NODES"], shards.iter().map(row).collect())
}

#[derive(Serialize)]
pub(super) struct StatusJson<'a> {
    cluster_id: &'a str,
    epoch: String,
    ring_epoch: String,
    replication_factor: u32,
    nodes: Vec<NodeJson<'a>>,
    shards: Vec<ShardJson<'a>>,
}

impl<'a> StatusJson<'a> {
    pub(super) fn new(topology: &'a Topology, reports: &'a [NodeReport]) -> Self {
        let node = |node| {
            let mut json = NodeJson::new(node);
            let said =
                reports.iter().find(|report| report.node == node.id).and_then(|report| report.said.as_ref());
            json.version = said.map(|(version, _)| version);
            json.uptime_ms = said.map(|(_, uptime)| uptime.as_millis().to_string());
            json
        };
        Self {
            cluster_id: &topology.cluster_id,
            epoch: topology.epoch.to_string(),
            ring_epoch: topology.ring.as_ref().map_or(0, |ring| ring.epoch.get()).to_string(),
            replication_factor: topology.replication_factor,
            nodes: topology.nodes.iter().map(node).collect(),
            shards: topology.shards.iter().map(ShardJson::new).collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct NodeJson<'a> {
    id: String,
    client_address: &'a str,
    peer_address: &'a str,
    http_address: &'a str,
    zone: &'a str,
    weight: u32,
    state: &'a str,
    incarnation: String,
    reachable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_ms: Option<String>,
}

impl<'a> NodeJson<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        Self {
            id: node.id.to_string(),
            client_address: &node.client_address,
            peer_address: &node.peer_address,
            http_address: &node.http_address,
            zone: &node.zone,
            weight: node.weight,
            state: &node.state,
            incarnation: node.incarnation.to_string(),
            reachable: node.reachable,
            version: None,
            uptime_ms: None,
        }
    }
}

#[derive(Serialize)]
pub(super) struct ShardJson<'a> {
    id: u32,
    share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_leader: Option<String>,
    replicas: Vec<ReplicaJson<'a>>,
}

#[derive(Serialize)]
struct ReplicaJson<'a> {
    id: String,
    node: String,
    role: &'a str,
}

impl<'a> ShardJson<'a> {
    pub(super) fn new(shard: &'a Shard) -> Self {
        let replicas = shard.replicas.iter().map(|replica| ReplicaJson {
            id: replica.id.to_string(),
            node: replica.node.to_string(),
            role: &replica.role,
        });
        Self {
            id: shard.id.get(),
            share: shard.share,
            leader: shard.leader.map(|node| node.to_string()),
            preferred_leader: shard.preferred_leader.map(|node| node.to_string()),
            replicas: replicas.collect(),
        }
    }
}
