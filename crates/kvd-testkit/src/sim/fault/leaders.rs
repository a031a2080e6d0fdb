//! Leaders that are moved by hand.

use super::Fault;
use crate::sim::cluster::Cluster;

/// The administrator moves a shard's leader to another node.
#[derive(Default)]
pub(super) struct Moved;

impl Fault for Moved {
    fn name(&self) -> &'static str {
        "a leader moved"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        let clients = std::sync::Arc::clone(&cluster.clients);
        let (shard, node) = clients.ask_to_move_leader(&mut cluster.rng)?;
        Some(format!("shard {shard} to node {node}"))
    }

    fn end(&mut self, _cluster: &mut Cluster) {}
}
